"""How `vfsmount status` looks to people: no line is longer than their terminal is wide, no name cut."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsmount.cli import show

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 20  # entries of each list
_ERRORS = 5


class View:
    """Prints one report of `vfsmount status` to stdout."""

    def __init__(self) -> None:
        self._console: Console = show.stdout_console()

    def report(self, report: dict[str, Any], state: Path) -> None:
        """All of it."""
        if not report["mounts"]:
            self._say("nothing is mounted")
        for answer in report["mounts"]:
            self._mount(answer)
        for mountpoint in report["dead_mounts"]:
            self._say(f"{mountpoint}: the process of this mount has died; mount again to go on")
        self._left(report["left_behind"], state)
        if report["unsent_dir_files"]:
            self._say(
                f"{_files(report['unsent_dir_files'])} in {state / 'unsent'} never closed, or torn by a "
                "power cut: they are not sent; look at them, then remove them"
            )
        if report["error"]:
            self._say(report["error"])

    def _left(self, left: dict[str, Any], state: Path) -> None:
        if left["unsent_files"]:
            self._say(
                f"{_files(left['unsent_files'], 'unsent file')} of mounts that ended: "
                f"mount again to send them (state directory {state})"
            )
            rows = [(f["name"], show.size(f["size"]), f["kept_at"]) for f in left["unsent"]]
            self._table(("file", ">size", "kept in"), rows, left["unsent_files"])
        if left["removals_pending"]:
            self._say(
                f"{left['removals_pending']} names removed on mounts that ended are still on the server: "
                "mount again to remove them"
            )

    # --- one mount -----------------------------------------------------------------------------

    def _mount(self, a: dict[str, Any]) -> None:
        if "error" in a:
            self._say(f"{a['mountpoint']} (process {a['pid']}): {a['error']}")
            return
        ending = ", unmounted and sending what is left" if a["draining"] else ""
        held = f", held by {a['holder']}" if a.get("holder") else ""
        self._say(f"{a['mountpoint']} (process {a['pid']}{held}, up {show.duration(a['uptime_s'])}{ending})")
        if a.get("takeovers"):
            times = "once" if a["takeovers"] == 1 else f"{a['takeovers']} times"
            self._say(f"  its daemon was replaced {times}; the log says why")
        self._unsent(a)
        self._conflicts(a)
        if a["local_only"]:
            self._say(f"  {a['local_only']} links, FIFOs and sockets exist on this machine only")
        self._room(a)
        for part in (self._folders, self._partial, self._errors):
            part(a)

    def _unsent(self, a: dict[str, Any]) -> None:
        if not a["unsent_files"] and not a["removals_pending"]:
            self._say("  everything is on the server")
        if a["unsent_files"]:
            self._say(
                f"  {_files(a['unsent_files'])} not on the server yet, {show.size(a['unsent_bytes'])}, "
                f"oldest {show.duration(a['oldest_s'])}"
            )
            rows = [
                (f["name"], show.size(f["size"]), f["state"], show.duration(f["age_s"]), f["reason"])
                for f in a["unsent"]
            ]
            self._table(("file", ">size", "state", "since", "why"), rows, a["unsent_files"])
        if a["removals_pending"]:
            self._say(f"  {a['removals_pending']} names removed here are on their way out of the server")

    def _conflicts(self, a: dict[str, Any]) -> None:
        if a["conflicts"]:
            self._say("  changed here and on the server; both versions are kept:")
            rows = [(show.moment(int(c["at"] * 1e9)), c["path"], c["kept_as"]) for c in a["conflicts"]]
            self._table(("conflict", "file", "ours is kept as"), rows)

    def _room(self, a: dict[str, Any]) -> None:
        limit = f" of {show.size(a['staging_limit'])}" if a["staging_limit"] else ""
        rows = [("sending", f"{show.size(a['staging_used'])}{limit} kept here for sending")]
        # An older daemon's answer has none of what follows.
        budget, cache = a.get("budget"), a.get("cache")
        if budget and budget["left"] is not None:
            within = f" of {budget['limit']} in {show.duration(budget['window_s'])}"
            waiting = f"; {budget['waiting']} wait for their turn" if budget["waiting"] else ""
            rows.append(("calls", f"{budget['left']} manager calls left{within}{waiting}"))
        if cache:
            memory = f"{show.size(cache['memory_used'])} of {show.size(cache['memory_limit'])}"
            rows.append(("memory", f"{memory} hold what was read"))
            rows.append(("disk", _disk(cache)))
        folders = [f for f in a.get("folders", ()) if f.get("quota_limit")]
        for used, limit in dict.fromkeys((f["quota_used"], f["quota_limit"]) for f in folders):
            rows.append(("quota", f"{show.size(used)} of {show.size(limit)} stored on the server"))
        self._pairs(rows)

    def _folders(self, a: dict[str, Any]) -> None:
        folders = sorted(a.get("folders", ()), key=lambda f: not f["unsent_files"])
        rows = []
        for f in folders[:SHOWN]:
            files = f"{_files(f['unsent_files'])}, {show.size(f['unsent_bytes'])}"
            rows.append((f["name"], f["permission"], files if f["unsent_files"] else "-", f["id"]))
        if rows:
            self._table(("folder", "may", "unsent", "id"), rows, a["folders_total"])

    def _partial(self, a: dict[str, Any]) -> None:
        if a["partial"]:
            self._table(
                ("the server may have cut the listing of",), [(name or "/",) for name in a["partial"]]
            )

    def _errors(self, a: dict[str, Any]) -> None:
        errors = a.get("errors", ())
        rows = []
        for e in errors[:_ERRORS]:
            request = f" (request {e['request_id']})" if e["request_id"] else ""
            ago = show.duration(max(0.0, time.time() - e["at"]))
            what = f"{e['what']} {e['name']}".strip()
            rows.append((f"{ago} ago", str(e["times"]), what, e["reason"] + request))
        if rows:
            self._table(("failed", ">times", "what", "why"), rows, len(errors))

    # --- on paper ------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(show.printable(text)), soft_wrap=False, no_wrap=False, overflow="fold")

    def _table(self, titles: Sequence[str], rows: Iterable[Sequence[str]], count: int = 0) -> None:
        """Indented; names are folded where the terminal is too narrow.

        Args:
            count: how many there would be; what is left out is told.
        """
        from rich.table import Table
        from rich.text import Text

        rows = list(rows)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("", min_width=2)
        for title in titles:
            justify: Any = "right" if title.startswith(">") else "left"
            # An id is for copying, so it is not folded.
            table.add_column(title.removeprefix(">"), overflow="fold", justify=justify, no_wrap=title == "id")
        for row in rows:
            table.add_row("", *(Text(show.printable(cell)) for cell in row))
        self._console.print(table)
        if count > len(rows):
            self._say(f"    and {count - len(rows)} more; --json lists up to 1000")

    def _pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            grid.add_column(overflow="fold")
        for name, text in rows:
            grid.add_row("", name, Text(show.printable(text)))
        self._console.print(grid)


def _disk(cache: dict[str, Any]) -> str:
    if cache["directory"] is None:
        return "nothing is kept on disk"
    used = "?" if cache["disk_used"] is None else show.size(cache["disk_used"])
    limit = "" if cache["disk_limit"] is None else f" of {show.size(cache['disk_limit'])}"
    full = cache["disk_free"] is not None and cache["disk_free"] < (cache["disk_floor"] or 0)
    why = "; the disk is full, nothing is added" if full else ""
    return f"{used}{limit} in {cache['directory']}{why}"


def _files(count: int, what: str = "file") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
