"""The disk tier of the read cache: blocks of remote files, verified, bounded, shared by all mounts of a user.

`segments` knows the files, `catalogue` the room. Reading a block touches its cache file only; writing one
books its room first. That a block was used again is told to the catalogue many at a time.

Everything here is synchronous and safe in several threads and processes; any of them may be killed at
any moment.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vfsmount import log
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.errors import ConfigError, LocalIOError
from vfsmount.store.catalogue import NO_LIMIT, Catalogue, Usage
from vfsmount.store.segments import (
    ALL_BLOCKS,
    MAX_KEY,
    SEGMENT_BLOCKS,
    BadBlock,
    Buffer,
    CacheFile,
    FileKey,
    Layout,
    block_length,
    open_segment,
    segments_in,
    version_id,
)

__all__ = ["NO_LIMIT", "BlockCache", "FileKey", "Usage"]

T = TypeVar("T")

_log = logging.getLogger("vfsmount.store.blockcache")

TAG = "CACHEDIR.TAG"
TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of vfsmount: backups may leave it out, and it may be removed at any time.
# See https://bford.info/cachedir/
"""
# Everything that may stand beside each other in a cache.
_NAMES = {TAG, "blocks", "pins", "lock", "users", "catalogue.sqlite", "catalogue.sqlite-journal"}
# Open cache files; 64 of them are a gigabyte of the hottest.
_MOST_OPEN = 64
# Uses are told to the catalogue so many at a time, and each file's once in so long.
_TOUCHES = 16
_TOUCH_S = 1.0


@dataclass(slots=True)
class _Held:
    """An open cache file.

    Attributes:
        users: calls that are at it.
        seen: blocks that were read since it was last used again, a bit each.
        touched_at: when that was told, `time.monotonic`.
        dropped: to be closed by the last of its users.
    """

    file: CacheFile
    users: int = 0
    seen: int = ALL_BLOCKS
    touched_at: float = -_TOUCH_S
    dropped: bool = False


