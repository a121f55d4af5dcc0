"""The disk behind the folders: what the storage-proxy does to real files, oddities included.

Plain blocking functions; callers run them in a thread. Paths of a call are relative to a folder's
root and every symlink in them is resolved first, the last one too, so operations act on targets.
Source: contract 3.5, 5, 6.4; Backend.AI storage-proxy ``vfs/__init__.py``.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# Sockets, fifos and devices are told apart by their mode only.
_KINDS = {stat.S_IFDIR: "DIRECTORY", stat.S_IFLNK: "SYMLINK"}


class FolderGone(Exception):
    """The folder's root directory is not there."""


class OutsideFolder(Exception):
    """The path, with its symlinks resolved, leaves the folder."""


class Entry(NamedTuple):
    """One entry of a directory, from lstat; times in seconds since the epoch."""

    name: str
    type: str
    size: int
    st_mode: int
    created: float
    modified: float


class Volume:
    """Folders as directories ``<root>/<32 hex id>``.

    Args:
        scandir_limit: entries of a listing after which the rest is left out without a word.
    """

    def __init__(self, root: Path, scandir_limit: int) -> None:
        self.root = root
        self.scandir_limit = scandir_limit

    def folder(self, folder_id: str) -> Path:
        """A folder's root directory, there or not."""
        return self.root / folder_id

    def create(self, folder_id: str) -> None:
        """Make a folder's root directory."""
        self.folder(folder_id).mkdir(0o755)

    def destroy(self, folder_id: str) -> None:
        """Remove a folder with everything in it; missing is fine."""
        shutil.rmtree(self.folder(folder_id), ignore_errors=True)

    def clone(self, source_id: str, target_id: str) -> None:
        """Copy one folder's contents into another's root."""
        shutil.copytree(self.folder(source_id), self.folder(target_id), dirs_exist_ok=True, symlinks=True)

    def resolve(self, folder_id: str, path: str) -> Path:
        """Where `path` leads after all symlinks.

        Raises:
            FolderGone, OutsideFolder: see there.
            ValueError: NUL in the path.
        """
        root = self.folder(folder_id).resolve()
        if not root.is_dir():
            raise FolderGone(folder_id)
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            raise OutsideFolder(path)
        return target

    def relative(self, folder_id: str, path: str) -> str:
        """`path` as a client may see it: relative to the folder where that is possible."""
        try:
            return str(Path(path).relative_to(self.folder(folder_id).resolve()))
        except ValueError:
            return path

    def listing(self, folder_id: str, path: str) -> list[Entry]:
        """One directory in its own order, silently cut at the scandir limit.

        Raises:
            OSError: missing, or not a directory.
        """
        directory = os.open(self.resolve(folder_id, path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(directory) as scan:
                found = filter(None, (_entry(entry.name, directory) for entry in scan))
                return list(itertools.islice(found, self.scandir_limit or None))
        finally:
            os.close(directory)

    def mkdir(self, folder_id: str, path: str, *, parents: bool, exist_ok: bool) -> None:
        """Make a directory; raises OSError."""
        self.resolve(folder_id, path).mkdir(0o755, parents=parents, exist_ok=exist_ok)

    def move(self, folder_id: str, src: str, dst: str) -> None:
        """`shutil.move`, which is not rename(2): an existing directory receives the source.

        Raises:
            OSError: also `shutil.Error`, which has no errno.
        """
        source, target = self.resolve(folder_id, src), self.resolve(folder_id, dst)
        shutil.move(str(source), str(target))

    def rename(self, folder_id: str, path: str, new_name: str) -> None:
        """Move to a sibling name; ValueError for a name that is none."""
        self.move(folder_id, path, str(PurePosixPath(path).with_name(new_name)))

    def delete(self, folder_id: str, paths: Sequence[str], *, recursive: bool, quiet: bool) -> None:
        """Remove files, and directories with their contents if `recursive`.

        Nothing protects the folder's own root: ``.`` removes it, as on the real server.

        Args:
            quiet: 26.x: ignore what is missing or is no regular file, and go on.

        Raises:
            OSError: not `quiet`: at the first failure; what stood before it is gone.
        """
        if not paths and not quiet:
            raise IndexError("an empty list crashes the real storage-proxy")
        for target in [self.resolve(folder_id, path) for path in paths]:
            if target.is_dir() and recursive:
                shutil.rmtree(target)
            elif not quiet or target.is_file():
                target.unlink()

    def usage(self, folder_id: str) -> tuple[int, int]:
        """(entries, bytes) of everything below a folder's root, directories counted too."""
        sizes = [e.stat(follow_symlinks=False).st_size for e in _walk(self.folder(folder_id))]
        return len(sizes), sum(sizes)

    def disk(self) -> tuple[int, int]:
        """(used, total) bytes of the disk the folders are on."""
        st = os.statvfs(self.root)
        return st.f_frsize * (st.f_blocks - st.f_bavail), st.f_frsize * st.f_blocks


def _walk(top: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(top) as scan:
        for entry in scan:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))


def _entry(name: str, directory: int) -> Entry | None:
    try:
        # By descriptor: to look each name up from the root again takes half of the time of a listing.
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, PermissionError):
        return None  # vanished during the scan; the real one skips it, too
    kind = _KINDS.get(stat.S_IFMT(st.st_mode), "FILE")
    return Entry(name, kind, st.st_size, st.st_mode, st.st_ctime, st.st_mtime)
