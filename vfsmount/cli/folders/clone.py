"""``vfsmount clone NAME TARGET [HOST]``: a copy that the server makes, followed to its end."""

from __future__ import annotations

import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.listing import describe
from vfsmount.cli.folders.naming import about, find, names_on_mount, naming
from vfsmount.cli.folders.settings import folder_options
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.mounted import settle
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import DeadlineExceeded, PermissionDenied, RemoteError, RemoteUnavailable, VfsError
from vfsmount.values import Folder

if TYPE_CHECKING:
    from rich.progress import Progress

    from vfsmount.api.client import Client
    from vfsmount.api.tasks import TaskProgress

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0


@click.command("clone")
@click.argument("name", type=kinds.FOLDER)
@click.argument("target_name")
@click.argument("target_host", required=False)
@folder_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to wait for the copy; 0: not at all. The server goes on without us.",
)
@show.json_option
@state_dir_option
@api_options
def command(
    name: str,
    target_name: str,
    target_host: str | None,
    timeout: float,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
    **options: Any,
) -> None:
    """Copy the folder NAME to a new folder TARGET_NAME, on the server, and wait for the copy.

    NAME must be cloneable ('vfsmount options NAME --cloneable'). What was written to it on a mount here is
    waited for first. Without TARGET_HOST the copy lies where the original does; servers of the 23.09 line
    copy on one host only.
    """
    source = with_client(flags, lambda client: _source(client, name))
    settle(source.id, [""], time.monotonic() + timeout if timeout else None, state_dir=state_dir)
    try:
        row = with_client(
            flags, lambda client: _clone(client, source.id, target_name, target_host, options, timeout)
        )
    finally:
        tell_of_folders(state_dir)
    if as_json:
        show.as_json(row)
    else:
        done = "is a copy" if row["outcome"] == "done" else "is being made, a copy"
        show.say(f"{row['name']} {done} of {row['source']}")


async def _source(client: Client, wanted: str) -> Folder:
    source, name = await find(client, wanted)
    if not source.cloneable:
        owner = source.owner or "its owner"
        how = f"vfsmount options {name} --cloneable" if source.is_owner else f"ask {owner}"
        raise PermissionDenied(f"{name} may not be cloned: {how}")
    return source


async def _clone(
    client: Client,
    wanted: str,
    target_name: str,
    target_host: str | None,
    options: dict[str, Any],
    timeout_s: float,
) -> dict[str, Any]:
    source, name = await find(client, wanted)
    with about(f"{name} to {target_name}"):
        async with naming(client, target_name):
            target, task = await client.clone_folder(source, target_name, target_host=target_host, **options)
    if timeout_s:
        await _follow(client, source, target, task, timeout_s)
    outcome = "done" if timeout_s else "started"
    # The reply tells neither whose the copy is nor when it was made. It is made, whatever comes now.
    folders: list[Folder] = []
    with suppress(VfsError):
        folders = await client.list_folders()
    made = next((f for f in folders if f.id == target.id), target)
    shown = names_on_mount(client, folders).get(made.id, target_name)
    return describe(made, shown) | {"source": name, "outcome": outcome}


async def _follow(client: Client, source: Folder, target: Folder, task: str, timeout_s: float) -> None:
    """Return when the copy is complete.

    Raises:
        RemoteError: it failed; the message tells what is left.
        DeadlineExceeded: the server has not said how it ended.
    """
    import trio

    what = f"cloning {source.name} to {target.name}"
    with trio.move_on_after(timeout_s), _bar(what) as bar:
        last = await _last_event(client, task, bar) if task else None
        if last is not None and last.state.name != "DONE":
            said = last.message or last.state.name.lower()
            raise RemoteError(
                f"{what}: the server says: {said}. {target.name} may hold a part; 23.09 leaves {source.name} "
                "with the status 'cloning' (vfsmount list --all), which only its administrator can end",
                detail=last.message,
            )
        # Where no event came, or not the last, the folders tell.
        pause_s = _FIRST_PAUSE_S
        while not await _is_over(client, source, target):
            await trio.sleep(pause_s)
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)
        return
    raise DeadlineExceeded(
        f"{what}: the server has not said within {timeout_s:g} s that it is done. It may be going on: while "
        f"'vfsmount list --all' shows {source.name} as cloning, it is, or it has failed without a word"
    )


async def _last_event(client: Client, task: str, bar: Progress) -> TaskProgress | None:
    """How the task ended; None where the server does not tell."""
    from vfsmount.api.tasks import TaskState

    shown = bar.tasks[0].id
    try:
        async with aclosing(client.follow_task(task)) as events:
            async for progress in events:
                if progress.state is not TaskState.RUNNING:
                    return progress
                # Units are the task's own, and most servers tell none: the bar then only moves.
                bar.update(shown, total=progress.total or None, completed=progress.current)
    except (RemoteUnavailable, RemoteError):
        return None  # the copying does not depend on who listens
    return None


async def _is_over(client: Client, source: Folder, target: Folder) -> bool:
    status = {f.id: f.status for f in await client.list_folders()}
    return target.id in status and "cloning" not in (status.get(source.id), status[target.id])


def _bar(text: str) -> Progress:
    """A bar where somebody looks, nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = show.stderr_console()
    # Whatever the names are, the bar and the time keep their room.
    what = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    bar = Progress(
        BarColumn(20),
        TimeElapsedColumn(),
        what,
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )
    bar.add_task(show.printable(text), total=None)
    return bar
