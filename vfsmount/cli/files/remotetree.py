"""A folder as the server has it, over the API.

The server acts on what a link points to, moves into directories, and as 26.x answers yes to everything.
So every call is preceded by a look and followed by one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.cli.files.tree import Look, Write
from vfsmount.cli.files.walk import for_each
from vfsmount.cli.mounted import Showing, settle, tell_mounts
from vfsmount.core.standing import NOTHING, Standing, batches, outermost
from vfsmount.errors import (
    AlreadyExists,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    PermissionDenied,
    RangeOutside,
    RemoteError,
    RemoteUnavailable,
    VfsError,
)
from vfsmount.values import Folder, Kind, Listing, RemoteEntry, Validator

_TO_THE_END = 1 << 53
_READ_BUFFER = 1 << 20
# Looks that find nothing changed before we say that it does not go away, and the pause before a look
# where the server did not answer in time: it may be at work still, directories of millions take long.
_ROUNDS = 3
_PAUSE_S = 2.0


class RemoteTree:
    """See `tree.Tree`."""

    links = False

    def __init__(self, client: Client, folder: Folder, state_dir: Path) -> None:
        self.folder_id = folder.id
        self._client = client
        self._folder = folder
        self._state_dir = state_dir
        self._transfers = Transfers(client)
        self._mounts: list[Showing] = []
        self._known: dict[str, Listing | VfsError] = {}

    # --- mounts --------------------------------------------------------------------------------

    async def settle(self, paths: Sequence[str]) -> None:
        wait = partial(settle, self.folder_id, paths, state_dir=self._state_dir)
        self._mounts = await trio.to_thread.run_sync(wait, abandon_on_cancel=True)

    async def settled(self, paths: Sequence[str]) -> None:
        await trio.to_thread.run_sync(tell_mounts, self._mounts, paths, abandon_on_cancel=True)

    # --- looking -------------------------------------------------------------------------------

    async def list(self, path: str) -> Look:
        listing = await self._client.list_files(self._folder, path)
        limit = self._client.listing_limit(self._folder)
        return Look(listing, listing.unfit > 0 or (listing.cut and limit.is_likely(listing.count)))

    async def look(self, paths: Iterable[str]) -> dict[str, Standing]:
        self._known.clear()
        found = dict.fromkeys(paths, NOTHING)
        # First each directory once, or several lookers would list the same one.
        await for_each({p.rpartition("/")[0] for p in found}, self._listing)

        async def look(path: str) -> None:
            found[path] = await self._look(path)

        await for_each(found, look)
        return found

    async def _look(self, path: str) -> Standing:
        if not path:
            return Standing(Kind.DIRECTORY)
        parts, through_link = path.split("/"), False
        for depth, name in enumerate(parts):
            above = "/".join(parts[:depth])
            listing = await self._listing(above)
            if not isinstance(listing, Listing):
                return NOTHING
            here = await self._entry(listing, f"{above}/{name}" if above else name, name)
            if depth == len(parts) - 1 or here.kind is None:
                break
            if here.kind is Kind.FILE:
                return NOTHING
            through_link = through_link or here.kind is Kind.SYMLINK or not here.listed
        return Standing(here.kind, here.listed, through_link, here.entry)

    async def _entry(self, listing: Listing, path: str, name: str) -> Standing:
        wanted = os.fsencode(name)
        entry = next((e for e in listing.entries if e.name == wanted), None)
        if entry is not None:
            return Standing(entry.kind, entry=entry)
        limit = self._client.listing_limit(self._folder)
        if not listing.unfit and limit.is_surely_whole(listing.count):
            return NOTHING
        # A listing may be cut after any number of entries, so what it does not show is asked for.
        above = path.removesuffix(name)
        for e in (e for e in listing.entries if e.kind is Kind.FILE):
            # Where a file that is there is found, one that is not found is not there: a call less for each.
            self._transfers.is_there(self._folder, above + os.fsdecode(e.name))
            break
        try:
            version = await self._transfers.stat(self._folder, path)
        except IsADirectory:
            found = Standing(Kind.DIRECTORY, listed=False)
        except (NotFound, InvalidName):  # the latter: a line break, which cannot be asked for
            return NOTHING
        except PermissionDenied:
            if listing.cut:
                raise
            return NOTHING  # where nobody may download, a whole listing has to do
        else:
            found = Standing(Kind.FILE, listed=False, entry=_probed(wanted, version))
        limit.missed(listing.count)
        return found

    async def _listing(self, path: str) -> Listing | VfsError:
        """A directory's listing, asked for once between two calls of `look`; or why there is none."""
        known = self._known.get(path)
        if known is None:
            try:
                known = await self._client.list_files(self._folder, path)
            except (NotFound, NotADirectory, PermissionDenied) as e:
                if not path:
                    raise
                known = e
            self._known[path] = known
        return known

    # --- reading -------------------------------------------------------------------------------

    async def read(self, path: str, offset: int, length: int | None, write: Write) -> None:
        version = None
        if offset < 0:
            version = await self._transfers.stat(self._folder, path)
            offset = max(0, version.size + offset)
        if length is None:
            length = _TO_THE_END
        if length <= 0:
            return
        try:
            await self._transfers.read_into(
                self._folder, path, offset, length, _Sink(write), validator=version
            )
        except RangeOutside:
            return  # nothing there, which is what was asked for

    # --- changing ------------------------------------------------------------------------------

    async def mkdir(self, path: str, *, parents: bool) -> None:
        await self._client.mkdir(self._folder, path, parents=parents, exist_ok=parents)

    async def move(self, src: str, dst: str, kind: Kind) -> None:
        parent = dst.rpartition("/")[0]
        self._known.clear()
        above = await self._listing(parent)
        if not isinstance(above, Listing):  # for a directory the server would make it
            raise type(above)(f"{parent}: {above}")
        try:
            await self._client.move_file(self._folder, src, dst)
        except RemoteUnavailable:
            # The reply may be lost, and the move done.
            now = await self.look([src, dst])
            if now[src].kind is not None or now[dst].kind is not kind:
                raise
        if kind is Kind.FILE:
            try:
                await self._transfers.stat(self._folder, dst)
            except IsADirectory:
                raise AlreadyExists(
                    f"somebody made a directory {dst} meanwhile; the file is in it now"
                ) from None

    def close(self) -> None:
        """Nothing: the client is closed by whoever made it."""

    async def remove(self, found: Mapping[str, Kind]) -> dict[str, VfsError]:
        """See `tree.Tree`: goes on until looking shows that everything is gone, or nothing moves."""
        trees = outermost(p for p, kind in found.items() if kind is Kind.DIRECTORY)
        files = [p for p in found if not any(p == t or p.startswith(f"{t}/") for t in trees)]
        failed: dict[str, VfsError] = {}
        idle, before = 0, None
        while files or trees:
            errors = await self._delete(files, recursive=False) | await self._delete(trees, recursive=True)
            left = {p for p, at in (await self.look([*files, *trees])).items() if at.kind is not None}
            failed |= {p: e for p, e in errors.items() if p in left and not _is_passing(e)}
            files = [p for p in files if p in left and p not in failed]
            trees = [p for p in trees if p in left and p not in failed]
            now = files, trees, [await self._shape(p) for p in trees]
            idle = idle + 1 if now == before else 0
            before = now
            if idle >= _ROUNDS:
                stays = RemoteError("the server says that it has removed it, yet it is there")
                return failed | {p: errors.get(p, stays) for p in (*files, *trees)}
            if any(isinstance(e, RemoteUnavailable) for e in errors.values()):
                await trio.sleep(_PAUSE_S)  # it may be at work still
        return failed

    async def _shape(self, path: str) -> object:
        """What a directory that is being removed shows: other than before means that it goes on."""
        listing = self._known.get(path) or await self._listing(path)
        return frozenset(e.name for e in listing.entries) if isinstance(listing, Listing) else None

    async def _delete(self, paths: Sequence[str], *, recursive: bool) -> dict[str, VfsError]:
        failed: dict[str, VfsError] = {}
        for batch in batches(paths, _json_size):
            failed |= await self._delete_batch(batch, recursive=recursive)
        return failed

    async def _delete_batch(self, batch: Sequence[str], *, recursive: bool) -> dict[str, VfsError]:
        """Send a batch; where it fails as a whole, its halves, because one name may be what fails."""
        try:
            await self._client.delete_files(self._folder, batch, recursive=recursive, known=True)
        except VfsError as e:
            # Where nothing was refused but not found (23.09 ends at the first), looking shows what is left.
            if _is_passing(e) or not isinstance(e, RemoteError | NameTooLong) or len(batch) == 1:
                return dict.fromkeys(batch, e)
            half = len(batch) // 2
            first = await self._delete_batch(batch[:half], recursive=recursive)
            return first | await self._delete_batch(batch[half:], recursive=recursive)
        return {}


def _is_passing(e: VfsError) -> bool:
    """Whether an error of a deletion leaves open what the next try does."""
    return isinstance(e, NotFound | IsADirectory | RemoteUnavailable) or e.retryable


class _Sink:
    """Hands bytes on as they come (`transfer.Sink`)."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._buffer = memoryview(bytearray(_READ_BUFFER))

    def begin(self, found: Validator, stop: int) -> None:
        pass

    def room(self) -> memoryview:
        return self._buffer

    def add(self, count: int) -> None:
        # Blocks where the reader is slow. Nothing else is to be done meanwhile, and one request for the
        # whole file is what still gives one version of a file that grows while it is read.
        self._write(self._buffer[:count])

    def looked_after(self, same: bool) -> None:
        pass


def _json_size(path: str) -> int:
    return len(json.dumps(path)) + 2


def _probed(name: bytes, version: Validator) -> RemoteEntry:
    return RemoteEntry(name, Kind.FILE, version.size, 0o644, version.mtime_ns, version.mtime_ns)
