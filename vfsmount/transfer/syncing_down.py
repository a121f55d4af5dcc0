"""A directory here is made like one of a folder."""

from __future__ import annotations

import os
from functools import partial

from vfsmount.errors import IsADirectory, NotFound, VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.crew import Job, Submit
from vfsmount.transfer.deleting import Doomed, delete_here
from vfsmount.transfer.disk import Found, Tree, in_thread, lscan
from vfsmount.transfer.downloads import FILES, Downloads
from vfsmount.transfer.fetching import link_note, make_here
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Moving, Report
from vfsmount.transfer.sending import join
from vfsmount.transfer.sync import Directory, Options, Sync, unchanged
from vfsmount.values import Kind, RemoteEntry


class Down:
    """The way from the server.

    Args:
        tree: the directory here.
        there: path in the folder, "" is its root.
    """

    files = FILES
    needs_listings = True

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        options: Options,
        tree: Tree,
        there: str,
    ) -> None:
        self._remote = remote
        self._records = records
        self._report = report
        self._tree, self._there = tree, there
        self._options = options
        self._filters = options.filters
        self._downloads = Downloads(remote, records, report, tree, verify=options.verify)

    async def delete(self, doomed: Doomed) -> None:
        """Delete what was found to be too much."""
        await delete_here(self._tree, self._report, doomed)

    async def visit(self, sync: Sync, directory: Directory, submit: Submit) -> list[Directory]:
        """Compare one directory."""
        local, path = self._tree.path(_parts(directory.below)), join(self._there, directory.below)
        here: dict[str, Found] = {}
        there: dict[str, RemoteEntry] = {}
        try:
            if directory.there:  # else it is doomed
                there = await self._remote.entries(path)
            if directory.here:
                try:
                    here = {f.name: f for f in await in_thread(lambda: lscan(local), local)}
                except NotFound:
                    if directory.below:
                        raise
            if not there and not directory.here and self._filters.makes(directory.below):
                parts = _parts(directory.below)
                await sync.act("make", f"{local}/", lambda: make_here(self._tree, self._report, parts))
        except VfsError as e:
            sync.unreadable(path or ".", e)
            return []
        inner = self._too_much(sync, directory, here.keys() - there.keys(), here)
        files = [n for n, e in there.items() if e.kind is Kind.FILE and n in here]
        known = await sync.known(directory.below, files, self._there, local)
        for name, theirs in there.items():
            below = join(directory.below, name)
            if theirs.kind is Kind.DIRECTORY:
                if self._filters.enters(below):
                    inner += self._directory(sync, below, here.get(name))
            elif self._filters.takes(below):
                await self._file(sync, below, theirs, here.get(name), known.get(name), submit)
        return inner

    def _too_much(
        self, sync: Sync, directory: Directory, names: set[str], here: dict[str, Found]
    ) -> list[Directory]:
        """Note what is not there; what is to be walked for the sake of the filters."""
        inner: list[Directory] = []
        if not self._options.delete:
            return inner
        for name in sorted(names):
            below = join(directory.below, name)
            if here[name].kind != "directory":
                if self._filters.takes(below):
                    sync.doomed.files.append(below)
            elif self._filters.takes_all:
                sync.doomed.directories.append(below)
            elif self._filters.enters(below):
                inner.append(Directory(below, here=True, there=False, doomed=True))
        return inner

    def _directory(self, sync: Sync, below: str, mine: Found | None) -> list[Directory]:
        if mine is None or mine.kind == "directory":
            return [Directory(below, here=mine is not None, there=True)]
        sync.doomed.files.append(below)
        sync.blocked(self._tree.path(_parts(below)), Directory(below, here=False, there=True))
        return []

    async def _file(
        self,
        sync: Sync,
        below: str,
        theirs: RemoteEntry,
        mine: Found | None,
        known: tuple[int, int, int] | None,
        submit: Submit,
    ) -> None:
        is_link = theirs.kind is Kind.SYMLINK  # what a listing tells is of the link
        file = mine if mine is not None and mine.kind == "file" else None
        compare = is_link
        if file is not None and not is_link:
            if self._options.checksum:
                compare = file.size == theirs.size
            elif unchanged(file.size, file.mtime_ns, theirs, known):
                self._report.unchanged += 1
                return
        size = 0 if is_link else theirs.size
        run = partial(self._carry, sync, below, None if is_link else size, file, compare)
        job = Job(join(self._there, below), size, run)
        if mine is not None and mine.kind == "directory":
            sync.doomed.directories.append(below)
            sync.blocked(self._tree.path(_parts(below)), job)
        elif compare or not self._options.dry_run:
            await submit(job)
        else:
            await job.run(Moving(job.path, size))

    async def _carry(
        self, sync: Sync, below: str, size: int | None, mine: Found | None, compare: bool, moving: Moving
    ) -> None:
        path, parts = join(self._there, below), _parts(below)
        if compare:
            try:
                if await self._is_same(path, parts, mine, moving):
                    self._report.unchanged += 1
                    return
            except (IsADirectory, NotFound) as e:
                if size is not None:
                    raise
                self._report.skipped.add(path, link_note(e))
                return
        shown = self._tree.path(parts)
        await sync.act("fetch", shown, lambda: self._downloads.fetch(path, parts, size, moving))

    async def _is_same(self, path: str, parts: tuple[str, ...], mine: Found | None, moving: Moving) -> bool:
        """Look at the file itself: its version, and with --checksum its content.

        Raises:
            IsADirectory, NotFound: of the server's file.
        """
        version = await self._remote.transfers.stat(self._remote.folder, path)
        if mine is None or mine.size != version.size:
            return False
        if self._options.checksum:
            return await self._downloads.is_same(path, version, parts, moving)
        local = os.fsencode(self._tree.path(parts))
        (known,) = await self._records.known_same([self._remote.place(path)], [local])
        entry = RemoteEntry(b"", Kind.FILE, version.size, 0, version.mtime_ns, 0)
        return unchanged(mine.size, mine.mtime_ns, entry, known)


def _parts(below: str) -> tuple[str, ...]:
    return tuple(below.split("/")) if below else ()
