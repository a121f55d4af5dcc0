"""Which bytes of a file are here: a set of extents, each ``[start, stop)``.

Invariant (checked by tests/model/test_extents_model.py): extents are in ascending order, none is
empty, and no two touch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Extents:
    """A set of byte positions, kept as runs."""

    __slots__ = ("_starts", "_stops", "total")

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """Args:
        runs: in any order, overlapping or not.
        """
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0  # bytes in all runs
        for start, stop in runs:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, stop: int) -> int:
        """Put a run in; return how many bytes of it were not in the set before."""
        if start >= stop:
            return 0
        before = self.total
        # Runs that overlap or touch [start, stop) are merged into it.
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        for n in range(first, last):
            self.total -= self._stops[n] - self._starts[n]
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        self.total += stop - start
        return self.total - before

    def cut(self, size: int) -> int:
        """Take out everything from `size` on; return how many bytes that were."""
        before = self.total
        while self._starts and self._starts[-1] >= size:
            self.total -= self._stops.pop() - self._starts.pop()
        if self._stops and self._stops[-1] > size:
            self.total -= self._stops[-1] - size
            self._stops[-1] = size
        return before - self.total

    def remove(self, start: int, stop: int) -> int:
        """Take a run out; return how many bytes of it were in the set."""
        before = self.total
        runs = list(self)
        self._starts, self._stops, self.total = [], [], 0
        for a, b in runs:
            self.add(a, min(b, start))
            self.add(max(a, stop), b)
        return before - self.total

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of ``[start, stop)`` that are not in the set."""
        gaps = []
        at = start
        for n in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[n] >= stop:
                break
            if self._starts[n] > at:
                gaps.append((at, self._starts[n]))
            at = max(at, self._stops[n])
        if at < stop:
            gaps.append((at, stop))
        return gaps
