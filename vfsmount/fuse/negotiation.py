"""FUSE_INIT: what the kernel offers at the start of a mount and what it is answered, as bytes.

libfuse leaves out of its answer most of what a mount with a slow server behind it wants; here it is
put in. Whatever is not exactly as known is refused with a reason, and `attach` goes another way.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vfsmount.errors import MountError

_REQUEST_HEADER = struct.Struct("=IIQ24x")  # length, opcode, unique
_REQUEST_BODY = struct.Struct("=IIII")  # major, minor, max_readahead, flags; since Linux 5.17 more follows
_REPLY_HEADER = struct.Struct("=IiQ")
_REPLY_BODY = struct.Struct("=IIIIHHIIHHI")  # to flags2; 28 bytes of zeroes follow
_INIT = 26
_MAJOR = 7

_PARALLEL_DIROPS = 1 << 18  # Linux 4.7
# Without it the kernel asks for security.capability before every write, which doubles the requests
# of a writer. In return the set-id bits are ours to clear when a file is written: vfs.writer does.
_HANDLE_KILLPRIV_V2 = 1 << 28  # Linux 5.11
MAX_BACKGROUND = 64
MOST_BACKGROUND = 0xFFFF  # of both numbers: 16 bits in the message


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the kernel is asked for beyond what libfuse asks.

    Attributes:
        parallel_dirops: look names up in one directory side by side.
        max_background: most requests of readahead and write-back in our hands at once.
        congestion_threshold: how many of them make the kernel leave readahead out.
    """

    parallel_dirops: bool = True
    max_background: int = MAX_BACKGROUND
    congestion_threshold: int = MAX_BACKGROUND * 3 // 4


@dataclass(frozen=True, slots=True)
class Offer:
    """The kernel's INIT request.

    Attributes:
        protocol: minor number; the major one is 7.
    """

    unique: int
    protocol: int
    flags: int

    @property
    def parallel_dirops(self) -> bool:
        """Whether it can look names up side by side."""
        return bool(self.flags & _PARALLEL_DIROPS)


def read_offer(request: bytes) -> Offer:
    """What the kernel offers.

    Raises:
        MountError: this is not INIT as we know it.
    """
    if len(request) < _REQUEST_HEADER.size + _REQUEST_BODY.size:
        raise MountError(f"the kernel's first request has {len(request)} bytes")
    length, opcode, unique = _REQUEST_HEADER.unpack_from(request)
    major, minor, _, flags = _REQUEST_BODY.unpack_from(request, _REQUEST_HEADER.size)
    if length != len(request) or opcode != _INIT:
        raise MountError(f"the kernel's first request is of kind {opcode} and {length} bytes, not INIT")
    if major != _MAJOR:
        raise MountError(f"the kernel speaks FUSE {major}.{minor}")
    return Offer(unique, minor, flags)


def patch_reply(offer: Offer, reply: bytes, options: InitOptions) -> bytes:
    """libfuse's answer to INIT, with the options that pyfuse3 hides.

    Only bits that the kernel offered are set, and none that changes the layout of messages.

    Raises:
        MountError: libfuse refuses this kernel, or answers in a way unknown here.
    """
    if len(reply) < _REPLY_HEADER.size + _REPLY_BODY.size:
        raise MountError(f"libfuse's answer to INIT has {len(reply)} bytes")  # of a protocol before 7.23
    length, error, unique = _REPLY_HEADER.unpack_from(reply)
    body = list(_REPLY_BODY.unpack_from(reply, _REPLY_HEADER.size))
    if error or length != len(reply) or unique != offer.unique or body[0] != _MAJOR:
        raise MountError(
            f"libfuse's answer to INIT is error {-error}, {length} bytes, FUSE {body[0]}.{body[1]}"
        )
    wanted = _HANDLE_KILLPRIV_V2 | (_PARALLEL_DIROPS if options.parallel_dirops else 0)
    body[3] |= wanted & offer.flags
    body[4], body[5] = options.max_background, options.congestion_threshold
    rest = reply[_REPLY_HEADER.size + _REPLY_BODY.size :]
    return _REPLY_HEADER.pack(length, error, unique) + _REPLY_BODY.pack(*body) + rest
