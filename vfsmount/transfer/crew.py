"""Many files at once: who finds them hands them to workers, and waits when those have enough to do.

A file that fails is noted and fails no other. What would fail all the others as well (a key that is
refused, a quota that is used up, a server that does not answer) ends the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import trio

from vfsmount.errors import (
    AuthFailed,
    NoSpace,
    QuotaExceeded,
    RecordsFull,
    ServerFrozen,
    VfsError,
)
from vfsmount.transfer.report import Moving, Progress, Report

T = TypeVar("T")

QUEUED = 256  # files that were found and wait for a worker
GIVEN_UP = 3  # files in a row that the server did not answer for, before all the others are given up
# Between two tries of a file whose server does not answer; each try has waits of its own.
PAUSES_S = (1.0, 4.0)
ENDS_ALL = (AuthFailed, QuotaExceeded, NoSpace, RecordsFull, ServerFrozen)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to carry.

    Attributes:
        path: for people.
        size: as far as it is known.
        run: carries it; may be called again after an error that passes.
    """

    path: str
    size: int
    run: Callable[[Moving], Awaitable[None]]


Submit = Callable[[Job], Awaitable[None]]


class Crew:
    """The workers of one command."""

    def __init__(self, report: Report, progress: Progress, workers: int) -> None:
        self._report = report
        self._progress = progress
        self._workers = workers
        self._unanswered = 0

    async def run(self, find: Callable[[Submit], Awaitable[None]]) -> None:
        """Carry everything that `find` submits.

        Raises:
            VfsError: what `find` raises, or what ends all; work that was begun is cancelled.
        """
        sending, receiving = trio.open_memory_channel[Job](QUEUED)
        self._progress.finding = True
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self._workers):
                    nursery.start_soon(self._work, receiving.clone())
                receiving.close()
                async with sending:
                    await find(lambda job: self._submit(sending, job))
                self._progress.finding = False
        except* VfsError as group:
            raise first_of(group) from group
        finally:
            self._progress.finding = False

    async def _submit(self, sending: trio.MemorySendChannel[Job], job: Job) -> None:
        self._progress.expect(job.size)
        await sending.send(job)

    async def _work(self, jobs: trio.MemoryReceiveChannel[Job]) -> None:
        async with jobs:
            async for job in jobs:
                await self._do(job)

    async def _do(self, job: Job) -> None:
        try:
            with self._progress.file(job.path, job.size) as moving:
                await self._patiently(job, moving)
            self._unanswered = 0
        except ENDS_ALL:
            raise
        except VfsError as e:
            self._unanswered = self._unanswered + 1 if e.retryable else 0
            if self._unanswered >= GIVEN_UP:
                raise
            self._report.fail(job.path, e)

    async def _patiently(self, job: Job, moving: Moving) -> None:
        for pause_s in PAUSES_S:
            try:
                await job.run(moving)
                return
            except VfsError as e:
                if not e.retryable:
                    raise
            await trio.sleep(pause_s)
        await job.run(moving)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is none itself."""
    e: BaseException = group
    while isinstance(e, BaseExceptionGroup):
        e = e.exceptions[0]
    return e


async def walk(tops: Iterable[T], visit: Callable[[T], Awaitable[Iterable[T]]], workers: int) -> None:
    """Visit directories and what they say lies below, several at a time, the deepest first: what is
    known and not visited stays little.

    Raises:
        What `visit` raises, perhaps in a group.
    """
    todo = list(reversed(list(tops)))
    busy = 0
    changed = trio.Event()

    async def work() -> None:
        nonlocal busy, changed
        while todo or busy:
            if not todo:
                await changed.wait()
                continue
            busy += 1
            try:
                found = list(await visit(todo.pop()))
            finally:
                busy -= 1
            todo.extend(reversed(found))
            changed.set()
            changed = trio.Event()

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
