"""What a directory's listing is worth: its age, its gaps, and what we changed meanwhile.

A listing takes tens of milliseconds, and we create, rename and delete while it is under way. So a
fetch takes a ticket when it starts; names that we changed after that are left alone when the
listing arrives, because the listing may not show the change yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.listinglimit import ListingLimit
from vfsmount.values import Kind, Listing, RemoteEntry


@dataclass(slots=True)
class ListingState:
    """Freshness of one directory.

    Attributes:
        fetched_at: when the last listing was asked for; -inf when it is no longer believed.
        count: entries of the last listing.
        unfit: some of them could not be shown.
        special: some of them are neither files nor directories nor links.
        limit: what is known of the limit at which such listings are cut.
        listed: there has been a listing; `expire` does not undo that.
        attrs_loaded: what the records say of its names has been taken in.
        told: people have heard that it is `likely_cut`.
        changed: name → number of our last change to it, while a fetch is in flight.
        expiries: how often it was expired; a listing asked for before the last time proves nothing.
    """

    fetched_at: float = float("-inf")
    count: int = 0
    unfit: bool = False
    special: bool = False
    limit: ListingLimit | None = None
    change_no: int = 0
    fetches: int = 0
    listed: bool = False
    attrs_loaded: bool = False
    told: bool = False
    changed: dict[bytes, int] = field(default_factory=dict)
    expiries: int = 0

    @property
    def cut(self) -> bool:
        """Whether the server may have left names out, so that a missing name is unknown."""
        return self.unfit or (self.limit is not None and self.limit.may_be_cut(self.count))

    @property
    def likely_cut(self) -> bool:
        """`cut`, and likely enough to tell people of it."""
        return self.unfit or (self.limit is not None and self.limit.is_likely(self.count))

    def fresh(self, now: float, ttl: float) -> bool:
        return now - self.fetched_at < ttl

    def remaining(self, now: float, ttl: float) -> float:
        """Seconds for which the listing may still be believed."""
        return max(0.0, ttl - (now - self.fetched_at))


@dataclass(frozen=True, slots=True)
class Ticket:
    """A listing under way: when it was asked for, and which of our changes it may lack."""

    change_no: int
    asked_at: float
    expiries: int


def state_of(directory: Node) -> ListingState:
    """The directory's listing state, made on first use."""
    if directory.listing is None:
        directory.listing = ListingState()
    state = directory.listing
    assert isinstance(state, ListingState)
    return state


def begin_fetch(directory: Node, now: float) -> Ticket:
    """A listing is about to be asked for."""
    state = state_of(directory)
    state.fetches += 1
    return Ticket(state.change_no, now, state.expiries)


def abandon_fetch(directory: Node) -> None:
    """The listing did not arrive. (Call exactly one of this and `Merge.finish` per ticket.)"""
    state = state_of(directory)
    state.fetches -= 1
    if not state.fetches:
        state.changed.clear()


def record_change(directory: Node, name: bytes) -> None:
    """We created, removed or renamed `name`, and the server has said yes."""
    state = state_of(directory)
    state.change_no += 1
    if state.fetches:
        state.changed[name] = state.change_no


def expire(directory: Node) -> None:
    """Believe the directory no longer, as after a change whose outcome is unknown."""
    state = state_of(directory)
    state.fetched_at = float("-inf")
    state.expiries += 1


def known_empty(directory: Node, now: float) -> None:
    """We just made this directory: it is listed, and it is empty."""
    state = state_of(directory)
    state.fetched_at, state.listed = now, True
    state.count, state.unfit, state.special = 0, False, False


def changed_since(directory: Node, ticket: Ticket) -> set[bytes]:
    """Names we changed while the listing was under way. Ask before `Merge.finish`, which ends the count."""
    return {name for name, no in state_of(directory).changed.items() if no > ticket.change_no}


class Merge:
    """Makes the tree say what a listing says, except where we know better; a slice at a time, because
    100,000 entries take longer than anybody else should wait.

    Attributes:
        taken: entries that were taken in, hidden ones included.
        named: so many of `names` were taken in at least.
    """

    def __init__(
        self,
        inodes: InodeTable,
        directory: Node,
        ticket: Ticket,
        listing: Listing,
        update: Callable[[Node, RemoteEntry], None],
        hidden: Callable[[bytes], bool],
        keep: Callable[[Node], bool],
        limit: ListingLimit | None = None,
    ) -> None:
        """Args:
        update: takes a listed entry's attributes into its node.
        hidden: names that do not show on the mount.
        keep: nodes that stay whatever the listing says, such as those with unsent content in them.
            (If the server had the file and somebody removed it there, sending it again is what
            keeps the data.)
        limit: what is known of the limit at which such listings are cut.
        """
        self._inodes = inodes
        self._directory = directory
        self._ticket = ticket
        self._listing = listing
        self._update = update
        self._hidden = hidden
        self._keep = keep
        self._limit = limit
        self.taken = self.named = 0
        self._seen: set[bytes] = set()
        # Once and for all, so that `named` counts what `names` shows.
        self._unnamed = {entry.name for entry in listing.entries if hidden(entry.name)}

    @property
    def names(self) -> list[bytes]:
        """What the listing shows of the directory, in its order."""
        return [entry.name for entry in self._listing.entries if entry.name not in self._unnamed]

    @property
    def has_links(self) -> bool:
        """Whether there are symlinks among them."""
        return any(entry.kind is Kind.SYMLINK for entry in self._listing.entries)

    def take(self, count: int | None = None) -> bool:
        """Take in the next entries, all of them when None; False: there are no more."""
        entries = self._listing.entries
        end = len(entries) if count is None else min(self.taken + count, len(entries))
        directory, seen = self._directory, self._seen
        newer = changed_since(directory, self._ticket)
        for entry in entries[self.taken : end]:
            name = entry.name
            self.named += name not in self._unnamed
            if name in newer or self._hidden(name):
                continue
            seen.add(name)
            node = directory.entries.get(name)
            if node is not None and node.kind is not entry.kind:
                if self._keep(node) and not node.kind.is_local:
                    continue
                self._inodes.unlink(node)
                node = None
            if node is None:
                node = self._inodes.add(directory, name, entry.kind, mode=entry.mode)
            self._update(node, entry)
        self.taken = end
        return end < len(entries)

    def finish(self) -> list[Node]:
        """Drop what was not listed, once all is taken in; from now on the listing is believed.

        Returns:
            nodes that the listing may only have left out: they stay, and are in doubt.
        """
        listing, directory, ticket = self._listing, self._directory, self._ticket
        seen = self._seen | changed_since(directory, ticket)
        state = state_of(directory)
        doubtful = [n for name, n in directory.entries.items() if name not in seen and not self._keep(n)]
        if not listing.cut:
            for node in doubtful:
                self._inodes.unlink(node)
            doubtful = []
        abandon_fetch(directory)
        state.count, state.unfit, state.limit = listing.count, listing.unfit > 0, self._limit
        state.listed, state.special = True, listing.special
        if state.expiries == ticket.expiries:
            state.fetched_at = max(state.fetched_at, ticket.asked_at)
        return doubtful
