"""The screen of `vfsmount top`: made for 80 columns, cut where a terminal is narrower, never wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vfsmount.cli import show

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_HEAD = 9  # lines above the tables, blank ones included
_FROM = {"memory": "memory", "disk": "disk", "network": "net", "staged": "own"}
_CALLS_LEAST = 4  # lines that calls get, with their titles, where there are many operations


def screen(r: dict[str, Any], *, height: int, note: str = "", wrong: str = "") -> RenderableType:
    """One look.

    Args:
        r: as `rates.rates` tells.
        height: lines of the terminal.
        note, wrong: said beside the mountpoint.
    """
    from rich.console import Group
    from rich.text import Text

    room = max(0, height - _HEAD)
    calls = [c for c in r["calls"] if c["per_s"]]
    for_calls = min(len(calls) + 2, max(_CALLS_LEAST, room - len(r["operations"]) - 1)) if calls else 0
    operations = _busy(r["operations"])[: max(0, room - for_calls - 1)]
    head = Text(no_wrap=True, overflow="crop")
    head.append(show.printable(r["mountpoint"]), style="bold")
    head.append(f"  up {show.duration(r['uptime_s'])}", style="dim")
    head.append(f"  {wrong or note}", style="bold red" if wrong else "dim")
    parts: list[RenderableType] = [head, Text(), _summary(r), Text(), _operations(operations)]
    if for_calls > 2:
        parts += [Text(), _calls(calls[: for_calls - 2])]
    return Group(*parts)


def _busy(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with something to tell of the last interval; of a mount that is idle, none."""
    return [op for op in operations if op["per_s"] or op["running"]]


def _summary(r: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    moved, uploads, manager = r["bytes_per_s"], r["uploads"], r["manager"]
    hits = r["read_from"]
    shares = " ".join(f"{_FROM[source]} {share:.0%}" for source, share in (hits or {}).items() if share)
    left = "no limit told" if manager["calls_left"] is None else f"{manager['calls_left']} left"
    rows = (
        ("programs", f"read {_rate(moved['read'])}", f"written {_rate(moved['written'])}", shares),
        (
            "server",
            f"down {_rate(moved['downloaded'])}",
            f"up {_rate(moved['uploaded'])}",
            f"calls: {left}, {manager['waiting']} wait",
        ),
        (
            "queue",
            f"{_files(uploads['files'])}, {show.size(uploads['bytes'])}",
            f"{uploads['sending']} sending",
            f"{uploads['failing']} failing, {uploads['removals']} removals",
        ),
        (
            "here",
            f"cache {show.size(r['memory']['held'])}",
            f"staging {show.size(r['staging']['used'])}",
            f"{r['open_files']} open files, {r['inodes']} inodes",
        ),
        (
            "loop",
            f"{_number(r['operations_per_s'])} requests/s",
            f"late p99 {_span(r['loop_lag_p99_s'])}",
            "",
        ),
    )
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in (8, 20, 20, None):
        grid.add_column(no_wrap=True, overflow="crop", min_width=width)
    for name, *cells in rows:
        grid.add_row(Text(name, style="dim"), *cells)
    return grid


def _operations(operations: list[dict[str, Any]]) -> Table:
    table = _table("request", ">/s", ">p50", ">p99", ">running", ">errors/s")
    for op in operations:
        errors = _number(op["errors_per_s"]) if op["errors_per_s"] else ""
        running = str(op["running"]) if op["running"] else ""
        table.add_row(
            op["name"], _number(op["per_s"]), _span(op["p50_s"]), _span(op["p99_s"]), running, errors
        )
    return table


def _calls(calls: list[dict[str, Any]]) -> Table:
    table = _table("call", ">/s", ">p50", ">p99", ">4xx 5xx")
    for c in calls:
        failed = _number(c["failed_per_s"]) if c["failed_per_s"] else ""
        table.add_row(c["name"], _number(c["per_s"]), _span(c["p50_s"]), _span(c["p99_s"]), failed)
    return table


def _table(first: str, *titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    # Numbers stay where they are from one look to the next, whatever names there are.
    table.add_column(first, no_wrap=True, overflow="crop", width=42 if first == "call" else 14)
    for title in titles:
        table.add_column(title.removeprefix(">"), justify="right", no_wrap=True, min_width=7, overflow="crop")
    return table


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _rate(per_s: float) -> str:
    return f"{show.size(per_s)}/s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
