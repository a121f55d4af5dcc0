"""``vfsmount warmup``: files are in the cache on disk before they are read."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import FAILED, OK, UNREACHABLE
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

_SAID_EVERY_S = 5.0  # where nobody watches a bar
_NAMED = 20


@click.command("warmup")
@click.argument("paths", nargs=-1, type=kinds.ON_MOUNT, required=True)
@click.option("--recursive", "-r", is_flag=True, help="With all that is below directories.")
@click.option("--json", "as_json", is_flag=True, help="What the mount says as JSON objects, one a line.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(paths: tuple[str, ...], recursive: bool, as_json: bool, state_dir: Path | None) -> int:
    """Fetch PATHs into the cache on disk, so that reading them fetches nothing.

    A directory means the files in it. What is there already is verified, not fetched again; unsent files
    are left out. Stopping the command stops the mount's work, too; what came by then stays. Exit status 1:
    something is not in the cache; 4: because the server is away.
    """
    return bring(paths, recursive, as_json, state_dir, pin=False)


def bring(
    paths: tuple[str, ...], recursive: bool, as_json: bool, state_dir: Path | None, *, pin: bool
) -> int:
    """Have the mounts of `paths` fetch them, and show how it goes; the exit status."""
    code = OK
    for record, below in by_mount(paths, state_dir):
        request = {"op": "warmup", "paths": below, "recursive": recursive, "pin": pin}
        code = max(code, _bring(record, request, as_json))
    return code


def by_mount(paths: tuple[str, ...], state_dir: Path | None) -> list[tuple[MountRecord, list[str]]]:
    """Running mounts, and which paths below their mountpoints are meant.

    Raises:
        MountError: a path is on none.
    """
    from vfsmount.cli.control import mount_of

    state = (state_dir or places.state_dir()).absolute()
    wanted: dict[str, tuple[MountRecord, list[str]]] = {}
    for path in paths:
        found = mount_of(path, state)
        if found is None:
            raise MountError(f"{path} is not on a running mount; if it is on one, give its --state-dir")
        record, below = found
        wanted.setdefault(record.mountpoint, (record, []))[1].append(below)
    return list(wanted.values())


def _bring(record: MountRecord, request: dict[str, Any], as_json: bool) -> int:
    from vfsmount.cli.control import ask

    last: dict[str, Any] = {}
    with ExitStack() as stack:
        progress = None if as_json else _Progress(stack)
        for answer in ask(record, request):
            if as_json:
                click.echo(json.dumps({"mountpoint": record.mountpoint, **answer}))
            elif progress is not None and "warning" in answer:
                progress.say(f"{record.mountpoint}: {answer['warning']}")
            if progress is not None and "files" in answer:
                progress.now(answer)
            last = answer
            if "done" in answer or "failed" in answer:
                break
    if not as_json:
        _summarize(record, last)
    if last.get("done"):
        return OK
    return UNREACHABLE if last.get("unreachable") else FAILED


def _summarize(record: MountRecord, last: dict[str, Any]) -> None:
    failed, count = last.get("failed", []), last.get("failed_files", 0)
    for f in failed[:_NAMED]:
        show.say(
            f"not in the cache: {os.path.join(record.mountpoint, f['name']).rstrip('/')} ({f['reason']})"
        )
    if count > _NAMED:
        show.say(f"and {count - min(_NAMED, len(failed))} more")
    whole = "" if last.get("done") else f", {count} failed"
    click.echo(
        f"{last['files_total']} {'file' if last['files_total'] == 1 else 'files'}, "
        f"{show.size(last['bytes_total'])}{whole}; {show.size(last['fetched'])} fetched"
    )


class _Progress:
    """A progress bar where somebody looks; elsewhere a line now and then."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = show.stderr_console()
        self._is_bar = console.is_terminal
        columns = (
            BarColumn(),
            TextColumn("{task.fields[files]}"),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not self._is_bar)
        self._task = stack.enter_context(self._progress).add_task("", total=None, files="")
        self._since = self._said_at = time.monotonic()

    def say(self, sentence: str) -> None:
        """Above the bar."""
        if self._is_bar:
            self._progress.console.print(
                f"vfsmount: {show.printable(sentence)}", markup=False, highlight=False
            )
        else:
            show.say(sentence)

    def now(self, answer: dict[str, Any]) -> None:
        """Show how far it is."""
        files = f"{answer['files']} of {answer['files_total']} files"
        done, total = answer["bytes"], answer["bytes_total"]
        self._progress.update(self._task, total=total or None, completed=done, files=files)
        now = time.monotonic()
        if self._is_bar or now < self._said_at + _SAID_EVERY_S:
            return
        self._said_at = now
        rate = done / (now - self._since)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        show.say(f"{files}, {show.size(done)} of {show.size(total)}, {show.size(rate)}/s{left}")
