"""After how many entries a storage-proxy cuts its listings, as far as it has shown.

It stops without a mark (contract 5). The default limit is 1000 and administrators choose round
numbers, so a listing of a round number of entries is suspect, and any of 1000 and more. Suspicion
ends where a longer listing was seen, and is certainty where a name turned up that a listing did not
show. Wrong suspicion costs a probe of the storage-proxy; wrong trust would hide files.
"""

from __future__ import annotations

_ROUND = frozenset((10, 20, 50))
_DEFAULT = 1000
# A storage-proxy may be started anew with another limit.
_BELIEVED_S = 600.0


class ListingLimit:
    """What is known of one storage-proxy. Counts are entries of one listing."""

    __slots__ = ("_largest", "_proved", "_seen_at")

    def __init__(self) -> None:
        self._largest = 0
        self._seen_at = float("-inf")
        self._proved: int | None = None

    @property
    def proved(self) -> int | None:
        """The limit, where it has shown."""
        return self._proved

    def saw(self, count: int, now: float) -> None:
        """A listing of so many entries came."""
        if count >= self._largest or now - self._seen_at > _BELIEVED_S:
            self._largest, self._seen_at = count, now
        if self._proved is not None and count > self._proved:
            self._proved = None  # it has been raised, or somebody was faster than the listing

    def missed(self, count: int) -> None:
        """A listing of so many entries did not show a name that is there."""
        if count and count >= self._largest:
            self._proved = count

    def may_be_cut(self, count: int) -> bool:
        """Whether a listing of so many entries may lack some."""
        if self._proved is not None:
            return count >= self._proved
        return count >= self._largest and (count in _ROUND or self._is_usual(count))

    def is_surely_whole(self, count: int) -> bool:
        """Whether such a listing lacks nothing: a longer one was seen, or the limit is known."""
        return count < self._largest or (self._proved is not None and count < self._proved)

    def is_beyond_doubt(self, count: int) -> bool:
        """As not `may_be_cut`, before what was not shown would be destroyed: here any number is suspect that
        somebody may choose for a limit: by tens, by 25, or by powers of two."""
        if self.may_be_cut(count):
            return False
        chosen = count >= 8 and (count % 10 == 0 or count % 25 == 0 or count & (count - 1) == 0)
        return not chosen or self.is_surely_whole(count)

    def is_likely(self, count: int) -> bool:
        """Whether people should hear of it: few directories of ten files are cut ones."""
        return self.may_be_cut(count) and (self._proved is not None or self._is_usual(count))

    def is_whole_as_a_rule(self, count: int) -> bool:
        """Whether such a listing is suspicious by its number alone, and too short for the usual limit."""
        return self._proved is None and count < _DEFAULT

    @staticmethod
    def _is_usual(count: int) -> bool:
        return count >= _DEFAULT or (count >= 100 and count % 100 == 0)
