"""A folder through a running mount: plain file calls, relative to the folder's own directory.

Relative to an open descriptor, so that nothing is done below the mountpoint when the mount has gone.
The calls are made in threads, because any of them may wait for the network.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from vfsmount import errors
from vfsmount.cli.files.tree import Look, Write
from vfsmount.cli.mounted import settle, tell_mounts
from vfsmount.core.standing import NOTHING, Standing
from vfsmount.errors import MountError, VfsError
from vfsmount.values import Kind, Listing, RemoteEntry

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

T = TypeVar("T")

_PIECE = 1 << 20
_PARTIAL = "user.vfsmount.partial"

_ERRORS: dict[int, type[VfsError]] = {
    errno.ENOENT: errors.NotFound,
    errno.EEXIST: errors.AlreadyExists,
    errno.ENOTDIR: errors.NotADirectory,
    errno.EISDIR: errors.IsADirectory,
    errno.ENOTEMPTY: errors.NotEmpty,
    errno.EXDEV: errors.CrossFolder,
    errno.EINVAL: errors.InvalidName,
    errno.ENAMETOOLONG: errors.NameTooLong,
    errno.EROFS: errors.ReadOnly,
    errno.EACCES: errors.PermissionDenied,
    errno.EPERM: errors.NotSupported,
    errno.ESTALE: errors.Stale,
    errno.EDQUOT: errors.QuotaExceeded,
    errno.ENOSPC: errors.NoSpace,
    errno.EIO: errors.RemoteUnavailable,
    errno.ETIMEDOUT: errors.DeadlineExceeded,
    errno.ENOTCONN: MountError,
    errno.ECONNABORTED: MountError,
}
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}
_KINDS |= {stat.S_IFIFO: Kind.FIFO, stat.S_IFSOCK: Kind.SOCKET}
_KINDS |= {stat.S_IFCHR: Kind.CHAR_DEVICE, stat.S_IFBLK: Kind.BLOCK_DEVICE}


class MountTree:
    """See `tree.Tree`. Made by `at`."""

    links = True

    def __init__(self, folder_id: str, root: int, state_dir: Path) -> None:
        self.folder_id = folder_id
        self._root = root
        self._state_dir = state_dir

    @classmethod
    async def at(cls, folder_id: str, root: str, record: MountRecord, state_dir: Path) -> MountTree:
        """The folder whose directory on the mount is `root`.

        Raises:
            MountError: the mount is not there any more.
        """
        fd = await _in_thread(partial(_open_root, root, record))
        return cls(folder_id, fd, state_dir)

    async def settle(self, paths: Sequence[str]) -> None:
        """Nothing: what is unsent shows on the mount."""

    async def settled(self, paths: Sequence[str]) -> None:
        done = "done on the mount all the same, which goes on trying"
        wait = partial(settle, self.folder_id, paths, state_dir=self._state_dir, otherwise=done)
        mounts = await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        await trio.to_thread.run_sync(tell_mounts, mounts, paths, abandon_on_cancel=True)

    async def list(self, path: str) -> Look:
        return await _in_thread(partial(self._list, path))

    def _list(self, path: str) -> Look:
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = []
            with os.scandir(fd) as found:
                for item in found:
                    try:
                        entries.append(_entry(item.name, item.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue  # gone meanwhile
            cut = _is_partial(fd)
        finally:
            os.close(fd)
        return Look(Listing(tuple(entries), len(entries), cut), cut)

    async def look(self, paths: Iterable[str]) -> dict[str, Standing]:
        return {path: await _in_thread(partial(self._look, path)) for path in paths}

    def _look(self, path: str) -> Standing:
        try:
            found = os.stat(path or ".", dir_fd=self._root, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        entry = _entry(path.rpartition("/")[2], found)
        return Standing(entry.kind, entry=entry)

    async def read(self, path: str, offset: int, length: int | None, write: Write) -> None:
        await _in_thread(partial(self._read, path, offset, length, write))

    def _read(self, path: str, offset: int, length: int | None, write: Write) -> None:
        fd = self._open(path, os.O_RDONLY)
        try:
            if offset < 0:
                offset = max(0, os.fstat(fd).st_size + offset)
            while length is None or length > 0:
                data = os.pread(fd, _PIECE if length is None else min(_PIECE, length), offset)
                if not data:
                    break
                write(memoryview(data))
                offset += len(data)
                length = None if length is None else length - len(data)
        finally:
            os.close(fd)

    async def remove(self, found: Mapping[str, Kind]) -> dict[str, VfsError]:
        failed = {}
        for path, kind in found.items():
            try:
                await _in_thread(partial(self._remove, path, kind))
            except VfsError as e:
                failed[path] = e
        return failed

    def _remove(self, path: str, kind: Kind) -> None:
        if kind is Kind.DIRECTORY:
            remove_tree(self._root, path)
        else:
            os.unlink(path, dir_fd=self._root)

    async def mkdir(self, path: str, *, parents: bool) -> None:
        await _in_thread(partial(self._mkdir, path, parents))

    def _mkdir(self, path: str, parents: bool) -> None:
        parts = path.split("/")
        if not parents:
            os.mkdir(path, dir_fd=self._root)
            return
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            try:
                os.mkdir(here, dir_fd=self._root)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(here, dir_fd=self._root).st_mode):
                    raise

    async def move(self, src: str, dst: str, kind: Kind) -> None:
        await _in_thread(partial(os.rename, src, dst, src_dir_fd=self._root, dst_dir_fd=self._root))

    def close(self) -> None:
        os.close(self._root)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path or ".", flags | os.O_CLOEXEC, dir_fd=self._root)


def remove_tree(root: int, path: str) -> None:
    """Remove a directory and everything in it, never through a link.

    A listing may be cut: what it did not show comes up once the rest is gone, so each directory is
    emptied again until the mount is sure that nothing is left and lets it go.
    """
    while True:
        seen = _empty(root, path)
        try:
            os.rmdir(path, dir_fd=root)
            return
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not seen:
                raise


def _empty(root: int, path: str) -> int:
    """Remove what a directory shows; how many that was."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        with os.scandir(fd) as found:
            items = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
        for name, is_dir in items:
            if is_dir:
                remove_tree(fd, name)
            else:
                os.unlink(name, dir_fd=fd)
        return len(items)
    finally:
        os.close(fd)


