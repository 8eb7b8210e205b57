"""Programs that read and write sysfs do the same on our files: same output, same exit code."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import TIMEOUT_S

pytestmark = pytest.mark.mounted

W, R = "sleep_millisecs", "full_scans"

SHELL = f"""
cat {W} {R}
cat {W} - < {R}
cat missing
cat .
cat < {W} > /dev/null && echo read
head -c1 {W}
head -n1 {W} {R}
tail {W}
tail -c1 {W}
tail -c+2 {W}
tail -n1 {W} {R}
tac {W}
rev {W}
dd if={W} bs=1 status=none
dd if={W} bs=1 skip=1 status=none
dd if={W} bs=4096 status=none | od -c
dd if={W} bs=4k iflag=direct status=none
dd if={W} iflag=fullblock bs=1M count=2 status=none
printf 31 | dd of={W} bs=1 status=none; cat {W}
printf 31 | dd of={W} status=none; cat {W}
printf 32 | dd of={W} conv=notrunc oflag=append status=none; cat {W}
printf 33 | dd of={W} conv=fsync status=none; cat {W}
printf 33 | dd of={W} oflag=direct status=none; cat {W}
printf 33 | dd of={W} seek=1 bs=4096 status=none; cat {W}
dd if=/dev/zero of={W} bs=1M count=1 status=none; cat {W}
wc {W}
wc -c {W} {R}
wc -l < {W}
grep -r . . | sort
grep -c . {W} {R}
grep -rl 20 | sort
grep -q 20 {W}
sed -n p {W}
sed -i s/2/3/ {W}
sed -i s/2/3/ {R}
echo 41 > {W}; cat {W}
echo 42 >> {W}; cat {W}
echo -n 43 > {W}; cat {W}
echo 44 | tee {W}; cat {W}
echo 45 | tee -a {W}; cat {W}
echo x | tee {W} {R}; cat {W}
echo x > {W}; cat {W}
echo 1 > {R}
echo 1 >> {R}
: > {W}; cat {W}
> {R}
echo > {W}
echo -1 > {W}
echo ' 7' > {W}
seq 1 3000 > {W}
set -C; echo 46 > {W}
echo 47 >| {W}; cat {W}
read -r value < {W}; echo "$value"
while read -r line; do echo "<$line>"; done < {W}
exec 3< {W}; cat <&3; cat <&3; echo 48 > {W}; cat <&3
exec 4<> {W}; echo 49 >&4; cat <&4; cat {W}
cp {W} "$T/copy"; cat "$T/copy"; stat -c %s "$T/copy"
cp -a {W} "$T/copy"; cat "$T/copy"; stat -c '%s %a %U' "$T/copy"
cp --reflink=auto --sparse=always {W} "$T/copy"; od -c "$T/copy"
cp -r . "$T/all"; ls "$T/all"; cat "$T/all"/{W}
printf '51\\n' > "$T/in"; cp "$T/in" {W}; cat {W}
cp -f "$T/in" {R}
cp --remove-destination "$T/in" {W}
mv {W} "$T/moved"
mv "$T/in" new
install -m 644 "$T/in" {W}
ln {W} hard
ln -s {W} soft
ln {W} "$T/hard"
rm -f {W}
rm -rf .
rmdir .
mkdir new
touch new
touch {W}
touch -d @1000 {W}; stat -c '%X %Y' {W}
truncate -s 0 {W}; stat -c %s {W}
truncate -s 10000 {W}; stat -c %s {W}
fallocate -l 10 {W}
mkfifo pipe
chmod 600 {W}; stat -c %a {W}; chmod 644 {W}
chmod a+w {R}; echo 1 > {R}; chmod 444 {R}
chown 1000:1000 {W}; stat -c '%u %g' {W}; chown 0:0 {W}
ls
ls -U
ls -a
ls -l {W} {R} | cut -d' ' -f1-5
ls -s {W}
ls -F
find . -printf '%f %y %m %n %s %b %u %g %d\\n'
find . -type f -size -8 -perm 444
find . -empty
find . -newer {W} -name nothing
find . -type f -exec cat {{}} +
stat -c '%n %s %b %B %a %A %f %F %h %u %U %g %G %t %T %o %w' {W} {R} .
du -a --apparent-size .
du -s .
file --version > /dev/null && file -b {W}
test -r {W} -a -w {W} -a -s {W}
test -x {W}
test -w {R}
tar cf "$T/a.tar" {W}; tar xOf "$T/a.tar" | head -c 3
tar cf - {R} | tar tvf - | cut -d' ' -f1-3
rsync -a {W} "$T/rsynced"; cat "$T/rsynced"
rsync --inplace "$T/in" {W}
rsync "$T/in" {W}
cmp {W} {W}
cmp {W} {R}
diff {W} {R}
md5sum {W} {R}
sort {W} {R}
paste {W} {R}
xargs -a {W} echo
cut -c1 {W}
od -c {W}
hexdump -C {W}
strings {W}
split -b1 {W} "$T/piece"; ls "$T" | grep -c piece
mapfile -t lines < {W}; echo "${{#lines[@]}} ${{lines[0]}}"
awk '{{ print FILENAME, $1 }}' {W} {R}
awk 'BEGIN {{ getline x < "{W}"; print x; getline x < "{W}"; print x }}'
awk 'BEGIN {{ print 52 > "{W}" }}'; cat {W}
awk 'BEGIN {{ print "x" > "{W}" }}'
awk 'BEGIN {{ print 1 > "{R}" }}'
python3 -c 'print(repr(open("{W}").read()))'
python3 -c 'print(repr(open("{W}", "rb", 0).read()))'
python3 -c 'f = open("{W}"); print(f.read(1), f.tell(), f.read(), f.seek(0), repr(f.read()))'
python3 -c 'f = open("{W}", "r+"); print(f.read()); f.seek(0); f.write("53")'; cat {W}
python3 -c 'f = open("{W}", "w"); f.write("54"); f.close()'; cat {W}
python3 -c 'f = open("{W}", "a"); f.write("55"); f.close()'; cat {W}
python3 -c 'f = open("{W}", "w"); f.write("x"); f.close()' 2>&1 | tail -1
python3 -c 'f = open("{R}", "w")' 2>&1 | tail -1
python3 -c 'open("{W}", "x")' 2>&1 | tail -1
python3 -c 'import pathlib; p = pathlib.Path("{W}"); print(p.read_text(), p.stat().st_size)'
python3 -c 'import shutil; shutil.copyfile("{W}", "/dev/stdout")'
python3 -c 'import mmap; mmap.mmap(open("{W}").fileno(), 0, prot=1)' 2>&1 | tail -1
python3 -c 'import linecache; print(linecache.getlines("{W}"))'
python3 -c 'import os; print(sorted(e.name for e in os.scandir() if e.is_file()))'
perl -e 'open F, "<", "{W}"; print <F>; seek F, 0, 0; print <F>; print -s F, "\\n"'
perl -e 'open F, ">", "{W}" or die; print F "56"; close F or print "$!\\n"'; cat {W}
perl -e 'open F, ">", "{W}" or die; print F "x"; close F or print "$!\\n"'
perl -e 'open F, ">", "{R}" or print "$!\\n"'
perl -e 'opendir D, "."; print join(" ", readdir D), "\\n"'
perl -pi -e s/2/3/ {W}
systemd-tmpfiles --create - <<< "w $PWD/{W} - - - - 57"; cat {W}
systemd-tmpfiles --create - <<< "z $PWD/{W} 0664 - - -"; stat -c %a {W}; chmod 644 {W}
setfattr -n user.a -v 1 {W}
strace -qq -e trace=openat,read,lseek cat {W} 2>&1 | tail -3
"""

BUSYBOX = f"""
busybox cat {W} {R}
busybox head -c1 {W}
busybox tail -n1 {W}
busybox wc {W}
busybox ls
busybox ls -la {W} | busybox tr -s ' ' | busybox cut -d' ' -f1-5
busybox stat -c '%n %s %a' {W}
busybox dd if={W} bs=1 2>/dev/null
busybox grep -r 20 . | busybox sort
busybox find . -type f -size -8
busybox cp {W} "$T/copy"; busybox od -c "$T/copy"
busybox sed -i s/2/3/ {W}
busybox sh -c 'echo 61 > {W}; cat {W}'
busybox sh -c 'echo x > {W}'
busybox tee {W} < {R}; cat {W}
busybox tar cf - {W} | busybox tar tf -
busybox awk '{{ print $1 }}' {W}
busybox truncate -s 0 {W}
busybox rm -f {W}
busybox md5sum {W}
busybox hexdump -C {W}
busybox du -a
busybox vi -c :q {W} < /dev/null > /dev/null 2>&1; echo $?
"""

COMMANDS = [line for line in (SHELL + BUSYBOX).splitlines() if line]


PROGRAMS = {
    *("busybox", "rsync", "perl", "file", "hexdump", "strings", "rev", "python3"),
    *("systemd-tmpfiles", "setfattr", "strace"),
}
"""Those that a machine may lack; all others belong to the base system."""


def run(command: str, place: Path, scratch: Path) -> tuple[int, str, str]:
    """Run a command in a directory; return its exit code and what it printed."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    (scratch / "in").write_text("51\n")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env={**os.environ, "T": str(scratch), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    (place / W).write_text("20")
    texts = (done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))
    # the place differs, and so do the names of temporary files
    output, errors = (
        re.sub(rf"\b(sed|in\.|{W}\.?)\w{{6}}\b", r"\1XXXXXX", text).replace(str(place), "HERE")
        for text in texts
    )
    return done.returncode, output, errors


@pytest.mark.parametrize("command", COMMANDS)
def test_program_does_the_same_on_a_copy_of_ksm_and_on_ksm(
    command: str, shared_ksm: tuple[Path, Path], tmp_path: Path
) -> None:
    program = command.split()[0]
    if program in PROGRAMS and not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    live, ours = (run(command, place, tmp_path / "scratch") for place in shared_ksm)
    assert ours == live
