"""How full the storage is, for statfs: heard in the background, never waited for."""

from __future__ import annotations

import trio

from vfsmount.api.client import Client
from vfsmount.errors import VfsError
from vfsmount.values import HostUsage

REFRESH_S = 300.0  # the server itself caches it for 60 s; df must not spend manager calls


class HostUsageCache:
    """The default host's usage as last heard."""

    def __init__(self, client: Client, nursery: trio.Nursery) -> None:
        self._client = client
        self._nursery = nursery
        self._usage = HostUsage()
        self._asked_at = float("-inf")

    def get(self) -> HostUsage:
        """What is known now; asks for news behind the caller's back when it is old."""
        now = trio.current_time()
        if now - self._asked_at >= REFRESH_S:
            self._asked_at = now
            self._nursery.start_soon(self._refresh)
        return self._usage

    async def _refresh(self) -> None:
        try:
            with trio.fail_after(30):
                hosts = await self._client.list_hosts()
        except (VfsError, trio.TooSlowError):
            return  # df shows what it showed before
        self._usage = hosts.usage.get(hosts.default or "", HostUsage())
