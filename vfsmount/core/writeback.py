"""When a staged file is sent: at once, and again when it failed or changed meanwhile.

Pure: ``now`` is seconds of any monotonic clock, the same in all calls.
"""

from __future__ import annotations

from dataclasses import dataclass

# A file that was sent less than this ago and is dirty again keeps changing.
BUSY_WITHIN_S = 30.0
FIRST_INTERVAL_S = 1.0
MAX_INTERVAL_S = 60.0
# One that takes long to send waits this many times as long before it is sent again, so that a log
# appended to every second does not fill the line.
REST_SHARE = 4.0

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
# What the server refuses (quota, permission) may be mended by somebody; nobody waits for it.
REFUSED_RETRY_S = 300.0


@dataclass(slots=True)
class Schedule:
    """One staged file's appointments.

    Attributes:
        interval_s: rest before the next sending; grows while the file keeps changing.
        failures: in a row.
        not_before: when the next try may begin.
        refused_at: when the server refused it; inf: the last try did not end so.
        hurried: somebody waits for it, so it goes at once.
    """

    interval_s: float = 0.0
    failures: int = 0
    not_before: float = float("-inf")
    refused_at: float = float("inf")
    sent_at: float = float("-inf")
    hurried: bool = False

    def recorded(self, now: float) -> float:
        """The file has new content to send; return when that may begin."""
        if self.hurried:
            return max(now, self.not_before)
        if now - self.sent_at >= max(BUSY_WITHIN_S, 2 * self.interval_s):
            self.interval_s = 0.0
        return max(now, self.not_before, self.sent_at + self.interval_s)

    def sent(self, began: float, now: float) -> None:
        """It is on the server, after a try that began at `began`."""
        self.failures = 0
        self.hurried = False
        self.not_before = float("-inf")
        self.sent_at = now
        rest = REST_SHARE * (now - began)
        self.interval_s = max(rest, min(MAX_INTERVAL_S, max(FIRST_INTERVAL_S, 2 * self.interval_s)))

    def failed(self, now: float, *, retryable: bool, first_s: float = FIRST_RETRY_S) -> float:
        """A try ended without success; return when the next one begins."""
        wait_s = min(MAX_RETRY_S, first_s * 2.0 ** min(self.failures, 20)) if retryable else REFUSED_RETRY_S
        self.failures += 1
        self.not_before = now + wait_s
        self.refused_at = float("inf") if retryable else now
        return self.not_before

    def changed(self) -> None:
        """There is newer content. What was refused of the older may be accepted now: a retry comes sooner."""
        wait_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(max(0, self.failures - 1), 20))
        self.not_before = min(self.not_before, self.refused_at + wait_s)

    def hurry(self) -> None:
        """Somebody waits for it: no rest, and the next try at once."""
        self.hurried = True
        self.not_before = float("-inf")


def urgency(recorded_at: float, size: int) -> tuple[int, int]:
    """Order of sending: oldest first, so that nothing starves; of the same second small ones first."""
    return int(recorded_at), size


BURST = 10  # changes in one window: a copy or an unpacking is under way, and somebody waits for it
WINDOW_S = 0.1
AFTER_BURST_S = 0.3


class Pressure:
    """Whether programs are changing so much that sending should wait for them.

    Both are work of the same process: eight uploads at full speed made each close of a `cp -r` take
    8 ms instead of 2.
    """

    def __init__(self) -> None:
        self._window = float("-inf")
        self._count = 0
        self._busy_until = float("-inf")

    def changed(self, now: float) -> None:
        """A program created, wrote or closed something."""
        if now - self._window > WINDOW_S:
            self._window, self._count = now, 0
        self._count += 1
        if self._count >= BURST:
            self._busy_until = now + AFTER_BURST_S

    def left_s(self, now: float) -> float:
        """Seconds for which sending should still hold back; 0: not at all."""
        return max(0.0, self._busy_until - now)
