"""Directories made, names moved and removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from vfsmount.errors import IsADirectory, NotEmpty, NotFound, NotSupported
from vfsmount.fsspec import listing
from vfsmount.fsspec.remote import Remote
from vfsmount.values import Folder, Kind, Listing
from vfsmount.vfs.deadline import progress

BATCH = 250  # names in a call that deletes, as in a mount


async def mkdir(remote: Remote, name: str, rel: str, parents: bool, exist_ok: bool) -> None:
    """As `Client.mkdir`."""
    await remote.client.mkdir(await remote.folder(name), rel, parents=parents, exist_ok=exist_ok)


async def create_folder(remote: Remote, name: str) -> None:
    """Make a folder on the cluster's default host."""
    await remote.client.create_folder(name)
    remote.forget_folders()


async def remove_folder(remote: Remote, name: str) -> None:
    """Delete an empty folder.

    Raises:
        NotEmpty: there is something in it, or may be.
    """
    folder = await remote.folder(name)
    _refuse_content(await remote.client.list_files(folder, ""), in_root=True)
    await remote.client.delete_folder(folder)
    remote.forget_folders()


async def rmdir(remote: Remote, name: str, rel: str) -> None:
    """Remove an empty directory.

    Raises:
        NotEmpty: there is something in it, or may be.
    """
    folder = await remote.folder(name)
    entry = await remote.entry(name, rel)
    if entry is not None and entry.kind is Kind.SYMLINK:
        raise NotSupported("removing a symlink would remove what it points to")
    _refuse_content(await remote.client.list_files(folder, rel), in_root=False)
    await remote.client.delete_files(folder, [rel], recursive=True, known=True)


def _refuse_content(found: Listing, *, in_root: bool) -> None:
    names = {e.name for e in found.entries} - ({listing.UPLOADS.encode()} if in_root else set())
    if names or found.unfit or (found.cut and found.count):
        raise NotEmpty("the directory is not empty")


async def remove(remote: Remote, name: str, rels: Iterable[str], recursive: bool) -> None:
    """Delete files and, with `recursive`, directories with all that is in them.

    Raises:
        NotFound, IsADirectory, NotSupported (a symlink): nothing was sent.
    """
    folder = await remote.folder(name)
    kinds = await _kinds(remote, name, sorted(set(rels)))
    for rel, kind in kinds.items():
        if kind is Kind.SYMLINK:
            raise NotSupported(f"deleting the symlink {rel!r} would delete what it points to")
        if kind is Kind.DIRECTORY and not recursive:
            raise IsADirectory(f"{rel!r} is a directory; it is deleted with recursive=True only")
    directories = {rel for rel, kind in kinds.items() if kind is Kind.DIRECTORY}
    outer = [rel for rel in kinds if not any(above in directories for above in _above(rel))]
    for of_kind in ([r for r in outer if r not in directories], [r for r in outer if r in directories]):
        for at in range(0, len(of_kind), BATCH):
            batch = of_kind[at : at + BATCH]
            await _delete(remote, folder, batch, recursive and batch[0] in directories)


async def _kinds(remote: Remote, name: str, rels: Sequence[str]) -> dict[str, Kind]:
    folder = await remote.folder(name)
    kinds: dict[str, Kind] = {}
    listings: dict[str, Listing] = {}
    for rel in rels:
        parent, _, last = rel.rpartition("/")
        if parent not in listings:
            listings[parent] = await remote.client.list_files(folder, parent)
        known = {e.name: e.kind for e in listings[parent].entries}
        kind = known.get(os.fsencode(last))
        if kind is None:
            if not listings[parent].cut:
                raise NotFound(f"no file {rel!r} on the server")
            info = await remote.info(name, rel)
            kind = Kind.DIRECTORY if info["type"] == "directory" else Kind.FILE
        kinds[rel] = kind
    return kinds


async def _delete(remote: Remote, folder: Folder, rels: Sequence[str], recursive: bool) -> None:
    try:
        await remote.client.delete_files(folder, rels, recursive=recursive, known=True)
    except NotFound as e:
        if len(rels) == 1:
            raise
        # Somebody else was faster with one of them, and the server stopped there.
        for rel in rels:
            try:
                await remote.client.delete_files(folder, [rel], recursive=recursive, known=True)
            except NotFound:
                progress()
        raise NotFound("some of the files were removed by somebody else meanwhile") from e
    progress()


async def move(remote: Remote, name: str, src: str, dst: str) -> None:
    """Rename within a folder: a file replaces a file, anything moves into an existing directory.

    Raises:
        NotFound, AlreadyExists, NotSupported (a symlink)
    """
    folder = await remote.folder(name)
    entry = await remote.entry(name, src)
    if entry is not None and entry.kind is Kind.SYMLINK:
        raise NotSupported("moving a symlink would move what it points to")
    try:
        await remote.client.move_file(folder, src, dst)
    except NotFound:
        parent = dst.rpartition("/")[0]
        if not parent:
            raise
        # A file needs its new directory to be there.
        await remote.client.mkdir(folder, parent, parents=True, exist_ok=True)
        await remote.client.move_file(folder, src, dst)


def _above(rel: str) -> Iterable[str]:
    parts = rel.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))
