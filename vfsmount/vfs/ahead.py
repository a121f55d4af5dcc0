"""Listings are asked for ahead of a walk, with what the governor has to spare."""

from __future__ import annotations

import logging

import trio

from vfsmount.api.governor import Governor, class_now
from vfsmount.core.governor import MOST, Class
from vfsmount.core.inodes import Node
from vfsmount.core.walk import Walk
from vfsmount.errors import VfsError
from vfsmount.log import event
from vfsmount.vfs.metadata import Metadata

_log = logging.getLogger("vfsmount.vfs.ahead")


class Ahead:
    """Fetches what a walk needs next. `run` must be running."""

    def __init__(self, metadata: Metadata, governor: Governor) -> None:
        self._metadata = metadata
        self._governor = governor
        self._walk = Walk()
        self._idle = trio.lowlevel.ParkingLot()

    def read(self, directory: Node) -> None:
        """A program reads a directory."""
        if class_now() is not Class.FOREGROUND:
            return
        now = trio.current_time()
        self._walk.read(directory, now, waits=self._metadata.may_look_ahead(directory))
        if self._walk.is_on(now):
            self._idle.unpark()

    async def run(self) -> None:
        """Ask for what comes next, for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(MOST):
                nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        while True:
            directory = None
            if self._walk.is_on(trio.current_time()):
                async with self._governor.spare_turn():
                    directory = self._next()
                    if directory is not None:
                        self._idle.unpark()  # one at a time: most steps of a walk leave nothing to ask for
                        await self._fetch(directory)
            if directory is None:
                await self._idle.park()

    def _next(self) -> Node | None:
        try:
            return self._walk.next(trio.current_time(), self._metadata.may_look_ahead)
        except Exception:
            # A bug here must not end the mount.
            _log.exception("ahead.bug")
            return None

    async def _fetch(self, directory: Node) -> None:
        try:
            await self._metadata.look_ahead(directory)
        except VfsError as e:
            # Whoever comes there asks again, and is told.
            event(_log, logging.DEBUG, "ahead.failed", ino=directory.ino, error=type(e).__name__)
        except Exception:
            # A bug here must not end the mount.
            _log.exception("ahead.bug ino=%d", directory.ino)
        self._walk.arrived(directory)
