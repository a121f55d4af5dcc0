"""Memory that outlives the process (memfd_create(2)): bytes are appended, read back, and moved up.

A write to it waits for nothing, so it is done on the loop. Who is killed in the middle of one may leave
part of it, as `core.journal` expects.
"""

from __future__ import annotations

import ctypes
import os

from vfsmount.errors import LocalIOError
from vfsmount.store.syscalls import boundary

_PAGE = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Memory:
    """The bytes behind one descriptor, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def size(self) -> int:
        """Bytes, holes included."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, stop: int) -> bytearray:
        """Bytes ``[start, stop)``, fewer at the end."""
        found = bytearray(max(0, stop - start))
        view, at = memoryview(found), 0
        while at < len(found) and (done := os.preadv(self._fd, [view[at:]], start + at)):
            at += done
        view.release()
        del found[at:]
        return found

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data`.

        Raises:
            LocalIOError: there is no memory left; some of it may be written.
        """
        boundary()
        try:
            done = os.pwrite(self._fd, data, at)
            while done < len(data):
                done += os.pwrite(self._fd, memoryview(data)[done:], at + done)
        except OSError as e:
            raise LocalIOError(
                f"the journal of the mount cannot be written: {os.strerror(e.errno or 0)}"
            ) from e

    def cut(self, size: int) -> None:
        """Forget what is behind `size`."""
        boundary()
        os.ftruncate(self._fd, size)

    def free(self, start: int, stop: int) -> None:
        """Give memory back; what is left reads as zeroes. Only whole pages, and never more than asked."""
        start, stop = -(-start // _PAGE) * _PAGE, stop // _PAGE * _PAGE
        if start < stop:
            _libc.fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, start, stop - start)
