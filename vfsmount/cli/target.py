"""What a user names on the command line: a place in a vfolder.

Three spellings mean the same: ``NAME PATH…`` as the official client has it, ``NAME:PATH``, and the
path on a running mount, ``~/vfolders/NAME/PATH``. A colon makes a word a ``NAME:PATH`` only before the
first slash, as with scp and rsync, so ``./a:b`` is a path. A folder whose own name has a colon or a
slash is named by its id.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.api import paths
from vfsmount.errors import ConfigError, InvalidName, InvalidRequest, NotFound
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.store.mounts import MountRecord


@dataclass(frozen=True, slots=True)
class Target:
    """A place in a vfolder, which need not exist.

    Attributes:
        name: the folder, as a mount shows it, or by its plain name, or by its id.
        path: below the folder's root, no ``.``, ``..`` or empty component; "" is the root.
        mount: the running mount whose path was given; None: the folder itself was named.
        local: that path, absolute; "" without a mount.
        folder_id: of the folder that this mount shows there; "" without a mount.
    """

    name: str
    path: str
    mount: MountRecord | None = None
    local: str = ""
    folder_id: str = ""

    @property
    def shown(self) -> str:
        """For people: as it could be typed."""
        return self.local or (f"{self.name}:{self.path}" if self.path else self.name)

    def at(self, path: str) -> Target:
        """Another place in the same folder, named in the same way."""
        root = self.local.removesuffix(self.path).rstrip("/")
        return replace(self, path=path, local=f"{root}/{path}".rstrip("/") if root else "")

    def child(self, name: str) -> Target:
        """The place of that name in this directory."""
        return self.at(f"{self.path}/{name}" if self.path else name)


def parse(words: Sequence[str], state_dir: Path) -> list[Target]:
    """The places that the words of a command name, at least one.

    ``NAME`` and then paths in it (none: its root), else each word a place of its own.

    Raises:
        InvalidRequest, InvalidName, NameTooLong: a word that cannot name a place; says which.
        NotFound: a mount shows no such folder.
        MountError: the mount whose path was given does not answer.
    """
    if not words:
        raise InvalidRequest("name a folder")
    if as_remote(words[0], state_dir) is not None:
        return [_remote(word, state_dir) for word in words]
    name = words[0]
    _check_name(name)
    return [in_folder(name, path) for path in words[1:]] or [Target(name, "")]


def as_remote(word: str, state_dir: Path) -> Target | None:
    """The place that one word names by itself, as ``NAME:PATH`` or as a path on a running mount.

    None: it does neither, so it is the bare name of a folder, or a path on this machine.

    Raises:
        As `parse`.
    """
    before, slash, _ = word.partition("/")
    name, colon, path = word.partition(":")
    if colon and name and ":" in before:
        return in_folder(name, path)
    return on_mount(word, state_dir) if slash or word in (".", "..") else None


def in_folder(name: str, path: str) -> Target:
    """A path in the folder of that name.

    Raises:
        InvalidRequest: an absolute path.
        InvalidName, NameTooLong: not a path in a folder.
    """
    if path.startswith("/"):
        raise InvalidRequest(f"{path!r}: paths in a folder are relative to it and begin with no slash")
    try:
        return Target(name, paths.relative(path))
    except InvalidName as e:
        raise InvalidName(f"{path!r}: {e}") from e


def on_mount(path: str, state_dir: Path) -> Target | None:
    """A path on a running mount of this user; None where it lies on none.

    Raises:
        InvalidRequest: the mount's root, which is no folder.
        NotFound: the mount shows no such folder.
        MountError: the mount does not answer.
    """
    from vfsmount.cli.control import place_on_mount
    from vfsmount.cli.mounted import folders

    found = place_on_mount(path, state_dir)
    if found is None:
        return None
    record, local, below = found
    name, _, rest = below.partition("/")
    if not name:
        raise InvalidRequest(f"{path} is the mount itself; name a folder in it")
    shown = folders(record)
    if name not in shown:
        os.path.lexists(local.removesuffix(rest).rstrip("/"))  # has the mount look: it may be new
        shown = folders(record)
    if name not in shown:
        raise NotFound(f"{record.mountpoint} shows no folder {name!r} (vfsmount list shows what there is)")
    return Target(name, rest, record, local, shown[name])


async def folder_of(client: Client, target: Target) -> Folder:
    """The folder on the server that a place lies in.

    Raises:
        NotFound, Ambiguous: as `remote.find_folder`.
        ConfigError: the mount whose path was given is of another server, or of another user.
    """
    from vfsmount.cli.remote import choose_folder

    folders = await client.list_folders()
    by_name = not client.traits.by_id
    if target.mount is None:
        return choose_folder(folders, target.name, addressed_by_name=by_name)
    if any(folder.id == target.folder_id for folder in folders):
        # Another folder may be called like this one's id.
        alike = [f for f in folders if f.id == target.folder_id or f.name != target.folder_id]
        return choose_folder(alike, target.folder_id, addressed_by_name=by_name)
    raise ConfigError(
        f"your settings do not reach the folder {target.name!r} that {target.mount.mountpoint} shows; "
        "does the mount use other ones (another --profile, say)?"
    )


def state_dir_option(function: Any) -> Any:
    """Add ``--state-dir``, as parameter `state_dir`: where the records of running mounts are."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        callback=lambda _ctx, _param, given: (given or places.state_dir()).absolute(),
        help="As given to the mount, if one of yours shows the folder.",
    )(function)


def _remote(word: str, state_dir: Path) -> Target:
    target = as_remote(word, state_dir)
    if target is None:
        raise InvalidRequest(
            f"{word!r} names no folder: after NAME:PATH or a path on a mount, each of the others must be one"
        )
    return target


def _check_name(name: str) -> None:
    if not name or name.startswith(":"):
        raise InvalidRequest(f"{name!r} names no folder")
    if "/" in name or name in (".", ".."):
        raise InvalidRequest(
            f"{name} is not on a running mount (if it is on one, give its --state-dir); "
            "a folder is named as NAME PATH or NAME:PATH"
        )
