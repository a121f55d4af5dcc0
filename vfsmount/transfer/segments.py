"""The bytes of a file on their way into its part file, by several requests at a time."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator

import trio

from vfsmount.core.extents import Extents
from vfsmount.errors import ProtocolError, VfsError
from vfsmount.store.syscalls import sync_data
from vfsmount.store.transfers import Runs
from vfsmount.transfer.disk import in_thread
from vfsmount.values import Validator

SEGMENT = 4 << 20  # bytes of one request: shorter ones cost speed (contract 7), longer ones memory
LINES = 4  # of one file: one line alone does not fill a long way
SAVE_S = 2.0  # at most so much of a transfer is lost by kill -9
SYNC_S = 15.0  # and so much by a power cut
CLEANUP_S = 10.0


class Segment:
    """Bytes of one request as they arrive; a `Sink`.

    Attributes:
        version: what they are of; None until that is known.
        same: the server has looked after the last byte, and it still was this version.
    """

    def __init__(self, start: int, count: Callable[[int], None]) -> None:
        """Args:
        count: told the bytes of each piece as it arrives.
        """
        self.version: Validator | None = None
        self.same = False
        self._start = self._filled = self._saved = start
        self._buffer = bytearray()
        self._count = count

    def begin(self, found: Validator, stop: int) -> None:
        """What comes."""
        if self.version is None:
            self._buffer = bytearray(stop - self._start)
        self.version = found

    def room(self) -> memoryview:
        """Where the next bytes go."""
        return memoryview(self._buffer)[self._filled - self._start :]

    def add(self, count: int) -> None:
        """So many have come."""
        self._filled += count
        self._count(count)

    def looked_after(self, same: bool) -> None:
        """What the server said behind the last byte."""
        self.same = same

    def save(self, fd: int) -> tuple[int, int]:
        """Write what has come since the last time; which bytes that were. Blocks."""
        start, stop = self._saved, self._filled
        data = memoryview(self._buffer)[start - self._start : stop - self._start]
        at = start
        while data:
            done = os.pwrite(fd, data, at)
            data, at = data[done:], at + done
        self._saved = stop
        return start, stop


Fetch = Callable[[int, int, Segment], Awaitable[None]]
Keep = Callable[[Runs, Runs], Awaitable[None]]


class Collecting:
    """All that is missing of one version of a file.

    Args:
        fd: of the part file.
        have: what is in it; grows.
        fetch: ``await fetch(start, length, segment)`` has the segment filled.
        keep: ``await keep(arrived, synced)`` has it remembered which extents are in the part file, and
            which of them certainly survive a power cut.
        count: told bytes as they arrive.
        what: of whom errors speak.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        have: Extents,
        fetch: Fetch,
        keep: Keep,
        count: Callable[[int], None],
        what: str,
    ) -> None:
        self._fd = fd
        self._size = size
        self._have = have
        self._fetch = fetch
        self._keep = keep
        self._count = count
        self._what = what
        self._synced = list(have)
        self._synced_at = trio.current_time()
        self._running: set[Segment] = set()
        self._ended: list[Segment] = []  # and not all in the part file yet
        self._writing = trio.Lock()

    async def run(self) -> None:
        """Fetch what is missing. What has come is in the part file and remembered, however this ends.

        Raises:
            What `fetch` does.
        """
        todo = [
            (at, min(at + SEGMENT, stop))
            for start, stop in self._have.missing(0, self._size)
            for at in range(start, stop, SEGMENT)
        ]
        todo.reverse()
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save_now_and_then)
                async with trio.open_nursery() as lines:
                    for _ in range(min(LINES, len(todo))):
                        lines.start_soon(self._work, todo)
                nursery.cancel_scope.cancel()
        except* VfsError as group:
            error = next(_leaves(group))
        finally:
            with trio.move_on_after(CLEANUP_S) as scope:
                scope.shield = True
                await self._save()
        if error is not None:
            raise error
        if self._have.missing(0, self._size):
            raise ProtocolError("not all bytes of the file came")

    async def _work(self, todo: list[tuple[int, int]]) -> None:
        while todo:
            start, stop = todo.pop()
            segment = Segment(start, self._count)
            self._running.add(segment)
            try:
                await self._fetch(start, stop - start, segment)
            finally:
                self._running.discard(segment)
                self._ended.append(segment)
            await self._save()

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(SAVE_S)
            await self._save()

    async def _write(self) -> None:
        async with self._writing:
            ended, self._ended = self._ended, []
            segments = [*ended, *self._running]
            written = await in_thread(lambda: [s.save(self._fd) for s in segments], self._what)
            for start, stop in written:
                self._have.add(start, stop)

    async def _save(self) -> None:
        """Write what has come, and have it remembered."""
        await self._write()
        arrived = list(self._have)
        if trio.current_time() - self._synced_at > SYNC_S:
            await in_thread(lambda: sync_data(self._fd), self._what)
            self._synced, self._synced_at = arrived, trio.current_time()
        await self._keep(arrived, self._synced)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for e in group.exceptions:
        if isinstance(e, BaseExceptionGroup):
            yield from _leaves(e)
        else:
            yield e
