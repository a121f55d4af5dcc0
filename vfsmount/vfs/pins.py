"""What is pinned of one server: files whose versions stay on disk, for when the server is away.

While it answers, a pinned file is like any other. Where it does not, the pinned version is taken for the
present one, if all of it is here. It is asked again after a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.core.inodes import Node
from vfsmount.errors import DeadlineExceeded, RemoteUnavailable
from vfsmount.log import event
from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.values import Folder, Validator
from vfsmount.vfs.paths import folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.pins")

_AGAIN_S = 5.0  # a server that was away is not waited for again before, where that helps nobody
_Place = tuple[str, str]  # folder's id, path in it


class Pins:
    """The pins of one mount's server. They are of the cache, so all mounts of it share them."""

    def __init__(self, cache: BlockCache | None, endpoint: str, patience_s: float) -> None:
        """Args:
        endpoint: as `DiskTier` has it.
        patience_s: how long a silent server is waited for where a pinned version will do.
        """
        self._cache = cache
        self._endpoint = endpoint
        self._patience_s = patience_s
        self._at: dict[_Place, set[Validator]] = {}
        self._away_until = float("-inf")

    async def run(self) -> None:
        """Learn what is pinned, at the beginning of a mount."""
        try:
            await self.load()
        except Exception:
            # A bug here must not end the mount.
            _log.exception("pins.bug")

    async def load(self) -> None:
        """Learn what is pinned; others may have pinned and unpinned, too."""
        if self._cache is None:
            return
        found: dict[_Place, set[Validator]] = {}
        for key in await trio.to_thread.run_sync(self._cache.pinned):
            if key.endpoint == self._endpoint:
                found.setdefault((key.folder_id, key.path), set()).add(key.validator)
        self._at = found

    @property
    def all(self) -> dict[_Place, set[Validator]]:
        """By folder and path, as last learnt."""
        return self._at

    def has(self, folder: Folder, path: str) -> bool:
        """Whether any version of a file is pinned."""
        return (folder.id, path) in self._at

    async def pin(self, node: Node, validator: Validator) -> bool:
        """Pin a version in place of all others of the file; False: all pins together would not fit."""
        assert self._cache is not None
        place = folder_of(node).id, remote_path(node)
        if validator in self._at.get(place, ()):
            return True
        for other in self._at.get(place, set()) - {validator}:
            await self._unpin(place, other)
        if not await trio.to_thread.run_sync(self._cache.pin, self._key(place, validator)):
            return False
        self._at.setdefault(place, set()).add(validator)
        return True

    async def unpin(self, folder_id: str, path: str, *, recursive: bool) -> int:
        """Unpin a file, or the files in a directory (`recursive`: and below it); how many there were.

        Names on the server need not exist any more.
        """
        await self.load()
        files = [place for place in self._at if place[0] == folder_id and _is_at(place[1], path, recursive)]
        for place in files:
            for validator in list(self._at[place]):
                await self._unpin(place, validator)
        return len(files)

    async def _unpin(self, place: _Place, validator: Validator) -> None:
        assert self._cache is not None
        await trio.to_thread.run_sync(self._cache.unpin, self._key(place, validator))
        versions = self._at.get(place, set())
        versions.discard(validator)
        if not versions:
            self._at.pop(place, None)

    def _key(self, place: _Place, validator: Validator) -> FileKey:
        return FileKey(self._endpoint, *place, validator)

    # --- while the server is away --------------------------------------------------------------

    async def stand_in(self, node: Node, ask: Callable[[], Awaitable[None]]) -> bool:
        """Ask the server about a file; where it is away, do without, if the file is pinned and here: True.

        Raises:
            what `ask` raises, else.
        """
        if self.pinned(node) is None:
            await ask()
            return False
        if trio.current_time() < self._away_until and await self._take(node):
            return True
        error: RemoteUnavailable
        try:
            with trio.move_on_after(self._patience_s) as wait:
                await ask()
            if not wait.cancelled_caught:
                self._away_until = float("-inf")
                return False
            error = DeadlineExceeded(f"no answer within {self._patience_s:g} s")
        except RemoteUnavailable as e:
            error = e
        if not await self._take(node):
            raise error
        self._away_until = trio.current_time() + _AGAIN_S
        event(_log, logging.DEBUG, "read.pinned", ino=node.ino, error=type(error).__name__)
        return True

    def pinned(self, node: Node) -> Validator | None:
        """The pinned version that may be the file's present one."""
        if not self._at or node.folder is None or node.unlinked or node.staged is not None:
            return None
        versions = self._at.get((node.folder.id, remote_path(node)), ())
        if node.validator is not None:
            return node.validator if node.validator in versions else None
        return next((v for v in versions if v.matches_listing(node.size, node.mtime_ns)), None)

    async def _take(self, node: Node) -> bool:
        """Have the pinned version for the present one, if all of it is here."""
        validator, cache = self.pinned(node), self._cache
        if validator is None or cache is None:
            return False
        key = self._key((folder_of(node).id, remote_path(node)), validator)
        blocks = -(-validator.size // BLOCK_SIZE)
        if len(await trio.to_thread.run_sync(cache.present, key)) < blocks or self.pinned(node) != validator:
            return False
        # A listing told the version to the microsecond; `checked_at` stays as old as it is.
        node.validator, node.mtime_ns = validator, validator.mtime_ns
        return True


def _is_at(path: str, top: str, recursive: bool) -> bool:
    if path == top:
        return True
    below = path.removeprefix(f"{top}/") if top else path
    return (below != path or not top) and (recursive or "/" not in below)
