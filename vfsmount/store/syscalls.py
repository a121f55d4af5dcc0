"""Disk calls off the loop: every blocking call of `store` goes through here.

The limiter is our own, so that a disk that hangs cannot starve what else uses trio's threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

import trio

from vfsmount.errors import LocalIOError, NoSpace

T = TypeVar("T")

_limiter: trio.CapacityLimiter | None = None


def _get_limiter() -> trio.CapacityLimiter:
    global _limiter
    if _limiter is None:
        _limiter = trio.CapacityLimiter(8)
    return _limiter


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking disk call in a thread and wait for its end, cancelled or not.

    Not abandoned on cancellation: a write that may or may not have happened is worse than a late one.

    Raises:
        NoSpace: ENOSPC or EDQUOT of the local disk.
        LocalIOError: any other OSError.
    """
    try:
        return await trio.to_thread.run_sync(call, limiter=_get_limiter())
    except OSError as e:
        raise local_error(e) from e


def local_error(e: OSError) -> NoSpace | LocalIOError:
    """What an OSError of our own files means to a caller."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk that holds staging files is full; free some space or move --state-dir")
    return LocalIOError(f"staging file: {os.strerror(e.errno or 0)}")
