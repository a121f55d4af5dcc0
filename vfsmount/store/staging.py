"""Staging files: local content of files that are being written.

Each mount has a directory of its own, locked for as long as the mount lives. What a dead mount left
behind is not deleted: it is moved to ``unsent/``, where `adopt_leftovers` says it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import urllib.parse
from pathlib import Path

from vfsmount.errors import NoSpace
from vfsmount.store.syscalls import in_thread, local_error


class StagingFile:
    """One file's local content. Offsets and sizes in bytes."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._reads = 0  # under way in threads: the descriptor stays until the last of them is back
        self._closed = False
        self.size = 0

    async def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        self._reads += 1
        try:
            return await in_thread(lambda: os.pread(self._fd, length, offset))
        finally:
            self._reads -= 1
            self._close_if_unused()

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`, or raise NoSpace or LocalIOError with the size as it was."""

        def write_all() -> None:
            view, at = memoryview(data), offset
            try:
                while view:
                    done = os.pwrite(self._fd, view, at)
                    view, at = view[done:], at + done
            except OSError:
                # A write that failed halfway must not leave a longer file behind.
                os.ftruncate(self._fd, self.size)
                raise

        await in_thread(write_all)
        self.size = max(self.size, offset + len(data))

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeroes, as a hole) to `size`."""
        await in_thread(lambda: os.ftruncate(self._fd, size))
        self.size = size

    def close(self) -> None:
        """Let go of the file and delete it; reads under way still get their bytes."""
        if not self._closed:
            self._closed = True
            self.path.unlink(missing_ok=True)
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._reads and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StagingArea:
    """The staging files of one mount.

    Attributes:
        directory: this mount's own, 0700.
        unsent: where content goes that could not be sent when its mount ended.
    """

    def __init__(self, state_dir: Path) -> None:
        base = state_dir / "staging"
        self.unsent = state_dir / "unsent"
        for path in (base, self.unsent):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.chmod(0o700)
        self._base = base
        self.directory = base / f"{os.getpid()}-{time.time_ns():x}"
        self.directory.mkdir(mode=0o700)
        # Locked before it has the name by which others know a mount's directory: one that is there
        # and not locked is a dead mount's.
        new = self.directory / "lock.new"
        self._lock = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.directory / "lock")
        self._count = 0

    def adopt_leftovers(self) -> list[Path]:
        """Move what dead mounts left behind to `unsent` and return where it is now."""
        adopted = []
        for old in sorted(self._base.iterdir()):
            if old == self.directory:
                continue
            try:
                fd = os.open(old / "lock", os.O_RDWR | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue  # about to begin, or another new mount was faster
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Held until the directory is gone from here, so two new mounts do not both take it.
                if target := self._adopt(old):
                    adopted.append(target)
            except (BlockingIOError, FileNotFoundError):
                continue  # its mount is alive, or another new mount was faster
            finally:
                os.close(fd)
        return adopted

    def _adopt(self, old: Path) -> Path | None:
        if not any(p.name != "lock" and p.stat().st_size for p in old.iterdir()):
            shutil.rmtree(old)
            return None
        target = self.unsent / f"crashed-{old.name}"
        old.rename(target)
        (target / "lock").unlink()
        return target

    async def create(self, name: bytes) -> StagingFile:
        """A new, empty staging file. `name` only helps a human who looks at leftovers."""
        self._count += 1
        label = urllib.parse.quote(name, safe=" @+,=")[:100]
        path = self.directory / f"{self._count:06d}-{label}"
        fd = await in_thread(lambda: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return StagingFile(path, fd)

    def keep_unsent(self, staged: StagingFile, folder: str, path: bytes) -> Path:
        """Move content that could not be sent to a place that outlives the mount; return where.

        Raises:
            NoSpace, LocalIOError: it stays where it was.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target_dir = self.unsent / urllib.parse.quote(folder, safe=" @+,=")
        name = urllib.parse.quote(path, safe=" @+,=")[-180:]
        target = target_dir / f"{stamp}-{staged.path.name[:6]}-{name}"
        try:
            target_dir.mkdir(exist_ok=True, mode=0o700)
            staged.path.rename(target)
            with target.open("rb") as f:
                os.fsync(f.fileno())
        except OSError as e:
            raise local_error(e) from e
        return target

    def close(self) -> None:
        """Remove this mount's directory; files still in it are left alone."""
        leftovers = [p for p in self.directory.iterdir() if p.name != "lock"]
        if not leftovers:
            shutil.rmtree(self.directory)
        os.close(self._lock)


async def check_room(area: StagingArea, needed: int) -> None:
    """Refuse early what cannot fit.

    Raises:
        NoSpace: the disk has less than `needed` bytes free.
    """
    usage = await in_thread(lambda: shutil.disk_usage(area.directory))
    if usage.free < needed:
        raise NoSpace("the disk that holds staging files is full; free some space or move --state-dir")
