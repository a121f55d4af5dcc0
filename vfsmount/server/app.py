"""Puts the two halves together, listens, says so, and stops.

The manager half (with the webserver's ``/func`` in front of it) and the storage-proxy half are two
aiohttp applications on two ports, as in the real thing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from vfsmount.server import (
    account,
    compute,
    control,
    dotfiles,
    downloads,
    events,
    files,
    folders,
    graphql,
    hosts,
    quota,
    removal,
    sessions,
    sharing,
    uploads,
)
from vfsmount.server.dialect import Dialect
from vfsmount.server.env import write_env_files
from vfsmount.server.faults import Faults, Switches
from vfsmount.server.gate import gate
from vfsmount.server.manager import SESSION_PREFIX, serve
from vfsmount.server.records import Records
from vfsmount.server.settings import WILDCARDS, ServerSettings
from vfsmount.server.state import SERVER, Route, Server
from vfsmount.server.tokens import Tokens
from vfsmount.server.volume import Volume

_READ_BUFFER = 1 << 20  # bytes; the default of 64 KiB costs uploads a third of their speed
_STOP_S = 1.0  # patience with running calls at the end


def routes(dialect: Dialect, *, with_sessions: bool = False) -> list[Route]:
    """Every manager call of one dialect.

    Args:
        with_sessions: and those that run commands.
    """
    tables = (
        compute.ROUTES if with_sessions else (),
        account.routes(dialect),
        sessions.ROUTES,
        # Literal paths below /folders/ before those with a folder's name in them.
        hosts.ROUTES,
        sharing.ROUTES,
        removal.ROUTES,
        folders.ROUTES,
        files.ROUTES,
        dotfiles.ROUTES,
        events.ROUTES,
        graphql.ROUTES,
        quota.ROUTES,
    )
    return [r for table in tables for r in table if r.only in ("", dialect.name)]


def manager_app(server: Server) -> web.Application:
    """The manager half: every route as it is, and again below ``/func`` for session mode."""
    app = gate("manager", server)
    for route in routes(server.dialect, with_sessions=server.settings.sessions):
        handler = partial(serve, route=route)
        app.router.add_route(route.method, route.path, handler)
        app.router.add_route(route.method, SESSION_PREFIX + route.path, handler)
    if server.settings.faults:
        control.add_routes(app)
    return app


def storage_app(server: Server) -> web.Application:
    """The storage-proxy half. HEAD /download is not routed: 405, as on the real one."""
    app = gate("storage", server)
    app.router.add_route("GET", "/", _storage_status)
    app.router.add_route("GET", "/download", downloads.download)
    app.router.add_route("OPTIONS", "/download", uploads.options)
    if server.dialect.codes:
        app.router.add_route("GET", "/download-archive", downloads.download_archive)
    app.router.add_route("OPTIONS", "/upload", uploads.options)
    app.router.add_route("HEAD", "/upload", uploads.head)
    app.router.add_route("PATCH", "/upload", uploads.patch)
    return app


async def _storage_status(request: web.Request) -> web.Response:
    version = request.app[SERVER].dialect.manager_version
    return web.json_response({"status": "ok", "type": "client-facing", "storage-proxy": version})


@asynccontextmanager
async def running(settings: ServerSettings) -> AsyncIterator[str]:
    """Both halves, listening; gives the manager's URL.

    Raises:
        OSError: a port is taken, or the data directory cannot be used.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (settings.data / "folders").mkdir(exist_ok=True)
    with (
        _claimed(settings.data),
        compute.homes(settings.data),
        _listening(settings.host, settings.port) as manager_socket,
        _listening(settings.host, settings.storage_port) as storage_socket,
    ):
        records = Records(settings.data / "server.sqlite")
        server = _server(settings, records, storage_socket)
        removal.recover(server)
        runners = [
            await _listen(manager_app(server), manager_socket, server.dialect.manager_keepalive_s),
            await _listen(storage_app(server), storage_socket, server.dialect.storage_keepalive_s),
        ]
        try:
            url = _url(manager_socket)
            write_env_files(settings.data / "env", url, records.users())
            yield url
        finally:
            for runner in runners:
                await runner.cleanup()
            await compute.close_all(server)
            await server.background.finish()
            records.close()


@contextmanager
def _claimed(data: Path) -> Iterator[None]:
    """Keep a second server off the same data: each would believe its own upload leases."""
    with open(data / "server.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another one runs on this directory", str(data)) from None
        yield


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _server(settings: ServerSettings, records: Records, storage_socket: socket.socket) -> Server:
    switches = Switches(rate_limit=settings.rate_limit, invited_create=settings.invited_create)
    return Server(
        settings=settings,
        records=records,
        volume=Volume(settings.data / "folders", settings.scandir_limit),
        tokens=Tokens(records.token_secret, settings.token_life_s),
        faults=Faults(switches, settings.latency_ms),
        storage_url=_url(storage_socket),
    )


async def _listen(app: web.Application, listening: socket.socket, keepalive_s: float) -> web.AppRunner:
    runner = web.AppRunner(
        app,
        access_log=None,  # its lines hold query strings, and with them tokens
        keepalive_timeout=keepalive_s,
        shutdown_timeout=_STOP_S,
        read_bufsize=_READ_BUFFER,
    )
    await runner.setup()
    await web.SockSite(runner, listening, backlog=512).start()
    return runner


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = "127.0.0.1" if host in WILDCARDS else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(settings: ServerSettings, *, until_eof: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; print one line when ready.

    Args:
        until_eof: also stop when standard input ends, as it does when the starter dies.

    Raises:
        OSError: a port is taken, or the data directory cannot be used.
    """
    asyncio.run(_run(settings, until_eof))


async def _run(settings: ServerSettings, until_eof: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as url:
        if until_eof:
            loop.add_reader(sys.stdin.fileno(), _at_eof, loop, stop)
        print(f"vfsmount serve: ready at {url}", flush=True)  # noqa: T201
        await stop.wait()


def _at_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not sys.stdin.buffer.read1(4096):  # type: ignore[union-attr]
        loop.remove_reader(sys.stdin.fileno())
        stop.set()
