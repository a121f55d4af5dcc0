"""Who reads directory after directory, and which ones come next.

A walk (`find`, `du`, `ls -R`, `rsync`) goes down and to the right: a directory's subdirectories in the
order in which they were listed, then its next siblings. Each listing takes a round trip, so the next
ones are asked for before the walk is there. Somebody who looks into a directory here and there is no
walk.

Pure: ``now`` is seconds of any monotonic clock, the same in all calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from vfsmount.core.inodes import Node

SEEN_WITHIN_S = 2.0  # so many directories in so long a time are a walk
SEEN = 3
ENDS_AFTER_S = 2.0  # without another step
PARENT_WITHIN_S = 10.0  # a step is into a directory whose parent was read so lately
# Listings that may be here before the walk comes to them: what is asked for in vain, where it ends, and
# what is too old by the time it gets there, on a server that answers 30 a second.
AHEAD = 64
LOOKED_AT = 4 * AHEAD  # directories between the walk and the end of the search for the next one


class Walk:
    """What one mount's programs read, as one walk at a time."""

    def __init__(self) -> None:
        self._read_at: dict[Node, float] = {}  # directories read lately, oldest first
        self._steps: deque[float] = deque(maxlen=SEEN)
        self._at: Node | None = None
        self._last_step = float("-inf")
        self._coming: Iterator[Node] = iter(())  # what is left of the last search
        self._passed: set[Node] = set()  # what it has come by, and the walk has not
        self.ahead: set[Node] = set()  # fetched or being fetched, and not read by anybody yet

    def read(self, directory: Node, now: float, *, waits: bool) -> None:
        """A program reads a directory.

        Args:
            waits: its listing is neither here nor on its way.
        """
        again = self._read_at.pop(directory, None)
        self._read_at[directory] = now
        while now - next(iter(self._read_at.values())) > PARENT_WITHIN_S:
            del self._read_at[next(iter(self._read_at))]
        self.ahead.discard(directory)
        if directory.parent in self._read_at and (again is None or now - again > PARENT_WITHIN_S):
            self._steps.append(now)
            self._at, self._last_step = directory, now
            # As long as the walk goes the way of the last search and waits for nothing, that goes on: one
            # that begins anew with each step looks at the same directories again and again.
            if waits or directory not in self._passed:
                self._begin_search()
            self._passed.discard(directory)

    def arrived(self, directory: Node) -> None:
        """A listing has come that was asked for ahead."""
        if directory.subdirs:
            self._begin_search()

    def _begin_search(self) -> None:
        if self._at is not None:
            self._coming = _onwards(self._at)
            self._passed.clear()

    def is_on(self, now: float) -> bool:
        """Whether somebody is walking."""
        if now - self._last_step > ENDS_AFTER_S:
            self.ahead.clear()
            self._coming = iter(())
            self._passed.clear()
            return False
        return len(self._steps) == SEEN and now - self._steps[0] < SEEN_WITHIN_S + ENDS_AFTER_S

    def next(self, now: float, wanted: Callable[[Node], bool]) -> Node | None:
        """The directory to ask for next, counted as `ahead` from here on; None: none now.

        Args:
            wanted: whether a directory's listing is neither here nor on its way.
        """
        if not self.is_on(now) or len(self.ahead) >= AHEAD:
            return None
        while len(self._passed) < LOOKED_AT and (directory := next(self._coming, None)) is not None:
            self._passed.add(directory)
            if directory not in self._read_at and wanted(directory):
                self.ahead.add(directory)
                return directory
        return None


def _onwards(at: Node) -> Iterator[Node]:
    """Directories in the order of a walk that has just come to `at`, as far as they are listed.

    Taken up again after any change of the tree, so where to go on is settled before each `yield`.
    """
    up = None if at.is_folder_root else at.parent
    yield from _below(at)
    while up is not None:
        siblings = _entries(up)
        for sibling in siblings:
            if sibling is at:
                break
        for sibling in siblings:
            if sibling.is_dir:
                yield sibling
                yield from _below(sibling)
        at, up = up, None if up.is_folder_root else up.parent


def _below(top: Node) -> Iterator[Node]:
    stack = [_entries(top)]
    while stack:
        for child in stack[-1]:
            if child.is_dir:
                yield child
                stack.append(_entries(child))
                break
        else:
            stack.pop()


def _entries(directory: Node) -> Iterator[Node]:
    """What a directory holds, where there are directories in it: most hold files only."""
    return iter(list(directory.entries.values()) if directory.subdirs else ())
