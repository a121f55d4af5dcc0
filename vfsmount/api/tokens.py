"""Leave to download, kept: one token for all files of a folder.

A token for path "." serves every file when the file's path goes into ``dst_dir`` (contract 4.2), so
a folder costs one manager call in a token's lifetime, not one for each open. A server that does not
work that way gets a token for each file.
"""

from __future__ import annotations

import time
from collections import defaultdict
from urllib.parse import quote

import trio
from cachetools import LRUCache

from vfsmount.api.client import Client
from vfsmount.api.paths import TARGET_MAX, encode
from vfsmount.errors import NameTooLong
from vfsmount.values import Folder, Grant

EARLY_S = 60.0  # renewed this long before `exp`,
EARLY_SHARE = 0.1  # or this part of its life where that is less
FILE_TOKENS = 1024  # of some 400 bytes each
UNKNOWN_LIFE_S = 300.0  # of a token whose `exp` we cannot read: a guess well below any sane setting


def transfer_url(grant: Grant) -> str:
    """URL with query, a secret, of a transfer whose path stands in the token.

    Raises:
        NameTooLong: the token holds so long a path that no request can carry it.
    """
    url = f"{grant.url}?token={encode(grant.token)}"
    if len(url) > TARGET_MAX:
        raise NameTooLong("the path is longer than a transfer request can carry")
    return url


class FolderTokens:
    """Download tokens by folder, and by file where that cannot be avoided."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: LRUCache[tuple[str, str], tuple[Grant, float]] = LRUCache(FILE_TOKENS)
        # One lock for each token, held while it is fetched: later askers wait for that one call and
        # find the token; if the asker is cancelled the next one asks. Nothing else is locked.
        self._locks: dict[tuple[str, str], trio.Lock] = defaultdict(trio.Lock)
        self.per_file: set[str] = set()  # storage hosts that do not combine "." with dst_dir

    async def target_for(self, folder: Folder, rel: str, *, per_file: bool = False) -> tuple[str, Grant]:
        """(URL with query, the grant in it) to download one file. The URL is a secret."""
        if not per_file and folder.host not in self.per_file:
            grant = await self._get(folder, ".")
            url = f"{grant.url}?token={encode(grant.token)}&dst_dir={quote(rel, safe='/')}"
            # A token of the file's own holds the path too, but 8 bytes instead of 9 for a CJK letter.
            if len(url) <= TARGET_MAX:
                return url, grant
        grant = await self._get(folder, rel)
        return transfer_url(grant), grant

    def drop(self, folder: Folder, grant: Grant) -> None:
        """Forget a token the server refuses, unless it was replaced meanwhile."""
        for key, (kept, _) in list(self._kept.items()):
            if key[0] == folder.id and kept is grant:
                del self._kept[key]

    async def _get(self, folder: Folder, rel: str) -> Grant:
        key = (folder.id, rel)
        found = self._fresh(key)
        if found is not None:
            return found
        lock = self._locks[key]
        try:
            async with lock:
                found = self._fresh(key)
                if found is None:
                    found = await self._client.request_download(folder, rel)
                    self._kept[key] = (found, self._renew_at(found))
                return found
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(key, None)

    def _fresh(self, key: tuple[str, str]) -> Grant | None:
        kept = self._kept.get(key)
        return kept[0] if kept is not None and time.monotonic() < kept[1] else None

    def _renew_at(self, grant: Grant) -> float:
        if not grant.expires_at:
            return time.monotonic() + UNKNOWN_LIFE_S
        # `exp` is the server's time; our clock may be off by up to 15 minutes and still be accepted.
        life_s = grant.expires_at - (time.time() + self._client.clock_offset_s)
        return time.monotonic() + life_s - min(EARLY_S, EARLY_SHARE * max(0.0, life_s))
