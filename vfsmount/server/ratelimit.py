"""The manager's rolling window: how many calls a key made in the last 900 seconds.

Refused calls count as well, so a client that hammers on stays locked out. For tests it is remembered how
full the window was at its fullest, and how many of those calls were this project's own.
Source: contract 7; Backend.AI manager ``api/ratelimit.py``.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

WINDOW_S = 900
ANONYMOUS_LIMIT = 1000  # 26.x, per client address


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a caller stands after this call."""

    limit: int
    remaining: int
    reset_s: int
    window_s: int = WINDOW_S

    @property
    def exceeded(self) -> bool:
        """The call must be refused."""
        return self.remaining < 0

    def headers(self, *, with_reset: bool) -> dict[str, str]:
        """The reply headers that tell a client its budget."""
        found = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(max(self.remaining, 0)),
            "X-RateLimit-Window": str(self.window_s),
        }
        if with_reset:
            found["X-RateLimit-Reset"] = str(self.reset_s)
        return found


UNCOUNTED = Budget(ANONYMOUS_LIMIT, ANONYMOUS_LIMIT, 0)


@dataclass(slots=True)
class Fullest:
    """The window of one caller when it was fullest, as a share of the limit.

    Attributes:
        calls: in it, whoever made them.
        own: of them made by this project's mounts and commands; the fullest window of these alone.
    """

    limit: int = 1
    calls: int = 0
    own_limit: int = 1
    own: int = 0


@dataclass(slots=True)
class _Window:
    calls: deque[tuple[float, bool]] = field(default_factory=deque)
    own: int = 0
    fullest: Fullest = field(default_factory=Fullest)


class RateLimiter:
    """Counts calls per caller (an access key, or an address)."""

    def __init__(self) -> None:
        self._windows: defaultdict[str, _Window] = defaultdict(_Window)

    def count(
        self, caller: str, limit: int, now: float, *, window_s: int = WINDOW_S, own: bool = False
    ) -> Budget:
        """Count one call at `now` (seconds, any clock that only goes forward).

        Args:
            own: made by this project.
        """
        window = self._windows[caller]
        calls, fullest = window.calls, window.fullest
        while calls and calls[0][0] <= now - window_s:
            window.own -= calls.popleft()[1]
        calls.append((now, own))
        window.own += own
        if len(calls) * fullest.limit > fullest.calls * limit:
            fullest.calls, fullest.limit = len(calls), limit
        if window.own * fullest.own_limit > fullest.own * limit:
            fullest.own, fullest.own_limit = window.own, limit
        return Budget(limit, limit - len(calls), int(calls[0][0] + window_s - now), window_s)

    def fullest(self, caller: str) -> Fullest:
        """The fullest window of a caller so far."""
        return self._windows[caller].fullest
