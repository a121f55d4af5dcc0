"""What the allocator keeps of freed buffers, bounded.

Buffers of a block come and go among small objects that stay; what lies free between those is not the
kernel's to use, and grows with how many readers there are at a time: by 100 MiB with two hundred of them.
Giving all of it back at once costs milliseconds, so it is done only where the process has become too large.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

_LOOK_EVERY = 8 << 20  # bytes in new buffers between two looks at the size, 10 us each
_SHARE = 7 / 8  # of the memory allowed, that may be in use before anything is given back
_MOST_NEEDED = (
    5 / 8
)  # of it, that content and what waits for it need: less than that and ourselves is not to be had

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
_TOUCHED = 16 << 20  # what libfuse has of 1 MiB each while a program writes as fast as it can, and we of them

_libc = ctypes.CDLL(None)
_trim = getattr(_libc, "malloc_trim", None)  # glibc's


def keep_freed_memory() -> None:
    """Set the allocator for a process that serves a mount.

    Blocks of 1 MiB come and go all the time. By default each is mapped from the kernel and returned to it,
    which costs two thirds of the CPU of moving bytes.
    """
    if not hasattr(_libc, "mallopt"):  # glibc's
        return
    _libc.mallopt(_M_MMAP_THRESHOLD, 64 << 20)
    _libc.mallopt(_M_TRIM_THRESHOLD, 32 << 20)
    _libc.mallopt(_M_TOP_PAD, 4 << 20)
    _touch(_TOUCHED)


def _touch(size: int) -> None:
    """Have the kernel find memory for libfuse's buffers before it copies requests into them.

    A process that is killed while such a copy waits for memory fails the copy, and the kernel takes that
    for the answer to the request: EIO to whoever waits, and nobody can send it again. Where the memory is
    there nothing is waited for (get_user_pages_fast), the request is whole, and the next daemon gets it.
    What is freed here stays at the end of the heap, and is what libfuse is given next.
    """
    _libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    _libc.free.restype, _libc.free.argtypes = None, (ctypes.c_void_p,)
    if buffers := _libc.malloc(size):
        ctypes.memset(buffers, 0, size)
        _libc.free(buffers)


class Heap:
    """Watches one process's memory while buffers are filled."""

    def __init__(self, memory: int) -> None:
        """Args:
        memory: bytes that the process may take, all in all.
        """
        needed = _resident() + int(memory * _MOST_NEEDED)
        self._limit = max(int(memory * _SHARE), needed)
        self._filled = 0  # bytes since the last look
        self._look_at = self._limit

    def filled(self, size: int) -> None:
        """So many bytes were written to buffers; only then does the kernel find memory for them."""
        self._filled += size
        if self._filled >= _LOOK_EVERY and _trim is not None:
            self._filled = 0
            self._look(_trim)

    def _look(self, trim: Callable[[int], object]) -> None:
        if _resident() <= self._look_at:
            return
        trim(0)
        # Where little was to be had the rest is in use, and looking again at once would bring nothing.
        self._look_at = max(self._limit, _resident() + _LOOK_EVERY)


def _resident() -> int:
    """Bytes of memory that this process has now: proc(5), statm."""
    with open("/proc/self/statm", "rb") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
