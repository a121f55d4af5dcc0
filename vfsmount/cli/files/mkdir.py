"""``vfsmount mkdir``: directories in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.tree import Failures, Trees, grouped, place, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.errors import AlreadyExists, VfsError


@click.command("mkdir")
@click.argument("words", metavar="NAME PATH…", nargs=-1, required=True, type=kinds.PLACES)
@click.option("-p", "--parents", is_flag=True, help="Make those above, too; no error where it is there.")
@click.option("-e", "--exist-ok", is_flag=True, help="No error where it is there.")
@show.json_option
@state_dir_option
@api_options
def command(
    words: tuple[str, ...], parents: bool, exist_ok: bool, as_json: bool, state_dir: Path, flags: Flags
) -> int:
    """Make directories in the folder NAME.

    NAME:PATH and paths on a running mount are understood as well.
    """
    targets = parse(words, state_dir)
    if any(not target.path for target in targets):
        raise click.UsageError("name a directory to make: vfsmount mkdir NAME PATH")
    failures = Failures()
    made: list[Target] = []
    with_trees(
        flags, targets, state_dir, lambda trees: _run(trees, targets, parents, exist_ok, made, failures)
    )
    if as_json:
        show.as_json({"made": [place(target) for target in made], "failed": failures.as_json})
    return failures.code


async def _run(
    trees: Trees,
    targets: Sequence[Target],
    parents: bool,
    exist_ok: bool,
    made: list[Target],
    failures: Failures,
) -> None:
    for group in grouped(targets):
        tree = await trees.of(group[0])
        await tree.settle([target.path for target in group])
        new = []
        for target in group:
            try:
                await tree.mkdir(target.path, parents=parents)
                new.append(target.path)
                made.append(target)
            except AlreadyExists as e:
                at = (await tree.look([target.path]))[target.path]
                if not (exist_ok and at.is_dir):
                    failures.add(target.shown, e)
            except VfsError as e:
                failures.add(target.shown, e)
        if new:
            await tree.settled(new)
