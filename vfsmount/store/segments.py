"""Cache files: up to `SEGMENT_BLOCKS` blocks of one version of one remote file, sparse, at fixed places.

A file begins with its segment's whole key and a table of one entry a block: checksum and length. A
block is there when its entry has a length; it is believed when the checksum fits. The entry is written
after the block, and nothing is synced: whatever a killed process or a power cut leaves of the two, the
checksum decides. It is seeded with the key and the block's number, so zeroes, another version's bytes
or a block at the wrong place never fit.

Files are made and removed under the catalogue's lock only. One that is removed is truncated as well:
its room is free at once, whoever still has it open, who then finds nothing in it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.values import Validator

Buffer = bytes | bytearray | memoryview

# What is evicted in one go, 16 MiB: a small cache is not halved by one eviction, and one of 100 GiB
# has some thousands of files.
SEGMENT_BLOCKS = 16
ALL_BLOCKS = (1 << SEGMENT_BLOCKS) - 1

_PAGE = 4096
_HEAD = struct.Struct("<8sIIQ")  # magic, number of blocks, length of the key, number of the segment
_ENTRY = struct.Struct("<II8x")  # checksum, length. 16 bytes: none lies across two sectors
_MAGIC = b"VFSBLK1\n"
_LENGTH = struct.Struct("<I")
# A path has 4095 bytes at most, the rest is small. Anything longer is not kept.
MAX_KEY = 16384
# An extent tree that no longer fits the inode takes a page.
_SLACK = _PAGE


@dataclass(frozen=True, slots=True)
class FileKey:
    """One version of one remote file.

    Attributes:
        endpoint: the manager's URL, without secrets.
        path: below the folder.
    """

    endpoint: str
    folder_id: str
    path: str
    validator: Validator

    def encoded(self) -> bytes:
        """As it stands in files: no two keys have the same."""
        return _encoded(self)

    @classmethod
    def decoded(cls, raw: bytes) -> FileKey:
        """The inverse of `encoded`.

        Raises:
            ValueError: these bytes are no key.
        """
        parts, at = [], 0
        try:
            while at < len(raw):
                stop = at + 4 + _LENGTH.unpack_from(raw, at)[0]
                parts.append(raw[at + 4 : stop].decode("utf-8", "surrogatepass"))
                at = stop
            endpoint, folder_id, path, mtime_ns, size = parts
            key = cls(endpoint, folder_id, path, Validator(int(mtime_ns), int(size)))
        except (struct.error, ValueError) as e:
            raise ValueError("not a key") from e
        if key.encoded() != raw:
            raise ValueError("not a key")
        return key


@functools.lru_cache(256)  # asked for with every block
def _encoded(key: FileKey) -> bytes:
    version = (str(key.validator.mtime_ns), str(key.validator.size))
    parts = (key.endpoint, key.folder_id, key.path, *version)
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(_LENGTH.pack(len(part)) + part for part in raw)


def version_id(raw_key: bytes) -> bytes:
    """A short name of one version; 16 bytes."""
    return hashlib.blake2b(raw_key, digest_size=16).digest()


def block_length(key: FileKey, block_no: int) -> int:
    """How long this block is: `BLOCK_SIZE`, less for the last one, 0 past the end."""
    return max(0, min(BLOCK_SIZE, key.validator.size - block_no * BLOCK_SIZE))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in one cache file.

    Attributes:
        raw_key: `FileKey.encoded`.
        number: of the segment in its file.
        blocks: how many the segment has.
        last: length of its last block.
    """

    raw_key: bytes
    number: int
    blocks: int
    last: int

    @classmethod
    def of(cls, key: FileKey, number: int) -> Layout:
        """The layout of one segment; the file must have so many."""
        left = key.validator.size - number * SEGMENT_BLOCKS * BLOCK_SIZE
        blocks = min(SEGMENT_BLOCKS, -(-left // BLOCK_SIZE))
        assert blocks > 0
        return cls(key.encoded(), number, blocks, min(BLOCK_SIZE, left - (blocks - 1) * BLOCK_SIZE))

    @property
    def version(self) -> bytes:
        """Names the version."""
        return version_id(self.raw_key)

    @property
    def name(self) -> bytes:
        """Names the segment; the cache file's name in hex."""
        return hashlib.blake2b(self.head, key=b"segment", digest_size=16).digest()

    @property
    def head(self) -> bytes:
        """What a cache file of this segment begins with and has after its table: the proof of whose it is."""
        return _HEAD.pack(_MAGIC, self.blocks, len(self.raw_key), self.number) + self.raw_key

    @property
    def header_length(self) -> int:
        """Bytes before the first block, in whole pages."""
        used = _HEAD.size + self.blocks * _ENTRY.size + len(self.raw_key)
        return -(-used // _PAGE) * _PAGE

    @property
    def file_length(self) -> int:
        """Bytes of the whole file, most of them holes."""
        return self.header_length + (self.blocks - 1) * BLOCK_SIZE + self.last

    def length(self, slot: int) -> int:
        """Length of the block in this slot."""
        return self.last if slot == self.blocks - 1 else BLOCK_SIZE

    def cost(self, slots: int) -> int:
        """Bytes of disk that the file takes with these blocks (a bit each) in it, at most."""
        paid = self.header_length + (_SLACK if self.blocks > 2 else 0)
        return paid + sum(
            -(-self.length(slot) // _PAGE) * _PAGE for slot in range(self.blocks) if slots >> slot & 1
        )

    def block_at(self, slot: int) -> int:
        """Offset of a block."""
        return self.header_length + slot * BLOCK_SIZE

    def entry_at(self, slot: int) -> int:
        """Offset of a block's entry."""
        return _HEAD.size + slot * _ENTRY.size


class BadBlock(Exception):
    """A block whose checksum does not fit."""


class CacheFile:
    """One cache file, open. Safe in several threads, and beside other processes."""

    def __init__(self, fd: int, layout: Layout) -> None:
        self.fd = fd
        self.layout = layout
        self._seed = zlib.crc32(layout.raw_key)

    def _checksum(self, slot: int, data: Buffer) -> int:
        # Seeded: the same bytes of another version, or of another block, have another checksum.
        seed = zlib.crc32(_LENGTH.pack(self.layout.number * SEGMENT_BLOCKS + slot), self._seed)
        return zlib.crc32(data, seed)

    def _entry(self, slot: int) -> tuple[int, int]:
        raw = os.pread(self.fd, _ENTRY.size, self.layout.entry_at(slot))
        return _ENTRY.unpack(raw) if len(raw) == _ENTRY.size else (0, 0)

    def _set_entry(self, slot: int, checksum: int, length: int) -> None:
        os.pwrite(self.fd, _ENTRY.pack(checksum, length), self.layout.entry_at(slot))

    def present(self) -> int:
        """The slots, a bit each, that seem to hold a block; nothing is verified."""
        raw = os.pread(self.fd, self.layout.blocks * _ENTRY.size, _HEAD.size)
        found = 0
        for slot, (_, length) in enumerate(_ENTRY.iter_unpack(raw[: len(raw) // 16 * 16])):
            found |= (length == self.layout.length(slot)) << slot
        return found

    def read(self, slot: int, into: memoryview | None = None) -> bytes | memoryview | None:
        """A block, verified; None: it is not there.

        Args:
            into: where to put it; without the block it holds anything afterwards.

        Raises:
            BadBlock: what is there is not what was written.
            OSError: the disk failed.
        """
        length, at = self.layout.length(slot), self.layout.block_at(slot)
        for _ in range(2):
            entry = self._entry(slot)
            if entry[1] != length:
                return None
            data: bytes | memoryview
            if into is None:
                data = os.pread(self.fd, length, at)
            else:
                data = into[: os.preadv(self.fd, [into[:length]], at)]
            if len(data) == length and self._checksum(slot, data) == entry[0]:
                return data
            # Another may have removed the file, or written the block anew, while we read.
            if self._entry(slot) == entry:
                raise BadBlock
        return None

    def write(self, slot: int, data: Buffer) -> bool:
        """Put a block in its place; its room is reserved. False: the file was removed meanwhile.

        Raises:
            OSError: the disk is full or failed; the block is not there.
        """
        checksum = self._checksum(slot, data)
        if self._entry(slot) != (checksum, len(data)):
            view, at = memoryview(data), self.layout.block_at(slot)
            while view:
                done = os.pwrite(self.fd, view, at)
                view, at = view[done:], at + done
            self._set_entry(slot, checksum, len(data))
        if os.fstat(self.fd).st_nlink:
            return True
        # Who removed it has truncated it, perhaps before we wrote: that room was given back.
        os.ftruncate(self.fd, 0)
        return False

    def is_gone(self) -> bool:
        """Whether the file was removed; there may be a new one in its place."""
        return os.fstat(self.fd).st_nlink == 0

    def forget(self, slot: int) -> None:
        """Take a bad block for missing from now on; its room stays reserved for a good one."""
        self._set_entry(slot, 0, 0)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.fd)


def open_segment(path: Path, layout: Layout) -> CacheFile | None:
    """The cache file at `path`; None: there is none, or it is not of this segment.

    Raises:
        OSError: the disk failed.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        found = layout_in(fd)
    except BaseException:
        os.close(fd)
        raise
    if found is None or found.head != layout.head:
        os.close(fd)
        return None
    return CacheFile(fd, layout)


def layout_in(fd: int) -> Layout | None:
    """The layout that the header of a cache file tells; None: it is none of ours, or torn."""
    raw = os.pread(fd, _PAGE, 0)
    if len(raw) < _HEAD.size:
        return None
    magic, blocks, key_length, number = _HEAD.unpack_from(raw)
    if magic != _MAGIC or not 1 <= blocks <= SEGMENT_BLOCKS or not 0 < key_length <= MAX_KEY:
        return None
    start = _HEAD.size + blocks * _ENTRY.size
    raw_key = (raw if start + key_length <= len(raw) else os.pread(fd, start + key_length, 0))[
        start : start + key_length
    ]
    try:
        key = FileKey.decoded(raw_key)
    except ValueError:
        return None
    if number * SEGMENT_BLOCKS * BLOCK_SIZE >= key.validator.size:
        return None
    layout = Layout.of(key, number)
    return layout if layout.blocks == blocks else None


def make_segment(path: Path, layout: Layout) -> None:
    """Make an empty cache file; one that is there already is removed. Needs the catalogue's lock.

    Raises:
        OSError: the disk is full or failed; there is none now.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        remove_segment(path)
        fd = os.open(path, flags, 0o600)
    try:
        # Its whole length at once: a file system that thinks it grows would reserve more than we count.
        os.ftruncate(fd, layout.file_length)
        head = layout.head
        table = bytes(layout.blocks * _ENTRY.size)
        os.pwrite(fd, head[: _HEAD.size] + table + head[_HEAD.size :], 0)
    except OSError:
        remove_segment(path)
        raise
    finally:
        os.close(fd)


def remove_segment(path: Path) -> None:
    """Remove a cache file and free its room at once. Needs the catalogue's lock.

    Raises:
        OSError: the disk failed.
    """
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # In this order: a writer that looks afterwards whether its file is still there either
            # finds it gone, or has written what is cut off now.
            path.unlink(missing_ok=True)
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Found:
    """One cache file as a look through the directory finds it.

    Attributes:
        layout: None: it is worthless.
        slots: the blocks that it has room for.
        mtime_ns: when it was last written.
    """

    path: Path
    layout: Layout | None
    slots: int
    mtime_ns: int


def segments_in(directory: Path) -> Iterator[Found]:
    """All cache files."""
    for path in directory.iterdir():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            info, layout = os.fstat(fd), layout_in(fd)
            if layout is None or layout.name.hex() != path.name:
                yield Found(path, None, 0, 0)
                continue
            slots = CacheFile(fd, layout).present()
            # Blocks without an entry: bad ones, or their writer is at them, or was killed.
            if info.st_blocks * 512 > layout.cost(slots):
                slots |= _allocated(fd, layout)
            yield Found(path, layout, slots, info.st_mtime_ns)
        finally:
            os.close(fd)


def _allocated(fd: int, layout: Layout) -> int:
    """The slots, a bit each, for which the disk has room; a file system that cannot tell says all."""
    found = 0
    for slot in range(layout.blocks):
        at = layout.block_at(slot)
        with suppress(OSError):  # ENXIO: only a hole from here on
            found |= (os.lseek(fd, at, os.SEEK_DATA) < at + layout.length(slot)) << slot
    return found
