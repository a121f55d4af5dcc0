"""``vfsmount sync``: make a directory like another, one of them in a folder."""

from __future__ import annotations

import os
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
    from vfsmount.transfer.sync import Options, Tell


@click.command("sync")
@click.argument("source", metavar="SRC", type=kinds.SIDE)
@click.argument("destination", metavar="DST", type=kinds.SIDE)
@click.option("--delete", is_flag=True, help="Delete from DST what SRC does not have.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; print what would be done.")
@click.option(
    "-c", "--checksum", is_flag=True, help="Compare the content of files of one size, not their times."
)
@click.option(
    "-L", "--follow", is_flag=True, help="Follow links to directories, and to files outside of SRC."
)
@trust_option
@filter_options
@common_options
def command(
    source: str,
    destination: str,
    delete: bool,
    dry_run: bool,
    checksum: bool,
    follow: bool,
    trust_listings: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    verify: bool,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Make the directory DST like SRC. One of them is here, the other in a folder: NAME:PATH, or a path
    on a mount.

    The content of SRC goes into DST, whether they end with slashes or not. Files that have the same size
    and time in both, or had when one was made from the other, are left alone.

    \b
        vfsmount sync results data:run7           to the server
        vfsmount sync data:run7 results --delete  from there, and nothing else stays here

    Nothing is ever deleted when a part of either side could not be seen.
    """
    from vfsmount.cli.transfers.carrying import Carrying, carry
    from vfsmount.core.globs import Filter
    from vfsmount.transfer.sync import Options

    up, target, here = sides(source, destination, state_dir)
    options = Options(Filter(include, exclude), checksum, delete, dry_run, follow, verify)
    carrying = Carrying("sent" if up else "fetched", dry_run)

    def tell(action: str, path: str) -> None:
        if dry_run and not as_json:
            click.echo(f"{action} {show.printable(path)}")
        elif dry_run:
            carrying.actions.append((action, path))

    async def work(carrying: Carrying) -> None:
        carrying.remote.trusts_round = trust_listings
        await _sync(carrying, options, up, target.path, here, tell)

    return carry(flags, target, [target.path], state_dir, carrying, work, as_json=as_json)


async def _sync(carrying: Carrying, options: Options, up: bool, there: str, here: str, tell: Tell) -> None:
    from vfsmount.transfer.disk import Tree
    from vfsmount.transfer.sync import Directory, Sync, Way
    from vfsmount.transfer.syncing_down import Down
    from vfsmount.transfer.syncing_up import Up

    remote, records, report = carrying.remote, carrying.records, carrying.report
    way: Way = (
        Up(remote, records, report, options, here, there)
        if up
        else Down(remote, records, report, options, Tree(here), there)
    )
    sync = Sync(remote, records, report, carrying.progress, way, options, tell)
    await sync.run(Directory("", here=True, there=True))


def sides(source: str, destination: str, state_dir: Path) -> tuple[bool, Target, str]:
    """(whether it goes to the server, the place there, the directory here).

    Raises:
        UsageError: not exactly one of them is in a folder.
        VfsError: as `target.parse`.
    """
    from vfsmount.cli.target import as_remote

    found = [as_remote(word, state_dir) for word in (source, destination)]
    for word, target in zip((source, destination), found, strict=True):
        if target is not None and target.mount is None and os.path.lexists(word):
            raise click.UsageError(
                f"{word} is a file here and could be a folder's; write ./{word} for the file"
            )
    there, other = found
    if there is not None and other is not None:
        raise click.UsageError("both are on a server; one of them has to be a directory here")
    if there is not None:
        return False, there, os.path.realpath(destination)
    if other is not None:
        return True, other, os.path.realpath(source)
    raise click.UsageError("neither is on a server: write NAME:PATH for a place in a folder (NAME: for all)")
