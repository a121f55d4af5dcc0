"""Reading remote files: bytes of one version, from memory or on their way.

A handle reads the version it met first (promise P2). Every range but the very first of a version
carries ``If-Match``, and an answer is thrown away if the file was replaced while it was on its way,
so bytes of two versions never meet in one handle.
"""

from __future__ import annotations

import logging

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import BLOCK_SIZE, PAGE, BlockIndex, BlockKey, Bytes, page_key
from vfsmount.core.inodes import Node
from vfsmount.core.readahead import Plan, Readahead
from vfsmount.errors import RemoteUnavailable, Stale, VfsError
from vfsmount.metrics import counters
from vfsmount.store.heap import Heap
from vfsmount.vfs.archives import Archives
from vfsmount.vfs.disktier import DiskTier
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate
from vfsmount.vfs.pins import Pins
from vfsmount.vfs.ranges import IN_ONE_PIECE, Range, Ranges
from vfsmount.vfs.smallfiles import SmallFiles

_log = logging.getLogger("vfsmount.vfs.reader")

_REPLACED = "the file was replaced on the server; open it again"
_PRIMINGS = 3  # of a file that is another one each time
_TRIES = 100  # of one piece: where memory is short its bytes may be gone again before it is taken


class Reader:
    """Serves reads of files that have no local content."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        blocks: BlockIndex,
        disk: DiskTier,
        gate: PathGate,
        nursery: trio.Nursery,
        pins: Pins,
        attr_ttl_s: float,
        memory: int,
    ) -> None:
        """Args:
        nursery: owns what is on its way.
        attr_ttl_s: how long an open file is believed.
        memory: bytes that the process may take.
        """
        self._pins = pins
        self._attr_ttl_s = attr_ttl_s
        self._metadata = metadata
        self._blocks = blocks
        self._disk = disk
        self._nursery = nursery
        self.ranges = self._ranges = Ranges(transfers, metadata, blocks, gate, nursery, disk, Heap(memory))
        archives = Archives(transfers, metadata, blocks, gate, nursery, attr_ttl_s)
        self._small = SmallFiles(self._ranges, blocks, nursery, disk, archives, self._confirm_ahead)

    async def read(self, node: Node, version: int, offset: int, length: int, ahead: Readahead) -> Bytes:
        """Bytes of `version`, fewer than asked for only at its end.

        Raises:
            Stale: the remote file is no longer that version.
        """
        if node.validator is None and self._pins.pinned(node) is not None:
            await self.prime(node)
        elif node.validator is None and node.size > BLOCK_SIZE and self._disk.is_there:
            # Only who knows the exact version can find it on disk; the file's beginning tells.
            await self._have(node, IN_ONE_PIECE)
        stop = min(offset + length, node.size)
        parts: list[Bytes] = []
        if offset < stop:
            plan = ahead.on_read(offset, stop - offset, node.size, self._cap())
            if self._held(node, offset, stop) is None and self._ranges.covering(node, offset) is None:
                await self._disk.look(node, offset, stop)
                if node.version == version and self._ranges.covering(node, offset) is None:
                    self._start(node, offset, stop, plan)
            for begin, end in plan.ahead:
                # Travels while the reader waits, or digests what it has.
                if self._disk.knows(node, begin, end):
                    self._start_ahead(node, begin, end)
                else:
                    self._nursery.start_soon(self._look_ahead, node, version, begin, end)
        waits_with = 0
        try:
            while (at := offset + sum(map(len, parts))) < stop:
                piece = await self._piece(node, version, at, stop, plan)
                if not piece:
                    break
                parts.append(piece)
                if at + len(piece) < stop:  # a hundred such readers are a hundred blocks, evicted or not
                    self._blocks.reserve(len(piece))
                    waits_with += len(piece)
        finally:
            self._blocks.release(waits_with)
        if node.version != version:
            raise Stale(_REPLACED)
        if parts and plan.streaming and (stop % BLOCK_SIZE == 0 or stop == node.size):
            self._blocks.done_with(BlockKey(node.serial, version, (stop - 1) // BLOCK_SIZE))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def confirm(self, node: Node) -> None:
        """As `prime`, without bytes.

        Raises:
            NotFound: somebody removed it.
        """
        await self._pins.stand_in(node, lambda: self._metadata.revalidate(node))

    async def _confirm_ahead(self, node: Node) -> None:
        """Who opens the file soon need not ask for its version."""
        if self._metadata.is_stale(node, self._attr_ttl_s):
            await self.confirm(node)

    async def prime(self, node: Node, *, stale: bool = True, bytes_too: bool = False) -> None:
        """Have a file's exact version, and its beginning if nothing was shown of it; one of a single block
        comes with all its bytes. Where the server is away, a pinned version that is here is as good, but
        not to be changed.

        Args:
            stale: a version that is known has to be confirmed.
            bytes_too: a small file's bytes are wanted in any case, because it is about to be changed, and
                what somebody else puts in its place meanwhile is not to take them away.

        Raises:
            NotFound, Stale: somebody removed or replaced the file.
        """
        if bytes_too:
            await self._prime(node, stale, bytes_too=True)
        elif await self._pins.stand_in(node, lambda: self._prime(node, stale, bytes_too=False)):
            self._ranges.abandon(node)  # whoever waits finds it on disk

    async def _prime(self, node: Node, stale: bool, *, bytes_too: bool) -> None:
        is_small = 0 < node.size <= BLOCK_SIZE
        wanted = node.size > 0 and (node.validator is None or node.shown is None or (bytes_too and is_small))
        for n in range(_PRIMINGS if wanted else 0):
            if node.validator is not None and await self._is_here(node):
                break
            if not bytes_too and is_small and self._held(node, 0, 1) is not None:
                break  # an archive brought it; its exact version is not known, but that of its listing
            began = trio.current_time()
            counters.opens_fetched += not n
            error = await self._have(node, node.size if is_small else min(IN_ONE_PIECE, node.size))
            self._small.waited(node, trio.current_time() - began)
            if node.unlinked:
                # Removed or replaced: who looks the name up again finds out which.
                raise Stale(_REPLACED)
            if error is None:
                return
            if not isinstance(error, Stale):
                raise error
        if stale:
            await self._metadata.revalidate(node)

    async def _is_here(self, node: Node) -> bool:
        """Whether the beginning is; from disk it is fetched."""
        if self._held(node, 0, 1) is not None:
            return True
        await self._disk.look(node, 0, 1)
        if node.validator is None or not self._disk.has(node, 0):
            return False
        await self._load(node, 0, BLOCK_SIZE).over_with()
        return self._held(node, 0, 1) is not None

    async def _have(self, node: Node, stop: int) -> VfsError | None:
        """Fetch a file's beginning, and with it its version; return what went wrong."""
        # It may have become an empty one meanwhile, which the reply tells as well.
        rng = self._ranges.covering(node, 0) or self._ranges.start(node, 0, max(stop, 1))
        await rng.wait(stop)
        return rng.error

    def beginning(self, node: Node) -> Bytes:
        """What is here of the file's first bytes, perhaps all of it, perhaps nothing."""
        return self._held(node, 0, node.size) or b""

    def opened(self, node: Node) -> None:
        """A program is about to read a file: it may want its siblings next."""
        self._small.opened(node)

    def closed(self, node: Node) -> None:
        """The last handle is gone: what nobody waits for need not come."""
        self._ranges.forget(node)

    # --- pieces --------------------------------------------------------------------------------

    async def _piece(self, node: Node, version: int, at: int, stop: int, plan: Plan) -> Bytes:
        """Bytes from `at` on, as many as lie together; at least one, but past the end."""
        source = counters.memory
        for _ in range(_TRIES):
            if node.version != version:
                break
            piece = self._held(node, at, stop)
            if piece is not None:
                source.gave(len(piece))
                return piece
            rng = self._ranges.covering(node, at)
            if rng is None:
                await self._disk.look(node, at, stop)
                if node.version != version:
                    break  # perhaps a shorter one
                rng = self._ranges.covering(node, at) or self._start(node, at, stop, plan)
            source = counters.disk if rng.from_disk else counters.network
            await rng.wait(min(stop, at // BLOCK_SIZE * BLOCK_SIZE + BLOCK_SIZE))
            if node.version == version and (piece := rng.piece(at, stop)):
                source.gave(len(piece))
                return piece
            if rng.error is not None:
                raise rng.error
            if node.was is not None or node.staged is not None:
                break  # nothing of this version comes any more, not from disk either
        else:
            raise RemoteUnavailable("what was fetched did not stay in memory until it was read")
        raise Stale(_REPLACED)

    def _held(self, node: Node, at: int, stop: int) -> Bytes | None:
        block_no, inside = divmod(at, BLOCK_SIZE)
        block = self._blocks.get(BlockKey(node.serial, node.version, block_no))
        if block is not None:
            return memoryview(block)[inside : inside + stop - at]
        page_no, inside = divmod(at, PAGE)
        page = self._blocks.get(page_key(node.serial, node.version, page_no))
        return None if page is None else memoryview(page)[inside : inside + stop - at]

    # --- what to ask for -----------------------------------------------------------------------

    def _start(self, node: Node, at: int, stop: int, plan: Plan) -> Range:
        """Ask for a missing byte, and with it for what else the plan says."""
        if self._disk.has(node, at):
            return self._load(node, at, max(plan.stop, stop))
        unit = BLOCK_SIZE if plan.streaming else PAGE
        begin, end = at // unit * unit, max(plan.stop, stop)
        end = min(self._first_held(node, at, end, unit), self._ranges.next_start(node, at + 1, end))
        if not self._blocks.has_room(end - begin):
            begin, end = at // PAGE * PAGE, min(-(-stop // PAGE) * PAGE, end)
        begin = max(begin, self._end_before(node, begin, at))
        return self._ranges.start(node, begin, min(end, node.size))

    def _load(self, node: Node, at: int, end: int) -> Range:
        """Have the blocks that are on disk from this one on."""
        begin = at // BLOCK_SIZE * BLOCK_SIZE
        stop = begin + BLOCK_SIZE
        while stop < end and self._disk.has(node, stop) and not self._is_on_its_way(node, stop):
            stop += BLOCK_SIZE
        return self._ranges.start(node, begin, min(stop, node.size), from_disk=True)

    def _is_on_its_way(self, node: Node, at: int) -> bool:
        return self._is_held(node, at, BLOCK_SIZE) or self._ranges.covering(node, at) is not None

    def _first_held(self, node: Node, at: int, end: int, unit: int) -> int:
        """Where the first block, or page, that is here begins behind the one of `at`."""
        for no in range(at // unit + 1, -(-end // unit)):
            if self._is_held(node, no * unit, unit) or self._disk.has(node, no * unit):
                return no * unit
        return end

    def _is_held(self, node: Node, at: int, unit: int) -> bool:
        if BlockKey(node.serial, node.version, at // BLOCK_SIZE) in self._blocks:
            return True
        return unit == PAGE and page_key(node.serial, node.version, at // PAGE) in self._blocks

    def _end_before(self, node: Node, begin: int, at: int) -> int:
        """The end of what is on its way of a block up to `at`, so that nothing comes twice."""
        rng = self._ranges.covering(node, begin) if begin < at else None
        return min(rng.stop // PAGE * PAGE, at // PAGE * PAGE) if rng is not None else begin

    async def _look_ahead(self, node: Node, version: int, begin: int, end: int) -> None:
        try:
            await self._disk.look(node, begin, end)
            if node.version == version and node.was is None and node.opens:
                self._start_ahead(node, begin, end)
        except VfsError:
            pass  # it has no name any more: whoever reads it is told
        except Exception:
            # A bug here must not end the mount.
            _log.exception("read.bug ino=%d", node.ino)

    def _start_ahead(self, node: Node, begin: int, end: int) -> None:
        streaming = begin % BLOCK_SIZE == 0
        at = begin
        while at < end:
            # Where a range began in the middle of a block, the rest of the block lies in pages.
            unit = BLOCK_SIZE if streaming and at % BLOCK_SIZE == 0 else PAGE
            upto = min(end, (at // BLOCK_SIZE + 1) * BLOCK_SIZE) if streaming and unit == PAGE else end
            if self._is_held(node, at, unit):
                at += unit
            elif (rng := self._ranges.covering(node, at)) is not None:
                at = -(-rng.stop // unit) * unit
            elif self._disk.has(node, at):
                at = -(-self._load(node, at, end).stop // unit) * unit
            else:
                stop = min(
                    self._first_held(node, at, upto, unit), self._ranges.next_start(node, at + 1, upto)
                )
                if not self._blocks.has_room(stop - at):
                    return
                counters.ahead_bytes += min(stop, node.size) - at
                self._ranges.start(node, at, min(stop, node.size))
                at = stop

    def _cap(self) -> int:
        """Bytes that one handle may have ahead of its readers: half of what content may take, shared by the
        files that are being read."""
        return self._blocks.limit // 2 // max(1, self._ranges.files)
