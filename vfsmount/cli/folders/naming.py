"""Which folder is meant, what it is called on a mount, and errors that name it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vfsmount.cli.remote import choose_folder
from vfsmount.core.foldernames import shown_folders
from vfsmount.errors import (
    AuthFailed,
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
