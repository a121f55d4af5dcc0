"""Names: made, moved, removed."""

from __future__ import annotations

import errno
from typing import Any

from vfsmount.fsspec import changes
from vfsmount.fsspec.base import MAGIC, split
from vfsmount.fsspec.looking import Looking


class Naming(Looking):
    """Part of `VfolderFileSystem`: names."""

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a directory. In the root: a folder, on the cluster's default host."""
        path = self._strip_protocol(path)
        name, rel = split(path)
        if not name:
            raise FileExistsError(errno.EEXIST, "the root is always there", path)
        if rel:
            self._call(path, changes.mkdir, name, rel, create_parents, False)
        else:
            self._call(path, changes.create_folder, name)
        self.invalidate_cache(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory and those above it; a folder only where its own path is given."""
        path = self._strip_protocol(path)
        name, rel = split(path)
        if rel:
            self._call(path, changes.mkdir, name, rel, True, exist_ok)
            self.invalidate_cache(path)
        elif not (exist_ok and self.isdir(path)):
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory, or delete an empty folder."""
        path = self._strip_protocol(path)
        name, rel = split(path)
        if not name:
            raise OSError(errno.EBUSY, "the root stays", path)
        if rel:
            self._call(path, changes.rmdir, name, rel)
        else:
            self._call(path, changes.remove_folder, name)
        self.invalidate_cache(path)

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        self.rm(path)

    def _rm(self, path: str) -> None:
        self.rm(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files and, with `recursive`, directories with all that is in them, in few calls.

        A folder is not deleted by that: see `rmdir`.
        """
        if maxdepth is not None:
            raise NotImplementedError("a removal down to a depth")
        paths: list[str] = []
        for p in path if isinstance(path, (list, tuple, set)) else [path]:
            bare = self._strip_protocol(p)
            paths += self.expand_path(bare) if MAGIC & set(bare) else [bare]
        of_folder: dict[str, list[str]] = {}
        for p in paths:
            name, rel = split(p)
            if not rel:
                raise PermissionError(
                    errno.EPERM, "rm deletes no folder: empty it with rm('FOLDER/*'), then rmdir", p
                )
            of_folder.setdefault(name, []).append(rel)
        try:
            for name, rels in of_folder.items():
                self._call(f"{name}/{rels[0]}", changes.remove, name, rels, recursive)
        finally:
            for p in paths:
                self.invalidate_cache(p)

    def mv(
        self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> None:
        """Move; within a folder the server renames, in one step where it is a file."""
        if not self._renames(path1, path2, maxdepth):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        src, dst = self._strip_protocol(path1), self._strip_protocol(path2)
        if src == dst:
            return
        (name, rel_src), (_, rel_dst) = split(src), split(dst)
        if not rel_dst:
            rel_dst = rel_src.rpartition("/")[2]
        self._call(src, changes.move, name, rel_src, rel_dst)
        self.invalidate_cache(src)
        self.invalidate_cache(dst)

    def _renames(self, path1: Any, path2: Any, maxdepth: int | None) -> bool:
        """Whether one call of the server does what is wanted."""
        if not (isinstance(path1, str) and isinstance(path2, str)) or maxdepth is not None:
            return False
        (from_, rel), (to, _) = split(self._strip_protocol(path1)), split(self._strip_protocol(path2))
        if from_ != to or not rel or MAGIC & set(path1):
            return False
        # Into a directory that is still to be made: the names are put together by fsspec.
        return not path2.endswith("/") or self.isdir(path2)
