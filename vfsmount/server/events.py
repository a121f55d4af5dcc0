"""``GET /events/background-task``: one task's end as server-sent events.

Source: contract 3.8; Backend.AI manager ``api/events.py``.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.params import Field
from vfsmount.server.problems import no_such
from vfsmount.server.state import Call, Route


async def watch(call: Call) -> web.StreamResponse:
    """Events of one task until it ends."""
    task = call.server.background.known.get(str(call.params["task_id"]))
    if task is None:
        raise no_such("background task", call.params["task_id"])
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await reply.prepare(call.request)
    progress = {"task_id": task.id, "message": "", "current_progress": 0, "total_progress": 1}
    await _send(reply, "bgtask_updated", progress)
    await task.ended.wait()
    done = {"task_id": task.id, "message": task.message, "current_progress": 1, "total_progress": 1}
    await _send(reply, task.event, done)
    await _send(reply, "server_close", {})
    await reply.write_eof()
    return reply


async def _send(reply: web.StreamResponse, event: str, data: dict[str, Any]) -> None:
    await reply.write(f"event: {event}\r\ndata: {json.dumps(data)}\r\n\r\n".encode())


ROUTES = (
    Route("GET", "/events/background-task", watch, (Field("task_id", params.text, aliases=("taskId",)),)),
)
