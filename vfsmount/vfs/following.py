"""Following: an open file that a session appends to goes on, for who reads it (docs/decisions/0014).

Whether a longer version is the one that is shown, grown, is told by both ends of what was shown of it
(`core.shown`). The kernel, which trusts its own size of a file it knows, learns the new one by having
bytes at the new end stored in its cache.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import Bytes
from vfsmount.core.inodes import Node
from vfsmount.core.shown import TAIL, Shown
from vfsmount.errors import RangeOutside, Stale, VfsError
from vfsmount.log import event
from vfsmount.values import Ino, Kind, Validator
from vfsmount.vfs.paths import PathGate, folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.following")

# Stores bytes in the kernel's cache of an inode, whose old pages it drops first; False: it would not.
Extend = Callable[[Ino, int, bytes], Awaitable[bool]]

_PAGE = 4096
# What comes along with the end that is compared, so that a follower needs no other request. Replies of up
# to 64 KiB leave the server in one piece (vfs.ranges).
_ALONG = (64 << 10) - TAIL
# Files that nobody has open, of which it is still known what was shown: 5 KiB each.
_REMEMBERED = 2048
# How long who asks for attributes waits until the kernel has the new size: it waits for pages that are
# being read. Who comes too early sees the old size, and the new one a moment later.
_EXTENDED_S = 2.0
# A writer's new time shows before its new size does, on a busy machine for long enough to be seen.
_SAME_SIZE_S = (0.01, 0.05, 0.2, 0.0)
_TRIES = 3
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Grown:
    """A version that begins as the one that was shown.

    Attributes:
        offset, data: bytes of it, from before the old end; they may reach the new one.
    """

    validator: Validator
    offset: int
    data: bytes


async def nothing_to_extend(_ino: Ino, _offset: int, _data: bytes) -> bool:
    """`Extend` where there is no kernel in front."""
    return True


class Following:
    """Decides which files have grown, and has the kernel see it."""

    def __init__(
        self,
        transfers: Transfers,
        gate: PathGate,
        nursery: trio.Nursery,
        extend: Extend,
        give_up: Callable[[Node], None],
    ) -> None:
        """Args:
        give_up: told of each node whose new size the kernel does not take.
        """
        self._transfers = transfers
        self._gate = gate
        self._nursery = nursery
        self._extend = extend
        self._give_up = give_up
        self._extending: dict[Node, trio.Event] = {}
        self._remembered: dict[Node, None] = {}  # oldest first

    # --- what was shown ------------------------------------------------------------------------

    @staticmethod
    def shown(node: Node, offset: int, data: Bytes) -> None:
        """The server's bytes of a file were handed out."""
        if node.shown is None:
            node.shown = Shown()
        node.shown.read(offset, data)

    @staticmethod
    def written(node: Node, offset: int, data: bytes) -> None:
        """Bytes were written here; a reader need not ask us for them."""
        if node.shown is None or (offset == 0 and len(data) == node.size):
            node.shown = Shown()
            if len(data) < node.size:
                node.shown.forget()
        node.shown.written(offset, data)

    @staticmethod
    def cut(node: Node, size: int) -> None:
        """The size was changed here."""
        node.shown = Shown()
        if size:
            node.shown.forget()

    def opened(self, node: Node) -> None:
        """Somebody has the file open: what was shown is kept until `closed`."""
        self._remembered.pop(node, None)

    def closed(self, node: Node) -> None:
        """Nobody has it open any more; the kernel may still have its pages."""
        if node.shown is None or node.unlinked:
            return
        self._remembered[node] = None
        if len(self._remembered) > _REMEMBERED:
            forgotten = next(iter(self._remembered))
            del self._remembered[forgotten]
            if forgotten.shown is not None:
                forgotten.shown.forget()

    # --- whether it has grown ------------------------------------------------------------------

    @staticmethod
    def may_go_on(node: Node, size: int) -> bool:
        """Whether another version of this size can be the file that is read, with more at its end.

        Not where somebody may write: what was written here for the old end would land in the middle of
        what a session has appended since.
        """
        return (
            node.kind is Kind.FILE
            and node.opens > 0
            and not node.writers
            and node.staged is None
            and not node.unlinked
            and size >= node.size
        )

    async def goes_on(self, node: Node, found: Validator) -> Grown | None:
        """What the file has become, where that begins as what was shown of it; None: it is another.

        Asks for whatever is there, not for `found`: a busy log is longer with every request.

        Raises:
            NotFound, RemoteUnavailable and others: as `Transfers.read_range`.
        """
        shown: Shown | None = node.shown
        if shown is None or shown.lost:
            return None
        folder, path = folder_of(node), remote_path(node)
        offset, tail = shown.tail
        head, size = shown.head, found.size
        try:
            if head:
                reply = await self._transfers.read_range(folder, path, 0, len(head))
                if reply.data != head or reply.validator.size < size:
                    return None
            for wait_s in _SAME_SIZE_S:
                reply = await self._transfers.read_range(folder, path, offset, len(tail) + _ALONG)
                if not reply.data.startswith(tail) or reply.validator.size < max(size, node.size):
                    return None
                if reply.validator.size > node.size:
                    return Grown(reply.validator, offset, reply.data)
                await trio.sleep(wait_s)
        except (Stale, RangeOutside):
            return None
        # The same size with another time is no append: what was changed may be what was not compared.
        return None

    # --- telling the kernel --------------------------------------------------------------------

    def grown(self, node: Node, old_size: int, grown: Grown | None) -> None:
        """The node has its new size; have the kernel see it, soon."""
        piece = _piece(old_size, grown) if grown is not None else None
        before, done = self._extending.get(node), trio.Event()
        self._extending[node] = done
        self._nursery.start_soon(self._run, node, node.size, piece, before, done)
        event(_log, logging.DEBUG, "file.grown", ino=node.ino, size=node.size, by=node.size - old_size)

    async def extended(self, node: Node) -> bool:
        """Wait until the kernel has the size the node has by now, or for a moment; False: it has not yet.

        Not from a read: the pages it is for may be what the kernel waits for.
        """
        with trio.move_on_after(_EXTENDED_S):
            while (done := self._extending.get(node)) is not None:
                await done.wait()
        return node not in self._extending

    async def _run(
        self,
        node: Node,
        size: int,
        piece: tuple[int, bytes] | None,
        before: trio.Event | None,
        done: trio.Event,
    ) -> None:
        try:
            if before is not None:
                await before.wait()
            if not await self._extend_to(node, size, piece):
                event(_log, logging.DEBUG, "kernel.not_extended", ino=node.ino, size=size)
                self._give_up(node)
        except Exception:
            # A bug here must not end the mount.
            _log.exception("following.bug ino=%d", node.ino)
            self._give_up(node)
        finally:
            if self._extending.get(node) is done:
                del self._extending[node]
            done.set()

    async def _extend_to(self, node: Node, size: int, piece: tuple[int, bytes] | None) -> bool:
        for _ in range(_TRIES):
            if node.unlinked or node.staged is not None or node.size != size:
                return True  # another version, or a newer size, which has its own turn
            try:
                offset, data = piece or await self._end_of(node, size)
            except (Stale, RangeOutside):
                return node.size != size  # a newer size, which has its own turn; or another version by now
            except VfsError:
                await trio.sleep(_AGAIN_S)
                continue
            if node.size == size:
                self.shown(node, offset, data)
                return await self._extend(node.ino, offset, data)
        return False

    async def _end_of(self, node: Node, size: int) -> tuple[int, bytes]:
        """The last page: one that does not end with the file, the kernel asks for when it is read."""
        await self._gate.settled(node)
        offset = (size - 1) // _PAGE * _PAGE
        known, folder, path = node.validator, folder_of(node), remote_path(node)
        reply = await self._transfers.read_range(folder, path, offset, size - offset)
        # It may have been replaced before it was sent; grown since, it begins as it did.
        found = await self._transfers.revalidate(folder, path, reply.validator) or reply.validator
        if found != known and await self.goes_on(node, found) is None:
            raise Stale("the file was replaced on the server")
        return offset, reply.data


def _piece(old_size: int, grown: Grown) -> tuple[int, bytes] | None:
    """Whole pages up to the new end, where they are here: the one with the old end and all after it."""
    start = max(old_size // _PAGE * _PAGE, -(-grown.offset // _PAGE) * _PAGE)
    size = grown.validator.size
    if start >= size or grown.offset + len(grown.data) < size:
        return None
    return start, grown.data[start - grown.offset : size - grown.offset]
