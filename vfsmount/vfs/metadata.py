"""What is where: listings, lookups, the list of vfolders, and news from transfers.

One listing fills a directory with the attributes of all its children; looking a name up asks the
manager for nothing else. Where a listing may have been cut, names are probed at the storage-proxy.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import trio

from vfsmount.api.client import Client
from vfsmount.api.files import LONG_LISTING
from vfsmount.api.governor import class_now
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.blockindex import Bytes
from vfsmount.core.foldernames import shown_folders
from vfsmount.core.governor import Class
from vfsmount.core.inodes import NEVER, InodeTable, Node
from vfsmount.errors import (
    AuthFailed,
    IsADirectory,
    NotADirectory,
    NotFound,
    ProtocolError,
    RangeOutside,
    RateLimited,
    RemoteUnavailable,
    Stale,
    VfsError,
)
from vfsmount.log import event
from vfsmount.values import NO_ATTRS, Folder, Ino, Kind, Listing, LocalAttrs, RemoteEntry, Validator
from vfsmount.vfs.attributes import Attributes
from vfsmount.vfs.deadline import within
from vfsmount.vfs.following import Following, Grown
from vfsmount.vfs.paths import PathGate, child_path, folder_of, hidden, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.removals import Removals

_log = logging.getLogger("vfsmount.vfs.metadata")

# Nodes kept before listings nobody uses are dropped: about 1 KiB each.
MAX_NODES = 200_000
_SLICE = 2000  # entries of a long listing that are taken in at a time: some 7 ms
# Names of one directory, asked for one after the other where a listing left them out. Who looks one of
# the others up asks for it.
MOST_PROBED = 50


class Metadata:
    """The tree as the server has it, as far as we know and for as long as we may believe it."""

    def __init__(
        self,
        client: Client,
        transfers: Transfers,
        inodes: InodeTable,
        policy: MountPolicy,
        gate: PathGate,
        attributes: Attributes,
        removals: Removals,
        following: Following,
        changed: Callable[[Node], None],
        entry_changed: Callable[[Ino, bytes], None],
        replaced: Callable[[Node, Node], None],
        nursery: trio.Nursery,
    ) -> None:
        """Args:
        replaced: told (old, new) of each node whose name was seen to stand for another version.
        changed: told of every node whose content somebody else changed, to drop the kernel's pages.
        entry_changed: told (directory, name) of each name that stands for another inode now.
        nursery: owns listings that somebody has begun to read before all of them is taken in.
        """
        self._client = client
        self._transfers = transfers
        self._inodes = inodes
        self._policy = policy
        self._gate = gate
        self._attributes = attributes
        self._removals = removals
        self._following = following
        self._changed = changed
        self._entry_changed = entry_changed
        self._on_replaced = replaced
        self._in_flight: dict[Node, tuple[trio.Event, Class]] = {}
        self._nursery = nursery
        self._coming: dict[Node, dircache.Merge] = {}  # long listings that are here and being taken in
        self._moved = trio.Event()  # one of these has got further
        self._longer: list[Node] = []  # files that a listing shows longer than they are read
        self._doubted_at = float("-inf")  # what was asked before is not believed, however young
        self._silent_until = float("-inf")

    # --- listings ------------------------------------------------------------------------------

    async def refresh(self, directory: Node, max_age_s: float | None = None) -> None:
        """Make sure the directory's entries may be believed; at most one manager call.

        Args:
            max_age_s: how old the listing may be; the mount's own time of belief when None.

        Raises:
            NotADirectory, NotFound, RemoteUnavailable and what else a listing may meet. When the
            server cannot be reached and an older listing is held, that is used instead, except
            where `max_age_s` was given: who asks for a fresh look wants no old one.
        """
        if not directory.is_dir:
            raise NotADirectory("not a directory")
        old_will_do = max_age_s is None and dircache.state_of(directory).listed
        try:
            # Who holds an older listing waits for a part of the deadline only: it has to be served too.
            with trio.move_on_after(self._policy.deadline_s / 3 if old_will_do else math.inf) as wait:
                await self._make_fresh(directory, max_age_s)
            if wait.cancelled_caught:
                self._serve_old(directory, "silence")
        except (RemoteUnavailable, AuthFailed, RateLimited) as e:
            if not old_will_do:
                raise
            self._serve_old(directory, type(e).__name__)

    async def look_ahead(self, directory: Node) -> None:
        """Have the directory's listing before anybody asks for it. Only after `may_look_ahead` said yes:
        whoever holds a turn of the governor must not wait for who needs one.

        Raises:
            as `refresh`.
        """
        if directory not in self._in_flight and not directory.unlinked:
            await self._fetch(directory)

    def may_look_ahead(self, directory: Node) -> bool:
        """Whether its listing is neither here nor on its way, and can be asked for without waiting for a
        rename to end."""
        fresh = self._is_fresh(directory, None) or directory in self._in_flight
        return not fresh and not directory.unlinked and not self._gate.is_moving(directory)

    async def _make_fresh(self, directory: Node, max_age_s: float | None) -> None:
        while not self._is_fresh(directory, max_age_s):
            if max_age_s is None and trio.current_time() < self._silent_until and directory.listing.listed:
                return
            waiting = self._in_flight.get(directory)
            # What an indexer asked for may have to wait for long; nobody else waits with it.
            if waiting is None or waiting[1] > class_now():
                await self._fetch(directory)
                return
            await waiting[0].wait()

    def _is_fresh(self, directory: Node, max_age_s: float | None) -> bool:
        ttl = self.ttl(directory) if max_age_s is None else max_age_s
        return dircache.state_of(directory).fresh(trio.current_time(), ttl)

    def ttl(self, directory: Node) -> float:
        """Seconds for which this directory's listing is believed."""
        return self._policy.folder_ttl_s if directory is self._inodes.root else self._policy.dir_ttl_s

    async def _fetch(self, directory: Node) -> None:
        done = trio.Event()
        self._in_flight[directory] = ours = (done, class_now())
        try:
            if directory is self._inodes.root:
                await self._fetch_folders()
            else:
                await self._fetch_listing(directory)
        finally:
            if self._in_flight.get(directory) is ours:
                del self._in_flight[directory]
            done.set()

    def _serve_old(self, directory: Node, error: str) -> None:
        """The server does not answer: what is held is shown, and nobody waits again for a while."""
        self._silent_until = trio.current_time() + self._policy.dir_ttl_s
        event(_log, logging.DEBUG, "listing.stale", ino=directory.ino, error=error)

    async def _fetch_listing(self, directory: Node) -> None:
        await self._gate.settled(directory)
        folder = folder_of(directory)
        self._gate.check_reachable(folder)
        path = remote_path(directory)
        ticket = dircache.begin_fetch(directory, trio.current_time())
        try:
            records = await self._attributes.read(directory)
            listing = await self._client.list_files(folder, path)
        except BaseException as e:
            if not isinstance(e, NotFound | NotADirectory) or not self._stays_unsent(directory, path):
                dircache.abandon_fetch(directory)
                raise
            listing = Listing((), 0, cut=False)
        self._removals.shown(directory, listing.entries)
        limit = self._client.listing_limit(folder)
        if directory.unlinked:
            dircache.abandon_fetch(directory)
            return
        if file := next((e for e in listing.entries if e.kind is Kind.FILE), None):
            self._transfers.is_there(folder, child_path(directory, file.name))
        self._make_room(directory)
        merge = dircache.Merge(
            self._inodes,
            directory,
            ticket,
            listing,
            lambda node, entry: self._listed(node, entry, ticket.asked_at),
            lambda name: self._hidden(directory, name),
            self._must_stay,
            limit,
        )
        # Nobody is to see names without what is recorded of them.
        in_slices = records == [] and listing.count > LONG_LISTING
        if in_slices and not await self._take_in_slices(directory, merge):
            dircache.abandon_fetch(directory)
            return
        newer = dircache.changed_since(directory, ticket)
        # no await until the records are taken in too
        merge.take()
        doubtful = merge.finish()
        self._tell_of_cut(directory)
        await self._attributes.drop(directory, self._attributes.take(directory, records, newer))
        await self._look_at_longer()
        await self._ask_for(directory, doubtful)

    def _tell_of_cut(self, directory: Node) -> None:
        """One line for a directory, when its listing is likely to be cut or proved to be."""
        state = dircache.state_of(directory)
        if state.likely_cut and not state.told:
            event(_log, logging.INFO, "listing.partial", ino=directory.ino, entries=state.count)
        state.told = state.likely_cut

    async def _take_in_slices(self, directory: Node, merge: dircache.Merge) -> bool:
        """Let others go on in between, and who reads the directory for the first time begin; False: it was
        removed meanwhile."""
        if not directory.entries and not merge.has_links:  # what those lead to is asked for afterwards
            self._coming[directory] = merge
        try:
            while not directory.unlinked and merge.take(_SLICE):
                self._tell()
                await trio.lowlevel.checkpoint()
            return not directory.unlinked
        finally:
            self._coming.pop(directory, None)
            self._tell()

    def _tell(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def names(self, directory: Node) -> list[bytes]:
        """Names in a directory that somebody begins to read. Those of a long one are there before it is:
        `wait_for_names` until they can be looked at.

        Raises:
            as `refresh`.
        """
        if (merge := self._coming.get(directory)) is not None:
            return merge.names
        if directory.entries or dircache.state_of(directory).listed:
            await self._refresh_with_links(directory)
            return list(directory.entries)
        errors: list[VfsError] = []
        done = trio.Event()
        self._nursery.start_soon(self._bring, directory, errors, done)
        while not done.is_set():
            if (merge := self._coming.get(directory)) is not None:
                return merge.names
            await self._moved.wait()
        if errors:
            raise errors[0]
        return list(directory.entries)

    async def wait_for_names(self, directory: Node, count: int) -> int | None:
        """How many of the `names` that came early can be looked at by now, at least so many; None: all."""
        while (merge := self._coming.get(directory)) is not None:
            if merge.named >= count:
                return merge.named
            await self._moved.wait()
        return None

    async def _bring(self, directory: Node, errors: list[VfsError], done: trio.Event) -> None:
        try:
            with within(self._policy.deadline_s):
                await self._refresh_with_links(directory)
        except VfsError as e:
            errors.append(e)
        except Exception:
            # A bug here must fail this reading, not the mount.
            _log.exception("listing.bug ino=%d", directory.ino)
            errors.append(ProtocolError("listing failed unexpectedly; see the log"))
        finally:
            done.set()
            self._tell()

    async def _refresh_with_links(self, directory: Node) -> None:
        await self.refresh(directory)
        await self.follow_links(directory)

    async def _ask_for(self, directory: Node, doubtful: list[Node]) -> None:
        """Names that a listing left out are gone, or it was cut: a probe tells, and tells of the limit."""
        for node in doubtful[:MOST_PROBED]:
            if directory.entries.get(node.name) is not node:
                continue
            try:
                await self._probe_unlisted(directory, node.name)
            except (RemoteUnavailable, AuthFailed, RateLimited):
                return  # they stay in doubt; who looks one up asks
            except VfsError:
                pass  # gone, or the server stumbles over this one: the listing holds all the same

    async def _look_at_longer(self) -> None:
        """Files that are read here and were listed longer: whether they have grown, a request tells."""
        while self._longer:
            node = self._longer.pop()
            with suppress(VfsError):  # who reads it finds out
                await self.revalidate(node)
            await self._following.extended(node)

    def _stays_unsent(self, directory: Node, path: str) -> bool:
        """A directory is gone from the server: drop it, or say that unsent files in it keep it here."""
        if not directory.is_folder_root:
            self.vanished(directory, path)
        return (
            not directory.unlinked
            and not self._gate.holds_moving(directory)
            and remote_path(directory) == path
            and self._must_stay(directory)
        )

    def _must_stay(self, node: Node) -> bool:
        """Whether a node stays although the server does not show it (any more).

        Unsent content is ours to keep, and so are links and FIFOs: the server cannot know them. And
        while we rename something, it may have moved there before we hear of it.
        """
        return self._gate.holds_moving(node) or any(
            n.staged is not None or n.kind.is_local for n in self._inodes.subtree(node)
        )

    def _make_room(self, needed_by: Node) -> None:
        if len(self._inodes) < MAX_NODES:
            return
        listed = [n for n in self._inodes if n is not needed_by and self._may_shed(n)]
        listed.sort(key=lambda n: dircache.state_of(n).fetched_at)
        for directory in listed:
            self._inodes.shed(directory, self._removals.pending_in)
            if len(self._inodes) < MAX_NODES * 3 // 4:
                return

    def _may_shed(self, node: Node) -> bool:
        """Whether a listing may go: nobody reads the directory, and none of it is under way."""
        return (
            node.is_dir
            and bool(node.entries)
            and node.parent is not None
            and not node.is_folder_root
            and not node.opens
            and node not in self._in_flight
        )

    # --- belief --------------------------------------------------------------------------------

    def is_stale(self, node: Node, ttl_s: float) -> bool:
        """Whether what is known of a file is too old to be believed."""
        return node.checked_at < self._doubted_at or trio.current_time() - node.checked_at >= ttl_s

    def doubt(self, top: Node) -> None:
        """Believe nothing at or below a node that was not asked for from now on; nor may the kernel."""
        self._doubted_at = trio.current_time()
        for node in self._inodes.subtree(top):
            if node.is_dir:
                dircache.expire(node)
            if node.lookups and node.parent is not None:
                self._entry_changed(node.parent.ino, node.name)

    # --- names ---------------------------------------------------------------------------------

    async def lookup(self, parent: Node, name: bytes) -> Node:
        """The node under a name.

        Raises:
            NotFound: certainly not there (a cut listing never proves that; a probe does).
        """
        if (known := await self._followed(parent, name)) is not None:
            return known
        await self.refresh(parent)
        state = dircache.state_of(parent)
        node = parent.entries.get(name)
        if parent is self._inodes.root or not state.cut or self._hidden(parent, name):
            if node is None:
                raise NotFound("no such file or directory")
        elif node is None:
            node = await self._probe_unlisted(parent, name)
        elif not node.kind.is_local and self.is_stale(node, self._policy.dir_ttl_s):
            node = await self._probe_known(parent, node)
        if node.kind is Kind.SYMLINK and node.validator is None:
            with suppress(NotFound, IsADirectory):  # dangling links, and links to directories, show as empty
                await self.follow_link(node)
            node = parent.entries.get(name, node)
        return node

    def get_known(self, parent: Node, name: bytes) -> Node | None:
        """What `lookup` finds without waiting for anything, where a whole listing that is believed has it."""
        node = parent.entries.get(name)
        if node is None or not self._is_fresh(parent, None) or dircache.state_of(parent).cut:
            return None
        return None if node.kind is Kind.SYMLINK and node.validator is None else node

    async def _followed(self, parent: Node, name: bytes) -> Node | None:
        """The node under a name where that can be had without a listing: of a file that somebody has open,
        and of the directories on its way. Who follows a file by its name for hours costs no call then.
        """
        node = parent.entries.get(name)
        if node is None or parent is self._inodes.root or self._is_fresh(parent, None):
            return None
        if node.is_dir:
            reached = max(node.reached_at, self._doubted_at)
            found = reached == node.reached_at and trio.current_time() - reached < self._policy.dir_ttl_s
            return node if found and not node.unlinked else None
        if node.kind is not Kind.FILE or not node.opens or node.staged is not None:
            return None
        if self.is_stale(node, self._policy.attr_ttl_s) and trio.current_time() >= self._silent_until:
            # The listing has to be asked for in the same time, where this does not help.
            with suppress(NotFound, Stale, RemoteUnavailable):
                with trio.move_on_after(self._policy.deadline_s / 3):
                    await self.revalidate(node)
        node = parent.entries.get(name)
        if node is None or node.staged is not None or self.is_stale(node, self._policy.dir_ttl_s):
            return None
        return node

    def _hidden(self, directory: Node, name: bytes) -> bool:
        return hidden(directory, name) or self._removals.hides(directory, name)

    async def find(self, parent: Node, name: bytes) -> Node | None:
        """As `lookup`, with None for a name that is free."""
        try:
            return await self.lookup(parent, name)
        except NotFound:
            return None

    async def _probe_known(self, parent: Node, node: Node) -> Node:
        """As `_probe`; where the server is away, what is known is shown, as of a listing that is whole."""
        if trio.current_time() < self._silent_until:
            return node
        error = "silence"
        try:
            with trio.move_on_after(self._policy.deadline_s / 3):
                return await self._probe(parent, node.name)
        except RemoteUnavailable as e:
            error = type(e).__name__
        self._serve_old(parent, error)
        return parent.entries.get(node.name, node)

    async def _probe_unlisted(self, parent: Node, name: bytes) -> Node:
        """As `_probe`, for a name that the listing did not show."""
        state, asked_for = dircache.state_of(parent), parent.entries.get(name)
        count, fetched_at = state.count, state.fetched_at
        node = await self._probe(parent, name)
        # What was made here meanwhile says nothing of the listing.
        if node.staged is None and state.fetched_at == fetched_at and asked_for in (None, node):
            self._client.listing_limit(folder_of(parent)).missed(count)
            self._tell_of_cut(parent)
        return node

    async def _probe(self, parent: Node, name: bytes) -> Node:
        """Ask the storage-proxy for one name; tells file, directory and missing apart (contract 4.2)."""
        folder = folder_of(parent)
        asked_at = trio.current_time()
        await self._gate.settled(parent)
        known = parent.entries.get(name)
        if known is not None and known.staged is not None:
            return known
        record = await self._attributes.read_name(parent, name) if known is None else None
        kind, validator = Kind.FILE, None
        try:
            validator = await self._transfers.stat(folder, child_path(parent, name))
        except IsADirectory:
            kind = Kind.DIRECTORY
        except NotFound:
            known = parent.entries.get(name)
            if known is not None and self._must_stay(known):
                return known
            if known is not None:
                self._inodes.unlink(known)
            raise
        known = parent.entries.get(name)
        if known is not None and known.kind not in (kind, Kind.SYMLINK):
            if self._must_stay(known):
                return known
            self._inodes.unlink(known)
            known = None
        is_new = known is None
        if known is None:
            mode = 0o755 if kind is Kind.DIRECTORY else 0o644
            known = self._inodes.add(parent, name, kind, mode=mode)
        if validator is not None:
            known = self.confirm(known, validator, asked_at)
        known.checked_at = asked_at
        if is_new:
            await self._attributes.drop(parent, self._attributes.take_name(parent, record))
        return known

    async def follow_link(self, node: Node) -> None:
        """Give a symlink, which shows as a file, its target's size: a storage-proxy request.

        Raises:
            NotFound: it points to nothing.
            IsADirectory: it points to a directory; the server lets nobody tell that it is a link.
        """
        asked_at = trio.current_time()
        await self._gate.settled(node)
        self.confirm(node, await self._transfers.stat(folder_of(node), remote_path(node)), asked_at)

    async def follow_links(self, directory: Node) -> None:
        """`follow_link` for all links in a directory whose targets were not looked at since it was listed."""
        for node in [n for n in directory.entries.values() if n.kind is Kind.SYMLINK and n.validator is None]:
            with suppress(NotFound, IsADirectory, Stale):
                await self.follow_link(node)

    # --- news about files ----------------------------------------------------------------------

    def _listed(self, node: Node, entry: RemoteEntry, asked_at: float) -> None:
        """Take a listing entry's attributes into its node."""
        if node.staged is not None or asked_at < node.checked_at or self._gate.is_moving(node):
            return
        node.ctime_ns = entry.ctime_ns
        if node.kind is Kind.FILE:
            if node.checked_at == NEVER:
                node.size, node.mtime_ns = entry.size, entry.mtime_ns
            elif not _seen(node).matches_listing(entry.size, entry.mtime_ns):
                if self._following.may_go_on(node, entry.size):
                    self._longer.append(node)
                    return
                node = self._replaced(node)
                node.ctime_ns = entry.ctime_ns
                node.validator = None
                node.size, node.mtime_ns = entry.size, entry.mtime_ns
        elif node.kind is Kind.SYMLINK:
            node.validator = None  # what it points to may have changed, of which the listing says nothing
        elif node.is_dir:
            node.mtime_ns = max(entry.mtime_ns, node.mtime_ns)
        node.mode = entry.mode
        node.checked_at = asked_at

    def confirm(
        self,
        node: Node,
        validator: Validator,
        asked_at: float,
        *,
        is_other: bool = False,
        grown: Grown | None = None,
    ) -> Node:
        """A transfer told which version is there. Returns the node that stands for it now.

        While a rename is under way, the server's answer may be about what came in its place.

        Args:
            is_other: the content is known to be another one, even where the version looks the same.
            grown: it was found to begin as what was shown of the file.
        """
        if node.staged is not None or node.unlinked or asked_at < node.checked_at:
            return node
        if self._gate.is_moving(node):
            return node
        if is_other or node.validator != validator:
            same = node.validator is None and validator.matches_listing(node.size, node.mtime_ns)
            longer = self._following.may_go_on(node, validator.size) and not is_other
            # Of what was not shown to anybody, not even its size, nothing can be mixed.
            unseen = not node.size or (node.shown is None and node.opens == node.opening)
            if longer and not same and (grown is not None or unseen):
                self._has_grown(node, validator, grown)
                return node
            if is_other or not same:
                node = self._replaced(node)
            node.validator = validator
            node.size, node.mtime_ns = validator.size, validator.mtime_ns
            self._inodes.changed(node)
        node.checked_at = asked_at
        for up in _above(node) if node.opens else ():
            up.reached_at = asked_at
        return node

    def _has_grown(self, node: Node, validator: Validator, grown: Grown | None) -> None:
        """Somebody appended to a file that is read here: its handles go on, with other blocks."""
        old_size = node.size
        node.version += 1
        node.grew = True
        node.local = NO_ATTRS
        node.validator = validator
        node.size, node.mtime_ns = validator.size, validator.mtime_ns
        # Answers that are on their way may be of the shorter version: they are older than this.
        node.checked_at = trio.current_time()
        self._inodes.changed(node)
        self._on_replaced(node, node)
        self._following.grown(node, old_size, grown)

    def met(self, node: Node, beginning: Bytes) -> None:
        """Bytes of a file that is being opened, to know it by."""
        if node.shown is None and beginning and node.staged is None:
            self._following.shown(node, 0, beginning)

    async def learn(self, node: Node, found: Validator, asked_at: float) -> None:
        """As `confirm`, where a longer version may be the one that is read here, grown.

        Raises:
            NotFound, RemoteUnavailable and others: it could not be found out.
        """
        grown = None
        if (
            found != node.validator
            and asked_at >= node.checked_at
            and self._following.may_go_on(node, found.size)
        ):
            grown = await self._following.goes_on(node, found)
        self.confirm(node, grown.validator if grown is not None else found, asked_at, grown=grown)

    def closed(self, node: Node) -> None:
        """Nobody has the file open any more."""
        self._following.closed(node)
        if node.grew and node.staged is None and not self._gate.is_moving(node):
            self.renew(node)

    def renew(self, node: Node) -> None:
        """Another inode for the same version: what the kernel believes of this one it would for ever."""
        if node.unlinked or node.parent is None or node.staged is not None:
            return
        new = self._replaced(node)
        new.validator, new.checked_at = node.validator, node.checked_at
        new.size, new.mtime_ns, new.ctime_ns = node.size, node.mtime_ns, node.ctime_ns

    async def read_through(self, node: Node, offset: int, length: int) -> bytes:
        """Bytes of a file that grows faster than its versions can be asked for.

        Raises:
            Stale: it is another file by now.
        """
        for _ in range(3):
            asked_at, epoch = trio.current_time(), node.epoch
            await self._gate.settled(node)
            length = min(length, node.size - offset)
            if length <= 0:
                return b""
            path = remote_path(node)
            try:
                reply = await self._transfers.read_range(folder_of(node), path, offset, length)
                await self.learn(node, reply.validator, asked_at)
                await self.revalidate(node)  # it may have been replaced before it was sent
            except (NotFound, IsADirectory) as e:
                self.vanished(node, path)
                raise Stale("the file was removed on the server") from e
            except RangeOutside:
                await self.revalidate(node)
                continue
            if node.unlinked or node.epoch != epoch or node.staged is not None:
                break
            if len(reply.data) == length:
                return reply.data
        raise Stale("the file was replaced on the server; open it again")

    def _replaced(self, node: Node) -> Node:
        """Somebody else changed the content: what was set for the old version goes with it.

        The kernel trusts its own size and time of a regular file for as long as it knows the inode
        (it has a writeback cache), so a file it knows comes back under a new number. Whoever has the
        old one open gets ESTALE for what is not read yet.
        """
        if node.parent is not None and (node.lookups or node.opens):
            new = self._inodes.replace(node)
            self._on_replaced(node, new)
            self._changed(node)
            self._entry_changed(new.parent.ino if new.parent is not None else node.ino, new.name)
            return new
        node.version += 1
        node.epoch += 1
        node.local = NO_ATTRS
        node.shown, node.grew = None, False
        self._on_replaced(node, node)
        self._changed(node)
        return node

    def vanished(self, node: Node, path: str) -> None:
        """The server says the name is gone; believe it unless it is ours to bring back."""
        if node.unlinked or node.parent is None or self._must_stay(node):
            return
        if remote_path(node) != path:
            return  # renamed meanwhile: the answer was about the old name
        if node.kind is Kind.SYMLINK:
            return  # its target is gone; the link is still there
        dircache.expire(node.parent)
        self._inodes.unlink(node)
        self._changed(node)

    async def revalidate(self, node: Node) -> None:
        """Confirm a file's version at the storage-proxy: no manager call.

        Raises:
            NotFound: somebody removed it.
            Stale: a directory stands there by now.
        """
        if node.staged is not None or node.unlinked:
            return
        asked_at = trio.current_time()
        await self._gate.settled(node)
        path = remote_path(node)
        try:
            if node.validator is None:
                found = await self._transfers.stat(folder_of(node), path)
            else:
                known = node.validator
                found = await self._transfers.revalidate(folder_of(node), path, known) or known
        except (NotFound, IsADirectory) as e:
            if node.kind is Kind.SYMLINK and isinstance(e, IsADirectory):
                raise
            if self._gate.is_moving(node) or (not node.unlinked and remote_path(node) != path):
                await self.revalidate(node)  # asked under a name that it was just losing
                return
            self.vanished(node, path)
            if isinstance(e, IsADirectory):
                raise Stale("the file was replaced by a directory on the server") from e
            raise
        except RangeOutside:
            found = await self._transfers.stat(folder_of(node), path)
        await self.learn(node, found, asked_at)

    # --- the list of vfolders ------------------------------------------------------------------

    async def _fetch_folders(self) -> None:
        root = self._inodes.root
        asked_at = trio.current_time()
        ticket = dircache.begin_fetch(root, asked_at)
        try:
            kept = await self._attributes.read_folders()
            folders = await self._client.list_folders()
        finally:
            dircache.abandon_fetch(root)
        state = dircache.state_of(root)
        if state.change_no == ticket.change_no:
            self._show(folders, kept)
            state.listed = True
            state.fetched_at = asked_at
        # else: we created or renamed a folder meanwhile and the list may lack it; it will be asked again

    def _show(self, folders: list[Folder], kept: Mapping[str, LocalAttrs]) -> None:
        shown = shown_folders(
            folders, addressed_by_name=not self._client.traits.by_id, only=self._policy.only
        )
        self._gate.unreachable = {s.folder.id for s in shown if not s.reachable}
        root, inodes = self._inodes.root, self._inodes
        by_id = {n.folder.id: n for n in root.entries.values() if n.folder is not None}
        wanted = {s.folder.id: s for s in shown}
        for folder_id, node in by_id.items():
            if folder_id not in wanted and not any(n.staged is not None for n in inodes.subtree(node)):
                inodes.unlink(node)
        moved = [s for s in shown if s.folder.id in by_id and by_id[s.folder.id].name != s.name]
        for s in moved:  # two folders may have swapped names: park them first
            inodes.rename(by_id[s.folder.id], root, b"\0" + s.folder.id.encode())
        for s in moved:
            if s.name not in root.entries:
                inodes.rename(by_id[s.folder.id], root, s.name)
        for s in shown:
            if s.folder.id in by_id:
                ref = by_id[s.folder.id].ref
                assert ref is not None
                before, ref.folder = ref.folder, s.folder
                if before != s.folder:
                    self._inodes.changed(by_id[s.folder.id])
            elif s.name not in root.entries:  # else a folder with unsent files still holds the name
                node = self.add_folder(s.name, s.folder)
                node.local = kept.get(s.folder.id, NO_ATTRS)
                self._inodes.changed(node)

    def add_folder(self, name: bytes, folder: Folder) -> Node:
        """Show a vfolder under `name`."""
        node = self._inodes.add(self._inodes.root, name, Kind.DIRECTORY, folder=folder, mode=0o755)
        node.mtime_ns = node.ctime_ns = folder.mtime_ns or time.time_ns()
        self._inodes.placed(node)
        return node


def _seen(node: Node) -> Validator:
    """The version of a file as it was seen last: exactly, or as a listing showed it."""
    return node.validator or Validator(node.mtime_ns, node.size)


def _above(node: Node) -> Iterator[Node]:
    """The directories that a node lies in."""
    up = node.parent
    while up is not None:
        yield up
        up = up.parent
