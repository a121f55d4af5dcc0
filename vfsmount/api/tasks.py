"""Progress of the server's background tasks (cloning, asynchronous deletion), as it is told.

Source: contract 3.8.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx

from vfsmount.api import shapes
from vfsmount.api.decode import loads
from vfsmount.api.http import stop_reading
from vfsmount.api.manager import Manager
from vfsmount.errors import ProtocolError

LINE_MAX = 64 << 10


class TaskState(enum.Enum):
    """Where a background task stands."""

    RUNNING = "bgtask_updated"
    DONE = "bgtask_done"
    PARTIAL = "bgtask_partial_success"
    FAILED = "bgtask_failed"
    CANCELLED = "bgtask_cancelled"


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """One event of a task; ``current`` of ``total`` in units of the task's own, 0 where untold."""

    state: TaskState
    current: int
    total: int
    message: str


class TaskCalls:
    """Part of `Client`: background tasks."""

    _manager: Manager

    async def follow_task(self, task_id: str) -> AsyncGenerator[TaskProgress, None]:
        """Yield a task's events until its last one. Close the iterator to stop early.

        Raises:
            RemoteUnavailable: the stream broke or fell silent; the task itself goes on.
        """
        query = {"task_id": task_id}
        async with (
            self._manager.stream("GET", "/events/background-task", query=query) as response,
            aclosing(_events(response)) as events,
        ):
            async for name, data in events:
                if name == "server_close":
                    return
                progress = _progress(name, data)
                if progress is None:
                    continue
                yield progress
                if progress.state is not TaskState.RUNNING:
                    return


async def _events(response: httpx.Response) -> AsyncGenerator[tuple[str, str], None]:
    """(event, data) pairs of a server-sent-event stream."""
    name = ""
    data: list[str] = []
    async with aclosing(_lines(response)) as lines:
        async for line in lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if name or data:
                    yield name, "\n".join(data)
                name, data = "", []
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    rest = b""
    pieces = response.aiter_raw()
    try:
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_MAX:
                raise ProtocolError("an event without end", status=response.status_code)
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
    finally:
        await stop_reading(pieces)


def _progress(name: str, data: str) -> TaskProgress | None:
    try:
        state = TaskState(name)
    except ValueError:
        return None  # keep-alives and events of a later server
    try:
        fields = loads(data.encode())
    except ValueError:
        fields = None
    got = fields if isinstance(fields, dict) else {}
    return TaskProgress(
        state=state,
        current=shapes.number(got.get("current_progress")) or 0,
        total=shapes.number(got.get("total_progress")) or 0,
        message=shapes.text(got.get("message")),
    )
