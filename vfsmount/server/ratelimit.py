"""The manager's rolling window: how many calls a key made in the last 900 seconds.

Refused calls count as well, so a client that hammers on stays locked out.
Source: contract 7; Backend.AI manager ``api/ratelimit.py``.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

WINDOW_S = 900
ANONYMOUS_LIMIT = 1000  # 26.x, per client address


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a caller stands after this call."""

    limit: int
    remaining: int
    reset_s: int

    @property
    def exceeded(self) -> bool:
        """The call must be refused."""
        return self.remaining < 0

    def headers(self, *, with_reset: bool) -> dict[str, str]:
        """The reply headers that tell a client its budget."""
        found = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(max(self.remaining, 0)),
            "X-RateLimit-Window": str(WINDOW_S),
        }
        if with_reset:
            found["X-RateLimit-Reset"] = str(self.reset_s)
        return found


UNCOUNTED = Budget(ANONYMOUS_LIMIT, ANONYMOUS_LIMIT, 0)


class RateLimiter:
    """Counts calls per caller (an access key, or an address)."""

    def __init__(self) -> None:
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)

    def count(self, caller: str, limit: int, now: float) -> Budget:
        """Count one call at `now` (seconds, any clock that only goes forward)."""
        calls = self._calls[caller]
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        calls.append(now)
        return Budget(limit, limit - len(calls), int(calls[0] + WINDOW_S - now))
