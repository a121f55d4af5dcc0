"""Content: opened, read and written whole or in ranges, copied."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import IO, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from vfsmount.errors import VfsError
from vfsmount.fsspec import reading, sending
from vfsmount.fsspec.base import needs_below_folder, os_error, split
from vfsmount.fsspec.file import VfolderFile
from vfsmount.fsspec.looking import Looking
from vfsmount.values import ANY, Validator
from vfsmount.values import Base as Version


class Content(Looking):
    """Part of `VfolderFileSystem`: content."""

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> VfolderFile:
        if mode == "xb" and self.exists(path):
            raise FileExistsError(errno.EEXIST, "the name is taken", path)
        if mode != "rb":
            needs_below_folder(path)
        return VfolderFile(
            self,
            path,
            mode,
            block_size=block_size,
            autocommit=autocommit,
            cache_options=cache_options,
            **kwargs,
        )

    def read_version(self, path: str, start: int, end: int, version: Validator) -> bytes:
        """Bytes of one version of a file.

        Raises:
            OSError: ESTALE, where another stands there now.
        """
        if end <= start:
            return b""
        return self._call(path, reading.read_of, *split(path), start, end, version)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Bytes of a file, of one version."""
        path = self._strip_protocol(path)
        return self._call(path, reading.read_slice, *split(path), start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Ranges of files, many at a time; all of a file's are of one version."""
        if max_gap is not None:
            raise NotImplementedError("max_gap")
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(starts) == len(ends) == len(paths):
            raise ValueError("as many starts and ends as paths are needed")
        return self._many(paths, starts, ends, on_error)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """As of fsspec, many files at a time."""
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **kwargs)
        start, end = kwargs.get("start"), kwargs.get("end")
        each_or_error = "raise" if on_error == "raise" else "return"
        found = self._many(paths, [start] * len(paths), [end] * len(paths), each_or_error)
        return {
            p: content
            for p, content in zip(paths, found, strict=True)
            if on_error != "omit" or not isinstance(content, Exception)
        }

    def _many(self, paths: list[str], starts: list[Any], ends: list[Any], on_error: str) -> list[Any]:
        paths = self._strip_protocol(paths)
        wanted = [(*split(p), s, e) for p, s, e in zip(paths, starts, ends, strict=True)]
        found: list[Any] = self._call("", reading.read_many, wanted)
        for i, content in enumerate(found):
            if isinstance(content, VfsError):
                found[i] = os_error(content, paths[i])
                if on_error == "raise":
                    raise found[i]
        return found

    def send(self, path: str, content: IO[bytes], base: Version = ANY) -> None:
        """Put a file in place that holds what an open local one does."""
        try:
            self._call(path, sending.send_file, *split(path), content, base)
        finally:
            self.invalidate_cache(path)

    def append(self, path: str, tail: IO[bytes]) -> None:
        """Put in place what is there and, behind it, what an open local file holds."""
        try:
            self._call(path, sending.append, *split(path), tail, self.staging_dir)
        finally:
            self.invalidate_cache(path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Put a file in place."""
        path = self._strip_protocol(path)
        needs_below_folder(path)
        if self._intrans:
            super().pipe_file(path, value, mode=mode, **kwargs)
            return
        base = None if mode == "create" else ANY
        try:
            self._call(path, sending.send_bytes, *split(path), bytes(value), base)
        finally:
            self.invalidate_cache(path)

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Put a copy of a local file in place; directories above it are made."""
        rpath = self._strip_protocol(rpath)
        if self._intrans:
            super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)
            return
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        needs_below_folder(rpath)
        with open(lpath, "rb") as content:
            size = os.fstat(content.fileno()).st_size
            callback.set_size(size)
            self.send(rpath, content, None if mode == "create" else ANY)
            callback.relative_update(size)

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """Copy a file here; all of it of one version."""
        options = {"cache_type": "none", **kwargs}  # it reads in large pieces, each once
        super().get_file(rpath, lpath, callback=callback, outfile=outfile, **options)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file by way of this machine: the server has no call for it."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        if path1 == path2:
            return
        with self.open(path1, "rb", cache_type="none") as source, self.open(path2, "wb") as sink:
            while data := source.read(self.blocksize):
                sink.write(data)
