"""Who may change one file's content now: one lock for each file, held for local work and fetches.

Order of waiting: `PathGate.settled` before a lock, never inside it; a mover takes `moving` first and
then the locks of staged files below, in ascending inode order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.paths import PathGate


@dataclass(slots=True)
class _Busy:
    """A trio lock with what waiters need to know."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    pulse: Pulse = field(default_factory=Pulse)
    users: int = 0


class Exclusion:
    """The locks, for as long as somebody holds or wants one."""

    def __init__(self, inodes: InodeTable, gate: PathGate) -> None:
        self._inodes = inodes
        self._gate = gate
        self._busy: dict[Node, _Busy] = {}

    @asynccontextmanager
    async def alone(self, node: Node) -> AsyncIterator[Pulse]:
        """Nobody else changes this node's content meanwhile; waiters' deadlines move with the pulse."""
        busy = self._busy.setdefault(node, _Busy())
        busy.users += 1
        try:
            await wait_behind(busy.pulse, busy.lock.acquire)
            try:
                yield busy.pulse
            finally:
                busy.lock.release()
        finally:
            busy.users -= 1
            if not busy.users:
                del self._busy[node]

    @asynccontextmanager
    async def settled(self, node: Node) -> AsyncIterator[Pulse]:
        """`alone` while nobody is renaming the node or a directory above it.

        A mover may be waiting for our lock; to wait for its end with the lock held would be for ever.
        """
        while True:
            await self._gate.settled(node)
            async with self.alone(node) as pulse:
                if not self._gate.is_moving(node):
                    yield pulse
                    return

    @asynccontextmanager
    async def below(self, *tops: Node | None) -> AsyncIterator[None]:
        """`alone` for every staged node at or below `tops`."""
        nodes = {
            n for top in tops if top is not None for n in self._inodes.subtree(top) if n.staged is not None
        }
        async with AsyncExitStack() as stack:
            for node in sorted(nodes, key=lambda n: n.serial):
                await stack.enter_async_context(self.alone(node))
            yield
