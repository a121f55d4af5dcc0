"""``vfsmount du``: how much directories hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.tree import Failures, Look, Trees, named, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.core.sums import Sum, Sums
from vfsmount.errors import NotADirectory, NotFound, PermissionDenied, RemoteError, VfsError
from vfsmount.values import Kind


@click.command("du", context_settings={"help_option_names": ["--help"]})
@click.argument("words", metavar="NAME [PATH]…", nargs=-1, required=True, type=kinds.PLACES)
@click.option("-s", "--summarize", is_flag=True, help="Only a total for each PATH.")
@click.option("-a", "--all", "everything", is_flag=True, help="Files, too, not only directories.")
@click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes as 1.5 MiB; else bytes.")
@click.option("-d", "--max-depth", type=click.IntRange(min=0), help="Only so far below PATH.")
@show.json_option
@state_dir_option
@api_options
def command(
    words: tuple[str, ...],
    summarize: bool,
    everything: bool,
    human: bool,
    max_depth: int | None,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Add up the sizes of the files in PATHs (none: the root) of the folder NAME, and below them.

    Sizes are those that listings show; blocks on the server's disk are not known. Links count with their
    own length and are not followed. Every directory is listed once, several at a time. Where a listing
    may be cut, the sum is what is shown, and stderr says so.
    """
    if summarize and (everything or max_depth):
        raise click.UsageError("-s goes with neither -a nor -d")
    targets = parse(words, state_dir)
    output = _Output(0 if summarize else max_depth, everything, human, as_json)
    return with_trees(flags, targets, state_dir, lambda trees: _run(trees, targets, output))


async def _run(trees: Trees, targets: Sequence[Target], output: _Output) -> int:
    for target in targets:
        try:
            await _add_up(trees, target, output)
        except VfsError as e:
            if len(targets) == 1:
                raise
            output.failures.add(target.shown, e)
    return output.end()


async def _add_up(trees: Trees, target: Target, output: _Output) -> None:
    from vfsmount.cli.files.walk import Walk, in_order, joined

    tree = await trees.of(target)
    await tree.settle([target.path])
    sums = Sums()
    top = target.path
    try:
        first = await tree.list(top)
    except (NotFound, NotADirectory, PermissionDenied, RemoteError) as e:
        at = (await tree.look([top]))[top] if top else None
        if at is None or at.entry is None:
            raise named(target.shown, e) from e
        output.add(target, Sum(top, 0, at.entry.size, 1), is_file=True)
        return

    def visit(path: str, depth: int, found: Look | VfsError) -> None:
        entries = in_order(found.listing.entries) if isinstance(found, Look) else []
        files = [e for e in entries if e.kind is not Kind.DIRECTORY]
        partial = not isinstance(found, Look) or found.partial
        size = sum(e.size for e in files)
        for whole in sums.enter(path, size, len(files), partial=partial):
            output.add(target, whole)
        for entry in files:
            output.file(target, Sum(joined(path, entry.name), depth + 1, entry.size, 1))
        if isinstance(found, VfsError):
            output.failures.add(target.at(path).shown, found)
        elif found.partial:
            output.cut += 1

    await Walk(tree, visit, {top: first}).run(top)
    for whole in sums.end():
        output.add(target, whole)


class _Output:
    """Sums as they come, printed or gathered for JSON."""

    def __init__(self, max_depth: int | None, everything: bool, human: bool, as_json: bool) -> None:
        self.failures = Failures()
        self.cut = 0
        self._max_depth = max_depth
        self._everything = everything
        self._human = human
        self._rows: list[dict[str, Any]] | None = [] if as_json else None

    def file(self, target: Target, found: Sum) -> None:
        if self._everything:
            self.add(target, found, is_file=True)

    def add(self, target: Target, found: Sum, *, is_file: bool = False) -> None:
        if self._max_depth is not None and found.depth > self._max_depth:
            return
        if self._rows is None:
            size = show.size(found.size) if self._human else str(found.size)
            click.echo(f"{size}\t{show.printable(target.at(found.path).shown)}")
            return
        row = {
            "folder": target.name,
            "path": found.path,
            "type": "file" if is_file else "directory",
            "size": found.size,
            "files": found.files,
            "partial": found.partial,
        }
        self._rows.append(row)

    def end(self) -> int:
        if self.cut:
            directories = "1 directory" if self.cut == 1 else f"{self.cut} directories"
            show.say(f"the listings of {directories} may be cut by the server; there may be more")
        if self._rows is not None:
            show.as_json({"sums": self._rows, "failed": self.failures.as_json})
        return self.failures.code
