"""``/__faults`` and ``/__calls``: where tests order trouble and ask what came. Only with ``--faults``."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
from aiohttp import web

from vfsmount.server.faults import Order
from vfsmount.server.state import SERVER

PREFIX = "/__"


def add_routes(app: web.Application) -> None:
    """Make the manager half answer control calls."""
    app.router.add_route("POST", "/__faults", _order)
    app.router.add_route("GET", "/__calls", _report)
    app.router.add_route("POST", "/__calls/reset", _forget)


async def _order(request: web.Request) -> web.Response:
    faults = request.app[SERVER].faults
    try:
        faults.apply(msgspec.json.decode(await request.read(), type=Order))
    except msgspec.MsgspecError as e:
        return web.json_response({"error": str(e)}, status=400)
    switches = msgspec.to_builtins(faults.switches)
    return web.json_response({"switches": switches, "rules": msgspec.to_builtins(faults.rules)})


async def _report(request: web.Request) -> web.Response:
    server = request.app[SERVER]
    fullest = {u.name: asdict(server.limiter.fullest(u.access_key)) for u in server.records.users()}
    return web.json_response({**server.calls.report(), "fullest": fullest})


async def _forget(request: web.Request) -> web.Response:
    request.app[SERVER].calls.reset()
    return web.json_response({})
