"""Staging files: local content of files that are being written.

A content is sparse: its `written` extents are here, the rest of what lies below `remote_size` is the
version on the server it was opened from, the rest of all is zeroes. Bytes below `sealed` are an
acknowledged or a travelling version and are never changed in place: who wants to writes to a `clone`.

Each mount has a directory of its own, locked for as long as the mount lives. A directory that is
there and not locked is a dead mount's: `claim_dead` takes it over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vfsmount.core.extents import Extents
from vfsmount.store import syscalls
from vfsmount.store.mounts import start_time, unusable
from vfsmount.store.syscalls import in_thread, local_error

T = TypeVar("T")

LOCK = "lock"


def is_held(directory: Path, *, but_by: int | None = None) -> bool:
    """Whether a process lives, other than `but_by`, that will start the one to go on in a mount's directory;
    see `StagingArea.hold`."""
    try:
        mark = _mark(directory / LOCK)
    except OSError:
        return False
    pid, _, rest = (mark or b"").decode("ascii", "replace").partition(" ")
    started = rest.partition(" ")[0]
    return pid.isdigit() and int(pid) != but_by and started != "" and start_time(int(pid)) == started


def _mark(lock: Path) -> bytes | None:
    return lock.read_bytes() or None


class Content:
    """One version of a file, as far as it is here. Offsets and sizes in bytes.

    Attributes:
        name: of the file, below the staging directory: ``<mount>/<file>``.
        remote_size: what lies below and is not `written` is on the server only.
        sealed: bytes below this are not changed in place.
        unchecked: extents that were fetched and are not known yet to be of one version.
    """

    def __init__(self, area: StagingArea, name: str, fd: int) -> None:
        self.name = name
        self.size = 0
        self.remote_size = 0
        self.sealed = 0
        self.written = Extents()
        self.unchecked = Extents()
        self._area = area
        self._fd = fd
        self._holds = 1  # who needs the file: its user, an upload, a row
        self._in_use = 0  # calls under way in threads: the descriptor stays until they are back
        self._resting = False
        self._abandoned = False
        self._opening = threading.Lock()

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._area.base / self.name

    @property
    def complete(self) -> bool:
        """Whether nothing of it is on the server only."""
        return not self.missing(0, self.size) and not self.unchecked.total

    def checked(self) -> Extents:
        """The extents that are here for good."""
        sure = Extents(self.written)
        for start, stop in self.unchecked:
            sure.remove(start, stop)
        return sure

    def is_one_version(self, yes: bool) -> None:
        """What was fetched is of one version, or (no) is not here any more."""
        unchecked, self.unchecked = self.unchecked, Extents()
        if not yes:
            for start, stop in unchecked:
                self._area.account(-self.written.remove(start, stop))

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Runs of ``[start, stop)`` that are on the server only."""
        stop = min(stop, self.remote_size)
        return self.written.missing(start, stop) if start < stop else []

    # --- lifetime ------------------------------------------------------------------------------

    def hold(self) -> Content:
        """One more needs the file; each `hold` and the first user end with a `release`."""
        self._holds += 1
        return self

    def release(self) -> None:
        """One less needs it; the last one deletes the file. Calls under way still get their bytes."""
        self._holds -= 1
        if not self._holds and not self._abandoned:
            syscalls.boundary()
            self.path.unlink(missing_ok=True)
            self._area.account(-self.written.total)
            self._close_if_unused()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Needed while the body runs."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def abandon(self) -> None:
        """Let go of the descriptor; the file stays for the next mount."""
        self._abandoned = True
        self.rest()

    def rest(self) -> None:
        """Nobody writes to it for now: it takes no descriptor but while it is read."""
        self._resting = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if (self._resting or not self._holds) and not self._in_use and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _with_fd(self, work: Callable[[int], T]) -> T:
        # Held, because the file has to have its name when it is opened, whoever lets go meanwhile.
        self.hold()
        self._in_use += 1
        try:
            return await in_thread(lambda: work(self._opened()))
        finally:
            self._in_use -= 1
            self._close_if_unused()
            self.release()

    def _opened(self) -> int:
        with self._opening:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            return self._fd

    # --- bytes ---------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes that are here; fewer only at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        data = await self._with_fd(lambda fd: os.pread(fd, length, offset))
        # A run that only ever was a hole lies past the file's end on our disk.
        return data if len(data) == length else data + bytes(length - len(data))

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`, or raise NoSpace or LocalIOError with the size as it was."""
        assert offset >= self.sealed
        size, self._resting = self.size, False

        def write_all(fd: int) -> None:
            try:
                syscalls.pwrite_all(fd, data, offset)
            except OSError:
                # A write that failed halfway must not leave a longer file behind.
                if offset + len(data) > size:
                    os.ftruncate(fd, size)
                raise

        await self._with_fd(write_all)
        self._has(offset, offset + len(data))
        if self.unchecked.total:
            self.unchecked.remove(offset, offset + len(data))  # ours now
        self.size = max(self.size, offset + len(data))

    async def fill(self, offset: int, data: bytes) -> None:
        """Put in what the server has; nothing of it was `written` here meanwhile. `is_one_version` comes
        next."""
        await self._with_fd(lambda fd: syscalls.pwrite_all(fd, data, offset))
        self.unchecked.add(offset, offset + len(data))
        self._has(offset, offset + len(data))

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeroes, as a hole) to `size`."""
        assert size >= self.sealed
        await self._with_fd(lambda fd: syscalls.truncate(fd, size))
        self.size = size
        self.remote_size = min(self.remote_size, size)
        self._area.account(-self.written.cut(size))
        self.unchecked.cut(size)

    async def clone(self, label: bytes, size: int) -> Content:
        """A content of its own with the first `size` bytes of this one; costs a copy of what is here."""
        new = await self._area.create(label)
        stop = min(size, self.size)
        runs = [(start, min(end, stop)) for start, end in self.written if start < stop]

        def copy(source: int) -> None:
            for start, end in runs:
                syscalls.copy_range(source, new._fd, start, end)
            syscalls.truncate(new._fd, stop)

        try:
            await self._with_fd(copy)
        except BaseException:
            new.release()
            raise
        for start, end in runs:
            new._has(start, end)
        new.size, new.remote_size = stop, min(self.remote_size, stop)
        new.unchecked = Extents(self.unchecked)
        new.unchecked.cut(stop)
        return new

    async def sync(self) -> None:
        """Have the bytes survive a power cut, if anybody still needs them."""
        if self._holds:
            await self._with_fd(syscalls.sync_data)

    def _has(self, start: int, stop: int) -> None:
        self._area.account(self.written.add(start, stop))


class StagingArea:
    """The staging files of one mount.

    Raises:
        ConfigError: the state directory cannot be used.

    Attributes:
        base: where all mounts of this user have their directories.
        own: name of this mount's directory in it, 0700.
        unsent: where content goes that nobody acknowledged and whose mount died.
        used: bytes that are here, of all contents.
        named: rows stand under this mount's name, so its directory stays, by which the next mount finds
            them, even where the contents lie in the directory of an older one.
    """

    def __init__(self, state_dir: Path) -> None:
        self.base = state_dir / "staging"
        self.unsent = state_dir / "unsent"
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in (self.base, self.unsent):
                path.mkdir(exist_ok=True, mode=0o700)
                path.chmod(0o700)
        except OSError as e:
            raise unusable(state_dir, e) from e
        self.own = f"{os.getpid()}-{time.time_ns():x}"
        self.directory = self.base / self.own
        with self._turn():  # whoever has it sees no directory of a living mount that is not locked
            self.directory.mkdir(mode=0o700)
            lock = os.open(self.directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The holder for which we begin anew: what dead ones of its processes left, nobody goes on with.
        self.held_by: int | None = None
        self._locks = {self.own: lock}
        self._directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._count = 0
        self.used = 0
        self.named = False

    def account(self, change: int) -> None:
        """Bytes have come or gone."""
        self.used += change

    async def create(self, name: bytes) -> Content:
        """A new, empty content. `name` only helps a human who looks at leftovers."""
        self._count += 1
        label = urllib.parse.quote(name, safe=" @+,=")[:100]
        file = f"{self.own}/{self._count:06d}-{label}"

        def make() -> int:
            syscalls.boundary()
            return os.open(self.base / file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)

        return Content(self, file, await in_thread(make))

    async def sync_all(self) -> None:
        """Have every content of this mount survive a power cut, names included."""
        await in_thread(lambda: syscalls.sync_filesystem(self._directory_fd))

    async def sync_names(self) -> None:
        """Have the names of contents survive a power cut."""

        def sync() -> None:
            syscalls.boundary()
            os.fsync(self._directory_fd)

        await in_thread(sync)

    # --- for who goes on with this mount when this process dies ----------------------------------

    def hold(self, holder: int) -> None:
        """Keep our directories from other mounts for as long as a process lives, which starts another one
        like us when we die: its `resume` gets them.

        Raises:
            LocalIOError.
        """
        mark = f"{holder} {start_time(holder)} {self.own}".encode()
        try:
            for lock in self._locks.values():
                os.ftruncate(lock, 0)
                os.pwrite(lock, mark, 0)
        except OSError as e:
            raise local_error(e) from e

    def resume(self, directory: str) -> bool:
        """Take the place of a process of this very mount that has died; False: it has not yet.

        Raises:
            LocalIOError: its directory is gone, or another mount has taken it.
        """
        with self._turn():
            try:
                mark = _mark(self.base / directory / LOCK)
                held = [directory] if mark is None else self._marked(mark)
            except OSError as e:
                raise local_error(e) from e
            locks = self._claim([d for d in held if d not in self._locks], resuming=True)
            if directory not in locks:
                for name in locks:
                    os.close(self._locks.pop(name))
                return False
        before, self.own = self.own, directory
        self.directory = self.base / directory
        os.close(self._directory_fd)
        self._directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        numbers = (p.name.partition("-")[0] for p in self.directory.iterdir())
        self._count = max((int(n) for n in numbers if n.isdigit()), default=0)
        self.let_go(before)
        return True

    def _marked(self, mark: bytes) -> list[str]:
        found = [p for p in self.base.iterdir() if p.is_dir() and _mark(p / LOCK) == mark]
        return sorted(p.name for p in found)

    def others(self, needed: Container[str]) -> list[str]:
        """Names of the files in our directories that are not among these."""
        return [n for directory in self._locks for n in self.contents_in(directory) if n not in needed]

    def delete(self, names: Iterable[str]) -> None:
        """Remove files that nobody needs."""
        for name in names:
            syscalls.boundary()
            (self.base / name).unlink(missing_ok=True)

    # --- what dead mounts left -----------------------------------------------------------------

    def claim_dead(self) -> list[str]:
        """Names of directories whose mounts are dead; they are ours now, until `let_go`."""
        # One at a time: rows of one dead mount may name files in the directory of another.
        with self._turn():
            found = sorted(p.name for p in self.base.iterdir() if p.is_dir() and p.name not in self._locks)
            return self._claim(found)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with open(self.base.with_suffix(".lock"), "a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def _claim(self, others: list[str], *, resuming: bool = False) -> list[str]:
        claimed = []
        for old in others:
            try:
                # Made where it lacks: a mount that died in between had no time for anything else.
                fd = os.open(self.base / old / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except (FileNotFoundError, NotADirectoryError):
                continue  # who had it has just removed it
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before us may have finished with it and removed it.
                os.stat(self.base / old / LOCK)
            except (BlockingIOError, FileNotFoundError):
                os.close(fd)
                continue
            if not resuming and is_held(self.base / old, but_by=self.held_by):
                os.close(fd)
                continue  # its process died and the next one is about to go on
            self._locks[old] = fd
            claimed.append(old)
        return claimed

    def let_go(self, directory: str, *, named: bool = False) -> None:
        """Leave a claimed directory to the next mount, or remove it where nothing is in it and no rows
        are `named` by it."""
        if not named:
            self._remove_if_empty(directory)
        os.close(self._locks.pop(directory))

    def contents_in(self, directory: str) -> dict[str, int]:
        """Names (as `Content.name`) and sizes of the files in a directory."""
        return {
            f"{directory}/{p.name}": p.stat().st_size
            for p in (self.base / directory).iterdir()
            if p.name != LOCK
        }

    def reopen(self, name: str, written: Extents, remote_size: int, sealed: int) -> Content:
        """A content of the process whose place we have taken, as it was.

        Raises:
            NoSpace, LocalIOError: it is not there.
        """
        try:
            size = (self.base / name).stat().st_size
        except OSError as e:
            raise local_error(e) from e
        content = Content(self, name, -1)
        content.size, content.remote_size = size, min(remote_size, size)
        content.written = written
        written.cut(size)
        if size > content.remote_size:
            written.add(content.remote_size, size)  # no server's bytes
        content.sealed = min(sealed, size)
        self.account(written.total)
        return content

    def adopt(self, name: str, size: int, written: Extents, remote_size: int, *, sealed: bool) -> Content:
        """The content of a row of a claimed directory.

        Args:
            sealed: it is cut to `size`, what came later is gone; otherwise that is part of it.

        Raises:
            NoSpace, LocalIOError.
        """
        try:
            fd = os.open(self.base / name, os.O_RDWR | os.O_CLOEXEC)
            found = os.fstat(fd).st_size
            if sealed and found > size:
                syscalls.truncate(fd, size)
        except OSError as e:
            raise local_error(e) from e
        content = Content(self, name, fd)
        content.size = size if sealed else found
        content.remote_size = min(remote_size, content.size)
        content.written = written
        written.cut(content.size)
        if content.size > size:
            written.add(size, content.size)  # behind the end that was acknowledged: no server's bytes
        content.sealed = content.size if sealed else 0
        content.rest()
        self.account(written.total)
        return content

    def set_aside(self, name: str, label: str) -> Path:
        """Move a file of a claimed directory to `unsent`, where a human finds it; return where it is.

        Raises:
            NoSpace, LocalIOError: it stays where it was.
        """
        directory, _, file = name.partition("/")
        target_dir = self.unsent / urllib.parse.quote(label, safe=" @+,=/").replace("/", "%2F")[-180:]
        target = target_dir / f"{directory}-{file}"[:250]
        try:
            target_dir.mkdir(exist_ok=True, mode=0o700)
            (self.base / name).rename(target)
        except OSError as e:
            raise local_error(e) from e
        return target

    def _remove_if_empty(self, directory: str) -> None:
        with self._turn():
            if not self.contents_in(directory):
                shutil.rmtree(self.base / directory)

    def unhold(self) -> None:
        """The mount has ended: what is left is for any other."""
        for lock in self._locks.values():
            os.ftruncate(lock, 0)

    def close(self) -> None:
        """End of the mount: directories with files in them stay, for the next."""
        os.close(self._directory_fd)
        self.unhold()
        for directory in list(self._locks):
            self.let_go(directory, named=self.named and directory == self.own)
