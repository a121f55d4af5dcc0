"""What an access log says when it is added up: where the time goes, how files are read, by whom.

The log has what the kernel asked of the mount. What programs found in the kernel's own cache is not there,
and small reads of a file that is read in order come as large ones.
"""

from __future__ import annotations

import heapq
import json
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

SMALL = 64 << 10  # a read that brings less costs its round trip rather than its bytes
MANY = 16  # small reads of one file that are worth a line
SEQUENTIAL, MIXED = 0.9, 0.5  # share of the reads that go on where another one ended


class Entry(msgspec.Struct):
    """One line; see docs/observability.md."""

    time: float
    op: str = ""
    path: str = ""
    seconds: float = 0.0
    errno: str = ""
    offset: int = 0
    length: int = 0
    result: int = 0
    source: str = ""
    pid: int = 0
    comm: str = ""
    dropped: int = 0


@dataclass(slots=True)
class _Operation:
    seconds: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _File:
    count: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    opens: int = 0
    reads: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    small: int = 0
    small_seconds: float = 0.0
    in_order: int = 0
    # where the last read of each process ended
    ends: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Process:
    count: int = 0
    seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    pids: set[int] = field(default_factory=set)


class Profile:
    """Adds lines up; `report` says what came out.

    Args:
        top: so many files, directories, requests and processes are told.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._lines = self._unreadable = self._dropped = 0
        self._first, self._last = float("inf"), float("-inf")
        self._operations: dict[str, _Operation] = {}
        self._files: dict[str, _File] = {}
        self._directories: dict[str, _File] = {}
        self._processes: dict[str, _Process] = {}
        self._sources: dict[str, list[float]] = {}
        self._slowest: list[tuple[float, int, Entry]] = []

    def add(self, lines: Iterable[bytes]) -> None:
        """Add the lines of a log. One that is none, as a crash may leave it, is counted and left out."""
        for line in lines:
            entry = _parse(line)
            if entry is None:
                self._unreadable += bool(line.strip())
            elif entry.dropped:
                self._dropped += entry.dropped
            else:
                self._add(entry)

    def _add(self, e: Entry) -> None:
        self._lines += 1
        self._first, self._last = min(self._first, e.time), max(self._last, e.time + e.seconds)
        operation = self._operations.setdefault(e.op, _Operation())
        operation.seconds.append(e.seconds)
        if e.errno:
            operation.errors[e.errno] += 1
        heapq.heappush(self._slowest, (e.seconds, -self._lines, e))
        if len(self._slowest) > self._top:
            heapq.heappop(self._slowest)
        if e.comm:
            self._of_process(e)
        is_directory = e.op in ("opendir", "readdir", "fsyncdir")
        if not is_directory and e.path:
            _count(self._files.setdefault(e.path, _File()), e)
        if e.op != "statfs":
            directory = e.path if is_directory else e.path.rpartition("/")[0]
            _count(self._directories.setdefault(directory, _File()), e)
        if e.op == "read" and not e.errno:
            found = self._sources.setdefault(e.source or "nowhere", [0, 0, 0.0])
            found[0] += 1
            found[1] += e.result
            found[2] += e.seconds

    def _of_process(self, e: Entry) -> None:
        process = self._processes.setdefault(e.comm, _Process())
        process.count += 1
        process.seconds += e.seconds
        process.pids.add(e.pid)
        if not e.errno:
            process.read_bytes += e.result if e.op == "read" else 0
            process.written_bytes += e.length if e.op == "write" else 0

    def report(self) -> dict[str, Any]:
        """The fields of ``vfsmount profile --json``; see docs/json.md."""
        return {
            "from": self._first if self._lines else None,
            "to": self._last if self._lines else None,
            "requests": self._lines,
            "dropped": self._dropped,
            "unreadable": self._unreadable,
            "seconds": sum(sum(op.seconds) for op in self._operations.values()),
            "operations": self._of_operations(),
            "reads": self._of_reads(),
            "files": [_told(p, f) for p, f in self._most(self._files)],
            "directories": [
                {"path": path, "count": f.count, "opens": f.opens, "seconds": f.seconds}
                for path, f in self._most(self._directories)
            ],
            "small_reads": self._of_small_reads(),
            "processes": [
                {
                    "comm": comm,
                    "processes": len(p.pids),
                    "count": p.count,
                    "seconds": p.seconds,
                    "read_bytes": p.read_bytes,
                    "written_bytes": p.written_bytes,
                }
                for comm, p in heapq.nlargest(self._top, self._processes.items(), key=lambda i: i[1].seconds)
            ],
            "slowest": [
                {"time": e.time, "op": e.op, "path": e.path, "seconds": e.seconds, "errno": e.errno}
                for _, _, e in sorted(self._slowest, key=lambda item: (-item[0], -item[1]))
            ],
        }

    def _most(self, of: dict[str, _File]) -> list[tuple[str, _File]]:
        return heapq.nlargest(self._top, of.items(), key=lambda item: item[1].seconds)

    def _of_operations(self) -> list[dict[str, Any]]:
        found = []
        for name, op in self._operations.items():
            ordered = sorted(op.seconds)
            found.append(
                {
                    "op": name,
                    "count": len(ordered),
                    "seconds": sum(ordered),
                    "median_s": ordered[len(ordered) // 2],
                    "p95_s": ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
                    "max_s": ordered[-1],
                    "errors": dict(op.errors),
                }
            )
        return sorted(found, key=lambda row: -row["seconds"])

    def _of_reads(self) -> dict[str, Any]:
        total = sum(n for n, _, _ in self._sources.values())
        waited = sum(n for source, (n, _, _) in self._sources.items() if "network" in source)
        return {
            "hit_rate": (total - waited) / total if total else None,
            "sources": {
                source: {"count": int(n), "bytes": int(size), "seconds": seconds}
                for source, (n, size, seconds) in sorted(self._sources.items())
            },
        }

    def _of_small_reads(self) -> list[dict[str, Any]]:
        hot = ((path, f) for path, f in self._files.items() if f.small >= MANY)
        return [
            {"path": path, "count": f.small, "seconds": f.small_seconds, "pattern": _pattern(f)}
            for path, f in heapq.nlargest(self._top, hot, key=lambda item: item[1].small)
        ]


def _parse(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        # Names that are not UTF-8 are lone surrogates, which only the slow one takes.
        return msgspec.convert(json.loads(line), type=Entry)
    except (ValueError, RecursionError):
        return None


def _count(file: _File, e: Entry) -> None:
    file.count += 1
    file.seconds += e.seconds
    file.worst = max(file.worst, e.seconds)
    if e.errno:
        return
    if e.op in ("open", "create"):
        file.opens += 1
    elif e.op == "write":
        file.written_bytes += e.length
    elif e.op == "read":
        file.reads += 1
        file.read_bytes += e.result
        if e.length < SMALL:
            file.small += 1
            file.small_seconds += e.seconds
        # The kernel asks for pieces of a stream side by side, so they may come in another order.
        end = file.ends.get(e.pid)
        if end is not None and abs(e.offset - end) <= 2 * e.length:
            file.in_order += 1
        file.ends[e.pid] = e.offset + e.length


def _pattern(file: _File) -> str:
    """How a file is read: the first read of each process says nothing."""
    followers = file.reads - len(file.ends)
    if not file.reads:
        return ""
    if not followers:
        return "once"
    share = file.in_order / followers
    return "sequential" if share >= SEQUENTIAL else "mixed" if share >= MIXED else "random"


def _told(path: str, file: _File) -> dict[str, Any]:
    return {
        "path": path,
        "count": file.count,
        "seconds": file.seconds,
        "max_s": file.worst,
        "opens": file.opens,
        "reads": file.reads,
        "read_bytes": file.read_bytes,
        "written_bytes": file.written_bytes,
        "pattern": _pattern(file),
    }
