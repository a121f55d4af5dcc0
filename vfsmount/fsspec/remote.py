"""What is asked of the server, in the loop: one connected client for all that use the same settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import trio

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.config import ApiSettings
from vfsmount.core.foldernames import shown_folders
from vfsmount.errors import IsADirectory, NotFound, PermissionDenied
from vfsmount.fsspec import listing
from vfsmount.fsspec.listing import Info, PartialListing
from vfsmount.fsspec.portal import Portal
from vfsmount.values import Folder, Listing, RemoteEntry

_FOLDERS_S = 5.0  # that the list of folders is believed, as a mount believes a directory
_AT_ONCE = 16  # requests of one call; the storage-proxy answers thousands a second


class Remote:
    """One user at one server. Lives in a `Portal`'s loop; `of` finds it there or makes it."""

    def __init__(self, settings: ApiSettings) -> None:
        self.client = Client(settings)
        self.transfers = Transfers(self.client)
        self._connecting = trio.Lock()
        self._is_connected = False
        self._folders: dict[str, Folder] = {}
        self._read_at = float("-inf")

    @classmethod
    async def of(cls, portal: Portal, settings: ApiSettings) -> Remote:
        """The one of these settings, connected.

        Raises:
            AuthFailed, RemoteUnavailable, ProtocolError: as `Client.connect`.
        """
        remote = portal.kept.get(settings)
        if remote is None:
            remote = portal.kept[settings] = cls(settings)
        assert isinstance(remote, cls)
        if not remote._is_connected:
            async with remote._connecting:
                if not remote._is_connected:
                    await remote.client.connect()
                    remote._is_connected = True
        return remote

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()

    # --- folders -------------------------------------------------------------------------------

    async def folders(self) -> Mapping[str, Folder]:
        """The folders as a mount shows them, by name, asked for now."""
        found = await self.client.list_folders()
        shown = shown_folders(found, addressed_by_name=not self.client.traits.by_id)
        self._folders = {os.fsdecode(entry.name): entry.folder for entry in shown}
        self._read_at = trio.current_time()
        return self._folders

    async def folder(self, name: str) -> Folder:
        """The folder of that name.

        Raises:
            NotFound: there is none.
        """
        if name not in self._folders or trio.current_time() - self._read_at > _FOLDERS_S:
            await self.folders()
        if name not in self._folders:
            raise NotFound(f"there is no folder {name!r} that you may use")
        return self._folders[name]

    def forget_folders(self) -> None:
        """There are others now."""
        self._read_at = float("-inf")

    # --- what is there -------------------------------------------------------------------------

    async def info(self, name: str, rel: str) -> Info:
        """What stands under a path, asked of the storage-proxy and not of the manager.

        Raises:
            NotFound
        """
        if not name:
            return listing.root()
        folder = await self.folder(name)
        if not rel:
            return listing.of_folder(name, folder)
        try:
            return listing.of_version(f"{name}/{rel}", await self.transfers.stat(folder, rel))
        except IsADirectory:
            return listing.of_directory(f"{name}/{rel}")

    async def entries(self, name: str, rel: str) -> tuple[list[Info], Listing | None]:
        """What a directory holds, and the listing that says so; None for the list of folders.

        Raises:
            NotFound, NotADirectory
        """
        if not name:
            return [listing.of_folder(n, f) for n, f in (await self.folders()).items()], None
        folder = await self.folder(name)
        found = await self.client.list_files(folder, rel)
        directory = f"{name}/{rel}" if rel else name
        infos = [
            listing.of_entry(directory, e) for e in found.entries if rel or e.name != listing.UPLOADS.encode()
        ]
        prefix = f"{rel}/" if rel else ""
        await each(partial(self._look_behind, folder, prefix, i) for i in infos if i["type"] == "link")
        return infos, found

    def doubt(self, found: Listing, name: str) -> tuple[bool, bool]:
        """(the listing certainly lacks something, or is as long as the usual limit; it may)."""
        limit = self.client.listing_limit(self._folders[name])
        if not found.cut or not limit.is_likely(found.count):
            return False, False
        return not limit.is_whole_as_a_rule(found.count), True

    async def entry(self, name: str, rel: str) -> RemoteEntry | None:
        """One entry of its directory's listing, symlinks as such; None where the listing may lack it.

        Raises:
            NotFound: it certainly is not there.
        """
        parent, _, last = rel.rpartition("/")
        found = await self.client.list_files(await self.folder(name), parent)
        for entry in found.entries:
            if entry.name == os.fsencode(last):
                return entry
        if not found.cut:
            raise NotFound("no such file on the server")
        return None

    async def _look_behind(self, folder: Folder, prefix: str, info: Info) -> None:
        """A link to a file reads as that file; one to a directory is not followed, as it may lead upwards."""
        try:
            name = str(info["name"]).rpartition("/")[2]
            version = await self.transfers.stat(folder, prefix + name)
        except (NotFound, IsADirectory, PermissionDenied):
            return
        info |= {"type": "file", "islink": True, "size": version.size, "mtime": version.mtime_ns / 1e9}


async def each(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Make the calls, some at a time."""
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def one(call: Callable[[], Awaitable[None]]) -> None:
        async with limit:
            await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(one, call)


def cut_listing(path: str, count: int) -> PartialListing:
    """The error for a listing that was cut."""
    what = f"the server showed {count} entries and cuts its listings there, so there may be more"
    return PartialListing(errno.EOVERFLOW, f"{what} (partial_ok=True takes what was shown)", path)
