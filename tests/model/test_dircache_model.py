"""Listings that arrive late, cut or never, while we change the directory ourselves.

The model holds what the server has and what we have been told or have done. What the tree shows must
be what a listing said, except for what we changed after it was asked for and for what is unsent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.values import Folder, Kind, Listing, RemoteEntry

NAMES = ["a", "b", "c", "d", "e"]
NAME = st.sampled_from(NAMES)
KIND = st.sampled_from([Kind.FILE, Kind.DIRECTORY])
HIDDEN = b".upload"
TTL = 5.0


@dataclass
class Fetch:
    """A listing under way: what the server said, and what we have changed since we asked."""

    ticket: dircache.Ticket
    listing: Listing
    changed: set[str]
    expired: bool = False
    merge: dircache.Merge | None = None
    updated: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What it shows."""
        return [e.name.decode() for e in self.listing.entries if e.name != HIDDEN]


class Directory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.inodes = InodeTable()
        folder = Folder("a" * 32, "f", "local:v", "ready", "rw", True)
        self.dir = self.inodes.add(self.inodes.root, b"f", Kind.DIRECTORY, folder=folder, mode=0o755)
        self.now = 100.0
        self.server: dict[str, Kind] = {}
        self.shown: dict[str, Kind] = {}  # what the tree must show
        self.unsent: set[str] = set()
        self.fetches: list[Fetch] = []
        self.believed_since: float | None = None
        self.cut = False

    # --- the server ----------------------------------------------------------------------------

    @rule(name=NAME, kind=KIND)
    def somebody_makes(self, name: str, kind: Kind) -> None:
        self.server[name] = kind

    @rule(name=NAME)
    def somebody_removes(self, name: str) -> None:
        self.server.pop(name, None)

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- listings ------------------------------------------------------------------------------

    @rule(keep=st.integers(0, 5), cut=st.booleans())
    @precondition(lambda self: len(self.fetches) < 3)
    def ask(self, keep: int, cut: bool) -> None:
        """The server answers at once; its answer travels as long as it likes."""
        ticket = dircache.begin_fetch(self.dir, self.now)
        items = sorted(self.server.items(), key=lambda item: item[0])
        if cut:
            items = items[:keep]
        entries = [RemoteEntry(n.encode(), k, 1, 0o644, 0, 0) for n, k in items]
        entries.append(RemoteEntry(HIDDEN, Kind.DIRECTORY, 0, 0o755, 0, 0))
        self.fetches.append(Fetch(ticket, Listing(tuple(entries), len(entries) + cut, cut), set()))

    @rule(index=st.integers(0, 2), count=st.integers(1, 3))
    @precondition(lambda self: self.fetches)
    def arrive_in_part(self, index: int, count: int) -> None:
        self.take(self.fetches[index % len(self.fetches)], count)

    @rule(index=st.integers(0, 2))
    @precondition(lambda self: self.fetches)
    def arrive(self, index: int) -> None:
        fetch = self.fetches[index % len(self.fetches)]
        self.take(fetch, None)
        self.fetches.remove(fetch)
        self.merge_of(fetch).finish()
        if not fetch.listing.cut:
            for name in set(self.shown) - set(fetch.names) - fetch.changed - self.unsent:
                del self.shown[name]
        self.cut = fetch.listing.cut
        if not fetch.expired:
            self.believed_since = max(self.believed_since or 0.0, fetch.ticket.asked_at)

    def merge_of(self, fetch: Fetch) -> dircache.Merge:
        def update(node: Node, entry: RemoteEntry) -> None:
            assert node.kind is entry.kind or node.staged is not None
            assert entry.name.decode() not in fetch.changed and entry.name != HIDDEN
            fetch.updated.append(entry.name.decode())

        if fetch.merge is None:
            fetch.merge = dircache.Merge(
                self.inodes,
                self.dir,
                fetch.ticket,
                fetch.listing,
                update,
                lambda name: name == HIDDEN,
                lambda node: node.staged is not None,
            )
        return fetch.merge

    def take(self, fetch: Fetch, count: int | None) -> None:
        merge = self.merge_of(fetch)
        assert [n.decode() for n in merge.names] == fetch.names
        begin, fetch.updated = merge.taken, []
        more = merge.take(count)
        taken = fetch.listing.entries[begin : merge.taken]
        assert merge.named == sum(e.name != HIDDEN for e in fetch.listing.entries[: merge.taken])
        assert more == (merge.taken < len(fetch.listing.entries))
        assert len(taken) == (len(fetch.listing.entries) - begin if not more else count)
        for entry in taken:
            name = entry.name.decode()
            if entry.name != HIDDEN and name not in fetch.changed | self.unsent:
                self.shown[name] = entry.kind
                assert name in fetch.updated

    @rule(index=st.integers(0, 2))
    @precondition(lambda self: self.fetches)
    def get_lost(self, index: int) -> None:
        self.fetches.pop(index % len(self.fetches))
        dircache.abandon_fetch(self.dir)

    # --- what we do ----------------------------------------------------------------------------

    def we_changed(self, name: str) -> None:
        dircache.record_change(self.dir, name.encode())
        for fetch in self.fetches:
            fetch.changed.add(name)

    @rule(name=NAME, kind=KIND)
    def we_make(self, name: str, kind: Kind) -> None:
        if name in self.shown:
            return
        self.inodes.add(self.dir, name.encode(), kind, mode=0o755)
        self.server[name] = self.shown[name] = kind
        self.we_changed(name)

    @rule(name=NAME)
    def we_create_unsent(self, name: str) -> None:
        if name in self.shown:
            return
        node = self.inodes.add(self.dir, name.encode(), Kind.FILE, mode=0o644)
        node.staged = object()
        self.shown[name] = Kind.FILE
        self.unsent.add(name)

    @rule(name=NAME)
    def we_send(self, name: str) -> None:
        if name not in self.unsent:
            return
        self.unsent.discard(name)
        self.dir.entries[name.encode()].staged = None
        self.server[name] = Kind.FILE
        self.we_changed(name)

    @rule(name=NAME)
    def we_remove(self, name: str) -> None:
        if name not in self.shown:
            return
        node = self.dir.entries[name.encode()]
        node.staged = None
        self.inodes.unlink(node)
        self.server.pop(name, None)
        self.unsent.discard(name)
        del self.shown[name]
        self.we_changed(name)

    @rule(name=NAME, to=NAME)
    def we_rename(self, name: str, to: str) -> None:
        if name not in self.shown or to in self.shown or name in self.unsent:
            return
        self.inodes.rename(self.dir.entries[name.encode()], self.dir, to.encode())
        self.server.pop(name, None)
        self.server[to] = self.shown[to] = self.shown.pop(name)
        for changed in (name, to):
            self.we_changed(changed)

    @rule()
    def outcome_unknown(self) -> None:
        dircache.expire(self.dir)
        self.believed_since = None
        for fetch in self.fetches:
            fetch.expired = True

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def tree_shows_what_it_must(self) -> None:
        assert {n.decode(): node.kind for n, node in self.dir.entries.items()} == self.shown

    @invariant()
    def unsent_nodes_stay(self) -> None:
        for name in self.unsent:
            assert self.dir.entries[name.encode()].staged is not None

    @invariant()
    def belief_is_no_younger_than_the_question(self) -> None:
        state = dircache.state_of(self.dir)
        fresh = self.believed_since is not None and self.now - self.believed_since < TTL
        assert state.fresh(self.now, TTL) == fresh
        assert (state.remaining(self.now, TTL) > 0) == fresh
        assert state.cut == self.cut

    @invariant()
    def nothing_is_remembered_that_no_fetch_needs(self) -> None:
        state = dircache.state_of(self.dir)
        assert state.fetches == len(self.fetches)
        assert self.fetches or not state.changed


TestDirectory = Directory.TestCase
TestDirectory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
