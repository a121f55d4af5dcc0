"""Open files: one that is read is of one version; one that is written is sent whole when it is closed."""

from __future__ import annotations

import tempfile
import warnings
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from vfsmount.fsspec import listing
from vfsmount.fsspec.listing import Info
from vfsmount.values import ANY, Base

if TYPE_CHECKING:
    from vfsmount.fsspec.content import Content


class VfolderFile(AbstractBufferedFile):
    """A file of a vfolder.

    Read: `info` is of the version that was there when it was opened, and all bytes are of that one; when
    the file is replaced, a read raises `OSError` with ESTALE. Written: nothing is on the server before
    `close` (within a transaction: before its end), and then the whole file is, or the old one still.
    """

    fs: Content
    DEFAULT_BLOCK_SIZE = 5 << 20

    def __init__(self, fs: Content, path: str, mode: str = "rb", **options: Any) -> None:
        self._content: IO[bytes] | None = None
        if mode == "rb":
            # A file that went to another process in a pickle is there the version that it was here.
            self._details: Info = options.pop("details", None) or fs.info_of_file(path)
            options["size"] = self._details["size"]
        super().__init__(fs, path, mode, **options)
        if mode == "ab":
            self.loc = fs.size_or_zero(path)

    def __reduce__(self) -> Any:
        if self.mode != "rb":
            raise TypeError("a file that is being written cannot be sent to another process")
        return _reopen, (self.fs, self.path, self.blocksize, self.loc, self.cache.name, self.details)

    def _fetch_range(self, start: int, end: int) -> bytes:
        version = listing.version_of(self.details)
        assert version is not None
        return self.fs.read_version(self.path, start, min(end, self.size), version)

    # --- written -------------------------------------------------------------------------------

    def _initiate_upload(self) -> None:
        self._content = tempfile.TemporaryFile(dir=self.fs.staging_dir)  # noqa: SIM115 (open until `commit`)

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._content is not None
        self._content.write(self.buffer.getvalue())
        if final:
            self._content.flush()
            if self.autocommit:
                self.commit()
        return True

    def commit(self) -> None:
        """Put it in place on the server."""
        if not self.forced:
            self.flush(force=True)
            if self.autocommit:
                return
        content, self._content = self._content, None
        if content is None:
            return
        with content:
            if self.mode == "ab":
                self.fs.append(self.path, content)
            else:
                self.fs.send(self.path, content, self._base())

    def discard(self) -> None:
        """Forget what was written; the server keeps what it has."""
        content, self._content = self._content, None
        if content is not None:
            content.close()
        self.closed = True

    def _base(self) -> Base:
        return None if self.mode == "xb" else ANY

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None and self.mode != "rb":
            self.discard()  # half a file must not take the place of a whole one
        else:
            self.close()

    def __del__(self) -> None:
        # Not `close`: whoever collects garbage, at whatever moment, cannot wait for an upload.
        if self.mode != "rb" and not self.closed and (self._content is not None or self.buffer.tell()):
            warnings.warn(
                f"{self.path} was written and never closed: not sent", ResourceWarning, stacklevel=2
            )
        if self.mode != "rb":
            self.discard()


def _reopen(fs: Content, path: str, block_size: int, loc: int, cache_type: str, details: Info) -> VfolderFile:
    file = VfolderFile(fs, path, "rb", block_size=block_size, cache_type=cache_type, details=details)
    file.seek(loc)
    return file
