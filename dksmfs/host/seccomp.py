"""Watching `madvise` by seccomp user notification: seccomp_unotify(2).

A filter lets the kernel stop a program at the calls of interest, tell us, and wait for the answer.
It is installed before the program starts, and all that it starts inherit it. When nobody holds
the listening descriptor any more, the calls fail with ENOSYS and programs go on.
"""

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import Final

from dksmfs.host.syscalls import (
    LIBC,
    PR_SET_NO_NEW_PRIVS,
    Numbers,
    architecture,
    check,
    prctl,
    seccomp,
)

MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13

_PR_SET_MEMORY_MERGE: Final = 67
_PR_GET_MEMORY_MERGE: Final = 68

_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_WAIT_KILLABLE: Final = 1 << 5

# _IOWR('!', 0, 80), _IOWR('!', 1, 24), _IOW('!', 2, 8)
_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102

# What a filter returns.
_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_ERRNO: Final = 0x00050000

# Instructions of the filter, and where seccomp_data has what (both machines are little-endian).
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


class _Notification(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("number", ctypes.c_int32),
        ("architecture", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class _Response(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("value", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class Call:
    """A madvise that waits for its answer. `thread` is a thread id; the range is in bytes."""

    id: int
    thread: int
    address: int
    length: int
    advice: int


def install() -> int:
    """Watch this process and all that descend from it; returns the listening descriptor."""
    code = _filter()
    program = _Program(len(code), (_Instruction * len(code))(*code))
    # Without it a signal could interrupt a call that is being answered, and repeat it.
    listener = seccomp(_SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, program)
    if listener < 0 and ctypes.get_errno() == errno.EACCES:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        listener = seccomp(_SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, program)
    if listener < 0 and ctypes.get_errno() == errno.EINVAL:  # before Linux 5.19
        listener = seccomp(_SET_MODE_FILTER, _NEW_LISTENER, program)
    return check(listener, "seccomp")


def receive(listener: int) -> Call | None:
    """The next call; None if its process was killed meanwhile."""
    got = _Notification()
    try:
        check(LIBC.ioctl(listener, _RECV, ctypes.byref(got)), "seccomp")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    address, length, advice = got.arguments[:3]
    return Call(got.id, got.pid, address, length, advice & 0xFFFFFFFF)


def is_waiting(listener: int, call: Call) -> bool:
    """Whether the process still waits, so that its pid is its own."""
    id_ = ctypes.c_uint64(call.id)
    return bool(LIBC.ioctl(listener, _ID_VALID, ctypes.byref(id_)) == 0)


def answer(listener: int, call: Call, error: int) -> None:
    """Let the call return 0, or fail with `error`."""
    response = _Response(call.id, -1 if error else 0, -error, 0)
    if LIBC.ioctl(listener, _SEND, ctypes.byref(response)) < 0:
        number = ctypes.get_errno()
        if number != errno.ENOENT:  # killed while it waited
            raise OSError(number, f"seccomp: {os.strerror(number)}")


def _filter() -> list[_Instruction]:
    return [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
        *(instruction for numbers in architecture() for instruction in _for_architecture(numbers)),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]


def _for_architecture(numbers: Numbers) -> list[_Instruction]:
    """The part of the filter for one architecture; jumps over itself if it is another one.

    Linux 5.15 knows neither MADV_MERGEABLE in process_madvise nor PR_SET_MEMORY_MERGE.
    """
    refused = _ERRNO | errno.EINVAL
    merge = (MADV_MERGEABLE, MADV_UNMERGEABLE)
    body = [
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
        *_on(numbers.madvise, 2, merge, _NOTIFY),
        *_on(numbers.process_madvise, 3, merge, refused),
        *_on(numbers.prctl, 0, (_PR_SET_MEMORY_MERGE, _PR_GET_MEMORY_MERGE), refused),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
    return [_Instruction(_IF_EQUAL, 0, len(body), numbers.audit), *body]


def _on(number: int, argument: int, values: tuple[int, int], action: int) -> list[_Instruction]:
    """If this system call has one of two values as its argument (an int), return `action`."""
    first, second = values
    return [
        _Instruction(_IF_EQUAL, 0, 5, number),
        _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),
        _Instruction(_IF_EQUAL, 1, 0, first),
        _Instruction(_IF_EQUAL, 0, 1, second),
        _Instruction(_RETURN, 0, 0, action),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
