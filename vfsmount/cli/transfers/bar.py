"""How far a transfer is, on a terminal; nothing at all elsewhere. It vanishes at the end."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from vfsmount.cli import show

if TYPE_CHECKING:
    from vfsmount.transfer.report import Progress, Report

EVERY_S = 0.25
LINES = 3  # files with a line of their own
LARGE = 16 << 20  # bytes of such a file
RATE_S = 5.0  # the rate is of the last so many seconds


async def show_progress(report: Report, progress: Progress) -> None:
    """Show it on stderr until cancelled."""
    if not sys.stderr.isatty():
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    def text(field: str, width: int, justify: Any = "right") -> TextColumn:
        column = Column(width=width, no_wrap=True, overflow="ellipsis", justify=justify)
        return TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=column)

    columns = text("name", 24, "left"), BarColumn(None), text("done", 21), text("rate", 13), text("left", 7)
    console = show.stderr_console()
    with Bars(*columns, console=console, transient=True, expand=True, auto_refresh=False) as bars:
        view = _View(bars, report, progress)
        try:
            while True:
                view.update()
                await trio.sleep(EVERY_S)
        finally:
            view.clear()


class _View:
    def __init__(self, bars: Any, report: Report, progress: Progress) -> None:
        self._bars = bars
        self._report = report
        self._progress = progress
        empty = {"name": "", "done": "", "rate": "", "left": ""}
        self._all = bars.add_task("", total=None, **empty)
        self._files = [bars.add_task("", total=1, visible=False, **empty) for _ in range(LINES)]
        self._carried: deque[tuple[float, int]] = deque()

    def update(self) -> None:
        p, rate = self._progress, self._rate()
        at, total = min(p.position, p.size), p.size
        more = "+" if p.finding else ""
        remaining = show.duration((total - at) / rate) if rate > 0 and not p.finding else ""
        self._bars.update(
            self._all,
            total=total or None,
            completed=at,
            name=f"{p.done_files} of {p.files}{more} files",
            done=f"{show.size(at)}/{show.size(total)}{more}",
            rate=f"{show.size(rate)}/s",
            left=remaining,
        )
        large = [m for m in p.moving if m.size >= LARGE][:LINES]
        for n, task in enumerate(self._files):
            if n >= len(large):
                self._bars.update(task, visible=False)
                continue
            m = large[n]
            done = f"{show.size(min(m.at, m.size))}/{show.size(m.size)}"
            name = "  " + show.printable(m.path.rpartition("/")[2])
            self._bars.update(task, visible=True, total=m.size, completed=m.at, name=name, done=done)
        self._bars.refresh()

    def clear(self) -> None:
        """Leave no line behind."""
        for task in (self._all, *self._files):
            self._bars.update(task, visible=False)
        self._bars.refresh()

    def _rate(self) -> float:
        now = time.monotonic()
        self._carried.append((now, self._report.carried))
        while now - self._carried[0][0] > RATE_S:
            self._carried.popleft()
        (then, before), (_, by_now) = self._carried[0], self._carried[-1]
        return (by_now - before) / (now - then) if now > then else 0.0
