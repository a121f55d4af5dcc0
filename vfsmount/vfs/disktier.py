"""The blocks on disk, as readers see them: which of them are here, fetched and kept in threads.

Which blocks there are is looked up once for each segment that somebody reads and remembered; that it is
out of date costs a fetch at most. What is to be kept waits in a short queue: where the disk is slower
than the line, some blocks are not kept, and no reader waits for it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import trio
from cachetools import LRUCache

from vfsmount.core.blockindex import BLOCK_SIZE, BlockIndex, Bytes
from vfsmount.core.inodes import Node
from vfsmount.errors import LocalIOError
from vfsmount.log import event
from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.store.segments import SEGMENT_BLOCKS
from vfsmount.values import Validator
from vfsmount.vfs.paths import folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.disktier")

_QUEUE = 64  # blocks that wait to be kept, and no more than this part of the memory
_QUEUE_SHARE = 7
_USAGE_S = 2.0  # for the disk to say how full it is
_REMEMBERED = 4096  # segments whose blocks are known
_Segment = tuple[int, int, int]  # serial, version, number


class DiskTier:
    """One mount's use of the `BlockCache`; without one it is empty and keeps nothing."""

    def __init__(self, cache: BlockCache | None, endpoint: str, index: BlockIndex) -> None:
        """Args:
        endpoint: the manager's URL without secrets; blocks of different servers do not meet.
        index: its budget holds what waits to be kept, too.
        """
        self._cache = cache
        self._endpoint = endpoint
        self._index = index
        self._known: LRUCache[_Segment, set[int]] = LRUCache(_REMEMBERED)
        self._send, self._receive = trio.open_memory_channel[tuple[Node, int, FileKey, int, Bytes]](_QUEUE)
        self._looking: dict[_Segment, trio.Event] = {}
        self.not_kept = 0
        self._queued = 0  # bytes
        self._idle = trio.Event()
        self._idle.set()

    async def flush(self) -> None:
        """Until everything that is queued is on disk."""
        await self._idle.wait()

    async def usage(self) -> dict[str, Any]:
        """The fields of `vfs.status.CacheStatus` about the disk; what it does not tell soon is left out."""
        cache = self._cache
        if cache is None:
            return {}
        found: dict[str, Any] = {"directory": str(cache.root), "disk_floor": cache.floor}

        def look() -> None:
            found["disk_free"] = cache.free_bytes()
            usage = cache.usage()
            found["disk_used"], found["disk_limit"] = usage.bytes, usage.limit

        with trio.move_on_after(_USAGE_S), suppress(LocalIOError, OSError):
            # Given up where another process keeps the catalogue to itself.
            await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        return dict(found)

    @property
    def is_there(self) -> bool:
        """Whether anything is kept on disk."""
        return self._cache is not None

    async def run(self) -> None:
        """Keep what is queued, for ever."""
        async for node, version, key, block_no, data in self._receive:
            try:
                assert self._cache is not None
                if await trio.to_thread.run_sync(self._cache.write, key, block_no, data):
                    known = self._known.get((node.serial, version, block_no // SEGMENT_BLOCKS))
                    if known is not None:
                        known.add(block_no)
                else:
                    self.not_kept += 1
            except Exception:
                _log.exception("cache.bug")
            finally:
                self._index.release(len(data))
                self._queued -= len(data)
                if not self._queued:
                    self._idle.set()

    def keep(self, node: Node, validator: Validator, block_no: int, data: Bytes) -> None:
        """Have a confirmed block on disk, soon."""
        if self._cache is None or node.folder is None or node.unlinked or node.parent is None:
            return
        if self._queued + len(data) > self._index.limit // _QUEUE_SHARE and self._queued:
            self._left_out()
            return
        try:
            self._send.send_nowait((node, node.version, self._key(node, validator), block_no, data))
        except trio.WouldBlock:
            self._left_out()
            return
        self._index.reserve(len(data))
        self._queued += len(data)
        self._idle = trio.Event() if self._idle.is_set() else self._idle

    def _left_out(self) -> None:
        self.not_kept += 1
        if self.not_kept % 1000 == 1:
            event(_log, logging.DEBUG, "cache.queue_full", not_kept=self.not_kept)

    # --- what is here --------------------------------------------------------------------------

    def knows(self, node: Node, start: int, stop: int) -> bool:
        """Whether `has` can be asked about these bytes without `look`."""
        if self._cache is None or node.validator is None:
            return True
        return all(self._segment(node, no) in self._known for no in _segments(start, stop))

    async def look(self, node: Node, start: int, stop: int) -> None:
        """Find out which blocks of these bytes are on disk."""
        for number in _segments(start, stop):
            if self._cache is None or node.validator is None:
                return
            segment = self._segment(node, number)
            while segment in self._looking:
                await self._looking[segment].wait()
            if segment in self._known:
                continue
            # Raises where the file has no name any more: before anybody can wait for us.
            key, first = self._key(node, node.validator), number * SEGMENT_BLOCKS
            self._looking[segment] = trio.Event()
            try:
                self._known[segment] = await trio.to_thread.run_sync(
                    self._cache.present, key, first, first + SEGMENT_BLOCKS
                )
            finally:
                self._looking.pop(segment).set()

    def has(self, node: Node, at: int) -> bool:
        """Whether the block of this offset seems to be on disk."""
        if self._cache is None:
            return False
        no = at // BLOCK_SIZE
        return no in self._known.get(self._segment(node, no // SEGMENT_BLOCKS), ())

    async def read(self, node: Node, validator: Validator, block_no: int, into: memoryview) -> int:
        """One block, verified; how many bytes it has, 0: it is not there."""
        assert self._cache is not None
        found = await trio.to_thread.run_sync(self._cache.read, self._key(node, validator), block_no, into)
        if found is None:
            self._known.get(self._segment(node, block_no // SEGMENT_BLOCKS), set()).discard(block_no)
            return 0
        return len(found)

    # --- on purpose ----------------------------------------------------------------------------

    async def verified(self, node: Node, validator: Validator, first: int, stop: int) -> set[int]:
        """Which of these blocks are on disk: each is read, and what is bad is dropped."""
        assert self._cache is not None
        cache, key = self._cache, self._key(node, validator)

        def look() -> set[int]:
            room = memoryview(bytearray(min(BLOCK_SIZE, validator.size)))
            return {no for no in cache.present(key, first, stop) if cache.read(key, no, room) is not None}

        found = await trio.to_thread.run_sync(look)
        for no in range(first, stop):
            self._note(node, no, is_here=no in found)
        return found

    async def put(self, node: Node, validator: Validator, block_no: int, data: Bytes) -> bool:
        """Keep a confirmed block that somebody asked to have on disk; False: it could not be kept."""
        assert self._cache is not None
        cache, key, version = self._cache, self._key(node, validator), node.version
        kept = await trio.to_thread.run_sync(lambda: cache.write(key, block_no, data, wanted=True))
        if node.version == version:
            self._note(node, block_no, is_here=kept)
        return kept

    async def are_whole(self, nodes: list[Node]) -> list[bool]:
        """Of which of these files, as they are known here, all blocks seem to be on disk."""
        assert self._cache is not None
        cache = self._cache
        keys = [self._key(n, n.validator) if n.validator is not None else None for n in nodes]

        def look() -> list[bool]:
            return [k is None or len(cache.present(k)) * BLOCK_SIZE >= k.validator.size for k in keys]

        return await trio.to_thread.run_sync(look)

    async def capacity(self) -> int:
        """Bytes of disk that files may take beside the pinned ones."""
        assert self._cache is not None
        return await trio.to_thread.run_sync(self._cache.capacity)

    def _note(self, node: Node, no: int, *, is_here: bool) -> None:
        known = self._known.get(self._segment(node, no // SEGMENT_BLOCKS))
        if known is not None:
            (known.add if is_here else known.discard)(no)

    def _segment(self, node: Node, number: int) -> _Segment:
        return node.serial, node.version, number

    def _key(self, node: Node, validator: Validator) -> FileKey:
        return FileKey(self._endpoint, folder_of(node).id, remote_path(node), validator)


def _segments(start: int, stop: int) -> range:
    span = SEGMENT_BLOCKS * BLOCK_SIZE
    return range(start // span, -(-stop // span))
