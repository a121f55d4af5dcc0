"""The user's own files: read to be sent, scanned, and written so that nothing lands outside a directory.

Blocking calls are made in threads of our own number (`in_thread`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import trio

from vfsmount.errors import (
    IsADirectory,
    LocalIOError,
    NoSpace,
    NotADirectory,
    NotFound,
    UploadFailed,
    VfsError,
)
from vfsmount.store.transfers import Local
from vfsmount.transfer.report import Moving

T = TypeVar("T")

OURS = re.compile(r"\.vfsmount-[0-9a-f]{24}\.part")  # `TransferRecords.part_name`
THREADS = 16
# Two changes of a file within one tick of the kernel's clock leave the same time behind.
TICK_S = 0.02

_limiter: trio.CapacityLimiter | None = None


async def in_thread(call: Callable[[], T], what: str) -> T:
    """Run a blocking call in a thread and wait for its end, cancelled or not.

    Args:
        what: whose failure it is, for people.

    Raises:
        NoSpace: the disk is full.
        NotFound, LocalIOError: any other OSError.
    """
    global _limiter
    if _limiter is None:
        _limiter = trio.CapacityLimiter(THREADS)
    try:
        return await trio.to_thread.run_sync(call, limiter=_limiter)
    except OSError as e:
        raise disk_error(e, what) from e


def disk_error(e: OSError, what: str) -> VfsError:
    """What an OSError means to a user."""
    reason = os.strerror(e.errno or 0)
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: no room left on this disk; free some, and run the command again")
    if e.errno == errno.ENOENT:
        return NotFound(f"{what}: {reason}")
    return LocalIOError(f"{what}: {reason}")


# --- reading --------------------------------------------------------------------------------------


class Source:
    """An open file that is to be sent, as it is now."""

    def __init__(self, path: str) -> None:
        """Blocks.

        Raises:
            OSError, UploadFailed: it cannot be read, or is no regular file.
        """
        self.path = path
        # Without O_NONBLOCK a FIFO that has come in its place would hold us for ever.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            now = os.fstat(self._fd)
            if not stat.S_ISREG(now.st_mode):
                raise UploadFailed("it is no regular file any more")
            if time.time_ns() - now.st_mtime_ns < TICK_S * 1e9:
                time.sleep(TICK_S)
                now = os.fstat(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = now.st_size
        self._before = self._look(now)
        self.version = Local(os.fsencode(path), now.st_size, now.st_mtime_ns, now.st_ino)
        self.changed = False

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Blocks.

        Raises:
            UploadFailed: the file is not what it was when it was opened; `changed` is set.
        """
        pieces, at = [], offset
        while at < offset + length:
            piece = os.pread(self._fd, offset + length - at, at)
            if not piece:
                break
            pieces.append(piece)
            at += len(piece)
        # Behind the reading: what was read is from before any change that does not show here.
        if self._look(os.fstat(self._fd)) != self._before or at < offset + length:
            self.changed = True
            raise UploadFailed("it was changed while it was being sent")
        return b"".join(pieces)

    def reading(self, moving: Moving) -> Callable[[int, int], Awaitable[bytes]]:
        """As `read`, for `api.pieces`; shows how far it is."""

        async def read(offset: int, length: int) -> bytes:
            data = await in_thread(lambda: self.read(offset, length), self.path)
            moving.at = offset + length
            return data

        return read

    def is_still_there(self) -> bool:
        """Whether the path still leads to this file, unchanged. Blocks."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return self._look(now) == self._before == self._look(os.fstat(self._fd))

    @staticmethod
    def _look(info: os.stat_result) -> tuple[int, ...]:
        return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


# --- scanning -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """One name in a directory here.

    Attributes:
        kind: "file", "directory", "link" or "other".
        why: a file or directory that is not to be sent: why not. Else empty.
        chain: of a directory: (device, inode) of it and those above.
    """

    name: str
    kind: str
    size: int = 0
    mtime_ns: int = 0
    why: str = ""
    chain: tuple[tuple[int, int], ...] = ()


def scan(path: str, top: str, *, follow: bool, chain: Sequence[tuple[int, int]] = ()) -> list[Found]:
    """What is in a directory, sorted by name; our own part files left out. Blocks.

    A link is what it leads to where that is a regular file below `top`; with `follow` whatever it leads
    to, but no directory that it lies in itself. Else it is a link, and `why` says so.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if OURS.fullmatch(entry.name):
                continue
            try:
                found.append(_look_at(entry, top, follow, tuple(chain)))
            except FileNotFoundError:  # it vanished meanwhile, or is a link that leads nowhere
                if os.path.lexists(entry.path):
                    found.append(Found(entry.name, "link", why="a link that leads nowhere"))
            except OSError as e:
                found.append(Found(entry.name, "link", why=f"a link: {os.strerror(e.errno or 0)}"))
    return sorted(found, key=lambda f: f.name)


