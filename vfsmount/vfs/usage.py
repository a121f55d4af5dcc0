"""How much room there is, for statfs: heard in the background, never waited for.

An answer is for the whole mount: pyfuse3 does not pass on of which node the kernel asks. So a limit is
shown only where one holds wherever something can be written, and then that of the roomiest place: a program
that looks before it writes must not be told of less room than it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from vfsmount.api.client import Client
from vfsmount.api.governor import background
from vfsmount.api.shapes import Hosts
from vfsmount.errors import VfsError
from vfsmount.values import Folder, HostUsage, Quota

REFRESH_S = 300.0  # the server itself caches it for 60 s; df must not spend manager calls
# No limit, nothing told (a plain filesystem), or refused (an invited folder: its owner's alone may ask).
NO_LIMIT_S = 3600.0
_DEADLINE_S = 30.0

Scope = tuple[str, str]  # host, quota scope


@dataclass(slots=True)
class _Heard:
    """What was last heard of one scope.

    Attributes:
        quota: None: no limit is known of.
        ask_at: when to ask again.
    """

    quota: Quota | None
    ask_at: float


class Usage:
    """Usage of the hosts and of quota scopes as last heard."""

    def __init__(self, client: Client, nursery: trio.Nursery) -> None:
        self._client = client
        self._nursery = nursery
        self._hosts = Hosts(None, (), {})
        self._asked_at = float("-inf")
        self._scopes: dict[Scope, _Heard] = {}
        self._asking = False

    def get(self, folders: Iterable[Folder]) -> HostUsage:
        """What is known now; asks for news behind the caller's back when it is old.

        Args:
            folders: all that the mount shows.
        """
        now = trio.current_time()
        if now - self._asked_at >= REFRESH_S:
            self._asked_at = now
            self._nursery.start_soon(self._ask_hosts)
        scopes = list(dict.fromkeys((f.host, f.quota_scope) for f in folders if f.writable))
        if not self._asking and self._due(scopes, now):
            self._asking = True
            self._nursery.start_soon(self._ask_scopes, scopes)
        return self._limited(scopes) or self._hosts.usage.get(self._hosts.default or "", HostUsage())

    def quota_of(self, folder: Folder) -> Quota | None:
        """The limit that holds for a folder, as last heard; asks nobody."""
        return self._known((folder.host, folder.quota_scope))

    def _known(self, scope: Scope) -> Quota | None:
        heard = self._scopes.get(scope)
        return heard.quota if heard is not None else None

    def _due(self, scopes: list[Scope], now: float) -> Scope | None:
        """The next one to ask for, None while nothing is to be asked.

        One without a limit decides alone, so while it is believed the others are not asked for.
        """
        due = None
        for scope in scopes:
            heard = self._scopes.get(scope)
            if not all(scope) or (heard is not None and heard.quota is None and now < heard.ask_at):
                return None
            if due is None and (heard is None or now >= heard.ask_at):
                due = scope
        return due

    def _limited(self, scopes: list[Scope]) -> HostUsage | None:
        rooms = []
        for scope in scopes:
            if (quota := self._known(scope)) is None:
                return None
            rooms.append(self._room(scope[0], quota))
        return max(rooms, key=lambda room: room.available or 0, default=None)

    def _room(self, host: str, quota: Quota) -> HostUsage:
        available = max(0, quota.limit - quota.used)
        usage = self._hosts.usage.get(host, HostUsage())
        if usage.total is not None and usage.used is not None:
            available = min(available, max(0, usage.total - usage.used))
        return HostUsage(used=quota.used, total=quota.limit, available=available)

    # --- behind the caller's back --------------------------------------------------------------

    async def _ask_hosts(self) -> None:
        try:
            with background(), trio.fail_after(_DEADLINE_S):
                self._hosts = await self._client.list_hosts()
        except (VfsError, trio.TooSlowError):
            return  # df shows what it showed before

    async def _ask_scopes(self, scopes: list[Scope]) -> None:
        try:
            self._scopes = {s: heard for s, heard in self._scopes.items() if s in scopes}
            while (scope := self._due(scopes, trio.current_time())) is not None:
                self._scopes[scope] = await self._heard_of(scope)
        finally:
            self._asking = False

    async def _heard_of(self, scope: Scope) -> _Heard:
        now = trio.current_time()
        try:
            with background(), trio.fail_after(_DEADLINE_S):
                quota = await self._client.fetch_quota(*scope)
        except (VfsError, trio.TooSlowError) as e:
            if not isinstance(e, VfsError) or e.retryable:
                return _Heard(self._known(scope), now + REFRESH_S)
            quota = None
        return _Heard(quota, now + (REFRESH_S if quota is not None else NO_LIMIT_S))
