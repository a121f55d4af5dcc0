"""Ranges of remote files on their way: asked for once, waited for by many, handed on as they arrive.

A file rewritten in place while it is being sent mixes old and new bytes under one validator (contract
4.2), and a 23.09 server sends what was put in its place just now under the old one. So bytes are shown
only after the version was confirmed once more since they came: one 304 of 2.5 ms, for whatever has come
by then and for all ranges of the file. A whole small file of a newer server needs none: it leaves that
in one piece, and there is nothing of another version to mix it with.
"""

from __future__ import annotations

import ctypes
import logging
from collections import defaultdict
from functools import partial
from typing import cast

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import BLOCK_SIZE, PAGE, BlockIndex, BlockKey, Bytes, page_key
from vfsmount.core.inodes import Node
from vfsmount.errors import IsADirectory, NotFound, ProtocolError, RangeOutside, Stale, VfsError
from vfsmount.log import event
from vfsmount.store.heap import Heap
from vfsmount.values import Kind, Validator
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.disktier import DiskTier
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate, folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.ranges")

IN_ONE_PIECE = 64 << 10  # bytes of a reply that leave the server at once
_SHORT = 256 << 10  # bytes that bring their confirmation along
_PAUSES = 3.0  # confirmations of a stream take a quarter of the time at most,
_MAX_PAUSE_S = 0.05  # but a reader that waits for one does not wait for long


class _Overtaken(Exception):
    """What arrives is not what was asked for any more; whoever waits looks again."""


