"""What the server has, for completion: quickly, or not at all.

Which folders there are is kept for a minute in the user's cache directory, so that a word costs one
listing; for a path in a folder that was ever seen, an older list tells which folder it is. What is kept are
names and ids, for each server and user, readable by this user only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from vfsmount import places
from vfsmount.cli.completion.entry import patience_s
from vfsmount.cli.completion.kept import directory
from vfsmount.cli.options import Flags
from vfsmount.config import ApiSettings, load_settings
from vfsmount.core.foldernames import shown_folders
from vfsmount.errors import Ambiguous, NotFound, VfsError
from vfsmount.values import Folder, Kind

if TYPE_CHECKING:
    from vfsmount.cli.completion.onelook import OneLook

KEPT_S = 60.0
PATIENCE_S = 1.6  # for the server; less where loading us has taken its time

T = TypeVar("T")


class _Kept(msgspec.Struct):
    """The folders as the server told them at a time, in seconds since the epoch."""

    at: float
    by_name: bool
    folders: list[Folder]


def folder_names(flags: Flags) -> list[str]:
    """Folders as a mount shows them; none where nobody tells in time."""
    settings = _settings(flags)
    if settings is None:
        return []
    kept = _read(settings)
    if kept is None or not 0 <= time.time() - kept.at < KEPT_S:
        kept = _within(settings, lambda client: _fetch(settings, client)) or kept
    if kept is None:
        return []
    shown = shown_folders(kept.folders, addressed_by_name=kept.by_name)
    return [os.fsdecode(entry.name) for entry in shown]


def entries(flags: Flags, name: str, path: str) -> list[tuple[str, bool]]:
    """(name, whether it is a directory) of what is in a directory of a folder; one listing."""
    settings = _settings(flags)
    if settings is None:
        return []
    return _within(settings, lambda client: _list(settings, client, name, path)) or []


def _settings(flags: Flags) -> ApiSettings | None:
    """None where they say nothing, or make no sense: the command itself will tell."""
    try:
        return load_settings(flags, os.environ)
    except VfsError:
        return None


async def _list(settings: ApiSettings, client: OneLook, name: str, path: str) -> list[tuple[str, bool]]:
    kept = _read(settings)
    folder = _choose(kept, name) if kept is not None else None
    if folder is None:
        folder = _choose(await _fetch(settings, client), name)
    if folder is None:
        return []
    found = await client.list_files(folder, path)
    return [(os.fsdecode(e.name), e.kind is Kind.DIRECTORY) for e in found.entries]


def _choose(kept: _Kept, name: str) -> Folder | None:
    from vfsmount.cli.remote import choose_folder

    try:
        return choose_folder(kept.folders, name, addressed_by_name=kept.by_name)
    except (NotFound, Ambiguous):
        return None


async def _fetch(settings: ApiSettings, client: OneLook) -> _Kept:
    kept = _Kept(time.time(), not client.traits.by_id, await client.list_folders())
    with suppress(VfsError):
        places.write_private(_file(settings), msgspec.json.encode(kept).decode())
    return kept


def _read(settings: ApiSettings) -> _Kept | None:
    try:
        return msgspec.json.decode(_file(settings).read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError):
        return None


def _file(settings: ApiSettings) -> Path:
    """Where the folders of this user at this server are kept; the name tells neither."""
    user = [settings.mode, settings.access_key, settings.domain, *settings.endpoints]
    if settings.cookie_file is not None:
        with suppress(OSError):  # another login is another user
            user.append(f"{settings.cookie_file} {settings.cookie_file.stat().st_mtime_ns}")
    return directory() / f"folders-{hashlib.sha256(chr(0).join(user).encode()).hexdigest()[:32]}.json"


def _within(settings: ApiSettings, work: Callable[[OneLook], Awaitable[T]]) -> T | None:
    """What the work returns; None where it fails, or has not ended in time."""
    import trio

    from vfsmount.cli.completion.onelook import OneLook
    from vfsmount.cli.remote import alone

    async def run() -> T | None:
        with trio.move_on_after(min(PATIENCE_S, patience_s())):
            async with OneLook(settings) as client:
                await client.connect()
                return await work(client)
        return None

    try:
        return alone(run)
    except VfsError:
        return None
