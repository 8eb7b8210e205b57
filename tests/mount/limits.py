"""What a file system in user space cannot answer as sysfs does, each with its reason.

``docs/sysfs.md`` prints this list, and a test compares the two. The tests of the mount allow
exactly these differences.
"""

import re
from dataclasses import dataclass

NO_PROBE = "(?!)"


@dataclass(frozen=True, slots=True)
class Limit:
    """A difference that stays.

    ``probes`` matches the texts of the probes (and of the steps of a random walk) that show it;
    ``recorded`` are the recorded calls that do.
    """

    what: str
    why: str
    probes: str = NO_PROBE
    recorded: tuple[str, ...] = ()


LIMITS = (
    Limit(
        "the type of `statfs` (and of the mount table), and the flags of the mount",
        "the kernel fills them in itself: `0x65735546`, `fuse.dksmfs`, and the flags "
        "`nosuid,nodev,noexec` with which distributions mount sysfs, even on a host whose own "
        "`/sys` lacks them",
        r"statv?fs\(",
        ("statfs(.)",),
    ),
    Limit(
        "`lseek`, on a file or directory, beyond 2147483647 succeeds",
        "the limit belongs to the file system type; no request reaches the daemon",
        r"seeks: .*lseek\(|listings: lseek\(directory",
    ),
    Limit(
        "the position after a write with `O_APPEND` counts from 4096",
        "the kernel moves the position to the end of the file, whose size is 4096, before it asks",
        r"append #\d: position",
        ("O_APPEND fd: lseek(0, SEEK_CUR)",),
    ),
    Limit(
        "a limit of the size of files (`ulimit -f`) applies to writes",
        "the kernel holds every write of a FUSE file against it, but none to sysfs",
        r"file size limit \d+: pwrite",
    ),
    Limit(
        "`pwrite` on a descriptor open for reading gives EBADF, not ESPIPE",
        "sysfs takes the permission to `pwrite` away from such descriptors; the daemon has no say "
        "in that",
        r"read-only: pwrite|^pwrite\(",
    ),
    Limit(
        "a read at the end of the text into a bad address gives EFAULT, not 0",
        "the kernel pins the caller's pages before it knows how much will be read",
        r"reads: .*: read into a bad address",
    ),
    Limit(
        "`mmap` with `MAP_PRIVATE` succeeds",
        "direct I/O forbids shared mappings only",
        r"mappings: mmap\(.*, 2\)$",
        ("mmap(run, PROT_READ, MAP_PRIVATE)",),
    ),
    Limit(
        "`fcntl(F_SETFL, O_DIRECT)` succeeds",
        "the kernel's FUSE files support direct I/O; only `open` can refuse it",
        r"F_SETFL O_DIRECT|flags with O_DIRECT",
        ("fcntl(run, F_SETFL, O_DIRECT)",),
    ),
    Limit(
        "`ioctl(FIBMAP)` succeeds and gives block 0",
        "the kernel answers it for file systems without a block device",
        r"FIBMAP",
        ("ioctl(run, FIBMAP)",),
    ),
    Limit(
        "`name_to_handle_at` succeeds",
        "the kernel makes handles of FUSE's node numbers without asking",
        r"name_to_handle_at",
        ("name_to_handle_at(run)",),
    ),
    Limit(
        "setting and removing POSIX ACLs: EPERM, EACCES or 0 where sysfs has EOPNOTSUPP",
        "FUSE has a method for them, so the kernel checks the caller before it finds that there "
        "are none",
        r"system\.posix_acl",
    ),
    Limit(
        "`setxattr` of a `user.` attribute with `XATTR_REPLACE` gives ENODATA, not EOPNOTSUPP",
        "pyfuse3 looks for the attribute first, and looking gives ENODATA in sysfs too",
        r"user\.a\(6\): (set 2|replace none)",
    ),
    Limit(
        "a seek in a directory to an offset that no name has",
        "the kernel then takes one of the two neighbours, depending on the shape of its red-black "
        "tree; the mount takes the next one",
        r"listings: getdents64 from \d+",
    ),
    Limit(
        "`rmdir` and `rename` of the mount point itself give EBUSY, not EPERM",
        "it is a mount point; under `--root sys` the directory answers as it should",
        recorded=("rmdir(. by its path)", "rename(. by its path, sibling)"),
    ),
)

ELSEWHERE = {
    'lstat(".. (the mm directory)")': "the recorded directory has siblings that are not simulated",
    "names in /sys/kernel/mm": "the recorded directory has siblings that are not simulated",
    'setxattr(run, "system.posix_acl_access", "b")': "Linux 6.2 and later look at the value first, "
    "on sysfs too, and answer EINVAL",
}
"""Recorded calls whose answer belongs to the host or to what stands beside dksm."""

RECORDED_LIMITS = {call for limit in LIMITS for call in limit.recorded}


def is_limit(probe: str) -> bool:
    """Tell whether a probe (or a step of a walk) may differ from sysfs."""
    return any(re.search(limit.probes, probe) for limit in LIMITS)
