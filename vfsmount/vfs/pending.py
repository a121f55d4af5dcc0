"""Names that are gone here and not yet on the server, and which of them may go together.

The server has no rmdir, only a delete that takes a directory with all that is in it. A directory that was
just seen to hold nothing but names that are on their way out may go by that, and they with it. Any other
has to wait until they are gone, and is looked at before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from vfsmount.core.inodes import Node
from vfsmount.errors import VfsError
from vfsmount.store.staged import Removal
from vfsmount.values import Folder
from vfsmount.vfs.paths import child_path, folder_of

LATE_S = 2.0  # after a directory was seen to be empty


@dataclass(slots=True, eq=False)
class Pending:
    """One name on its way out.

    Attributes:
        removal: as recorded.
        known: a listing showed it for what it is; a probe takes a link for its target.
        added_at: on trio's clock, as are all times here.
        look_first: it may be another's by now: a mount that died removed it, or it was seen to differ.
        seen_at: when a directory was asked for what is in it, and nothing was but what is removed too.
        within: its directory, where that is on its way out as well.
        failures: how often the server had no answer for it alone.
        stays: it was not removed, or somebody else did: what the server shows under its name is another's.
    """

    parent: Node
    removal: Removal
    known: bool = True
    added_at: float = field(default_factory=trio.current_time)
    look_first: bool = False
    seen_at: float = -math.inf
    within: Pending | None = None
    failures: int = 0
    stays: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    error: VfsError | None = None

    @property
    def folder(self) -> Folder:
        """As it is called now."""
        return folder_of(self.parent)

    @property
    def name(self) -> bytes:
        """In its directory."""
        return self.removal.name

    @property
    def is_directory(self) -> bool:
        """Whether it was one."""
        return self.removal.directory

    @property
    def depth(self) -> int:
        """What is in a directory has a greater one than the directory."""
        return self.removal.path.count(b"/")

    @property
    def chain(self) -> list[Pending]:
        """It, and outwards the directories that it lies in and that are on their way out."""
        found = [self]
        while (within := found[-1].within) is not None:
            found.append(within)
        return found

    @property
    def top(self) -> Pending:
        """The outermost of its `chain`."""
        return self.chain[-1]

    @property
    def shown(self) -> str:
        """For people: folder and path."""
        return f"{self.folder.name}/{self.removal.path.decode('utf-8', 'backslashreplace')}"

    @property
    def path(self) -> str:
        """For the server.

        Raises:
            Stale: its directory is gone, and it with that.
        """
        chain = self.chain
        return child_path(chain[-1].parent, b"/".join(p.name for p in reversed(chain)))

    def in_doubt(self) -> None:
        """It stays, or is another's: what it lies in is not empty then, and is looked at again."""
        self.stays = True
        if self.within is not None:
            self.within.seen_at = -math.inf


@dataclass(frozen=True, slots=True)
class Trees:
    """Directories that may go with all that is in them.

    Attributes:
        tops: those that do not lie in another of them.
        all: they, and everything that is in them.
        not_after: when that is too long ago to be true.
    """

    tops: list[Pending]
    all: list[Pending]
    not_after: float


def whole_trees(pending: Iterable[Pending], now: float) -> Trees:
    """Those of one folder of which everything is known and nothing is doubted."""
    below: dict[Pending, list[Pending]] = defaultdict(list)
    directories = []
    for p in pending:
        if p.within is not None:
            below[p.within].append(p)
        if p.is_directory:
            directories.append(p)
    whole: set[Pending] = set()
    for d in sorted(directories, key=lambda p: -p.depth):
        if d.seen_at + LATE_S > now and all(_goes_along(p, whole) for p in below[d]):
            whole.add(d)
    tops = [d for d in directories if d in whole and d.within not in whole]
    everything = tops + [p for d in directories if d in whole for p in below[d]]
    not_after = min((d.seen_at for d in whole), default=math.inf) + LATE_S
    return Trees(tops, everything, not_after)


def _goes_along(p: Pending, whole: set[Pending]) -> bool:
    return p in whole if p.is_directory else not (p.look_first or p.failures)


def ready(pending: Iterable[Pending]) -> list[Pending]:
    """Directories in which nothing is on its way out any more."""
    those = list(pending)
    waiting = {p.within for p in those}
    return [p for p in those if p.is_directory and p not in waiting]


def inner_first(removals: Iterable[Removal]) -> list[Removal]:
    """In the order in which they are taken up: what is in a directory before it."""
    return sorted(removals, key=lambda r: -r.path.count(b"/"))
