"""Disk calls off the loop: every blocking call of `store` goes through here.

The limiter is our own, so that a disk that hangs cannot starve what else uses trio's threads. What
changes the disk passes `boundary` first, where the crash drill stops the process.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from vfsmount.errors import FileTooLarge, LocalIOError, NoSpace

T = TypeVar("T")

_limiter: trio.CapacityLimiter | None = None
_libc = ctypes.CDLL(None, use_errno=True)

# Crash drill: the process kills itself at the n-th boundary. 0: never.
CRASH_AT = "VFSMOUNT_CRASH_AT"
_crash_at = int(os.environ.get(CRASH_AT, "0") or 0)
_boundaries = itertools.count(1)

FULL = "the disk that holds staging files is full; free some space or move --state-dir"


def boundary() -> None:
    """A change of the disk comes next: the crash drill's place to stop the process as kill -9 would."""
    if _crash_at and next(_boundaries) == _crash_at:
        os.kill(os.getpid(), signal.SIGKILL)


def boot_id() -> str:
    """Names the time since this machine was started: what was written before may not be on the disk."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pwrite_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data`, or raise OSError."""
    view = memoryview(data)
    while view:
        boundary()
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def truncate(fd: int, size: int) -> None:
    """ftruncate(2)."""
    boundary()
    os.ftruncate(fd, size)


def sync_data(fd: int) -> None:
    """fdatasync(2)."""
    boundary()
    os.fdatasync(fd)


def sync_filesystem(fd: int) -> None:
    """syncfs(2): everything of the filesystem `fd` lies on, cheaper than many small fdatasync(2)."""
    boundary()
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def copy_range(source: int, target: int, start: int, stop: int) -> None:
    """Copy ``[start, stop)`` to the same place of another file, by reflink where the disk can."""
    at = start
    while at < stop:
        boundary()
        try:
            done = os.copy_file_range(source, target, stop - at, at, at)
        except OSError as e:
            if e.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            done = 0
        if not done:
            data = os.pread(source, min(1 << 20, stop - at), at)
            if not data:
                raise OSError(errno.EIO, "staging file is shorter than it was")
            pwrite_all(target, data, at)
            done = len(data)
        at += done


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
        FileTooLarge: EFBIG of it.
        LocalIOError: any other OSError.
    """
    try:
        return await trio.to_thread.run_sync(call, limiter=_get_limiter())
    except OSError as e:
        raise local_error(e) from e


def local_error(e: OSError) -> NoSpace | LocalIOError:
    """What an OSError of our own files means to a caller."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(FULL)
    if e.errno == errno.EFBIG:
        return FileTooLarge("the disk that holds staging files takes no file of this size")
    return LocalIOError(f"staging file: {os.strerror(e.errno or 0)}")
