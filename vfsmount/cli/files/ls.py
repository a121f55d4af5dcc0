"""``vfsmount ls``: what is in a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.files.tree import Failures, Look, Tree, Trees, named, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.core.standing import Standing
from vfsmount.errors import NotADirectory, NotFound, PermissionDenied, RemoteError, VfsError
from vfsmount.values import Kind, RemoteEntry

_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_ORDERS: dict[str, Callable[[RemoteEntry], Any]] = {
    "name": lambda e: e.name,
    "size": lambda e: (-e.size, e.name),
    "time": lambda e: (-e.mtime_ns, e.name),
}
_UPLOADS = b".upload"  # where the server gathers uploads, in every folder's root


@click.command("ls", context_settings={"help_option_names": ["--help"]})
@click.argument("words", metavar="NAME [PATH]…", nargs=-1, required=True, type=kinds.PLACES)
@click.option("-l", "long", is_flag=True, help="Long form, which is the default.")
@click.option("-1", "names_only", is_flag=True, help="Names only, one a line.")
@click.option("-R", "--recursive", is_flag=True, help="Directories below, too.")
@click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes as 1.5 MiB.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also the server's own .upload.")
@click.option("--sort", type=click.Choice(list(_ORDERS)), default="name", help="Largest or newest first.")
@show.json_option
@state_dir_option
@api_options
def command(
    words: tuple[str, ...],
    long: bool,
    names_only: bool,
    recursive: bool,
    human: bool,
    everything: bool,
    sort: str,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """List PATHs (none: the root) of the folder NAME.

    NAME:PATH and paths on a running mount (~/vfolders/NAME/PATH) are understood as well. Paths on a
    mount show as the mount has them, with what it has not sent yet; otherwise the server is asked, once
    mounts of yours have sent what they hold there. A listing that the server may have cut is told of.
    """
    targets = parse(words, state_dir)
    form = _Form(names_only and not long, human, everything, _ORDERS[sort])
    return with_trees(flags, targets, state_dir, lambda trees: _run(trees, targets, recursive, as_json, form))


class _Form:
    """How entries are shown."""

    def __init__(self, names_only: bool, human: bool, everything: bool, order: Callable[[Any], Any]) -> None:
        self._names_only = names_only
        self._human = human
        self._everything = everything
        self._order = order

    def shown(self, path: str, entries: Iterable[RemoteEntry]) -> list[RemoteEntry]:
        """The entries of a directory that show, in their order."""
        hidden = path or self._everything
        return sorted((e for e in entries if hidden or e.name != _UPLOADS), key=self._order)

    def print(self, entries: Sequence[RemoteEntry]) -> None:
        names = [show.printable(os.fsdecode(e.name)) for e in entries]
        if self._names_only:
            lines = names
        else:
            sizes = [self._size(e) for e in entries]
            width = max(map(len, sizes), default=0)
            lines = [
                f"{_mode(e)}  {size:>{width}}  {show.moment(e.mtime_ns)}  {name}"
                for e, size, name in zip(entries, sizes, names, strict=True)
            ]
        if lines:
            click.echo("\n".join(lines))

    def _size(self, entry: RemoteEntry) -> str:
        if entry.kind is Kind.DIRECTORY:
            return "-"
        return show.size(entry.size) if self._human else str(entry.size)


async def _run(trees: Trees, targets: Sequence[Target], recursive: bool, as_json: bool, form: _Form) -> int:
    output = _Output(form, as_json, titled=recursive or len(targets) > 1)
    for target in targets:
        try:
            tree = await trees.of(target)
            await tree.settle([target.path])
            await _list(tree, target, recursive, output)
        except VfsError as e:
            if len(targets) == 1:
                raise
            output.failures.add(target.shown, e)
    return output.end()


async def _list(tree: Tree, target: Target, recursive: bool, output: _Output) -> None:
    from vfsmount.cli.files.walk import Walk

    try:
        found = await tree.list(target.path)
    except (NotFound, NotADirectory, PermissionDenied, RemoteError) as e:
        # A file, or a link to one, or out of the folder.
        at = (await tree.look([target.path]))[target.path] if target.path else Standing(None)
        if at.entry is None:
            raise named(target.shown, e) from e
        output.file(target, at.entry)
        return
    if not recursive:
        output.directory(target, found)
        return

    def visit(path: str, depth: int, found: Look | VfsError) -> None:
        if isinstance(found, Look):
            output.directory(target.at(path), found)
        else:
            output.failures.add(target.at(path).shown, found)

    await Walk(tree, visit, {target.path: found}).run(target.path)


class _Output:
    """What is listed, printed as it comes or gathered for JSON."""

    def __init__(self, form: _Form, as_json: bool, *, titled: bool) -> None:
        self.failures = Failures()
        self._form = form
        self._titled = titled
        self._rows: list[dict[str, Any]] | None = [] if as_json else None
        self._partial: list[str] = []
        self._begun = False

    def file(self, target: Target, entry: RemoteEntry) -> None:
        if self._rows is None:
            self._form.print([entry])
            self._begun = True
        else:
            self._rows.append(describe(target, entry))

    def directory(self, target: Target, found: Look) -> None:
        entries = self._form.shown(target.path, found.listing.entries)
        if found.partial:
            self._partial.append(target.shown)
        if self._rows is not None:
            self._rows += [describe(target.child(os.fsdecode(e.name)), e) for e in entries]
            return
        if self._titled:
            click.echo(("\n" if self._begun else "") + show.printable(target.shown) + ":")
        self._form.print(entries)
        self._begun = True
        if found.partial:
            show.say(
                f"{target.shown}: this listing may be cut: the server showed {found.listing.count} entries, "
                "and does not say whether there are more"
            )

    def end(self) -> int:
        if self._rows is not None:
            failed = self.failures.as_json
            show.as_json({"entries": self._rows, "partial": self._partial, "failed": failed})
        return self.failures.code


def describe(target: Target, entry: RemoteEntry) -> dict[str, Any]:
    """The fields that JSON has of an entry."""
    return {
        "folder": target.name,
        "path": target.path,
        "name": os.fsdecode(entry.name),
        "type": entry.kind.value,
        "size": None if entry.kind is Kind.DIRECTORY else entry.size,
        "mode": f"{entry.mode:04o}",
        "modified": show.utc(entry.mtime_ns),
        "modified_ns": entry.mtime_ns,
    }


def _mode(entry: RemoteEntry) -> str:
    return stat.filemode(_TYPES.get(entry.kind, stat.S_IFREG) | entry.mode)
