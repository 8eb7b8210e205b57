"""A private view of the file system, in which /sys/kernel/mm/dksm is the mounted one.

All else below /sys is the real one. The view lives in a mount namespace of its own, and goes with
the last process in it: nothing has to be unmounted.
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dksmfs.errors import DksmfsError
from dksmfs.host import syscalls

MM: Final = "/sys/kernel/mm"

THP: Final = "transparent_hugepage"

_STAND_IN: Final = Path(__file__).parent / "stand_in"

_PLAIN: Final = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC

_BY_ROOT: Final = "run it as root"


@dataclass(frozen=True)
class View:
    """What is shown: the dksm directory, and the file that is `transparent_hugepage/enabled`, or
    the text of one that cannot be written to."""

    dksm: Path
    thp_file: Path | None
    thp_text: str = ""


def enter(view: View, environment: dict[str, str]) -> None:
    """Move this process (one without threads) into a new view; `environment` is what the program
    will have, for its PATH."""
    as_root = os.geteuid() == 0
    here = Path.cwd()
    if as_root:
        _unshare(syscalls.CLONE_NEWNS, "the right to mount is missing (CAP_SYS_ADMIN)")
        _keep_mounts_to_ourselves()
    else:
        _enter_user_namespace()  # whose mounts nobody else sees: mount_namespaces(7)
    _show(view)
    _provide_sudo(as_root, environment)
    with suppress(OSError):
        os.chdir(here)  # it may have been hidden


def _keep_mounts_to_ourselves() -> None:
    """Let what the host mounts go on appearing here, and nothing of ours there."""
    try:
        _become_slave()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _outside_of_the_chroot(_become_slave)


def _become_slave() -> None:
    syscalls.mount("none", "/", "none", syscalls.MS_REC | syscalls.MS_SLAVE)


def _outside_of_the_chroot(work: Callable[[], None]) -> None:
    """Do something with the root of the mount namespace as ours.

    The root of a chroot may be any directory, and mount(2) changes whole mounts only. A process
    leaves its chroot as chroot(2) says: with another root, and going up from outside of it.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")
    os.chroot("/proc")
    while not Path().samefile(".."):
        os.chdir("..")
    os.chroot(".")
    work()
    os.fchdir(root)
    os.chroot(".")
    os.close(root)


def _unshare(flags: int, reason: str) -> None:
    try:
        syscalls.unshare(flags)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSPC, errno.EINVAL, errno.EACCES):
            raise DksmfsError(f"cannot make a private view of /sys: {reason}") from error
        raise


def _enter_user_namespace() -> None:
    """Have the rights to mount, in a namespace where we are who we were, and nobody else is."""
    user, group = os.geteuid(), os.getegid()
    _unshare(
        syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS,
        "user namespaces are closed to ordinary users here, as in any chroot; have root open them "
        "(sysctl kernel.unprivileged_userns_clone=1 or "
        f"kernel.apparmor_restrict_unprivileged_userns=0), or {_BY_ROOT}",
    )
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1\n")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1\n")
    except OSError as error:
        raise DksmfsError(
            f"cannot set up a user namespace ({error.strerror}); {_BY_ROOT}"
        ) from error


def _show(view: View) -> None:
    dksm = _held(view.dksm)
    enabled = _held(view.thp_file) if view.thp_file else None
    try:
        siblings = {path.name: _held(path) for path in Path(MM).iterdir() if path.name != "dksm"}
    except OSError as error:
        raise DksmfsError(f"cannot show {MM}/dksm: {MM}: {error.strerror}") from error
    try:
        syscalls.mount("dksmfs", MM, "tmpfs", _PLAIN, "mode=0755,size=64k")
    except OSError as error:
        raise DksmfsError(f"cannot mount at {MM}: {error.strerror}; {_BY_ROOT}") from error
    for name, sibling in siblings.items():
        _bind(sibling, Path(MM, name))
    _bind(dksm, Path(MM, "dksm"))
    switch = Path(MM, THP, "enabled")
    if THP not in siblings:
        switch.parent.mkdir()
    if enabled is None:
        fixed = Path(MM, ".enabled")
        fixed.write_text(view.thp_text)
        fixed.chmod(0o444)
        enabled = _held(fixed)
        _bind(enabled, switch)
        _make_read_only(switch)
        fixed.unlink()
    else:
        _bind(enabled, switch)
    _make_read_only(Path(MM))


def _make_read_only(place: Path) -> None:
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | _PLAIN
    syscalls.mount("none", str(place), "none", flags)


def _held(path: Path) -> int:
    """A descriptor that goes on meaning this file, whatever is mounted over it."""
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _bind(descriptor: int, place: Path) -> None:
    """Show the file or directory at `place`, made if missing."""
    source = f"/proc/self/fd/{descriptor}"
    if not place.exists():
        if Path(source).is_dir():
            place.mkdir()
        else:
            place.touch()
    syscalls.mount(source, str(place), "none", syscalls.MS_BIND | syscalls.MS_REC)
    os.close(descriptor)


def _provide_sudo(as_root: bool, environment: dict[str, str]) -> None:
    """Let `sudo` be there and work: the real one as root, else one that runs its command."""
    path = environment.get("PATH", os.defpath)
    found = shutil.which("sudo", path=path)
    if found is None:
        environment["PATH"] = f"{path}:{_STAND_IN}"
    elif not as_root:
        stand_in = _held(_STAND_IN / "sudo")
        _bind(stand_in, Path(found).resolve())
