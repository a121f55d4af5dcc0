"""Room for unsent data: a hard limit that slows writers down before it refuses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from vfsmount.errors import NoSpace
from vfsmount.store.staging import StagingArea
from vfsmount.vfs.deadline import LOOK_EVERY_S, Pulse, progress

# From this share of the limit on writers are slowed down, so that uploads can keep up.
SLOW_FROM = 0.8
SLOWEST_S = 0.25  # for each write, just below the limit
PATIENCE = 0.7  # of the deadline: a clear ENOSPC comes before a timeout


class Room:
    """Hands out room in the staging area."""

    def __init__(
        self, area: StagingArea, limit: int, deadline_s: float, pulse: Pulse, will_free: Callable[[], bool]
    ) -> None:
        """Args:
        limit: bytes; 0: as much as the disk holds.
        pulse: beats while uploads move.
        will_free: whether anything is on its way that will make room by itself.
        """
        self._area = area
        self._limit = limit
        self._reserved = 0
        self._patience_s = PATIENCE * deadline_s
        self._pulse = pulse
        self._will_free = will_free

    @asynccontextmanager
    async def reserved(self, length: int) -> AsyncIterator[None]:
        """Hold room for `length` bytes more, until the body has written them.

        Raises:
            NoSpace: there is no room, and none is about to come.
        """
        if self._limit and self._wanted(length) > SLOW_FROM * self._limit:
            await self._slow_down(length)
        # no await until it is counted: many writes ask at the same time
        self._reserved += length
        try:
            yield
        finally:
            self._reserved -= length

    def _wanted(self, length: int) -> int:
        return self._area.used + self._reserved + length

    async def _slow_down(self, length: int) -> None:
        share = self._wanted(length) / self._limit
        if share <= 1.0 and self._will_free():
            await trio.sleep(SLOWEST_S * (share - SLOW_FROM) / (1 - SLOW_FROM))
        patience = self._patience()
        while self._wanted(length) > self._limit:
            if not patience():
                raise NoSpace("no room for more unsent data (--staging-size); wait until some of it was sent")
            await trio.sleep(LOOK_EVERY_S)

    async def when_disk_has_some(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write; while the disk is full and uploads are about to free some of it, try again.

        Raises:
            NoSpace: as the disk says, and nothing has become free.
        """
        patience = self._patience()
        while True:
            try:
                return await write()
            except NoSpace:
                if not patience():
                    raise
            await trio.sleep(LOOK_EVERY_S)

    def _patience(self) -> Callable[[], bool]:
        """Whether it is worth waiting on; true while uploads move, and for a while when they do not."""
        moved_at = trio.current_time()

        def worth_waiting() -> bool:
            nonlocal moved_at
            if self._pulse.at > moved_at:
                moved_at = self._pulse.at
                progress()
            return self._will_free() and trio.current_time() - moved_at <= self._patience_s

        return worth_waiting
