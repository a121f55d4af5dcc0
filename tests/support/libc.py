"""System calls and C library calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
for _name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(_libc, _name).argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

_AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


def _check(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old: Path | str, new: Path | str, flags: int) -> None:
    """rename(2) with flags."""
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * 128),
    )


def name_to_handle(path: Path) -> _FileHandle:
    """name_to_handle_at(2)."""
    handle, mount = _FileHandle(128), ctypes.c_int()
    _check(
        _libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    )
    return handle


def open_by_handle(mount: int, handle: _FileHandle, flags: int) -> int:
    """open_by_handle_at(2): a new descriptor; `mount`: one of the file system."""
    return _check(_libc.open_by_handle_at(mount, ctypes.byref(handle), flags))


class DirStream:
    """opendir(3), readdir(3), telldir(3), seekdir(3), rewinddir(3)."""

    def __init__(self, path: Path) -> None:
        self._dir = _libc.opendir(os.fsencode(path))
        if not self._dir:
            _check(-1)

    def __enter__(self) -> DirStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _libc.closedir(self._dir)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        while (entry := self.read()) is not None:
            yield entry

    def read(self) -> tuple[str, int] | None:
        """The next entry's name and inode number; None at the end."""
        at = _libc.readdir(self._dir)
        if not at:
            return None
        entry = ctypes.cast(at, ctypes.POINTER(_Dirent)).contents
        return os.fsdecode(entry.d_name), entry.d_ino

    def names(self) -> list[str]:
        """The names from here to the end."""
        return [name for name, _ in self]

    def tell(self) -> int:
        """Where the next entry is read."""
        return int(_libc.telldir(self._dir))

    def seek(self, where: int) -> None:
        """Read on at a place that `tell` gave."""
        _libc.seekdir(self._dir, where)

    def rewind(self) -> None:
        """Read on at the beginning, as the directory is then."""
        _libc.rewinddir(self._dir)
