"""Who reads the files of a directory one after another, and which ones come next.

`grep -r` and `tar` read small files in the order of the listing, `cp -r` in that of inode numbers,
programs that sort in that of names, several workers at once a little out of it. Each file takes a round
trip, so the next ones are fetched before they are asked for: as many as were read in a row, so that at
most half is in vain.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

MOST_AHEAD = 128  # files
PROVEN = 3  # files in a row
NEAR = 16  # places that workers may be apart from each other


class _Order:
    """One order of the names, and how far somebody has come in it.

    Attributes:
        front: the last place that was read.
        row: how many were read in a row.
        planned: all places before this one were given out.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self.names = names
        self.places = {name: n for n, name in enumerate(self.names)}
        self.front = self.planned = -1
        self.row = 0

    def read(self, name: bytes) -> None:
        place = self.places[name]
        if self.front >= 0 and -NEAR < place - self.front <= NEAR:
            self.row += place != self.front
            self.front = max(self.front, place)
        else:
            self.front, self.row, self.planned = place, 1, -1

    def next(self) -> Sequence[bytes]:
        """The places ahead that were not given out before, if the window is half empty."""
        if self.row < PROVEN:
            return ()
        window = min(self.row, MOST_AHEAD)
        start = max(self.planned, self.front + 1)
        if start - self.front - 1 > window // 2:
            return ()
        self.planned = max(start, min(self.front + 1 + window, len(self.names)))
        return self.names[start : self.planned]


class Siblings:
    """One directory's files, as they are read."""

    def __init__(self) -> None:
        self._orders: tuple[_Order, ...] = ()
        self._last = b""

    @property
    def row(self) -> int:
        """How many were read in a row, in the order that holds best."""
        return max((order.row for order in self._orders), default=0)

    def read(
        self, name: bytes, orders: Callable[[], Iterable[Sequence[bytes]]], *, all_come: bool = False
    ) -> Sequence[bytes]:
        """A file is read.

        Args:
            all_come: all of them are on their way already, so none is given out.
            orders: the directory's names in each of the orders in which somebody may read them; asked
                for when first needed and when names have changed.

        Returns:
            the names to have soon, nearest first.
        """
        if not self._orders or name not in self._orders[0].places:
            if not self._last:
                self._last = name  # who reads a single file has no order
                return ()
            self._orders = tuple(map(_Order, orders()))
            if self._last in self._orders[0].places:
                self._note(self._last)
        self._last = name
        if name not in self._orders[0].places:
            return ()
        self._note(name)
        return () if all_come else max((order.next() for order in self._orders), key=len)

    def _note(self, name: bytes) -> None:
        for order in self._orders:
            order.read(name)
