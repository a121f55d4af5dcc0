"""What the daemon counts of itself: operations, calls, bytes, and how long they took.

One set of counters for the process, `counters`, because one process serves one mount. They are only ever
added to, by the event loop's thread, and nothing is decided by them. Names of files and folders are not
in here: what is counted is the kind of thing, so a snapshot may be shown to anybody.

Counting costs well under a microsecond of a request's hundred (bench/observe.py).
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

# Upper bounds of a histogram's buckets, in seconds; what took longer is in one more bucket at the end.
# An answer from memory takes 0.1 ms, one from a near server 5 ms, and no request may take much over 30 s.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
# Where bytes that a program reads come from: the memory, the disk cache, the server (waited for, or on
# their way already), or this machine's copy of a file that has changes of its own.
SOURCES = ("memory", "disk", "network", "staged")
NO_REPLY = "none"


class Timed:
    """How often something took how long.

    Attributes:
        buckets: how many fell between one bound and the next; one more than `BOUNDS` has.
        seconds: all together.
    """

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def took(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def snapshot(self) -> dict[str, Any]:
        """``count``, ``seconds`` and ``buckets``."""
        return {"count": self.count, "seconds": self.seconds, "buckets": list(self.buckets)}


class Operation(Timed):
    """One kind of request of the kernel's.

    Attributes:
        running: how many are being answered.
        errors: how many ended with an errno.
    """

    __slots__ = ("errors", "running")

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.errors: dict[int, int] = {}

    def failed(self, code: int) -> None:
        """Count an errno."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """As `Timed.snapshot`, with ``running`` and ``errors`` by name."""
        errors = {errno.errorcode.get(code, str(code)): n for code, n in self.errors.items()}
        return {**super().snapshot(), "running": self.running, "errors": errors}


class Call(Timed):
    """One kind of request to the server; every try counts.

    Attributes:
        statuses: how many were answered with a class of status, as ``2xx``; 429 stands by itself.
    """

    __slots__ = ("statuses",)

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, int] = {}

    def ended(self, status: int, seconds: float) -> None:
        """Count one.

        Args:
            status: 0: there was no reply.
        """
        name = NO_REPLY if not status else "429" if status == 429 else f"{status // 100}xx"
        self.statuses[name] = self.statuses.get(name, 0) + 1
        self.took(seconds)


# Where the request that is being answered has had its bytes from, for whoever wants to know.
sources_of_request: ContextVar[list[str] | None] = ContextVar("vfsmount_sources", default=None)


class Source:
    """Pieces that programs read from one place."""

    __slots__ = ("bytes", "count", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.bytes = 0

    def gave(self, size: int) -> None:
        """Count one piece."""
        self.count += 1
        self.bytes += size
        seen = sources_of_request.get()
        if seen is not None and self.name not in seen:
            seen.append(self.name)


class Counters:
    """All there is.

    Attributes:
        read_bytes, written_bytes: between programs and the mount.
        downloaded_bytes, uploaded_bytes: file content between the storage-proxy and us.
        ahead_bytes: asked of the server before anybody had read so far.
        opens_fetched: files of which an open had to fetch the beginning, or all.
        lag: how late the event loop woke a task that it had promised to wake.
        lag_max: the worst of these, in seconds.
        log_lines_dropped: of the access log, because the disk did not keep up.
    """

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self.calls: dict[tuple[str, str, str], Call] = {}
        self.memory, self.disk, self.network, self.staged = map(Source, SOURCES)
        self.read_bytes = self.written_bytes = 0
        self.downloaded_bytes = self.uploaded_bytes = 0
        self.ahead_bytes = 0
        self.opens_fetched = 0
        self.lag = Timed()
        self.lag_max = 0.0
        self.log_lines_dropped = 0

    def operation(self, name: str) -> Operation:
        """The counters of one kind of kernel request; keep them, the look-up costs as much as counting."""
        return self.operations.setdefault(name, Operation())

    def call(self, service: str, method: str, endpoint: str) -> Call:
        """The counters of one kind of call.

        Args:
            service: ``manager`` or ``storage``.
            endpoint: its path with names left out, or there would be counters without end.
        """
        key = (service, method, endpoint)
        found = self.calls.get(key)
        if found is None:
            found = self.calls[key] = Call()
        return found

    def lagged(self, seconds: float) -> None:
        """The event loop was so late."""
        self.lag.took(seconds)
        self.lag_max = max(self.lag_max, seconds)

    def snapshot(self) -> dict[str, Any]:
        """All counters since the process began, as JSON has them. Sizes are bytes.

        ``bounds``: `BOUNDS`. A histogram is ``count``, ``seconds`` (all together) and ``buckets``: how many
        took at most bounds[i] and more than bounds[i - 1]; the last one counts what took longer.

        ``operations``: {name: histogram, ``running``, ``errors`` {errno's name: count}}, as far as met.
        ``calls``: list of histogram, ``service``, ``method``, ``endpoint``, ``statuses`` {class: count}.
        ``bytes``: ``read``, ``written``, ``downloaded``, ``uploaded``, ``ahead``.
        ``reads``: {source: ``count``, ``bytes``}; see `SOURCES`.
        ``opens_fetched``: of the operations ``open``.
        ``loop_lag``: histogram, and ``max``.
        ``log_lines_dropped``.
        """
        return {
            "bounds": list(BOUNDS),
            "operations": {
                name: op.snapshot() for name, op in self.operations.items() if op.count or op.running
            },
            "calls": [
                {
                    "service": service,
                    "method": method,
                    "endpoint": endpoint,
                    **call.snapshot(),
                    "statuses": dict(call.statuses),
                }
                for (service, method, endpoint), call in self.calls.items()
            ],
            "bytes": {
                "read": self.read_bytes,
                "written": self.written_bytes,
                "downloaded": self.downloaded_bytes,
                "uploaded": self.uploaded_bytes,
                "ahead": self.ahead_bytes,
            },
            "reads": {
                source.name: {"count": source.count, "bytes": source.bytes}
                for source in (self.memory, self.disk, self.network, self.staged)
            },
            "opens_fetched": self.opens_fetched,
            "loop_lag": {**self.lag.snapshot(), "max": self.lag_max},
            "log_lines_dropped": self.log_lines_dropped,
        }


def quantile(buckets: Sequence[int], share: float, bounds: Sequence[float] = BOUNDS) -> float | None:
    """Seconds that this share of a histogram took at most, to the accuracy of its buckets; None: it is
    empty. Of the differences of two snapshots it tells about the time between them.

    What lies in the last bucket has no upper bound; the last bound there is stands for it.
    """
    total = sum(buckets)
    if not total:
        return None
    rank, below = share * total, 0
    for i, n in enumerate(buckets):
        if n and below + n >= rank:
            low = bounds[i - 1] if i else 0.0
            high = bounds[i] if i < len(bounds) else bounds[-1]
            return low + (high - low) * max(0.0, rank - below) / n
        below += n
    return bounds[-1]


counters = Counters()
