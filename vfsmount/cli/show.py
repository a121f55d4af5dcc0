"""What commands print: sizes, times, tables, JSON, sentences. Nothing that came from a server or a
program steers a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

_WIDE = 10_000  # columns where no terminal is: a name cut in two is of no use to grep


def printable(text: str) -> str:
    """A name or a reason on one line, control characters and lone surrogates spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span in its largest sensible unit."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def moment(at_ns: int) -> str:
    """A point in time as local date and time; "-" for 0, which means that nobody told."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ns / 1e9)) if at_ns else "-"


def utc(at_ns: int) -> str | None:
    """A point in time for JSON: ISO 8601 in UTC, to the second; None for 0."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ns / 1e9)) if at_ns else None


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, headed: bool = True) -> None:
    """Rows in columns on stdout; where no terminal is, lines of any width.

    Titles that begin with ``>`` (which is not shown) are of columns of numbers. Without `headed` no
    title is shown.
    """
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=headed)
    for title in titles:
        # A name that is cut off is of no use.
        justify: Any = "right" if title.startswith(">") else "left"
        found.add_column(title.removeprefix(">"), overflow="fold", justify=justify)
    for row in rows:
        found.add_row(*(Text(printable(cell)) for cell in row))
    console.print(found)


def stdout_console() -> Any:
    """A `rich.console.Console` on stdout that adds nothing of its own."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise  # as it is, where rich would end the program with a status of its own

    console = Output(
        highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=sys.stdout.isatty()
    )
    if not console.is_terminal:
        console.width = _WIDE
    return console


def stderr_console() -> Any:
    """A `rich.console.Console` on stderr, for what moves; a terminal only where one is.

    FORCE_COLOR, which many CI systems set, would have bars in log files. What is drawn leaves room for the
    ^C that a terminal echoes behind it: on the next line it would keep a bar from being cleared.
    """
    from rich.console import Console, ConsoleOptions

    class Moving(Console):
        @property
        def options(self) -> ConsoleOptions:
            found = super().options
            return found.update_width(max(1, found.max_width - len("^C")))

    return Moving(stderr=True, force_terminal=sys.stderr.isatty())


def as_json(value: object) -> None:
    """One JSON document on stdout. Names that are not UTF-8 keep their bytes as lone surrogates."""
    click.echo(json.dumps(value, indent=2))


def say(sentence: str) -> None:
    """One line on stderr, for people; answers go to stdout."""
    click.echo(f"vfsmount: {printable(sentence)}", err=True)
    sys.stderr.flush()


def shown_name(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 become lone surrogates."""
    return os.fsdecode(name)


def json_option(function: Any) -> Any:
    """Add ``--json``, as parameter `as_json`; docs/json.md has the fields of each command."""
    return click.option(
        "--json", "as_json", is_flag=True, help="JSON for programs; docs/json.md has its fields."
    )(function)
