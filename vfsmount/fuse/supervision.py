"""A mount tells its supervisor how it is, from the loop that answers requests: if it hangs, nobody speaks."""

from __future__ import annotations

import logging

import trio

from vfsmount.fuse.mountpoint import answer
from vfsmount.supervisor import Supervisor
from vfsmount.vfs.filesystem import Filesystem

_log = logging.getLogger("vfsmount.fuse.supervision")

_LOOK_S = 2.0  # between two looks at what is to be told
# A drain is bounded by --drain-timeout; whoever waits for us need only know that it goes on.
_EXTENSION_S = 15.0


class Supervision:
    """Speaks for one mount from `run`, which serves until it is cancelled.

    Args:
        here: the mount is in this process's tree, where somebody can look; one that others made and
            passed on need not be.
    """

    def __init__(self, supervisor: Supervisor, fs: Filesystem, mountpoint: str, *, here: bool = True) -> None:
        self._supervisor = supervisor
        self._fs = fs
        self._mountpoint = mountpoint
        self._here = here
        self._doing = ""
        self._said = ""
        self._draining = False

    async def run(self) -> None:
        """Say that we are alive, and what changes."""
        if not self._supervisor:
            return
        pause_s = min(_LOOK_S, self._supervisor.watchdog_s / 2 or _LOOK_S)
        while True:
            try:
                self._speak()
            except Exception:  # of no consequence for the mount
                _log.exception("supervision.bug")
            await trio.sleep(pause_s)

    def _speak(self) -> None:
        self._supervisor.alive()
        if self._draining:
            self._supervisor.extend(_EXTENSION_S)
        if self._doing and (text := self._text()) != self._said:
            self._said = text
            self._supervisor.status(text)

    async def wait_until_it_answers(self) -> None:
        """Say that the mount is ready once somebody else than this process has had an answer of it."""
        if not self._supervisor:
            return
        while not await self._answers():  # noqa: ASYNC110 (nobody else would tell us)
            await trio.sleep(_LOOK_S)
        self._doing = f"mounted on {self._mountpoint}"
        self._said = self._text()
        self._supervisor.ready(self._said)

    async def _answers(self) -> bool:
        return (
            not self._here
            or await trio.to_thread.run_sync(answer, self._mountpoint, abandon_on_cancel=True) == 0
        )

    def drain_begins(self) -> None:
        """The mount is gone from the tree; what is left is being sent."""
        self._draining = True
        self._doing = f"unmounted from {self._mountpoint}"
        self._said = self._text()
        self._supervisor.stopping(self._said)
        self._supervisor.extend(_EXTENSION_S)

    def _text(self) -> str:
        left = len(self._fs.unsent())
        return f"{self._doing}; {left} {'file' if left == 1 else 'files'} to be sent" if left else self._doing
