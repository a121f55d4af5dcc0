"""Bytes of remote files held in memory: what a stream has read goes first, then the least recently used.

Whole blocks where files are streamed, single pages where readers jump about. Keyed by version, so a
changed file never meets its old bytes: the old version's are simply not asked for again and age out.

One budget for the whole daemon: what is on its way reserves its room before it is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

# One transfer unit. 128 KiB ranges reach 25 MiB/s on a real storage-proxy, 1 MiB ranges 160, and
# larger blocks waste more on readers that stop.
BLOCK_SIZE = 1 << 20
PAGE = 4096
_OVERHEAD = 300  # what Python keeps for an entry, or a million tiny files would not count

Bytes = bytes | bytearray | memoryview


class BlockKey(NamedTuple):
    """One aligned piece of one version of one file; `serial`: of its node. Pages count downwards from -1."""

    serial: int
    version: int
    block_no: int


def page_key(serial: int, version: int, page_no: int) -> BlockKey:
    """The key of a single page."""
    return BlockKey(serial, version, -1 - page_no)


class BlockIndex:
    """A cache of blocks and pages, bounded in bytes.

    Attributes:
        limit: bytes, for what is held and what is reserved.
        reserved: bytes that are on their way.
        size: bytes held, overhead included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self.size = 0
        self._blocks: OrderedDict[BlockKey, Bytes] = OrderedDict()

    def get(self, key: BlockKey) -> Bytes | None:
        """The bytes, if they are here; counts as use."""
        found = self._blocks.get(key)
        if found is not None:
            self._blocks.move_to_end(key)
        return found

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks  # without counting as use

    def put(self, key: BlockKey, data: Bytes) -> None:
        """Keep a block; a cache too small for one block keeps nothing."""
        if len(data) + _OVERHEAD <= self.limit:
            self._drop(key)
            self._blocks[key] = data
            self.size += len(data) + _OVERHEAD
            self._make_room()

    def done_with(self, key: BlockKey) -> None:
        """A stream has read it: let it go before what a stream has yet to read."""
        if key in self._blocks:
            self._blocks.move_to_end(key, last=False)

    def reserve(self, size: int) -> None:
        """Room for bytes on their way, at the cost of what is held; `release` it when they are here."""
        self.reserved += size
        self._make_room()

    def release(self, size: int) -> None:
        """Give back what `reserve` took."""
        self.reserved -= size

    def has_room(self, size: int) -> bool:
        """Whether so much more may be on its way."""
        return self.reserved + size <= self.limit

    def clear(self) -> None:
        """Forget everything that is held."""
        self._blocks.clear()
        self.size = 0

    def _make_room(self) -> None:
        while self._blocks and self.size + self.reserved > self.limit:
            self._drop(next(iter(self._blocks)))

    def _drop(self, key: BlockKey) -> None:
        found = self._blocks.pop(key, None)
        if found is not None:
            self.size -= len(found) + _OVERHEAD
