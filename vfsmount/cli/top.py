"""``vfsmount top``: what a mount does, second by second."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vfsmount.store.mounts import MountRecord

_ANSWER_S = 3.0
_QUIT = b"qQ\x03\x04"


@click.command("top")
@click.argument("mountpoint", required=False, type=kinds.MOUNT)
@click.option("--once", is_flag=True, help="Look for one interval, print what was seen, end.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(
    mountpoint: str | None, once: bool, interval: float, as_json: bool, state_dir: Path | None
) -> int:
    """Show what the mount on MOUNTPOINT does: requests, bytes, hits, uploads, calls, latencies.

    Rates are of the last interval; q or Ctrl-C ends it. For scripts: --once --json.
    Without MOUNTPOINT: the one mount that runs.
    """
    from vfsmount.cli.control import chosen_mount

    if as_json and not once:
        raise click.UsageError("--json needs --once")
    if not once and not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise click.UsageError("top needs a terminal; for scripts there is --once, with --json")
    record = chosen_mount(mountpoint, (state_dir or places.state_dir()).absolute())
    if once:
        _once(record, interval, as_json)
    else:
        _watch(record, interval)
    return 0


def _ask(record: MountRecord) -> dict[str, Any]:
    """The mount's counters now.

    Raises:
        TimeoutError: it does not answer for now.
    """
    from vfsmount.cli.control import ask

    return next(ask(record, {"op": "metrics"}, time.monotonic() + _ANSWER_S))


def _once(record: MountRecord, interval: float, as_json: bool) -> None:
    from vfsmount.cli.rates import rates
    from vfsmount.cli.top_view import screen

    try:
        before = _ask(record)
        time.sleep(interval)
        found = rates(before, _ask(record))
    except TimeoutError:
        raise MountError(f"the mount on {record.mountpoint} does not answer") from None
    if as_json:
        show.as_json(found)
    else:
        show.stdout_console().print(screen(found, height=1000))


def _watch(record: MountRecord, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from vfsmount.cli.rates import is_sequel, rates
    from vfsmount.cli.top_view import screen

    console = Console(highlight=False, markup=False, emoji=False)
    before: dict[str, Any] | None = None
    found: dict[str, Any] | None = None
    shown: RenderableType = Text(show.printable(f"{record.mountpoint}: looking …"))
    with (
        _keys() as pressed_quit,
        Live(shown, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        live.refresh()
        while True:
            wrong = ""
            try:
                now = _ask(record)
                if before is not None and is_sequel(before, now):
                    found = rates(before, now)
                before = now
            except TimeoutError:
                wrong = "does not answer"
            if found is not None:
                live.update(
                    screen(found, height=console.size.height, note="q quits", wrong=wrong), refresh=True
                )
            if pressed_quit(interval):
                return


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds and says whether somebody wants to leave.

    Keys come at once and are not shown meanwhile; the terminal is as before afterwards, also when we are
    asked to end from outside.
    """
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed_quit(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                keys = os.read(fd, 64)
                if not keys or any(key in _QUIT for key in keys):
                    return True
        return False

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(fd)
        with suppress(KeyboardInterrupt):
            yield pressed_quit
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
