"""Blocks of remote files held in memory, least recently used first to go.

Blocks are keyed by version, so a changed file never meets its old bytes: the old version's blocks
are simply not asked for again and age out.
"""

from __future__ import annotations

from typing import NamedTuple

from cachetools import LRUCache

# One transfer unit. 128 KiB ranges reach 25 MiB/s on a real storage-proxy, 1 MiB ranges 160, and
# larger blocks waste more on random readers. To be measured again with the disk cache.
BLOCK_SIZE = 1 << 20


class BlockKey(NamedTuple):
    """One aligned piece of one version of one file; `serial`: of its node."""

    serial: int
    version: int
    block_no: int


class BlockIndex:
    """A cache of blocks, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        # An entry costs its bytes plus what Python keeps for it, or a million tiny files would not count.
        self._blocks: LRUCache[BlockKey, bytes] = LRUCache(max_bytes, getsizeof=lambda b: len(b) + 200)

    @property
    def size(self) -> int:
        """Bytes held, overhead included."""
        return int(self._blocks.currsize)

    def get(self, key: BlockKey) -> bytes | None:
        return self._blocks.get(key)

    def put(self, key: BlockKey, data: bytes) -> None:
        """Keep a block; a cache too small for one block keeps nothing."""
        if len(data) + 200 <= self._blocks.maxsize:
            self._blocks[key] = data
