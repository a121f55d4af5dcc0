"""What is there: one path, a directory, a tree."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import Any

from vfsmount.fsspec import listing
from vfsmount.fsspec.base import Base, as_time, split
from vfsmount.fsspec.listing import Info, PartialListingWarning
from vfsmount.fsspec.remote import Remote, cut_listing


class Looking(Base):
    """Part of `VfolderFileSystem`: asking."""

    def info(self, path: str, **kwargs: Any) -> Info:
        """What stands under a path; of a file the exact version."""
        path = self._strip_protocol(path)
        return self._call(path, Remote.info, *split(path))

    def info_of_file(self, path: str) -> Info:
        """As `info`; a directory is an error."""
        info = self.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory cannot be opened", path)
        return info

    def size_or_zero(self, path: str) -> int:
        """Bytes of a file, 0 where there is none."""
        try:
            return int(self.info_of_file(path)["size"])
        except FileNotFoundError:
            return 0

    # The ones of fsspec take every error for "no": also that the server cannot be reached.

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether something stands there."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Whether a directory stands there."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether a file stands there."""
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **kwargs: Any) -> list[Any]:
        """What a directory holds; of a file, itself.

        Raises:
            PartialListing: the server cut the listing.
        """
        path = self._strip_protocol(path)
        infos = None if refresh else self.dircache.get(path)
        if infos is None:
            infos = self._listed(path)
        return list(infos) if detail else sorted(info["name"] for info in infos)

    def _listed(self, path: str) -> list[Info]:
        name, rel = split(path)

        async def work(remote: Remote) -> tuple[list[Info], bool, int, bool]:
            infos, found = await remote.entries(name, rel)
            if found is None:
                return infos, False, 0, True
            certain, likely = remote.doubt(found, name)
            return infos, likely, found.count if certain else 0, not found.cut

        try:
            infos, likely, cut_at, whole = self._call(path, work)
        except NotADirectoryError:
            return [self.info(path)]
        if cut_at and not self._partial_ok:
            raise cut_listing(path, cut_at)
        if likely or cut_at:
            warnings.warn(
                f"{path}: the server may have shown a part of it only ({len(infos)} entries)",
                PartialListingWarning,
                stacklevel=4,
            )
        if whole:
            self.dircache[path] = infos
        return infos

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As of fsspec; ``omit`` omits what is not there, and nothing that could not be asked for.

        `find`, `glob`, `du`, `get` and the like say "all files", and are made from this.
        """
        path = self._strip_protocol(path)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = kwargs.pop("detail", False)
        try:
            infos = self.ls(path, detail=True, **kwargs)
        except OSError as e:
            if on_error == "raise" or (on_error == "omit" and not isinstance(e, FileNotFoundError)):
                raise
            if callable(on_error):
                on_error(e)
            return
        by_name = {"" if i["name"] == path else i["name"].rpartition("/")[2]: i for i in infos}
        dirs: Any = {n: i for n, i in by_name.items() if i["type"] == "directory"}
        files: Any = {n: i for n, i in by_name.items() if i["type"] != "directory"}
        if not detail:
            dirs, files = list(dirs), list(files)
        if topdown:
            yield path, dirs, files
        if maxdepth is None or maxdepth > 1:
            deeper = maxdepth - 1 if maxdepth is not None else None
            for name in list(dirs):
                below = f"{path}/{name}" if path else name
                yield from self.walk(below, deeper, topdown, on_error, detail=detail, **kwargs)
        if not topdown:
            yield path, dirs, files

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As of fsspec, from the listings: without a question for each file."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: (info or self.info(name))["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def created(self, path: str) -> datetime:
        """When a folder was made; of a file, when its status last changed: nothing older is known."""
        return as_time(self._listed_entry(path)["created"])

    def modified(self, path: str) -> datetime:
        """When a file was last modified."""
        info = self.info(path)
        return as_time(info["mtime"] if "mtime" in info else self._listed_entry(path)["mtime"])

    def _listed_entry(self, path: str) -> Info:
        path = self._strip_protocol(path)
        name, rel = split(path)
        if not rel:
            return self.info(path)
        entry = self._call(path, Remote.entry, name, rel)
        if entry is None:
            raise cut_listing(self._parent(path), 0)
        return listing.of_entry(self._parent(path), entry)

    def ukey(self, path: str) -> str:
        """Names the version of a file: as long as it is the same, so is the content."""
        info = self.info(path)
        return str(info.get("etag") or sha256(str(info).encode()).hexdigest())

    def checksum(self, path: str) -> int:
        """As `ukey`, as a number."""
        return int(sha256(self.ukey(path).encode()).hexdigest(), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings: of a path and what is above it, or all."""
        super().invalidate_cache(path)
        if path is None:
            self.dircache.clear()
            return
        path = self._strip_protocol(path)
        while True:
            self.dircache.pop(path, None)
            if not path:
                return
            path = self._parent(path)
