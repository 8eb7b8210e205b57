"""The instances of one user: which daemons run, where they are mounted, how to reach them.

Each daemon keeps one file in the user's runtime directory and holds a lock on it as long as it
lives. The kernel drops the lock however the daemon ends, so a file without a lock belongs to a
daemon that was killed: no pid is ever trusted on its own.

The locks are open-file-description locks (fcntl(2), ``F_OFD_SETLK``): they can be asked for
without being taken, and are not lost when some other part of the process closes the file.
"""

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dksmfs.errors import DksmfsError, NoInstanceError

Root = Literal["dksm", "sys"]

# struct flock: l_type, l_whence, l_start, l_len, l_pid; "0q" pads it as the C compiler does.
_FLOCK = "hhqqi0q"

DKSM_BELOW_SYS = "kernel/mm/dksm"


@dataclass(frozen=True)
class Instance:
    """One daemon with its mount and its socket."""

    pid: int
    mountpoint: str
    socket: str
    root: Root
    log: str | None = None
    """Where a daemon in the background writes what goes wrong."""
    created: tuple[str, ...] = ()
    """Directories that the daemon made for the mount point, innermost first."""

    @property
    def dksm_directory(self) -> Path:
        """Where the six files are."""
        below = DKSM_BELOW_SYS if self.root == "sys" else ""
        return Path(self.mountpoint, below)


@dataclass(frozen=True)
class Record:
    """An instance file as found: whose it is, and whether its daemon lives."""

    path: Path
    instance: Instance
    alive: bool


def instance_of(fields: dict[str, Any]) -> Instance:
    """Return the instance whose fields came through JSON."""
    return Instance(**{**fields, "created": tuple(fields["created"])})


def runtime_directory() -> Path:
    """Return this user's directory for sockets and instance files, made (mode 0700) if needed."""
    directory = _runtime_path()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise DksmfsError(
            f"cannot use the runtime directory {directory}: {error.strerror}; "
            "set XDG_RUNTIME_DIR to a directory of your own"
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o170077 != 0o040000:
        raise DksmfsError(
            f"the runtime directory {directory} must be a directory of your own with mode 0700; "
            "correct it or set XDG_RUNTIME_DIR"
        )
    return directory


def _runtime_path() -> Path:
    if named := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(named, "dksmfs").absolute()
    user = os.geteuid()
    login = Path(f"/run/user/{user}")
    if login.is_dir() and os.access(login, os.W_OK):
        return login / "dksmfs"
    return Path(f"/tmp/dksmfs-{user}")


def instance_path(mountpoint: str) -> Path:
    """Return the instance file for a mount point: one name for one path, so that a lock decides."""
    name = Path(mountpoint).name[:24] or "root"
    return runtime_directory() / f"{name}-{zlib.crc32(os.fsencode(mountpoint)):08x}.json"


def records() -> list[Record]:
    """Return every instance file of this user, those that killed daemons left behind included."""
    found = map(_read_record, runtime_directory().glob("*.json"))
    known = (record for record in found if record is not None)
    return sorted(known, key=lambda record: record.instance.mountpoint)


def running_instances() -> list[Instance]:
    """Return the instances whose daemon lives."""
    return [record.instance for record in records() if record.alive]


def sole_instance() -> Instance:
    """Return the only running instance; none, or several, is an error that says what to do."""
    return sole(running_instances())


def sole(instances: list[Instance]) -> Instance:
    """Return the only one of ``instances``, or raise an error that lists them."""
    if not instances:
        raise NoInstanceError("no instance is running; start one with: dksmfs mount")
    if len(instances) > 1:
        places = ", ".join(instance.mountpoint for instance in instances)
        raise NoInstanceError(f"{len(instances)} instances are running ({places}); name one")
    return instances[0]


@contextmanager
def claimed(instance: Instance) -> Iterator[Instance]:
    """Hold the instance file of ``instance``, with this process's pid, while a block runs."""
    path = instance_path(instance.mountpoint)
    descriptor = take_lock(path)
    if descriptor is None:
        raise in_use(instance)
    try:
        mine = replace(instance, pid=os.getpid())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(mine)).encode() + b"\n", 0)
        yield mine
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def in_use(instance: Instance) -> DksmfsError:
    """Return the error for a mount point that a living instance has."""
    return DksmfsError(
        f"{instance.mountpoint} is already in use by a running instance; end that one first "
        f"(dksmfs umount {instance.mountpoint}), or name another mount point"
    )


def take_lock(path: Path) -> int | None:
    """Open the file at ``path`` (made if missing) and lock it; None if a living process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return None
        # Its last owner may have removed the file between our open and our lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _is_locked(descriptor: int) -> bool:
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK


def _read_record(path: Path) -> Record | None:
    """Read one instance file; None if it has gone, or its daemon has not filled it yet."""
    try:
        with path.open("rb") as file:
            alive = _is_locked(file.fileno())
            fields = json.loads(file.read())
        return Record(path, instance_of(fields), alive)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
