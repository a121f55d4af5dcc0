"""Which staged file is to be looked at when: the uploader's appointments."""

from __future__ import annotations

import heapq
import itertools

import trio

from vfsmount.core.inodes import Node
from vfsmount.core.writeback import urgency
from vfsmount.vfs.staged import StagedFile


class Queue:
    """When each node is to be looked at. A node may stand in it more than once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, tuple[int, int], int, Node]] = []
        self._ready: list[tuple[tuple[int, int], int, Node]] = []
        self._numbers = itertools.count()
        self._wake = trio.Event()

    def put(self, node: Node, now: float) -> None:
        """The node has something to send, from when it is due."""
        staged = node.staged
        if not isinstance(staged, StagedFile) or not staged.unsent:
            return
        due = staged.due(now, open_for_writing=node.writers > 0)
        detail = staged.detail
        order = urgency(detail.acked_at, detail.size) if detail is not None else (0, 0)
        entry = (due, order, next(self._numbers), node)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self.wake()  # who waits for the next one has to wait for this one now

    def put_now(self, node: Node) -> None:
        """As `put`, for whoever has no clock at hand."""
        self.put(node, trio.current_time())

    def pop(self, now: float) -> Node | None:
        """The most urgent node that is due."""
        while self._heap and self._heap[0][0] <= now:
            _, order, number, node = heapq.heappop(self._heap)
            heapq.heappush(self._ready, (order, number, node))
        return heapq.heappop(self._ready)[2] if self._ready else None

    def next_in(self, now: float) -> float:
        """Seconds until something is due."""
        return max(0.0, self._heap[0][0] - now) if self._heap else float("inf")

    def wake(self) -> None:
        """Something is due, or a place is free."""
        self._wake.set()

    async def woken(self) -> None:
        """Wait for `wake`."""
        await self._wake.wait()
        self._wake = trio.Event()
