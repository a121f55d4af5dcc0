"""One folder on its server, as transfers see it: directories listed, and which of the listings to doubt."""

from __future__ import annotations

import os

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.errors import IsADirectory, NotFound, VfsError
from vfsmount.store.transfers import Place
from vfsmount.transfer.report import Report
from vfsmount.values import Folder, Listing, RemoteEntry

UPLOADS = b".upload"  # the server's own, in a folder's root
LISTINGS = 6  # at a time; the governor has fewer of them made where that is of no use
WIDER = 8  # other folders that are looked at to clear a doubt


class Remote:
    """A folder.

    Attributes:
        client, transfers: how it is reached.
        trusts_round: listings of round numbers of names are whole, as long as nothing has shown that one
            was cut and they are shorter than the usual limit.
    """

    def __init__(self, client: Client, folder: Folder) -> None:
        self.trusts_round = False
        self.client = client
        self.transfers = Transfers(client)
        self.folder = folder
        self._doubted: dict[str, Listing] = {}
        self._looked_wider = False

    def place(self, path: str) -> Place:
        """A path in the folder, for the records."""
        return Place(self.client.endpoint, self.folder.id, path)

    async def entries(self, path: str) -> dict[str, RemoteEntry]:
        """The entries of a directory by name, the server's own left out. A cut listing is remembered.

        Raises:
            NotFound, NotADirectory, and what every call may.
        """
        listing = await self.client.list_files(self.folder, path)
        if listing.cut:
            self._doubted[path] = listing
        return {os.fsdecode(e.name): e for e in listing.entries if path or e.name != UPLOADS}

    async def has(self, path: str) -> bool:
        """Whether anything stands under a path."""
        if not path:
            return True
        try:
            await self.transfers.stat(self.folder, path)
        except IsADirectory:
            return True
        except NotFound:
            return False
        return True

    def is_doubted(self, path: str) -> bool:
        """Whether a listing of that directory may have lacked names, as far as is known by now."""
        listing = self._doubted.get(path)
        return listing is not None and self._is_cut(listing)

    async def doubted(self) -> list[tuple[str, str]]:
        """Directories whose listings may have lacked names, each with a sentence that says why.

        A listing of ten or a hundred entries is suspect only as long as no longer one was seen, so other
        folders of the same storage are looked at first.
        """
        limit = self.client.listing_limit(self.folder)
        for listing in list(self._doubted.values()):
            if self._is_cut(listing) and limit.is_whole_as_a_rule(listing.count):
                await self._look_wider()
        return [(path, _why(x)) for path, x in self._doubted.items() if self._is_cut(x)]

    def tell(self, report: Report, doubted: list[tuple[str, str]]) -> None:
        """Put them into a report."""
        for path, why in doubted:
            report.partial.add(path or ".", why)

    def _is_cut(self, listing: Listing) -> bool:
        limit = self.client.listing_limit(self.folder)
        if self.trusts_round and limit.is_whole_as_a_rule(listing.count):
            return bool(listing.unfit)
        return bool(listing.unfit) or limit.may_be_cut(listing.count)

    async def _look_wider(self) -> None:
        if self._looked_wider:
            return
        self._looked_wider = True
        proxy = self.folder.host.partition(":")[0]
        try:
            others = [f for f in await self.client.list_folders() if f.host.partition(":")[0] == proxy]
        except VfsError:
            return
        others.sort(key=lambda f: -f.mtime_ns)
        for folder in others[:WIDER]:
            if not any(self._is_cut(x) for x in self._doubted.values()):
                return
            try:
                await self.client.list_files(folder, "")
            except VfsError:
                continue


def _why(listing: Listing) -> str:
    if listing.unfit:
        return f"{listing.unfit} of its names cannot stand in a directory here, or came twice"
    return f"the server showed {listing.count} names and may have stopped there"
