"""The journal: what the process knows and nobody else, in memory that outlives it (docs/decisions/0033).

`core.journal` has the layout, `vfs.notes` what is written, `vfs.resuming` what is made of it. Everything is
written before the answer that reveals it; nothing is synced, because it only has to outlive the process:
who loses the machine loses the mount, too, and what is promised beyond that is in the records.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from vfsmount.core import journal as layout
from vfsmount.core.journal import HEADER_SIZE, Folded
from vfsmount.errors import LocalIOError
from vfsmount.log import event
from vfsmount.store.memory import Memory
from vfsmount.store.syscalls import in_thread

_log = logging.getLogger("vfsmount.vfs.continuity")

# Bytes that were written since it was compacted: less is not worth the work, and more than as much again
# as counts is a waste.
COMPACT_FROM = 32 << 20
_REST_S = 0.005
_HEARD_S = 0.02


class Journal:
    """What must be known of the kernel's side of a mount by the process that takes it over.

    Attributes:
        holder: the process that lives as long as the mount and starts the others.
    """

    def __init__(self, fd: int, holder: int | None = None) -> None:
        """Args:
        fd: of memory that outlives the process (memfd_create(2)), shared by all processes of one mount, which
            serve one after the other. Nothing is read or written before it is asked for.
        holder: this process's parent where it is not told.
        """
        self.holder = os.getppid() if holder is None else holder
        self._memory = Memory(fd)
        self._start = self._end = HEADER_SIZE
        self._counting_from = HEADER_SIZE  # what was written before is as short as can be
        self._ready = False
        self._batch: list[bytes] | None = None
        self._later: list[bytes] = []
        self._wake = trio.Event()
        self._telling = trio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go on with: no process has begun to serve yet."""
        return layout.start_of(bytes(self._memory.read(0, HEADER_SIZE))) is None

    # --- reading -------------------------------------------------------------------------------

    def load(self) -> Folded:
        """What the process before has written; from here on it is ours to write.

        Raises:
            LocalIOError: there is nothing.
        """
        start = layout.start_of(bytes(self._memory.read(0, HEADER_SIZE)))
        if start is None:
            raise LocalIOError("the journal of the mount is empty")
        folded = layout.fold(memoryview(self._memory.read(start, self._memory.size)))
        self._start, self._end, self._ready = start, start + folded.size, True
        self._counting_from = self._end
        self._memory.cut(self._end)  # a frame that was torn is the last one
        return folded

    def _fold_gently(self, start: int, stop: int) -> Folded:
        # In a thread, which would else take every other turn of the interpreter from the loop.
        return layout.fold(memoryview(self._memory.read(start, stop)), lambda: time.sleep(_REST_S))

    # --- writing -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Whoever comes next has something to go on with from here on: requests are answered now."""
        self._memory.write(layout.header(self._start), 0)
        self._ready = True

    def append(self, *records: bytes) -> None:
        """Write records, all of them or none where we are killed.

        Raises:
            LocalIOError: there is no memory left.
        """
        if self._batch is not None:
            self._batch += records
            return
        if self._later:
            records, self._later = (*self._later, *records), []
        data = layout.frame(b"".join(records))
        if not self._ready and self._end == HEADER_SIZE:
            self._memory.cut(0)  # of a process that never began to serve
        self._memory.write(data, self._end)
        self._end += len(data)
        if self._end - self._counting_from > COMPACT_FROM:
            self._wake.set()

    def append_later(self, record: bytes) -> None:
        """Write a record with the next ones: nobody is hurt where it is lost."""
        self._later.append(record)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is appended in the body, in which nothing is waited for, is one frame."""
        if self._batch is not None:
            yield
            return
        self._batch = batch = list[bytes]()
        try:
            yield
        finally:
            self._batch = None
            if batch:
                self.append(*batch)

    # --- what was heard ------------------------------------------------------------------------

    def tells_soon(self) -> None:
        """What was written last is told to somebody as soon as we return."""
        self._telling.set()

    async def run_heard(self) -> None:
        """Have something follow what was told, where nothing else does, for ever."""
        while True:
            await self._telling.wait()
            self._telling = trio.Event()
            end = self._end
            await trio.sleep(_HEARD_S)
            if self._end == end:
                with suppress(LocalIOError):  # who is killed now may be asked twice
                    self.append(layout.nothing())

    # --- compaction ----------------------------------------------------------------------------

    async def run(self, prepare: Callable[[], None]) -> None:
        """Make it shorter when it has grown, for ever.

        Args:
            prepare: writes anew what takes more than it needs.
        """
        while True:
            await self._wake.wait()
            try:
                prepare()
                await self.compact()
            except Exception:
                # A bug here, or a lack of memory, must not end the mount.
                _log.exception("journal.bug")
                await trio.sleep(60)
            self._wake = trio.Event()

    async def compact(self) -> None:
        """Write what counts behind the rest, and begin there from now on. Others write meanwhile."""
        if not self._ready:
            return
        start, seen = self._start, self._end
        folded = await in_thread(partial(self._fold_gently, start, seen))
        # By itself, so that nothing of it seems to be unheard.
        whole = layout.frame(folded.records()) + layout.frame(layout.nothing())
        # no await until frames begin at the new place
        since = self._memory.read(seen, self._end)
        new = -(-self._end // 4096) * 4096
        self._memory.write(whole + since, new)
        self._memory.write(layout.header(new), 0)
        self._memory.free(HEADER_SIZE, new)
        self._start, self._end = new, new + len(whole) + len(since)
        self._counting_from = self._end + max(0, len(whole) - COMPACT_FROM)
        event(_log, logging.DEBUG, "journal.compacted", was=seen - start, size=len(whole))
