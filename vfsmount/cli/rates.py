"""What happened between two looks at a mount's counters (`metrics.Counters.snapshot`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfsmount.metrics import quantile

Snapshot = Mapping[str, Any]
_NOTHING: Snapshot = {"buckets": [], "count": 0, "seconds": 0.0, "errors": {}, "statuses": {}}
_LEVELS = ("uploads", "manager", "memory", "staging", "inodes", "open_files", "open_directories")


def is_sequel(before: Snapshot, after: Snapshot) -> bool:
    """Whether two looks are at one life of one daemon, in this order."""
    return bool(before["pid"] == after["pid"] and after["uptime_s"] > before["uptime_s"])


def rates(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """Rates a second, and latencies of what ended in between; the fields of ``top --json``.

    Args:
        before, after: two answers to ``{"op": "metrics"}``; see `is_sequel`.
    """
    elapsed = after["uptime_s"] - before["uptime_s"]
    moved = {key: (after["bytes"][key] - before["bytes"].get(key, 0)) / elapsed for key in after["bytes"]}
    operations = [
        {
            "name": name,
            "running": now["running"],
            "errors_per_s": _more(_news(now["errors"]), _news(_of(before["operations"], name)["errors"]))
            / elapsed,
            **_timed(_of(before["operations"], name), now, after["bounds"], elapsed),
        }
        for name, now in after["operations"].items()
    ]
    earlier = {_name(call): call for call in before["calls"]}
    calls = [
        {
            "name": _name(call),
            "failed_per_s": _more(_failed(call), _failed(_of(earlier, _name(call)))) / elapsed,
            **_timed(_of(earlier, _name(call)), call, after["bounds"], elapsed),
        }
        for call in after["calls"]
    ]
    lag = _timed(before["loop_lag"], after["loop_lag"], after["bounds"], elapsed)
    return {
        "mountpoint": after["mountpoint"],
        "pid": after["pid"],
        "uptime_s": after["uptime_s"],
        "interval_s": elapsed,
        "operations_per_s": sum(op["per_s"] for op in operations),
        "bytes_per_s": moved,
        "read_from": _shares(before["reads"], after["reads"]),
        "operations": _busiest_first(operations),
        "calls": _busiest_first(calls),
        "loop_lag_p99_s": lag["p99_s"],
        **{key: after[key] for key in _LEVELS},
    }


def _timed(before: Snapshot, now: Snapshot, bounds: list[float], elapsed: float) -> dict[str, Any]:
    earlier = before["buckets"] or [0] * len(now["buckets"])
    buckets = [b - a for a, b in zip(earlier, now["buckets"], strict=True)]
    return {
        "per_s": sum(buckets) / elapsed,
        "p50_s": quantile(buckets, 0.5, bounds),
        "p99_s": quantile(buckets, 0.99, bounds),
    }


def _shares(before: Snapshot, after: Snapshot) -> dict[str, float] | None:
    """Of the bytes that programs read, which part came from where; None: nothing was read."""
    read = {source: now["bytes"] - _of(before, source).get("bytes", 0) for source, now in after.items()}
    total = sum(read.values())
    return {source: size / total for source, size in read.items()} if total else None


def _busiest_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda f: (-f["per_s"], f["name"]))


def _of(found: Mapping[str, Snapshot], name: str) -> Snapshot:
    return found.get(name, _NOTHING)


def _name(call: Snapshot) -> str:
    return f"{call['service']} {call['method']} {call['endpoint']}"


def _failed(call: Snapshot) -> dict[str, int]:
    """Statuses that are no success. A 304 is what was hoped for."""
    return {status: n for status, n in call["statuses"].items() if status not in ("2xx", "3xx")}


def _news(errors: Mapping[str, int]) -> dict[str, int]:
    """Errors without those that every `ls` and `cp` is full of."""
    return {name: n for name, n in errors.items() if name not in ("ENOENT", "ENODATA")}


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> int:
    return sum(now.values()) - sum(before.values())
