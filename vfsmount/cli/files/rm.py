"""``vfsmount rm``: files and directories of folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.tree import Failures, Trees, grouped, place, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.core.standing import check_removable
from vfsmount.errors import NotFound, VfsError
from vfsmount.values import Kind


@click.command("rm")
@click.argument("words", metavar="NAME PATH…", nargs=-1, required=True, type=kinds.PLACES)
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories, too, with all that is in them.")
@click.option("-f", "--force", is_flag=True, help="No error where nothing is there.")
@click.option("-v", "--verbose", is_flag=True, help="Name what was removed.")
@click.option(
    "--unlisted",
    is_flag=True,
    help="Remove also what the cut listing of its directory does not show. If it is a symlink that a "
    "session made, the server removes what it points to.",
)
@show.json_option
@state_dir_option
@api_options
def command(
    words: tuple[str, ...],
    recursive: bool,
    force: bool,
    verbose: bool,
    unlisted: bool,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Remove files of the folder NAME, for good.

    NAME:PATH and paths on a running mount are understood as well. It is done when the server shows none
    of it any more. A symlink at the server cannot be removed by itself, because the server would remove
    what it points to; it goes with its directory.
    """
    targets = parse(words, state_dir)
    if any(not target.path for target in targets):
        raise click.UsageError(
            "name what to remove: vfsmount rm NAME PATH ('vfsmount delete' is for folders)"
        )
    failures = Failures()
    removed: list[Target] = []

    def tell(target: Target) -> None:
        removed.append(target)
        if verbose and not as_json:
            click.echo(show.printable(f"removed {target.shown}"))

    with_trees(
        flags,
        targets,
        state_dir,
        lambda trees: _run(trees, targets, recursive, force, unlisted, tell, failures),
    )
    if as_json:
        show.as_json({"removed": [place(target) for target in removed], "failed": failures.as_json})
    return failures.code


async def _run(
    trees: Trees,
    targets: Sequence[Target],
    recursive: bool,
    force: bool,
    unlisted: bool,
    tell: Callable[[Target], None],
    failures: Failures,
) -> None:
    for group in grouped(targets):
        tree = await trees.of(group[0])
        todo = {target.path: target for target in group}
        await tree.settle(list(todo))
        changed: list[str] = []
        hopeful = True
        while todo and hopeful:
            wanted: dict[str, Kind] = {}
            doubtful: dict[str, VfsError] = {}
            for path, at in (await tree.look(todo)).items():
                error = check_removable(at, recursive=recursive, unlisted=unlisted, links=tree.links)
                if error is None and at.kind is not None:
                    wanted[path] = at.kind
                elif error is not None and at.kind is not None and not at.certain:
                    doubtful[path] = error
                elif error is not None and not (force and isinstance(error, NotFound)):
                    failures.add(todo[path].shown, error)
            failed = await tree.remove(wanted)
            changed += wanted
            for path in wanted:
                if path in failed:
                    failures.add(todo[path].shown, failed[path])
                else:
                    tell(todo[path])
            # Where some have gone, a cut listing shows others.
            hopeful = len(failed) < len(wanted)
            todo = {path: todo[path] for path in doubtful}
        for path, target in todo.items():
            failures.add(target.shown, doubtful[path])
        if changed:
            await tree.settled(changed)