def _open_root(root: str, record: MountRecord) -> int:
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # While a mount sends what is left, it is no longer in the tree and its mountpoint an empty directory.
    if mounted_type(os.path.dirname(root)) != FS_TYPE:
        os.close(fd)
        raise MountError(f"the mount on {record.mountpoint} is being taken down; name the folder instead")
    return fd


def _entry(name: str, found: os.stat_result) -> RemoteEntry:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), Kind.FILE)
    mode, times = stat.S_IMODE(found.st_mode), (found.st_mtime_ns, found.st_ctime_ns)
    return RemoteEntry(os.fsencode(name), kind, found.st_size, mode, *times)


def _is_partial(fd: int) -> bool:
    try:
        return os.getxattr(fd, _PARTIAL) == b"1"
    except OSError:
        return False


async def _in_thread(call: Callable[[], T]) -> T:
    """The result of file calls; their errors as ours. Given up when cancelled: they may take long."""
    try:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
    except OSError as e:
        kind = _ERRORS.get(e.errno or 0, errors.LocalIOError)
        raise kind(_SAID.get(e.errno or 0) or (e.strerror or str(e)).lower()) from e


_SAID = {
    errno.EPERM: "the mount cannot do this (a symlink that a session made on the server, perhaps)",
    errno.ENOTEMPTY: "not empty: what its listing does not show cannot be removed, or is added meanwhile",
    errno.EIO: "the mount has no usable answer from the server ('vfsmount status' tells more)",
}
