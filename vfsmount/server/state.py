"""What all handlers of one running server share, and what a manager handler is given."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from yarl import URL

from vfsmount.server.access import Access
from vfsmount.server.dialect import Dialect
from vfsmount.server.faults import Calls, Faults, Rule
from vfsmount.server.params import Field, Place
from vfsmount.server.ratelimit import RateLimiter
from vfsmount.server.records import FolderRecord, Records, User
from vfsmount.server.settings import WILDCARDS, ServerSettings
from vfsmount.server.tasks import Background
from vfsmount.server.tokens import Tokens
from vfsmount.server.volume import Volume


@dataclass(slots=True)
class Server:
    """One running server, both halves.

    Attributes:
        compute: (access key, name) → `compute.Session`; empty without ``--sessions``.
        busy_uploads: 26.x: sessions whose lease a PATCH holds right now.
        threads: 23.09: the storage-proxy's pool. A PATCH holds one of them while it is open, and a
            download needs one to begin, so slow senders keep readers waiting.
    """

    settings: ServerSettings
    records: Records
    volume: Volume
    tokens: Tokens
    faults: Faults
    storage_url: str
    background: Background = field(default_factory=Background)
    limiter: RateLimiter = field(default_factory=RateLimiter)
    calls: Calls = field(default_factory=Calls)
    busy_uploads: set[str] = field(default_factory=set)
    threads: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(min(32, (os.cpu_count() or 1) + 4))
    )
    failed_logins: dict[str, list[float]] = field(default_factory=dict)
    compute: dict[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        """Which of the two protocols it speaks."""
        return self.settings.dialect

    def storage_address(self, request: web.Request) -> str:
        """Where the sender of `request` finds the storage half, without trailing slash."""
        if self.settings.host not in WILDCARDS or request.url.host is None:
            return self.storage_url
        # Listening everywhere, the only address known to work is the one they came by.
        return str(URL(self.storage_url).with_host(request.url.host)).rstrip("/")


SERVER = web.AppKey("server", Server)
RULE = web.RequestKey("rule", Rule)  # a fault that the handler itself must carry out


@dataclass(slots=True)
class Call:
    """One manager call after authentication and parameter checks."""

    request: web.Request
    server: Server
    params: dict[str, Any] = field(default_factory=dict)
    caller: User | None = None
    access: Access | None = None

    @property
    def user(self) -> User:
        """Who calls; only on routes that demand it."""
        assert self.caller is not None
        return self.caller

    @property
    def folder(self) -> FolderRecord:
        """The folder in the path; only on routes that name one."""
        assert self.access is not None
        return self.access.folder

    @property
    def dialect(self) -> Dialect:
        """Short for the server's."""
        return self.server.dialect

    @property
    def records(self) -> Records:
        """Short for the server's."""
        return self.server.records

    async def on_disk(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run blocking `work` of the volume in a thread."""
        return await asyncio.to_thread(work, *args, **kwargs)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Right = Literal["READ", "CREATE", "UPDATE", "SOFT_DELETE", "OWN"]
Status = Literal["readable", "updatable", "deletable"]


@dataclass(frozen=True, slots=True)
class Route:
    """One manager call as the routing table has it.

    Attributes:
        fields: its parameters; None where the real one does not look at any.
        role: who may call; ``none`` needs no signature.
        need: right on the folder named ``{vf}``.
        status: what state that folder must be in.
        frozen: in maintenance refused by ``all`` versions, by the ``new`` one only, or by ``none``.
        only: the one dialect that has it, or "" for both.
    """

    method: str
    path: str
    handler: Handler
    fields: tuple[Field, ...] | None = None
    role: Literal["none", "user", "superadmin"] = "user"
    need: Right | None = None
    status: Status = "updatable"
    frozen: Literal["all", "new", "none"] = "none"
    place: Place = "auto"
    only: str = ""
