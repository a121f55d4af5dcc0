"""``vfsmount rename-file``: as the official client has it; `mv` does the same and more."""

from __future__ import annotations

from pathlib import Path

import click

from vfsmount.api.paths import bare_name
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.mv import Options, move_all
from vfsmount.cli.files.tree import with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import parse, state_dir_option


@click.command("rename-file")
@click.argument("name", type=kinds.FOLDER)
@click.argument("path", type=kinds.IN_FOLDER)
@click.argument("new_name")
@show.json_option
@state_dir_option
@api_options
def command(name: str, path: str, new_name: str, as_json: bool, state_dir: Path, flags: Flags) -> int:
    """Give PATH in the folder NAME the name NEW_NAME, in the directory it is in."""
    (source,) = parse([name, path], state_dir)
    if not source.path:
        raise click.UsageError("PATH is the folder itself ('vfsmount rename' renames a folder)")
    directory = source.path.rpartition("/")[0]
    to = source.at(directory).child(bare_name(new_name))
    exact = Options(exact=True, as_json=as_json)
    return with_trees(flags, [source], state_dir, lambda t: move_all(t, [source, to], [False, False], exact))
