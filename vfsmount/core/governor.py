"""How many manager calls we may still make: a token bucket fed by the server's own counters.

The manager counts calls of a key in a rolling window of 900 s and answers 429 beyond the limit,
counting those as well. We stay below 80 % of what is advertised, keep a reserve that only the
foreground may touch, and after a 429 stay away for long.

Every reply tells what the window still holds, so each one sets the bucket's level; between replies
it fills at the average rate. The level may fall below zero, which makes the next wait longer: that
is what keeps a trickle of calls from creeping through the margin while the window stays full. What
still creeps is taken off the bucket, so that no window ever sees more than the 80 %.

Source: contract 7 "Rate limit".
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

SHARE = 0.8  # of the advertised limit; the rest is for the user's other programs with this key,
LEAST_REST = 5  # and where that is fewer calls than these, a trickle would creep through it
# Of the bucket: what calls of a class leave to the more urgent ones.
RESERVE = (0.0, 0.25, 0.5, 0.8)
FIRST_BACKOFF_S = 60.0
MAX_BACKOFF_S = 900.0  # one whole window: by then every call we made has left it
BACKGROUND_BACKOFF = 2.0  # the others stay away this much longer than the foreground
# Calls in flight. A manager that works them off one after another gains nothing by more than a few,
# and makes whoever comes next wait behind all of them; a distant one is kept busy by many.
FEWEST, MOST = 4, 24
ALONE_SHARE = 0.3  # of the newest call without others in flight, in what is expected of such a call


class Class(enum.IntEnum):
    """Who waits for a call; lower goes first."""

    FOREGROUND = 0
    BACKGROUND = 1
    SPECULATION = 2  # nobody has asked for it yet
    INDEXING = 3  # a program has that nobody waits for


@dataclass(slots=True)
class Budget:
    """The bucket. Without a limit (none advertised yet) everything may go.

    ``now`` is seconds of any monotonic clock, the same in all calls.
    """

    limit: int | None = None
    window_s: float = 900.0
    tokens: float = 0.0
    filled_at: float = 0.0
    refusals: int = 0
    blocked_until: dict[Class, float] = field(default_factory=lambda: dict.fromkeys(Class, 0.0))

    @property
    def rest(self) -> float:
        """Calls of the limit that a full bucket leaves: those that are not ours, and the trickle.

        When n calls have gone at once, the k-th after them waits for k tokens of n / window_s a second;
        by the time the first n have left the window, √2n have gone so.
        """
        limit = self.limit or 0
        ours = limit - max(limit * (1 - SHARE), min(LEAST_REST, limit / 2))
        return limit - ours + math.sqrt(1 + 2 * ours) - 1

    @property
    def capacity(self) -> float:
        """Calls that may go at once from a full bucket; at least one, or nothing would ever go."""
        return max(1.0, (self.limit or 0) - self.rest)

    @property
    def rate(self) -> float:
        """Tokens that come back in a second."""
        return max(0.001, self.capacity / self.window_s)

    def calls_left(self, now: float) -> int | None:
        """Calls that may go now; None while no limit is known."""
        if self.limit is None:
            return None
        self._fill(now)
        return max(0, int(self.tokens))

    def wait_s(self, cls: Class, now: float) -> float:
        """Seconds until a call of this class may go; 0 means now."""
        blocked = max(0.0, self.blocked_until[cls] - now)
        if self.limit is None:
            return blocked
        self._fill(now)
        missing = self._floor(cls) + 1.0 - self.tokens
        # A float's last bit must not make us wait for ever shorter moments.
        return max(blocked, missing / self.rate if missing > 1e-9 else 0.0)

    def take(self, now: float) -> None:
        """Count one call. Only after `wait_s` said 0."""
        if self.limit is not None:
            self._fill(now)
            self.tokens -= 1.0

    def on_reply(self, limit: int, remaining: int, window_s: float, now: float, others: int = 0) -> None:
        """Learn from the counters of a successful reply of a signed call.

        Args:
            others: calls in flight that the server may not have counted when it said so.
        """
        if limit <= 0 or window_s <= 0:
            return
        self.limit, self.window_s = limit, window_s
        # Others use the key too: what the server has left above our margin is what we have.
        self.tokens = min(self.capacity, remaining - self.rest - others)
        self.filled_at = now
        self.refusals = 0

    def on_refused(self, now: float, reset_s: float | None = None) -> float:
        """Learn from a 429; return the seconds the foreground has to stay away.

        Args:
            reset_s: what 26.x tells in ``X-RateLimit-Reset``; None where it tells nothing.
        """
        backoff = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**self.refusals)
        if reset_s is not None and reset_s > 0:
            backoff = min(MAX_BACKOFF_S, reset_s)
        self.refusals = min(self.refusals + 1, 10)
        self.tokens, self.filled_at = 0.0, now
        self.blocked_until[Class.FOREGROUND] = now + backoff
        for cls in set(Class) - {Class.FOREGROUND}:
            self.blocked_until[cls] = now + min(MAX_BACKOFF_S, backoff * BACKGROUND_BACKOFF)
        return backoff

    def _floor(self, cls: Class) -> float:
        # A bucket of one or two calls has nothing to reserve: background would never go.
        if cls is Class.FOREGROUND or self.capacity < 4:
            return 0.0
        return self.capacity * RESERVE[cls]

    def _fill(self, now: float) -> None:
        if now > self.filled_at:
            self.tokens = min(self.capacity, self.tokens + (now - self.filled_at) * self.rate)
            self.filled_at = now


class Concurrency:
    """How many calls may be in flight: more for as long as they do not hold each other up."""

    def __init__(self) -> None:
        self._limit = float(FEWEST)
        self._alone_s = float("inf")  # what a call takes with no other beside it

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    def ended(self, seconds: float, in_flight: int) -> None:
        """A call took so long; so many were in flight when it began, itself included."""
        if seconds < self._alone_s:
            self._alone_s = seconds
        elif in_flight == 1:
            self._alone_s += ALONE_SHARE * (seconds - self._alone_s)
        if seconds > 3 * self._alone_s + 0.02:
            self._limit = max(float(FEWEST), self._limit * 0.9)
        elif in_flight >= self.limit // 2 and seconds < 2 * self._alone_s + 0.01:
            self._limit = min(float(MOST), self._limit + 1 / self._limit)