def _look_at(entry: os.DirEntry[str], top: str, follow: bool, chain: tuple[tuple[int, int], ...]) -> Found:
    info = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(info.st_mode):
        info = os.stat(entry.path)
        inside = os.path.realpath(entry.path).startswith(top.rstrip("/") + "/")
        if stat.S_ISDIR(info.st_mode) and not follow:
            return Found(entry.name, "link", why="a link to a directory")
        if stat.S_ISREG(info.st_mode) and not follow and not inside:
            return Found(entry.name, "link", why="a link to a file elsewhere")
        if (info.st_dev, info.st_ino) in chain:
            return Found(entry.name, "link", why="a link to a directory that it lies in")
    if stat.S_ISDIR(info.st_mode):
        return Found(entry.name, "directory", chain=(*chain, (info.st_dev, info.st_ino)))
    if stat.S_ISREG(info.st_mode):
        return Found(entry.name, "file", info.st_size, info.st_mtime_ns)
    return Found(entry.name, "other", why="a FIFO, socket or device")


def lscan(path: str) -> list[Found]:
    """What is in a directory, links as links; our own part files left out. Blocks; raises OSError."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if OURS.fullmatch(entry.name):
                continue
            info = entry.stat(follow_symlinks=False)
            kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}.get(
                stat.S_IFMT(info.st_mode), "other"
            )
            found.append(Found(entry.name, kind, info.st_size, info.st_mtime_ns))
    return sorted(found, key=lambda f: f.name)


# --- writing --------------------------------------------------------------------------------------


class Tree:
    """A directory here in which files are put. No link below it is followed, so nothing lands outside.

    Attributes:
        root: absolute, links followed.
    """

    def __init__(self, root: str) -> None:
        """Blocks; makes nothing."""
        self.root = os.path.realpath(root)

    def path(self, parts: Sequence[str]) -> str:
        """Absolute path of a name below."""
        return os.path.join(self.root, *parts)

    def open_directory(self, parts: Sequence[str], *, create: bool) -> int:
        """A descriptor of a directory, the caller's to close. Blocks.

        Raises:
            OSError: it is not there, or cannot be made.
            NotADirectory: something else stands in the way.
        """
        if create:
            os.makedirs(self.root, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = os.open(self.root, flags)
        for depth, part in enumerate(parts, 1):
            assert part not in ("", ".", "..") and "/" not in part
            try:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                try:
                    inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
                except OSError as e:
                    if e.errno in (errno.ENOTDIR, errno.ELOOP):
                        kind = "a link" if e.errno == errno.ELOOP or _is_link(part, fd) else "a file"
                        raise NotADirectory(f"{kind} stands at {self.path(parts[:depth])}") from e
                    raise
            finally:
                os.close(fd)
            fd = inner
        return fd


def _is_link(name: str, fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def existing(name: str, fd: int) -> os.stat_result | None:
    """What stands under a name where a file is to be, None: nothing. Blocks.

    Raises:
        IsADirectory: it cannot be replaced by a file.
    """
    try:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectory("a directory stands in its place here")
    return info
