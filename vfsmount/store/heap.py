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

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's


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
