"""Background tasks, and the event stream in which a client watches one.

Source: contract 3.8; Backend.AI manager ``api/events.py``.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field


@dataclass(slots=True)
class BackgroundTask:
    """One task a call left behind; `ended` is set with its outcome in `event`."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    event: str = "bgtask_done"
    message: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Background:
    """The tasks of one server; those still running at its end are awaited."""

    def __init__(self) -> None:
        self.known: dict[str, BackgroundTask] = {}
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Awaitable[None]) -> BackgroundTask:
        """Run `work`; the reply need not wait for it."""
        task = BackgroundTask()
        self.known[task.id] = task
        running = asyncio.ensure_future(self._carry_out(task, work))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return task

    async def _carry_out(self, task: BackgroundTask, work: Awaitable[None]) -> None:
        try:
            await work
        except OSError as e:
            task.event, task.message = "bgtask_failed", e.strerror or str(e)
        finally:
            task.ended.set()

    async def finish(self) -> None:
        """Wait for what still runs: half-removed folders must not outlive the server."""
        await asyncio.gather(*self._running)
