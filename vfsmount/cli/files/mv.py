"""``vfsmount mv``: other names for files and directories, within one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.tree import Failures, Tree, Trees, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.core.standing import Place, check_move, goes_to
from vfsmount.errors import CrossFolder, VfsError


@click.command("mv")
@click.argument("words", metavar="NAME SRC… DST", nargs=-1, required=True, type=kinds.PLACES)
@click.option("-n", "--no-clobber", is_flag=True, help="Do not replace a file that is there.")
@click.option("-T", "exact", is_flag=True, help="DST is the new name, never a directory to move into.")
@click.option("-v", "--verbose", is_flag=True, help="Name what was moved.")
@click.option("--unlisted", is_flag=True, help="As of 'vfsmount rm'.")
@show.json_option
@state_dir_option
@api_options
def command(
    words: tuple[str, ...],
    no_clobber: bool,
    exact: bool,
    verbose: bool,
    unlisted: bool,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Move files and directories of the folder NAME: to the name DST, or into the directory DST.

    NAME:PATH and paths on a running mount are understood as well. A file replaces a file; a directory
    replaces nothing. Missing directories are not made. Between folders the server cannot move.
    """
    targets = parse(words, state_dir)
    if len(targets) < 2:
        raise click.UsageError("name what to move and where to: vfsmount mv NAME SRC DST")
    slashes = [word.endswith(("/", "/.")) for word in words[-len(targets) :]]
    options = Options(
        replace=not no_clobber, exact=exact, verbose=verbose, unlisted=unlisted, as_json=as_json
    )
    return with_trees(flags, targets, state_dir, lambda trees: move_all(trees, targets, slashes, options))


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose.

    Attributes:
        replace: a file that is there may be replaced.
        exact: the target is never a directory to move into.
        unlisted: what only a cut listing would show is taken for what it looks like.
    """

    replace: bool = True
    exact: bool = False
    verbose: bool = False
    unlisted: bool = False
    as_json: bool = False


async def move_all(trees: Trees, targets: Sequence[Target], slashes: Sequence[bool], options: Options) -> int:
    """Move all but the last of the targets to the last; the exit status.

    Args:
        slashes: which of them were written with a slash at the end.

    Raises:
        CrossFolder, and what keeps the folder from being used at all.
    """
    tree = await trees.of(targets[0])
    for target in targets[1:]:
        other = await trees.of(target)
        if other.folder_id != tree.folder_id:
            raise CrossFolder(
                f"{targets[0].shown} and {target.shown} are in different folders, between which the server "
                "cannot move: copy and remove (on a mount, mv does that by itself)"
            )
        if other.links < tree.links:
            tree = other  # one is named on a mount and one is not: the server knows both
    failures = Failures()
    paths = [target.path for target in targets]
    await tree.settle(paths)
    moved: list[str] = []
    rows: list[dict[str, str]] = []
    for target, slash in zip(targets[:-1], slashes[:-1], strict=True):
        try:
            final = await _move(tree, target.path, slash, paths[-1], slashes[-1], len(targets) > 2, options)
        except VfsError as e:
            failures.add("mv", e, target.shown)
            continue
        moved += target.path, final
        rows.append({"folder": target.name, "from": target.path, "path": final})
        if options.verbose and not options.as_json:
            click.echo(show.printable(f"{target.shown} -> {target.at(final).shown}"))
    if moved:
        await tree.settled(moved)
    if options.as_json:
        show.as_json({"moved": rows, "failed": failures.as_json})
    return failures.code


async def _move(
    tree: Tree, path: str, slash: bool, to: str, to_slash: bool, several: bool, options: Options
) -> str:
    """Move one; the path that it has now."""
    looked = await tree.look([path, to])
    src, dst = Place(path, looked[path], slash), Place(to, looked[to], to_slash)
    final = goes_to(src, dst, several=several, into=False if options.exact else None)
    if isinstance(final, VfsError):
        raise final
    if final != to:
        dst = Place(final, (await tree.look([final]))[final])
    error = check_move(
        src, replace(dst, path=final), replace=options.replace, unlisted=options.unlisted, links=tree.links
    )
    if error is not None:
        raise error
    assert src.at.kind is not None
    await tree.move(path, final, src.at.kind)
    return final
