"""``vfsmount upload``: files and directories into a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount.cli.completion import kinds
from vfsmount.cli.options import Flags
from vfsmount.cli.transfers.options import common_options, filter_options

if TYPE_CHECKING:
    from vfsmount.cli.transfers.carrying import Carrying
    from vfsmount.transfer.sending import Upload


@click.command("upload")
@click.argument("folder", metavar="NAME", type=kinds.UPLOAD_TO)
@click.argument("files", metavar="FILE|DIR…", nargs=-1, required=True, type=kinds.FILE)
@click.option(
    "-d",
    "--dest",
    metavar="REMOTE_DIR",
    type=kinds.DIRECTORY_IN_FOLDER,
    default="",
    help="Put everything below this directory of the folder.",
)
@click.option(
    "-b",
    "--base-dir",
    metavar="DIR",
    type=kinds.DIRECTORY,
    help="FILEs are relative to it, and keep their paths from there.",
)
@click.option("-r", "--recursive", is_flag=True, help="Directories are always sent with all that is in them.")
@click.option("--no-clobber", is_flag=True, help="Send no file whose name is taken (exit status 9).")
@click.option(
    "-L", "--follow", is_flag=True, help="Follow links to directories, and to files outside of DIR."
)
@filter_options
@common_options
def command(
    folder: str,
    files: tuple[str, ...],
    dest: str,
    base_dir: str | None,
    recursive: bool,
    no_clobber: bool,
    follow: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    verify: bool,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
) -> int:
    """Send files and directories into a folder; what is there under their names is replaced.

    NAME is a folder, a place in one (NAME:PATH), or a directory on a mount (~/vfolders/NAME/PATH).
    A file below the current directory (or --base-dir) keeps its path from there, as the official client
    has it; any other goes under its own name:

    \b
        vfsmount upload data sub/a.csv          as sub/a.csv
        vfsmount upload data /tmp/a.csv         as a.csv
        vfsmount upload data -d old sub/a.csv   as old/sub/a.csv
        vfsmount upload data:old .              all that is here, into old

    Stopped by whatever, the same command again goes on where it was. A file that fails does not stop the
    others; exit status 1.
    """
    from vfsmount.cli.target import in_folder, parse
    from vfsmount.cli.transfers.carrying import Carrying, carry
    from vfsmount.core.globs import Filter
    from vfsmount.transfer.sending import Sending, join

    filters = Filter(include, exclude)
    (target,) = parse([folder], state_dir)
    below = in_folder(target.name, dest).path
    where = join(target.path, below) if below else target.path
    wanted = uploads(files, base_dir, where)

    async def work(carrying: Carrying) -> None:
        sending = Sending(
            carrying.remote,
            carrying.records,
            carrying.report,
            carrying.progress,
            filters=filters,
            follow=follow,
            clobber=not no_clobber,
            verify=verify,
        )
        await sending.run(wanted)

    paths = [upload.path for upload in wanted]
    return carry(flags, target, paths, state_dir, Carrying("sent"), work, as_json=as_json)


def uploads(files: Sequence[str], base_dir: str | None, where: str) -> list[Upload]:
    """What to send, and where to.

    Args:
        where: directory in the folder.

    Raises:
        InvalidRequest: a file outside of `base_dir`, or two for one name.
    """
    from vfsmount.errors import InvalidRequest
    from vfsmount.transfer.sending import Upload, join

    base = os.path.abspath(base_dir or ".")
    found: dict[str, str] = {}
    for word in files:
        local = os.path.abspath(os.path.join(base, word) if base_dir is not None else word)
        below = os.path.relpath(local, base)
        if below == ".":
            below = ""
        elif below == ".." or below.startswith("../"):
            if base_dir is not None:
                raise InvalidRequest(f"{word} is not in the base directory {base_dir}")
            below = os.path.basename(local)
        path = join(where, below) if below else where
        if found.setdefault(path, local) != local:
            raise InvalidRequest(f"{found[path]} and {local} would both become {path}; send them one by one")
    tops = {
        path: local
        for path, local in found.items()
        if not any(_is_in(path, local, above, found[above]) for above in _above(path) if above in found)
    }
    return [Upload(local, path) for path, local in tops.items()]


def _above(path: str) -> list[str]:
    parts = path.split("/") if path else []
    return ["/".join(parts[:n]) for n in range(len(parts))]


def _is_in(path: str, local: str, above: str, local_above: str) -> bool:
    """Whether it is sent anyway, with a directory above it."""
    return local == os.path.join(local_above, path[len(above) :].lstrip("/"))
