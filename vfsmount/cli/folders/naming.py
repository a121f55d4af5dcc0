"""Which folder is meant, what it is called on a mount, and errors that name it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from vfsmount.cli.remote import choose_folder
from vfsmount.core.foldernames import fit_for_directory_entry, shown_folders
from vfsmount.errors import (
    AlreadyExists,
    AuthFailed,
    InvalidName,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    RemoteUnavailable,
    ServerFrozen,
    VfsError,
)
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client

# Of the server as a whole: a folder's name before them would mislead.
_NOT_OF_A_FOLDER = (AuthFailed, RateLimited, RemoteUnavailable, ServerFrozen)
IN_TRASH = frozenset({"delete-pending", "delete-error"})
_NOT_YOURS = "not owned by"  # in both dialects' words, where the status says only that something is invalid


def names_on_mount(client: Client, folders: Sequence[Folder]) -> dict[str, str]:
    """Id → name, of those that a mount shows."""
    shown = shown_folders(folders, addressed_by_name=not client.traits.by_id)
    return {entry.folder.id: os.fsdecode(entry.name) for entry in shown}


async def find(client: Client, wanted: str) -> tuple[Folder, str]:
    """The folder that somebody names, as `find_folder` has it, and its name on a mount."""
    folders = await client.list_folders()
    folder = choose_folder(folders, wanted, addressed_by_name=not client.traits.by_id)
    return folder, names_on_mount(client, folders).get(folder.id, folder.name)


@contextmanager
def about(name: str) -> Iterator[None]:
    """Errors of the calls inside name the folder, and tell a refusal from a mistake."""
    try:
        yield
    except InvalidRequest as e:
        if _NOT_YOURS in e.detail.lower():
            raise PermissionDenied(f"{name}: only the owner may do this", detail=e.detail) from e
        e.args = (f"{name}: {e}",)
        raise
    except _NOT_OF_A_FOLDER:
        raise
    except VfsError as e:
        e.args = (f"{name}: {e}",)
        raise


@asynccontextmanager
async def naming(client: Client, name: str) -> AsyncIterator[None]:
    """Errors of a call that gives a folder this name say what is wrong with the name.

    Raises:
        InvalidName: no mount could show it (26.x takes ``a/b``), nor any command find it by that name.
        AlreadyExists: says so where what has the name is in the trash.
    """
    if not fit_for_directory_entry(os.fsencode(name)):
        raise InvalidName(
            "no directory on a mount could have this name, so no folder; "
            "'vfsmount mkdir NAME PATH' makes directories in a folder"
        )
    try:
        yield
    except AlreadyExists as e:
        folders: list[Folder] = []
        if client.traits.has_trash:
            with suppress(VfsError):
                folders = await client.list_folders()
        if any(f.name == name and f.status in IN_TRASH for f in folders):
            e.args = (
                f"a folder of that name is in the trash; 'vfsmount trash restore {name}' brings it back, "
                f"'vfsmount trash purge {name}' removes it for good",
            )
        raise
