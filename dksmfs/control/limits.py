"""How much a request may ask for. Each limit stands with its reason.

A request that breaks one is refused before anything looks at it. Sizes are in bytes.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta

PROTOCOL: Final = 1
"""Raised when an old client could no longer understand a server."""

MAX_LINE: Final = 1 << 20
"""Bytes of one request line. Larger data travels as a memfd, which is copied nowhere."""

MAX_INLINE: Final = 512 << 10
"""Bytes of data inside a line (before base64): they fit a line with room to spare."""

MAX_DESCRIPTORS: Final = 16
"""Descriptors with one message. A daemon has about a thousand in all, for all its clients."""

MAX_LENGTH: Final = 1 << 47
"""Bytes of a mapping: all that an x86-64 process can address."""

MAX_POPULATED: Final = 1 << 34
"""Bytes that one request may bring into being (16 GiB): other changes wait while their pages are
made. Larger requests get ENOMEM, as on a machine of that size."""

MAX_VIEW: Final = 1 << 26
"""Bytes of address space in one pagemap or contents reply (16,384 pages), which is kept until it
is sent."""

MAX_SHARING: Final = 1 << 18
"""Pages in one sharing reply, over all processes; a larger one gets EMSGSIZE."""

U64: Final = 1 << 64

Pid = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# Wider than any valid address, so that the kernel's own checks get to answer.
Address = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Length = Annotated[int, Meta(ge=0, le=MAX_LENGTH)]
ViewLength = Annotated[int, Meta(ge=0, le=MAX_VIEW)]
# 64 characters, four times the kernel's comm; printable, because names end up on terminals.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
# NAME_MAX of Linux file systems.
FileName = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Inline = Annotated[bytes, Meta(max_length=MAX_INLINE)]
Prot = Literal["none", "r", "w", "x", "rw", "rx", "wx", "rwx"]
Kind = Literal["anon", "shared-anon", "file-private", "file-shared", "hugetlb"]
AdviceWord = Literal["mergeable", "unmergeable", "dontneed", "hugepage", "nohugepage"]
# The int of madvise(2).
AdviceNumber = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
ThpMode = Literal["always", "madvise", "never"]
# "pattern:" and a 64-bit number need 28 characters.
Description = Annotated[str, Meta(max_length=32)]