class BlockCache:
    """Blocks on disk, at most `limit` bytes of them; `BLOCK_SIZE` long and aligned, the last one shorter.

    Attributes:
        root, floor: as given.
    """

    def __init__(
        self, root: Path, limit: int, floor: int, *, free_bytes: Callable[[], int] | None = None
    ) -> None:
        """Open the cache below `root`, or make it.

        Args:
            limit: bytes of disk that all mounts together may take, the cache's own records included.
                With different limits, who writes keeps to his.
            floor: free bytes that stay on the disk.
            free_bytes: says how many there are; statvfs(2) unless given.

        Raises:
            ConfigError: `root` is not ours alone.
            LocalIOError: the disk failed.
        """
        prepare_root(root)
        self.root = self._root = root
        self.floor = floor
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[FileKey, int], _Held] = OrderedDict()
        self._touched: list[bytes] = []
        self._told_at = time.monotonic()
        self._complained: set[str] = set()
        self._closed = False
        self._catalogue = Catalogue(root, limit, floor, free_bytes or self.free_bytes)
        try:
            self._presence = os.open(root / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._catalogue.begin(self._presence)
        except (OSError, sqlite3.Error) as e:
            raise LocalIOError(f"the cache in {root} cannot be used: {e}") from e

    @classmethod
    def existing(cls, root: Path) -> BlockCache | None:
        """The cache below `root` as mounts have left it, and nothing goes by our doing; None: there is none.

        Raises: as for a new one.
        """
        if not (root / TAG).is_file() or not (root / "blocks").is_dir():
            return None
        return cls(root, NO_LIMIT, 0)

    def free_bytes(self) -> int:
        """What its disk has left for us."""
        info = os.statvfs(self._root)
        return info.f_bavail * info.f_frsize

    def close(self) -> None:
        """Let go of everything. Nothing is found and nothing kept from then on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            names = self._take_touched()
            for held in self._held.values():
                self._drop(held)
            self._held.clear()
        self._tell(names)
        self._catalogue.close()
        os.close(self._presence)

    # --- open files ----------------------------------------------------------------------------

    @contextmanager
    def _opened(self, key: FileKey, number: int) -> Iterator[_Held | None]:
        """The open cache file of a segment; None: there is none."""
        held = self._take(key, number)
        try:
            yield held
        finally:
            if held is not None:
                with self._lock:
                    held.users -= 1
                    if held.dropped and not held.users:
                        held.file.close()

    def _take(self, key: FileKey, number: int) -> _Held | None:
        with self._lock:
            held = self._held.get((key, number))
            if held is not None:
                self._held.move_to_end((key, number))
                held.users += 1
                return held
        layout = Layout.of(key, number)
        file = open_segment(self._catalogue.path_of(layout), layout)
        if file is None:
            return None
        with self._lock:
            other = self._held.get((key, number))
            if other is not None:
                file.close()
                other.users += 1
                return other
            # One that comes while we close is closed by its user.
            held = _Held(file, users=1, dropped=self._closed)
            if not self._closed:
                self._held[key, number] = held
            while len(self._held) > _MOST_OPEN:
                self._drop(self._held.popitem(last=False)[1])
            return held

    def _drop(self, held: _Held) -> None:
        """Close it once nobody is at it; with the lock held, and it is in no table any more."""
        held.dropped = True
        if not held.users:
            held.file.close()

    def _reopen(self, key: FileKey, number: int, held: _Held) -> None:
        """The file was removed: who comes next looks for the one that took its place."""
        with self._lock:
            if self._held.get((key, number)) is held:
                self._drop(self._held.pop((key, number)))

    # --- blocks --------------------------------------------------------------------------------

    def read(self, key: FileKey, block_no: int, into: memoryview | None = None) -> bytes | memoryview | None:
        """One block, verified; None: it is not there, or was bad and is dropped.

        Args:
            into: where to put it, at least as long; what is returned is its beginning. Without a
                block it holds anything afterwards.
        """
        length = block_length(key, block_no)
        # A buffer that is too short is one for another version: whoever asks is about to find out.
        if not length or self._closed or (into is not None and len(into) < length):
            return None
        number, slot = divmod(block_no, SEGMENT_BLOCKS)
        try:
            for _ in range(2):
                with self._opened(key, number) as held:
                    if held is None:
                        return None
                    found = self._read(held, slot, into)
                    if found is not None:
                        self._note_use(held, slot)
                        return found
                    if not held.file.is_gone():
                        return None
                    self._reopen(key, number, held)
        except OSError as e:
            self._complain("cache.read_failed", e)
        return None

    def _read(self, held: _Held, slot: int, into: memoryview | None) -> bytes | memoryview | None:
        try:
            return held.file.read(slot, into)
        except BadBlock:
            held.file.forget(slot)
            self._complain("cache.bad_block", "fetched again")
            return None

    def write(self, key: FileKey, block_no: int, data: Buffer, *, wanted: bool = False) -> bool:
        """Keep one block, whole; False: there is no room for it, or the disk has its troubles.

        Args:
            wanted: somebody asked to have it here, which counts as a use.
        """
        if len(data) != block_length(key, block_no) or not len(data):
            raise ValueError(f"block {block_no} has {block_length(key, block_no)} bytes, not {len(data)}")
        number, slot = divmod(block_no, SEGMENT_BLOCKS)
        layout = Layout.of(key, number)
        if self._closed or len(layout.raw_key) > MAX_KEY:
            return False
        try:
            with self._lock:
                names = self._take_touched()  # before anything goes for this block
            for _ in range(3):
                if not self._catalogue.reserve(layout, slot, names):
                    return False
                names = []
                with self._opened(key, number) as held:
                    if held is None:
                        self._catalogue.forget(layout)  # removed by hand
                        continue
                    if not held.file.is_gone() and held.file.write(slot, data):
                        with self._lock:
                            held.seen |= 1 << slot
                            if wanted:
                                self._is_told_of(held)
                        return True
                    self._reopen(key, number, held)
        except TimeoutError as e:
            log.event(_log, logging.DEBUG, "cache.busy", error=e)
        except (OSError, sqlite3.Error) as e:
            self._complain("cache.write_failed", e)
            if isinstance(e, FileNotFoundError):  # the whole cache was removed by hand
                with suppress(ConfigError, LocalIOError):
                    prepare_root(self._root)
        return False

    def present(self, key: FileKey, start: int = 0, stop: int | None = None) -> set[int]:
        """Numbers of the blocks in ``[start, stop)`` that seem to be there; `read` may find less."""
        blocks = -(-key.validator.size // BLOCK_SIZE)
        stop = blocks if stop is None else min(stop, blocks)
        found: set[int] = set()
        if start >= stop or self._closed:
            return found
        try:
            for number in range(start // SEGMENT_BLOCKS, (stop - 1) // SEGMENT_BLOCKS + 1):
                layout = Layout.of(key, number)
                file = open_segment(self._catalogue.path_of(layout), layout)
                if file is not None:
                    slots = file.present()
                    file.close()
                    first = number * SEGMENT_BLOCKS
                    found.update(first + slot for slot in range(SEGMENT_BLOCKS) if slots >> slot & 1)
        except OSError as e:
            self._complain("cache.read_failed", e)
        return {no for no in found if start <= no < stop}

    # --- what is used again --------------------------------------------------------------------

    def _note_use(self, held: _Held, slot: int) -> None:
        """Count a use of the segment when a block of it is read for the second time, not for each block:
        who reads a segment once from end to end has not used it sixteen times."""
        bit, now = 1 << slot, time.monotonic()
        with self._lock:
            if not held.seen & bit:
                held.seen |= bit
                return
            held.seen = bit
            if not self._is_told_of(held):
                return
            if len(self._touched) < _TOUCHES and now < self._told_at + _TOUCH_S:
                return
            names = self._take_touched()
        self._tell(names)

    def _is_told_of(self, held: _Held) -> bool:
        """Have a use told to the catalogue, unless one was a moment ago; with the lock held."""
        now = time.monotonic()
        if now < held.touched_at + _TOUCH_S:
            return False
        held.touched_at = now
        self._touched.append(held.file.layout.name)
        return True

    def _take_touched(self) -> list[bytes]:
        """What the catalogue does not know yet; with the lock held."""
        names, self._touched = self._touched, []
        self._told_at = time.monotonic()
        return names

    def _tell(self, names: list[bytes]) -> None:
        if names:
            # Where it does not work now, a few files are taken for less used than they are.
            with suppress(OSError, sqlite3.Error):
                self._catalogue.touch(names)

    # --- files ---------------------------------------------------------------------------------

    def drop(self, key: FileKey) -> None:
        """Forget a version, its pin included."""
        self._do(lambda: self._catalogue.drop(version_id(key.encoded())))

    def pin(self, key: FileKey) -> bool:
        """Never evict what there is and will be of a version.

        False: all pinned versions as a whole would not fit the limit or the disk; it is not pinned.
        """
        return self._do(lambda: self._catalogue.pin(key)) or False

    def unpin(self, key: FileKey) -> None:
        """Let a version be evicted again."""
        self._do(lambda: self._catalogue.unpin(key))

    def pinned(self) -> list[FileKey]:
        """All pinned versions, of all mounts."""
        return self._do(self._catalogue.pinned) or []

    def _do(self, work: Callable[[], T]) -> T | None:
        try:
            return None if self._closed else work()
        except (OSError, sqlite3.Error) as e:
            self._complain("cache.write_failed", e)
            return None

    # --- the whole -----------------------------------------------------------------------------

    def capacity(self) -> int:
        """Bytes of disk that files may take beside the pinned ones, if all others went; 0 where the disk
        has its troubles."""
        return self._do(self._catalogue.capacity) or 0

    def usage(self) -> Usage:
        """How much is there.

        Raises:
            LocalIOError: the disk failed.
        """
        return self._try(self._catalogue.usage)

    def clear(self) -> int:
        """Remove everything, pins included; the bytes that were held.

        Raises:
            LocalIOError: the disk failed.
        """
        return self._try(self._catalogue.clear)

    def verify(self) -> tuple[int, int]:
        """Read everything: how many blocks there were, and how many were bad and are removed.

        Raises:
            LocalIOError: the disk failed.
        """
        return self._try(self._verify)

    def _verify(self) -> tuple[int, int]:
        checked = bad = 0
        buffer = memoryview(bytearray(BLOCK_SIZE))
        for found in segments_in(self._root / "blocks"):
            if found.layout is None:
                self._catalogue.forget_file(found.path)
                checked, bad = checked + 1, bad + 1
                continue
            file = open_segment(found.path, found.layout)
            if file is None:
                continue
            try:
                for slot in range(found.layout.blocks):
                    try:
                        checked += file.read(slot, buffer) is not None
                    except BadBlock:
                        file.forget(slot)
                        checked, bad = checked + 1, bad + 1
            finally:
                file.close()
        return checked, bad

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, sqlite3.Error) as e:
            raise LocalIOError(f"the cache in {self._root} cannot be used: {e}") from e

    def _complain(self, what: str, why: object) -> None:
        """Say it once: a disk that fails fails often."""
        level = logging.DEBUG if what in self._complained else logging.WARNING
        self._complained.add(what)
        log.event(_log, level, what, cache=self._root, error=why)


def prepare_root(root: Path) -> None:
    """Make `root` a directory for us alone, marked as a cache.

    Raises:
        ConfigError: it belongs to another user, or others may have put things into it.
        LocalIOError: the disk failed.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = root.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise ConfigError(f"{root} is not a directory of yours: give another --cache-dir")
        if info.st_mode & 0o022:
            raise ConfigError(f"others may write to {root}: give another --cache-dir, or remove it")
        if not (root / TAG).exists():
            # Somebody's home, given by mistake, is not to be left out of backups.
            if {path.name for path in root.iterdir()} - _NAMES:
                raise ConfigError(f"{root} holds other things than a cache: give another --cache-dir")
            (root / TAG).write_text(TAG_TEXT)
        if info.st_mode & 0o077:
            root.chmod(0o700)
    except OSError as e:
        raise LocalIOError(f"the cache in {root} cannot be made: {e.strerror}") from e
