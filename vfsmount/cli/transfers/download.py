"""``vfsmount download``: files and directories out of a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.options import Flags
from vfsmount.cli.transfers.options import common_options, filter_options, trust_option

if TYPE_CHECKING:
    from vfsmount.cli.target import Target
    from vfsmount.cli.transfers.carrying import Carrying
    from vfsmount.transfer.fetching import Download
    from vfsmount.transfer.remote import Remote


@click.command("download")
@click.argument("words", metavar="NAME PATH… [DEST]", nargs=-1, required=True, type=kinds.DOWNLOAD)
@click.option(
    "-d",
    "--dest",
    metavar="DIR",
    type=kinds.DIRECTORY,
    help="Put what is named into DIR, under its own name; made if missing.",
)
@click.option(
    "-b",
    "--base-dir",
    metavar="DIR",
    type=kinds.DIRECTORY,
    help="Put what is named below DIR, under its whole path.",
)
@click.option(
    "-r", "--recursive", is_flag=True, help="Directories are always fetched with all that is in them."
)
@click.option("--no-clobber", is_flag=True, help="Fetch no file whose name is taken here (exit status 9).")
@trust_option
@filter_options
@common_options
# As the official client spells it; we ask again for as long as it may help.
@click.option("--max-retries", type=int, hidden=True, expose_value=False)
def command(
    words: tuple[str, ...],
    dest: str | None,
    base_dir: str | None,
    recursive: bool,
    no_clobber: bool,
    trust_listings: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    verify: bool,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Fetch files and directories of a folder; what is here under their names is replaced.

    Without DEST everything keeps its path in the folder, below the current directory (or --base-dir), as
    the official client has it. Into DEST it goes under its own name. The last word is a DEST if it is a
    directory here, or ends with a slash, and the folder has nothing of that name; else say --dest.

    \b
        vfsmount download data sub/a.csv        to ./sub/a.csv
        vfsmount download data sub/a.csv .      to ./a.csv
        vfsmount download data sub out/         to out/sub/…
        vfsmount download data . -d copy        all of it, into copy

    Also NAME:PATH… [DEST], and paths as they appear on a mount. Stopped by whatever, the same command
    again goes on where it was. A file that fails does not stop the others; exit status 1.
    """
    from vfsmount.cli.transfers.carrying import Carrying, carry
    from vfsmount.core.globs import Filter
    from vfsmount.transfer.disk import Tree
    from vfsmount.transfer.fetching import Fetching

    if dest is not None and base_dir is not None:
        raise click.UsageError("--dest and --base-dir exclude each other")
    filters = Filter(include, exclude)
    asked = split(words, dest, base_dir, state_dir)

    async def work(carrying: Carrying) -> None:
        carrying.remote.trusts_round = trust_listings
        targets, where = await decide(asked, carrying.remote)
        wanted = downloads(targets, own_name=where is not None)
        fetching = Fetching(
            carrying.remote,
            carrying.records,
            carrying.report,
            carrying.progress,
            Tree(where if where is not None else base_dir or "."),
            filters=filters,
            clobber=not no_clobber,
            verify=verify,
        )
        await fetching.run(wanted)

    paths = [target.path for target in asked.targets]
    carrying = Carrying("fetched")
    status = carry(flags, asked.targets[0], paths, state_dir, carrying, work, as_json=as_json)
    may_be_here = len(paths) > 1 and asked.dest is None and asked.maybe is None and base_dir is None
    if may_be_here and any(note.path == paths[-1] for note in carrying.report.failed.first):
        show.say(f"for a new directory here, end it with a slash ({paths[-1]}/), or say --dest {paths[-1]}")
    return status


@dataclass(frozen=True, slots=True)
class Asked:
    """What the words say so far.

    Attributes:
        targets: places in one folder.
        dest: directory here; None: everything keeps its path.
        maybe: the last of the targets may be meant as a directory here: this one.
    """

    targets: list[Target]
    dest: str | None
    maybe: str | None = None


def split(words: Sequence[str], dest: str | None, base_dir: str | None, state_dir: Path) -> Asked:
    """Tell places in the folder from the directory here.

    Raises:
        UsageError: they cannot be told.
        VfsError: as `target.parse`.
    """
    from vfsmount.cli.target import as_remote, parse

    given = dest is not None or base_dir is not None
    first, *rest = words
    by_itself = as_remote(first, state_dir) is not None
    if not by_itself and not rest:
        raise click.UsageError("name what to fetch; '.' is the whole folder")
    last = rest[-1] if rest else ""
    if given or not rest or (not by_itself and len(rest) == 1):
        return Asked(_one_folder(parse(words, state_dir)), dest)
    if by_itself:
        if as_remote(last, state_dir) is not None:
            return Asked(_one_folder(parse(words, state_dir)), None)
        return Asked(_one_folder(parse(words[:-1], state_dir)), _directory(last))
    if os.path.isabs(last) or last.rstrip("/") in (".", "..") or last.startswith("../"):
        return Asked(_one_folder(parse(words[:-1], state_dir)), _directory(last))
    maybe = last if last.endswith("/") or os.path.isdir(last) else None
    return Asked(_one_folder(parse(words, state_dir)), None, maybe)


def _one_folder(targets: list[Target]) -> list[Target]:
    if len({(target.name, target.folder_id) for target in targets}) > 1:
        raise click.UsageError("one folder at a time")
    return targets


def _directory(word: str) -> str:
    if not word.endswith("/") and not os.path.isdir(word):
        raise click.UsageError(f"{word} is no directory here; end it with a slash to have it made")
    return word


async def decide(asked: Asked, remote: Remote) -> tuple[list[Target], str | None]:
    """(places, directory here or None), now that the folder can be asked.

    Raises:
        UsageError: the last word could mean either.
    """
    if asked.maybe is None:
        return asked.targets, asked.dest
    if await remote.has(asked.targets[-1].path):
        raise click.UsageError(
            f"{asked.maybe} is a directory here, or to be one, and in the folder as well; "
            f"say --dest {asked.maybe} to fetch the others into it, or --base-dir . to fetch it, too"
        )
    return asked.targets[:-1], asked.maybe


def downloads(targets: Sequence[Target], *, own_name: bool) -> list[Download]:
    """What to fetch, and under which names.

    Args:
        own_name: under its last name; else its whole path.

    Raises:
        UsageError: two for one name.
    """
    from vfsmount.transfer.fetching import Download

    found: dict[tuple[str, ...], str] = {}
    for target in targets:
        parts = tuple(target.path.split("/")) if target.path else ()
        name = parts[-1:] if own_name else parts
        if found.setdefault(name, target.path) != target.path:
            raise click.UsageError(
                f"{found[name]} and {target.path} would both become {'/'.join(name)}; "
                "without DEST they keep their paths"
            )
    return [Download(path, parts) for parts, path in found.items()]
