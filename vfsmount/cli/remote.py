"""Commands that ask a server: one client for one command, and which folder somebody means."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from vfsmount import log
from vfsmount.cli.options import Flags
from vfsmount.errors import Ambiguous, NotFound, VfsError
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client

T = TypeVar("T")


def with_client(flags: Flags, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do the work, close; what the work returns.

    Warnings of retries are not shown: the sentence at the end tells.

    Raises:
        ConfigError, AuthFailed, RemoteUnavailable, and what the work raises, never in a group.
    """
    from vfsmount.api.client import Client
    from vfsmount.config import load_settings

    log.setup(logging.ERROR)
    settings = load_settings(flags, os.environ)
    log.add_secret(settings.secret_key)

    async def run() -> T:
        async with Client(settings) as client:
            await client.connect()
            return await work(client)

    return alone(run)


def alone(work: Callable[[], Awaitable[T]]) -> T:
    """`trio.run`, and never a group of exceptions."""
    import trio

    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise _the_one(group) from group


def _the_one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a nursery's failure means to a user: Ctrl-C, else an error of ours, else the first of all."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        e = todo.pop(0)
        if isinstance(e, BaseExceptionGroup):
            todo[:0] = e.exceptions
        else:
            leaves.append(e)
    for kind in (KeyboardInterrupt, VfsError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


async def find_folder(client: Client, wanted: str) -> Folder:
    """The folder that somebody names: as a mount shows it, by its plain name, or by its id.

    Raises:
        NotFound: there is none, or it is not usable.
        Ambiguous: the plain name is that of several, or the server would act on a namesake.
    """
    return choose_folder(await client.list_folders(), wanted, addressed_by_name=not client.traits.by_id)


def choose_folder(folders: Sequence[Folder], wanted: str, *, addressed_by_name: bool) -> Folder:
    """As `find_folder`, among these."""
    from vfsmount.core.foldernames import shown_folders

    shown = shown_folders(folders, addressed_by_name=addressed_by_name)
    alike = [entry.folder for entry in shown if os.fsdecode(entry.name) == wanted]
    alike = alike or [f for f in folders if f.id == wanted.replace("-", "").lower()]
    alike = alike or [entry.folder for entry in shown if entry.folder.name == wanted]
    if not alike:
        away = next((f for f in folders if f.name == wanted), None)
        if away is None:
            raise NotFound(f"there is no folder {wanted!r} that you may use (vfsmount list shows them)")
        raise NotFound(
            f"there is no folder {wanted!r} that you may use; there is one whose status is {away.status} "
            "(vfsmount list --all shows it)"
        )
    if len(alike) > 1:
        names = ", ".join(os.fsdecode(e.name) for e in shown if e.folder in alike)
        raise Ambiguous(f"several folders are called {wanted!r}; say which: {names}")
    if any(entry.folder is alike[0] and not entry.reachable for entry in shown):
        raise Ambiguous(
            f"several folders are called {alike[0].name!r} and this server reaches only one of them, "
            f"not {wanted!r}; ask its owner to rename it"
        )
    return alike[0]
