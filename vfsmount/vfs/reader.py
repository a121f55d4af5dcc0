"""Reading remote files: blocks of one version, fetched once however many wait for them.

A handle reads the version it met first (promise P2). Every range but the very first of a version
carries ``If-Match``, and an answer is thrown away if the file was replaced while it was on its way,
so bytes of two versions never meet in one handle.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import BLOCK_SIZE, BlockIndex, BlockKey
from vfsmount.core.inodes import Node
from vfsmount.core.readahead import Readahead
from vfsmount.errors import NotFound, ProtocolError, RangeOutside, Stale, VfsError
from vfsmount.log import event
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate, folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.reader")


# A file rewritten in place while it is being sent mixes old and new bytes under one validator
# (contract 4.2), so what is long enough to be overtaken is confirmed once it is here: one 304 of
# 2.5 ms. Shorter bodies leave the server in one piece.
CHECKED_ABOVE = 64 << 10


@dataclass(slots=True)
class _Fetch:
    """A range on its way: asked for once, waited for by many.

    Attributes:
        blocks: what came, by number; kept here for the waiters whatever the cache evicts.
        error: why it did not come.
    """

    first: int
    count: int
    pulse: Pulse = field(default_factory=Pulse)
    done: trio.Event = field(default_factory=trio.Event)
    blocks: dict[int, bytes] = field(default_factory=dict)
    error: VfsError | None = None


class Reader:
    """Serves reads of files that have no local content."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        blocks: BlockIndex,
        gate: PathGate,
        nursery: trio.Nursery,
    ) -> None:
        """Args:
        nursery: owns the fetches, so that a cancelled reader fails nobody who waits with it.
        """
        self._transfers = transfers
        self._metadata = metadata
        self._blocks = blocks
        self._gate = gate
        self._nursery = nursery
        self._in_flight: dict[BlockKey, _Fetch] = {}

    async def read(self, node: Node, version: int, offset: int, length: int, ahead: Readahead) -> bytes:
        """Bytes of `version`, fewer than asked for only at its end.

        Raises:
            Stale: the remote file is no longer that version.
        """
        window = ahead.on_read(offset, length)
        parts: list[bytes] = []
        at, stop = offset, min(offset + length, node.size)
        while at < stop:
            block_no, inside = divmod(at, BLOCK_SIZE)
            block = await self._block(node, version, block_no, window)
            piece = block[inside : inside + stop - at]
            if not piece:
                break
            parts.append(piece)
            at += len(piece)
        if node.version != version:
            raise Stale("the file was replaced on the server; open it again")
        if ahead.window > 1:
            # The next window travels while the reader digests this one.
            self._start(node, -(-stop // BLOCK_SIZE), ahead.window)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def prime(self, node: Node, *, bytes_too: bool = False) -> None:
        """Confirm a file's version; one of a single block comes with its bytes, in the same request.

        Args:
            bytes_too: they are wanted in any case, because the file is about to be changed, and what
                somebody else puts in its place meanwhile is not to take them away.

        Raises:
            NotFound, Stale: somebody removed or replaced the file.
        """
        if not 0 < node.size <= BLOCK_SIZE or (node.validator is not None and not bytes_too):
            await self._metadata.revalidate(node)
            return
        fetch = self._start(node, 0, 1)
        if fetch is not None:
            await wait_behind(fetch.pulse, fetch.done.wait)
            if node.unlinked:
                # Removed or replaced: who looks the name up again finds out which.
                raise Stale("the file was replaced on the server; open it again")
            if fetch.error is not None and not isinstance(fetch.error, Stale):
                raise fetch.error

    async def _block(self, node: Node, version: int, block_no: int, window: int) -> bytes:
        for _ in range(3):
            if node.version != version:
                break
            key = BlockKey(node.serial, version, block_no)
            block = self._blocks.get(key)
            if block is not None:
                return block
            fetch = self._in_flight.get(key) or self._start(node, block_no, window)
            if fetch is None:
                return b""
            await wait_behind(fetch.pulse, fetch.done.wait)
            if fetch.error is not None:
                raise fetch.error
            if block_no in fetch.blocks and node.version == version:
                return fetch.blocks[block_no]
        raise Stale("the file was replaced on the server; open it again")

    def _start(self, node: Node, first: int, window: int) -> _Fetch | None:
        """Ask for up to `window` blocks from `first` on, as far as they are missing; None if none is."""
        count, end = 0, -(-node.size // BLOCK_SIZE)
        while count < window and first + count < end:
            key = BlockKey(node.serial, node.version, first + count)
            if key in self._in_flight or self._blocks.get(key) is not None:
                break
            count += 1
        if not count:
            return None
        fetch = _Fetch(first, count)
        for no in range(first, first + count):
            self._in_flight[BlockKey(node.serial, node.version, no)] = fetch
        self._nursery.start_soon(self._run, node, node.version, fetch)
        return fetch

    async def _run(self, node: Node, version: int, fetch: _Fetch) -> None:
        try:
            await self._fetch(node, version, fetch)
        except VfsError as e:
            fetch.error = e
            event(_log, logging.DEBUG, "read.failed", ino=node.ino, block=fetch.first, error=type(e).__name__)
        except Exception:
            # A bug here must fail this read, not the mount.
            _log.exception("read.bug ino=%d", node.ino)
            fetch.error = ProtocolError("reading failed unexpectedly; see the log")
        finally:
            for no in range(fetch.first, fetch.first + fetch.count):
                self._in_flight.pop(BlockKey(node.serial, version, no), None)
            fetch.done.set()

    async def _fetch(self, node: Node, version: int, fetch: _Fetch) -> None:
        asked_at, known = trio.current_time(), node.validator
        await self._gate.settled(node)
        if node.version != version:
            return  # changed since it was asked for, perhaps cut shorter than where we would begin
        path = remote_path(node)
        start = fetch.first * BLOCK_SIZE
        try:
            reply = await self._transfers.read_range(
                folder_of(node),
                path,
                start,
                min(fetch.count * BLOCK_SIZE, node.size - start),
                validator=known,
                on_progress=fetch.pulse.beat,
            )
        except NotFound as e:
            self._metadata.vanished(node, path)
            raise Stale("the file was removed on the server") from e
        except (Stale, RangeOutside) as e:
            await self._metadata.revalidate(node)
            raise Stale("the file was replaced on the server; open it again") from e
        self._metadata.confirm(node, reply.validator, asked_at)
        if len(reply.data) > CHECKED_ABOVE:
            try:
                await self._metadata.revalidate(node)
            except NotFound as e:
                raise Stale("the file was removed on the server") from e
        if node.was is not None or node.validator != reply.validator or node.staged is not None:
            # Replaced, or a newer answer came first, or content of our own: whoever waits asks again.
            # While there is local content the validator still names what it was made from.
            return
        for no in range(fetch.first, fetch.first + fetch.count):
            block = reply.data[(no - fetch.first) * BLOCK_SIZE :][:BLOCK_SIZE]
            self._blocks.put(BlockKey(node.serial, node.version, no), block)
            fetch.blocks[no] = block
