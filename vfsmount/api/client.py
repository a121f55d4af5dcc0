"""`Client`: every call of the API as a typed method, over one connection set-up.

The calls themselves stand in `folders`, `files`, `sharing`, `dotfiles`, `sessions` and `tasks`; transfers of
content in `transfer`. Both generations of the server look the same from here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx

from vfsmount.api.dialect import ServerInfo
from vfsmount.api.dotfiles import DotfileCalls
from vfsmount.api.files import FileCalls
from vfsmount.api.governor import Governor
from vfsmount.api.http import Http
from vfsmount.api.manager import Manager, utc_now
from vfsmount.api.session import stored_cookie
from vfsmount.api.sessions import SessionCalls
from vfsmount.api.sharing import SharingCalls
from vfsmount.api.tasks import TaskCalls
from vfsmount.config import ApiSettings


class Client(FileCalls, SharingCalls, DotfileCalls, SessionCalls, TaskCalls):
    """One user at one server. An async context manager; it owns its connections.

    Attributes:
        http: the connections, shared with `Transfers`.
    """

    def __init__(
        self,
        settings: ApiSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """
        Args:
            transport, now: used instead of the network and the clock, by tests.
        """
        self._settings = settings
        self._warned = set()
        self._limits = {}
        self.http = Http(settings, transport)
        self._closing: list[Callable[[], None]] = []
        self._manager = Manager(settings, self.http, cookie=stored_cookie(settings), now=now)

    @property
    def info(self) -> ServerInfo:
        """Dialect and versions; only after `connect`."""
        assert self._manager.info is not None, "connect() comes first"
        return self._manager.info

    @property
    def endpoint(self) -> str:
        """The manager's first address: names the server."""
        return self._settings.endpoints[0]

    @property
    def governor(self) -> Governor:
        """The budget of manager calls, for `status`."""
        return self._manager.governor

    @property
    def clock_offset_s(self) -> float:
        """The server's clock minus ours, to the second."""
        return self._manager.clock_offset_s

    async def connect(self) -> ServerInfo:
        """Negotiate the version and check the credentials; call it before anything else.

        Raises:
            RemoteUnavailable: no usable reply; the message names the host and what to check.
            AuthFailed: key or login not accepted; ClockSkew where it is the clock.
            ProtocolError: what answers is no Backend.AI manager.
        """
        return await self._manager.connect()

    def assume(self, info: ServerInfo) -> None:
        """Begin without `connect`, with what another process of ours has learned from the same server."""
        self._manager.info = info

    async def manager_status(self) -> str:
        """``running``, or ``frozen``: in maintenance.

        Raises:
            VfsError: it cannot be asked, or not by everybody.
        """
        reply = await self._manager.call("GET", "/manager/status")
        return str(reply.object.get("status") or "running")

    def on_close(self, close: Callable[[], None]) -> None:
        """Have something closed together with the client."""
        self._closing.append(close)

    async def aclose(self) -> None:
        """Close every connection. The object cannot be used afterwards."""
        for close in self._closing:
            close()
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()