class Range:
    """Bytes ``[start, stop)`` of one version of a file, on their way. A `Sink`.

    Attributes:
        from_disk: they are here already, on disk.
        aside: where whole buffers go, with their offsets, that are not for the memory but for who has
            ordered the range; None: they are for the memory.
        filled: they are here up to this offset,
        confirmed: and may be shown up to this one.
        over: nothing more will come.
        error: why not.
        of_any_version: nothing was known to ask for.
        promised: the confirmation comes right behind the last byte.
        waiting: how many wait for some of them.
    """

    def __init__(
        self,
        owner: Ranges,
        node: Node,
        start: int,
        stop: int,
        *,
        from_disk: bool = False,
        aside: list[tuple[int, bytearray]] | None = None,
    ) -> None:
        self.node = node
        self.from_disk = from_disk
        self.aside = aside
        self.version = node.version
        self.start, self.stop = start, stop
        self.filled = self.confirmed = start
        self.over = False
        self.error: VfsError | None = None
        self.of_any_version = self.promised = False
        self.waiting = 0
        self.validator: Validator | None = None
        self.asked_at = trio.current_time()
        self.pulse = Pulse()
        self.scope = trio.CancelScope()
        self._owner = owner
        self._moved = trio.Event()
        self._buffers: dict[int, bytearray] = {}  # by the offset at which each begins
        self._kept = start  # up to here everything whole went into the index
        self._reserved = stop - start
        owner.index.reserve(self._reserved)

    # --- as a Sink -----------------------------------------------------------------------------

    def begin(self, found: Validator, stop: int) -> None:
        """The version that comes, and where it ends."""
        self.validator = found
        self.stop = min(self.stop, stop)
        self._owner.begin(self)

    def room(self) -> memoryview:
        """Where the next bytes go."""
        start = self._buffer_start(self.filled)
        buffer = self._buffers.get(start)
        if buffer is None:
            stop = min(start // BLOCK_SIZE * BLOCK_SIZE + BLOCK_SIZE, self.stop)
            buffer = self._buffers[start] = _unwritten(stop - start)
        return memoryview(buffer)[self.filled - start :]

    def add(self, count: int) -> None:
        """So many have come."""
        self.filled += count
        self._owner.heap.filled(count)
        self.pulse.beat()
        if self.filled == self.stop and self._owner.needs_no_confirmation(self):
            self._owner.check(self)
            self.confirm(self.filled)
        elif self.waiting:
            self._wake()

    def looked_after(self, same: bool) -> None:
        """What the server says when it has sent the last byte; all that came is of one validator."""
        self.promised = False
        if same:
            self._owner.check(self)
            self.confirm(self.filled)
        else:
            self._wake()

    # --- progress ------------------------------------------------------------------------------

    def confirm(self, upto: int) -> None:
        """What has come up to this offset is of the version that it should be."""
        self.confirmed = max(self.confirmed, upto)
        while self._kept < self.stop:
            start = self._kept
            buffer = self._buffers.get(start)
            if buffer is None or start + len(buffer) > self.confirmed:
                break
            self._kept = start + len(buffer)
            if self.aside is not None:
                self.aside.append((start, buffer))  # and stays, for readers who find the range
                continue
            self._give_back(len(buffer))
            self._owner.keep(self, start, buffer)
            if not self.waiting:  # else whoever waits might find it evicted
                del self._buffers[start]
        self._wake()

    def end(self, error: VfsError | None = None) -> None:
        """Nothing more will come."""
        if not self.over:
            self.over, self.error = True, error
            self._give_back(self._reserved)
        self._wake()

    def _give_back(self, size: int) -> None:
        size = min(size, self._reserved)
        self._reserved -= size
        self._owner.index.release(size)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # --- waiting -------------------------------------------------------------------------------

    async def wait(self, upto: int) -> None:
        """Until the bytes before this offset may be shown, or nothing more will come."""
        self.waiting += 1
        try:
            await wait_behind(self.pulse, partial(self._come_to, upto))
        finally:
            self.waiting -= 1

    async def _come_to(self, upto: int) -> None:
        # Cancelled and called anew now and then: it looks before it waits, or it would miss what happened
        # between the two.
        while self.confirmed < min(upto, self.stop) and not self.over:
            if self.filled > self.confirmed and not self.promised:
                self._owner.want_confirmed(self)
            await self._moved.wait()

    async def over_with(self) -> None:
        """Until nothing more will come; nobody waits for the bytes."""
        while not self.over:
            await self.moved()

    async def moved(self) -> None:
        """Until something has changed."""
        await self._moved.wait()

    def piece(self, at: int, stop: int) -> Bytes:
        """Confirmed bytes from `at` on, as many as lie in one buffer; none if they are only in the index."""
        start = self._buffer_start(at)
        buffer = self._buffers.get(start)
        if buffer is None:
            return b""
        return memoryview(buffer)[at - start : max(min(stop, self.confirmed) - start, at - start)]

    def arrived(self, at: int, stop: int) -> Bytes:
        """As `piece`, of what is here, confirmed or not."""
        start = self._buffer_start(at)
        buffer = self._buffers.get(start)
        return b"" if buffer is None else memoryview(buffer)[at - start : min(stop, self.filled) - start]

    def brings(self, at: int) -> bool:
        """Whether a byte is still to come from here; what is in the index may be evicted again."""
        if self.over or not self.start <= at < self.stop:
            return False
        return at >= self._kept or self._buffer_start(at) in self._buffers

    def _buffer_start(self, at: int) -> int:
        return max(self.start, at // BLOCK_SIZE * BLOCK_SIZE)


# bytearray(n) writes n zeroes, which is a sixth of the CPU of a read.
_new_bytearray = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
)


def _unwritten(size: int) -> bytearray:
    return cast(bytearray, _new_bytearray(None, size))


class Ranges:
    """All ranges on their way, and the confirmations that they need.

    Attributes:
        index: where the bytes go.
        heap: is told how many have come.
    """

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        index: BlockIndex,
        gate: PathGate,
        nursery: trio.Nursery,
        disk: DiskTier,
        heap: Heap,
    ) -> None:
        """Args:
        nursery: owns the fetches, so that a cancelled reader fails nobody who waits with it.
        disk: gets every whole block that was confirmed, and gives back what it has.
        """
        self.index = index
        self.heap = heap
        self._transfers = transfers
        self._metadata = metadata
        self._gate = gate
        self._nursery = nursery
        self._disk = disk
        self._of: defaultdict[tuple[int, int], list[Range]] = defaultdict(list)
        self._confirming: set[int] = set()

    @property
    def files(self) -> int:
        """How many files something is on its way of to the memory."""
        return sum(any(r.aside is None for r in ranges) for ranges in self._of.values())

    def covering(self, node: Node, at: int) -> Range | None:
        """What will bring a byte of the file's present version."""
        for rng in self._of.get((node.serial, node.version), ()):
            if rng.brings(at):
                return rng
        return None

    def next_start(self, node: Node, at: int, stop: int) -> int:
        """Where the next range on its way begins in ``[at, stop)``; `stop` where none does."""
        starts = (r.start for r in self._of.get((node.serial, node.version), ()) if at <= r.start < stop)
        return min(starts, default=stop)

    def start(
        self,
        node: Node,
        start: int,
        stop: int,
        *,
        from_disk: bool = False,
        aside: list[tuple[int, bytearray]] | None = None,
    ) -> Range:
        """Ask for bytes of the file's present version; whole blocks where they come from disk.

        Args:
            aside: as of `Range`.
        """
        assert start < stop
        rng = Range(self, node, start, stop, from_disk=from_disk, aside=aside)
        self._of[node.serial, node.version].append(rng)
        event(_log, logging.DEBUG, "read.range", ino=node.ino, start=start, stop=stop, disk=from_disk)
        self._nursery.start_soon(self._run, rng)
        return rng

    def forget(self, node: Node) -> None:
        """Nobody has the file open any more: nothing more of it needs to come."""
        for key in [k for k in self._of if k[0] == node.serial]:
            for rng in self._of[key]:
                if not rng.waiting and rng.aside is None:
                    rng.scope.cancel()

    def abandon(self, node: Node) -> None:
        """What is on its way of a file will not come; whoever waits for it looks again."""
        for key in [k for k in self._of if k[0] == node.serial]:
            for rng in self._of[key]:
                if not rng.from_disk:
                    rng.scope.cancel()
                    rng.end()

    # --- what ranges ask -----------------------------------------------------------------------

    def begin(self, rng: Range) -> None:
        """The head of a reply is here."""
        assert rng.validator is not None
        if not rng.from_disk:
            self._metadata.confirm(rng.node, rng.validator, rng.asked_at)
            if rng.of_any_version and rng.node.version != rng.version and rng.node.validator == rng.validator:
                self._rekey(rng)
        self.check(rng)

    def _rekey(self, rng: Range) -> None:
        """What was asked for was another version, which is the file's now."""
        self._of[rng.node.serial, rng.version].remove(rng)
        rng.version = rng.node.version
        self._of[rng.node.serial, rng.version].append(rng)

    def check(self, rng: Range) -> None:
        """Raises _Overtaken: replaced, or a newer answer came first, or content of our own. While there is
        local content the validator still names what it was made from."""
        node = rng.node
        if (
            node.version != rng.version
            or node.was is not None
            or node.validator != rng.validator
            or node.staged is not None
        ):
            raise _Overtaken

    def keep(self, rng: Range, start: int, buffer: bytearray) -> None:
        """A buffer is whole, and confirmed."""
        serial, version = rng.node.serial, rng.version
        stop = start + len(buffer)
        if start % BLOCK_SIZE == 0 and (len(buffer) == BLOCK_SIZE or stop == rng.node.size):
            self.index.put(BlockKey(serial, version, start // BLOCK_SIZE), buffer)
            # What fits into one reply costs as much to confirm after a restart as to fetch.
            if rng.validator is not None and not rng.from_disk and rng.node.size > IN_ONE_PIECE:
                self._disk.keep(rng.node, rng.validator, start // BLOCK_SIZE, buffer)
            return
        for at in range(start, stop, PAGE):
            if at + PAGE <= stop or stop == rng.node.size:
                page = bytes(memoryview(buffer)[at - start : at - start + PAGE])
                self.index.put(page_key(serial, version, at // PAGE), page)

    def needs_no_confirmation(self, rng: Range) -> bool:
        """Whether what has come is of the version that its head told, for certain."""
        whole = rng.start == 0 and rng.stop == rng.node.size <= IN_ONE_PIECE
        return whole and self._transfers.tells_what_it_sends

    def want_confirmed(self, rng: Range) -> None:
        """Somebody waits for bytes that are here but for their confirmation."""
        if rng.node.serial not in self._confirming:
            self._confirming.add(rng.node.serial)
            self._nursery.start_soon(self._confirm, rng.node)

    # --- fetching ------------------------------------------------------------------------------

    async def _run(self, rng: Range) -> None:
        error: VfsError | None = None
        try:
            with rng.scope:
                await (self._load(rng) if rng.from_disk else self._fetch(rng))
        except _Overtaken:
            pass
        except VfsError as e:
            error = e
            event(_log, logging.DEBUG, "read.failed", ino=rng.node.ino, at=rng.start, error=type(e).__name__)
        except Exception:
            # A bug here must fail this read, not the mount.
            _log.exception("read.bug ino=%d", rng.node.ino)
            error = ProtocolError("reading failed unexpectedly; see the log")
        finally:
            key = rng.node.serial, rng.version
            self._of[key].remove(rng)
            if not self._of[key]:
                del self._of[key]
            rng.end(rng.error or error)

    async def _fetch(self, rng: Range) -> None:
        node = rng.node
        known = node.validator
        rng.of_any_version = known is None
        await self._gate.settled(node)
        if node.version != rng.version:
            return  # changed since it was asked for, perhaps cut shorter than where we would begin
        path = remote_path(node)
        try:
            length = rng.stop - rng.start
            certain = self._transfers.tells_what_it_sends and rng.start == 0 and length == node.size
            rng.promised = length <= _SHORT and not (certain and length <= IN_ONE_PIECE)
            await self._transfers.read_into(
                folder_of(node), path, rng.start, length, rng, validator=known, look_after=rng.promised
            )
        except (NotFound, IsADirectory) as e:
            if node.kind is Kind.SYMLINK and isinstance(e, IsADirectory):
                raise
            self._metadata.vanished(node, path)
            raise Stale("the file was removed on the server") from e
        except (Stale, RangeOutside) as e:
            await self._metadata.revalidate(node)
            raise Stale("the file was replaced on the server; open it again") from e
        rng.promised = False
        while rng.confirmed < rng.filled:
            self.want_confirmed(rng)
            await rng.moved()

    async def _load(self, rng: Range) -> None:
        """Read blocks from disk, as far as they are there; whoever waits for the rest asks the server."""
        if rng.node.validator is None:
            return
        rng.begin(rng.node.validator, rng.node.size)
        while rng.filled < rng.stop:
            room = rng.room()
            found = await self._disk.read(rng.node, rng.node.validator, rng.filled // BLOCK_SIZE, room)
            self.check(rng)
            if not found:
                return
            rng.add(found)
            rng.confirm(rng.filled)  # verified, and of this version by its key

    async def _confirm(self, node: Node) -> None:
        try:
            while arrived := self._unconfirmed(node):
                began = trio.current_time()
                self._note_beginning(node, arrived)
                try:
                    await self._metadata.revalidate(node)
                    for rng, upto in arrived:
                        self.check(rng)
                        rng.confirm(upto)
                except NotFound:
                    self._fail(arrived, Stale("the file was removed on the server"))
                except (_Overtaken, VfsError) as e:
                    self._fail(arrived, e if isinstance(e, VfsError) else None)
                except Exception:
                    _log.exception("read.bug ino=%d", node.ino)
                    self._fail(arrived, ProtocolError("reading failed unexpectedly; see the log"))
                is_stream = any(rng.stop - rng.start > BLOCK_SIZE for rng, _ in arrived)
                took = trio.current_time() - began
                await trio.sleep(min(_PAUSES * took, _MAX_PAUSE_S) if is_stream else 0)
        finally:
            self._confirming.discard(node.serial)

    def _note_beginning(self, node: Node, arrived: list[tuple[Range, int]]) -> None:
        """What a file that is being opened will be known by if it has grown meanwhile. Nobody has seen it
        yet, so it may be of whatever version."""
        for rng, upto in arrived:
            if rng.start == 0 and node.opening:
                self._metadata.met(node, rng.arrived(0, upto))

    def _unconfirmed(self, node: Node) -> list[tuple[Range, int]]:
        """What has come and waits, of older versions as well; nothing if nobody waits for it."""
        ranges = [r for key, of_version in self._of.items() if key[0] == node.serial for r in of_version]
        found = [(r, r.filled) for r in ranges if r.filled > r.confirmed and not r.over and not r.promised]
        return found if any(r.waiting or upto == r.stop for r, upto in found) else []

    def _fail(self, arrived: list[tuple[Range, int]], error: VfsError | None) -> None:
        for rng, _ in arrived:
            rng.scope.cancel()
            rng.end(error)
