"""What every transfer does around its work: the folder, the mounts that show it, records, Ctrl-C, the
end's report and exit status."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from vfsmount import places
from vfsmount.cli import mounted, show
from vfsmount.cli.exit_codes import CONFLICT, FAILED, INTERRUPTED, OK, exit_code
from vfsmount.cli.options import Flags
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import Target, folder_of
from vfsmount.cli.transfers.bar import show_progress
from vfsmount.errors import VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Note, Notes, Progress, Report

if TYPE_CHECKING:
    from vfsmount.api.client import Client

SHOWN = 20  # of each kind, for people
_TELL_S = 10.0


@dataclass(slots=True)
class Carrying:
    """One command's means.

    Attributes:
        verb: what was done to files, for people: "sent", "fetched".
        dry: nothing is to be changed.
        actions: what `sync` did or, dry, would do.
    """

    verb: str
    dry: bool = False
    report: Report = field(default_factory=Report)
    progress: Progress = field(default_factory=Progress)
    actions: list[tuple[str, str]] = field(default_factory=list)
    remote: Remote = field(init=False)
    records: TransferRecords = field(init=False)


Work = Callable[[Carrying], Awaitable[None]]


def carry(
    flags: Flags,
    target: Target,
    paths: Sequence[str],
    state_dir: Path,
    carrying: Carrying,
    work: Work,
    *,
    as_json: bool,
) -> int:
    """Do the work with a folder and report; the exit status.

    Args:
        target: names the folder.
        paths: in it, what will be read or written: "" is all of it.

    Raises:
        VfsError: what ended it all, behind the report of what was done till then.
    """
    began = time.monotonic()
    error: VfsError | None = None
    stopped = False

    async def run(client: Client) -> None:
        async with (
            _prepared(client, target, paths, state_dir, carrying),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(show_progress, carrying.report, carrying.progress)
            await work(carrying)
            nursery.cancel_scope.cancel()

    try:
        with_client(flags, partial(_until_stopped, run))
    except KeyboardInterrupt:
        stopped = True
    except VfsError as e:
        error = e
    if as_json:
        show.as_json(_as_json(carrying, time.monotonic() - began, error, stopped))
    else:
        _tell_people(carrying)
    if stopped:
        show.say("stopped; the same command again goes on where this one was")
        return INTERRUPTED
    if error is not None:
        raise error
    return _status(carrying.report)


async def _until_stopped(run: Callable[[Client], Awaitable[None]], client: Client) -> None:
    """Ctrl-C ends the work in order, so that all that has come or gone is recorded; a second one at once."""
    stopped = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal stopped
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                stopped = True
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        if threading.current_thread() is threading.main_thread():
            nursery.start_soon(watch, nursery.cancel_scope)
        await run(client)
        nursery.cancel_scope.cancel()
    if stopped:
        raise KeyboardInterrupt


@asynccontextmanager
async def _prepared(
    client: Client, target: Target, paths: Sequence[str], state_dir: Path, carrying: Carrying
) -> AsyncIterator[None]:
    folder = await folder_of(client, target)
    mounts = await trio.to_thread.run_sync(
        lambda: mounted.settle(folder.id, paths, state_dir=state_dir), abandon_on_cancel=True
    )
    carrying.remote = Remote(client, folder)
    carrying.records = TransferRecords(places.private_dir(state_dir) / "transfers.sqlite")
    try:
        yield
    finally:
        carrying.records.close()
        if mounts and carrying.report.touched:
            changed = [f"{directory}/x" if directory else "x" for directory in carrying.report.touched]
            with trio.move_on_after(_TELL_S) as scope:
                scope.shield = True
                await trio.to_thread.run_sync(
                    lambda: mounted.tell_mounts(mounts, changed), abandon_on_cancel=True
                )


# --- the end -------------------------------------------------------------------------------------


def _status(report: Report) -> int:
    if report.failed.count:
        nothing_else = not (report.files or report.unchanged or report.deleted or report.partial.count)
        alone = report.error is not None and nothing_else
        return (exit_code(report.error) or FAILED) if alone and report.error is not None else FAILED
    if report.partial.count:
        return FAILED
    return CONFLICT if report.kept.count else OK


def _as_json(carrying: Carrying, seconds: float, error: VfsError | None, stopped: bool) -> dict[str, Any]:
    r = carrying.report
    found: dict[str, Any] = {
        "files": r.files,
        "bytes": r.size,
        "carried_bytes": r.carried,
        "unchanged": r.unchanged,
        "directories": r.directories,
        "deleted": r.deleted,
        "undeleted": r.undeleted,
        "seconds": round(seconds, 3),
        "stopped": stopped,
        "error": str(error) if error is not None else None,
    }
    for name, notes in (
        ("failed", r.failed),
        ("kept", r.kept),
        ("skipped", r.skipped),
        ("partial", r.partial),
    ):
        found[f"{name}_count"] = notes.count
        found[name] = [{"path": note.path, "reason": note.why} for note in notes.first]
    if carrying.actions:
        found["actions"] = [{"action": action, "path": path} for action, path in carrying.actions]
    return found


def _tell_people(carrying: Carrying) -> None:
    r = carrying.report
    _say(r.skipped, "left out")
    _say(r.kept, "left as it is")
    _say(r.partial, "may hold more")
    if r.partial.count:
        show.say("a file that is named is found whether it is listed or not; or see --trust-listings")
    _say(r.failed, "failed")
    if r.undeleted:
        show.say(
            f"nothing was deleted, though {_count(r.undeleted, 'name')} would have been: not all was seen"
        )
    click.echo(summary(carrying))


def summary(carrying: Carrying) -> str:
    """One line that says what was done."""
    r = carrying.report
    if carrying.dry:
        return f"nothing was changed (dry run); {r.unchanged} unchanged"
    parts = [f"{_count(r.files, 'file')} {carrying.verb} ({show.size(r.size)})"]
    for count, text in (
        (r.unchanged, "unchanged"),
        (r.directories, "directory made" if r.directories == 1 else "directories made"),
        (r.deleted, "deleted"),
        (r.kept.count, "left as they are"),
        (r.skipped.count, "left out"),
        (r.failed.count, "failed"),
    ):
        if count:
            parts.append(f"{count} {text}")
    return ", ".join(parts)


def _say(notes: Notes, what: str) -> None:
    for note in _some(notes.first):
        show.say(f"{note.path}: {what}: {note.why}")
    if notes.count > SHOWN:
        show.say(f"and {notes.count - SHOWN} more {what}; --json lists up to 1000")


def _some(notes: list[Note]) -> Iterable[Note]:
    return notes[:SHOWN]


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
