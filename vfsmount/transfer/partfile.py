"""The hidden file in which a download is collected, and how it becomes the file itself. Calls block."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass

from vfsmount.errors import AlreadyExists, ProtocolError
from vfsmount.transfer.disk import existing
from vfsmount.values import Validator


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file to be, and the part file beside it.

    Attributes:
        directory: descriptor of the directory of both, its owner's to close.
        name: what it will be.
        part: what it is until then.
    """

    directory: int
    name: str
    part: str

    def is_there(self) -> bool:
        """Whether an earlier try has left a part file."""
        try:
            os.stat(self.part, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open(self, *, fresh: bool) -> int:
        """A descriptor of the part file, the caller's to close; `fresh`: emptied."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        return os.open(self.part, flags, 0o600, dir_fd=self.directory)

    def drop(self) -> None:
        """Remove the part file."""
        with suppress(FileNotFoundError):
            os.unlink(self.part, dir_fd=self.directory)

    def commit(self, fd: int, version: Validator, *, mode: int, clobber: bool) -> int:
        """Put the content of the part file in place, durably; the time of change that it has there.

        Args:
            mode: of a new file; one that is replaced hands on its own.

        Raises:
            AlreadyExists: something is there, and is not to be replaced.
            IsADirectory: a directory is.
            ProtocolError: it is not complete.
        """
        if os.fstat(fd).st_size != version.size:
            raise ProtocolError("not as many bytes as were announced")
        before = existing(self.name, self.directory)
        if before is not None and stat.S_ISREG(before.st_mode):
            mode = before.st_mode & 0o777
        os.fchmod(fd, mode)
        with suppress(OverflowError, OSError):  # a time that no file here can have
            os.utime(fd, ns=(time.time_ns(), version.mtime_ns))
        # A rename that reaches the disk before the content does would leave half a file after a power cut.
        os.fsync(fd)
        if clobber:
            os.rename(self.part, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        else:
            self._link()
        return os.fstat(fd).st_mtime_ns

    def _link(self) -> None:
        try:
            os.link(self.part, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except FileExistsError as e:
            raise AlreadyExists("it is there already") from e
        finally:
            self.drop()
