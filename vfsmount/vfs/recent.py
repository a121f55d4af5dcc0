"""What went wrong lately, for `vfsmount status`: the last few kinds of failure, each with how often."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vfsmount.errors import VfsError

KEPT = 50


@dataclass(frozen=True, slots=True)
class Failure:
    """One kind of failure.

    Attributes:
        at: the last time, seconds since the epoch.
        times: how often it happened.
        what: a request of the kernel (``read``, ``lookup``, …), ``upload`` or ``removal``.
        name: folder and path; "" where no one file is meant.
        error: name of the class in `vfsmount.errors`.
        request_id: under which the server's log knows the last one; "" where none was sent.
    """

    at: float
    times: int
    what: str
    name: str
    error: str
    reason: str
    request_id: str


class Recent:
    """The last `KEPT` kinds. A server that is away fails thousands of requests, and is one of them."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str, str, str], Failure] = {}

    def note(self, what: str, error: VfsError, name: str = "") -> None:
        """Something failed just now."""
        kind, reason = type(error).__name__, str(error)
        key = what, name, kind, reason
        before = self._failures.pop(key, None)
        times = before.times + 1 if before is not None else 1
        self._failures[key] = Failure(time.time(), times, what, name, kind, reason, error.request_id)
        if len(self._failures) > KEPT:
            del self._failures[next(iter(self._failures))]

    @property
    def newest_first(self) -> list[Failure]:
        """All of them, as they are now."""
        return list(reversed(self._failures.values()))
