"""Everything that is checked and decided before a daemon starts, so that errors come early."""

import errno
import os
import pwd
import stat
from pathlib import Path

from dksmfs.errors import DksmfsError
from dksmfs.instances import (
    Instance,
    Root,
    in_use,
    instance_path,
    running_instances,
    runtime_directory,
)
from dksmfs.mount.leftovers import is_our_mount
from dksmfs.mount.listening import check_socket_path
from dksmfs.mount.system import fusermount, may_mount

FUSE_DEVICE = "/dev/fuse"


def default_mountpoint() -> str:
    """Return ``mountpoints/dksm`` of the checkout we are in, if it can be written to, or else the
    user's own place."""
    here = Path.cwd()
    for directory in (here, *here.parents):
        places = directory / "mountpoints"
        if _is_checkout(directory) and os.access(places, os.W_OK):
            return str(places / "dksm")
    return str(runtime_directory() / "dksm")


def _is_checkout(directory: Path) -> bool:
    if not (directory / "mountpoints").is_dir():
        return False
    try:
        return 'name = "dksmfs"' in (directory / "pyproject.toml").read_text()
    except OSError:
        return False


def prepare(mountpoint: str, root: Root, socket: str | None) -> Instance:
    """Decide what a new instance consists of, and check as far as possible that it can be."""
    check_fuse_device()
    _check_mountpoint(mountpoint)
    record = instance_path(mountpoint)
    path = str(Path(socket).absolute()) if socket else str(record.with_suffix(".sock"))
    check_socket_path(path)
    return Instance(
        pid=os.getpid(),
        mountpoint=mountpoint,
        socket=path,
        root=root,
        created=_missing_directories(mountpoint),
    )


def check_fuse_device() -> None:
    """Refuse to start where ``/dev/fuse`` cannot be used, and say what would make it usable."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as error:
        raise DksmfsError(
            f"{FUSE_DEVICE} does not exist; load the module (modprobe fuse), or give the container "
            f"the device (docker run --device {FUSE_DEVICE} --cap-add SYS_ADMIN)"
        ) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise DksmfsError(f"cannot open {FUSE_DEVICE}: {error.strerror}") from error
        mode = stat.S_IMODE(Path(FUSE_DEVICE).stat().st_mode)
        raise DksmfsError(
            f"no access to {FUSE_DEVICE} (mode {mode:04o}) for this user; "
            f"run as root, or have root open it to users: chmod 0666 {FUSE_DEVICE}"
        ) from error
    if not may_mount():
        _check_fusermount()


def _check_fusermount() -> None:
    if os.geteuid() == 0:
        raise DksmfsError(
            "this root may not mount (CAP_SYS_ADMIN is missing); give the container that right "
            "(docker run --cap-add SYS_ADMIN), or run as an ordinary user"
        )
    if fusermount() is None:
        raise DksmfsError(
            "mounting as an ordinary user needs fusermount3; "
            "install it (Debian: apt install fuse3) or run as root"
        )
    if not Path("/etc/mtab").exists():
        raise DksmfsError(
            "there is no /etc/mtab, without which fusermount3 would not unmount again; "
            "have root make it (ln -s /proc/self/mounts /etc/mtab), or run as root"
        )
    try:
        pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise DksmfsError(
            f"uid {os.getuid()} has no entry in /etc/passwd, and fusermount3 mounts for users with "
            f"a name only; have root add one (useradd --uid {os.getuid()} NAME), or run as root"
        ) from error


def _check_mountpoint(mountpoint: str) -> None:
    """Refuse what is no empty directory; the message tells an instance from anything else."""
    for instance in running_instances():
        if instance.mountpoint == mountpoint:
            raise in_use(instance)
    if is_our_mount(mountpoint):
        raise DksmfsError(
            f"{mountpoint} is already in use by an instance that is not in "
            f"{runtime_directory()}; name another mount point"
        )
    try:
        hidden = next(Path(mountpoint).iterdir(), None)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise DksmfsError(f"cannot mount at {mountpoint}: it is not a directory") from error
    except OSError as error:
        raise DksmfsError(f"cannot mount at {mountpoint}: {error.strerror}") from error
    if hidden is not None:
        raise DksmfsError(
            f"cannot mount at {mountpoint}: it is not empty, and the mount would hide "
            f"{hidden.name}; name an empty or a new directory"
        )


def _missing_directories(mountpoint: str) -> tuple[str, ...]:
    """Return the directories that must be made to have ``mountpoint``, innermost first."""
    place = Path(mountpoint)
    return tuple(str(path) for path in (place, *place.parents) if not os.path.lexists(path))
