"""How the simulated kernel says no: `OSError` with its errno."""

import errno


class AccessFault(OSError):  # noqa: N818 (the field says fault)
    """A process touched memory that it may not touch, and would get `signal`.

    The errno is EFAULT, as for a system call that touches it; `address` is in bytes.
    """

    def __init__(self, signal: str, address: int) -> None:
        super().__init__(errno.EFAULT, f"{signal} at {address:#x}")
        self.signal = signal
        self.address = address


def kernel_error(number: int, why: str) -> OSError:
    """The failure of a system call with errno `number`; `why` is for people."""
    return OSError(number, f"{errno.errorcode[number]}: {why}")
