"""A directory of a folder is made like one here."""

from __future__ import annotations

import os
from functools import partial

from vfsmount.errors import NotFound, VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.crew import Job, Submit
from vfsmount.transfer.deleting import Doomed, delete_there
from vfsmount.transfer.disk import Found, Source, in_thread, scan
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Moving, Report
from vfsmount.transfer.sending import fits, join
from vfsmount.transfer.sync import Directory, Options, Sync, entries_or_none, unchanged
from vfsmount.transfer.uploads import FILES, Uploads, make_directory
from vfsmount.values import Kind, RemoteEntry

LINK_STAYS = "a link on the server stays: deleting it would delete what it leads to"


class Up:
    """The way to the server.

    Args:
        here: absolute path of the directory here, links followed.
        there: path in the folder, "" is its root.
    """

    files = FILES
    needs_listings = False

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        options: Options,
        here: str,
        there: str,
    ) -> None:
        self._remote = remote
        self._records = records
        self._report = report
        self._here, self._there = here, there
        self._options = options
        self._filters = options.filters
        self._uploads = Uploads(remote, records, report, verify=options.verify)

    async def delete(self, doomed: Doomed) -> None:
        """Delete what was found to be too much."""
        await delete_there(self._remote, self._report, doomed)
        await self._records.forget_same([self._remote.place(path) for path in doomed.files])

    async def visit(self, sync: Sync, directory: Directory, submit: Submit) -> list[Directory]:
        """Compare one directory."""
        local = join(self._here, directory.below)
        path = join(self._there, directory.below)
        here: dict[str, Found] = {}
        there: dict[str, RemoteEntry] = {}
        try:
            if directory.here:
                scanned = await in_thread(
                    lambda: scan(local, self._here, follow=self._options.follow, chain=directory.chain), local
                )
                here = {f.name: f for f in scanned}
            found = await entries_or_none(self._remote, path) if directory.there else None
            there = found or {}
            if not here and found is None and path and self._filters.makes(directory.below):
                await sync.act("make", f"{path}/", lambda: make_directory(self._remote, self._report, path))
        except VfsError as e:
            sync.unreadable(local, e)
            return []
        inner = self._too_much(sync, directory, there.keys() - here.keys(), there)
        files = [n for n, f in here.items() if f.kind == "file" and n in there]
        known = await sync.known(directory.below, files, self._there, local)
        for name, mine in here.items():
            below = join(directory.below, name)
            if mine.kind == "directory":
                if self._filters.enters(below) and fits(self._report, os.path.join(local, name), below):
                    inner += self._directory(sync, below, mine, there.get(name))
            elif not self._filters.takes(below):
                continue
            elif mine.kind != "file":
                self._report.skipped.add(os.path.join(local, name), mine.why)
            elif fits(self._report, os.path.join(local, name), below):
                await self._file(sync, below, mine, there.get(name), known.get(name), submit)
        return inner

    def _too_much(
        self, sync: Sync, directory: Directory, names: set[str], there: dict[str, RemoteEntry]
    ) -> list[Directory]:
        """Note what is not here; what is to be walked for the sake of the filters."""
        inner: list[Directory] = []
        if not self._options.delete:
            return inner
        for name in sorted(names):
            below = join(directory.below, name)
            path = join(self._there, below)
            if there[name].kind is Kind.SYMLINK:
                if self._filters.takes(below):
                    self._report.skipped.add(path, LINK_STAYS)
            elif there[name].kind is not Kind.DIRECTORY:
                if self._filters.takes(below):
                    sync.doomed.files.append(path)
            elif self._filters.takes_all:
                sync.doomed.directories.append(path)
            elif self._filters.enters(below):
                inner.append(Directory(below, here=False, there=True, doomed=True))
        return inner

    def _directory(self, sync: Sync, below: str, mine: Found, other: RemoteEntry | None) -> list[Directory]:
        path = join(self._there, below)
        if other is None or other.kind is Kind.DIRECTORY:
            there = other is not None or self._may_be_there(path)
            return [Directory(below, True, there, chain=mine.chain)]
        if other.kind is Kind.SYMLINK:
            self._report.failed.add(path, "a link stands there on the server, where a directory is to be")
            return []
        sync.doomed.files.append(path)
        sync.blocked(path, Directory(below, True, False, chain=mine.chain))
        return []

    def _may_be_there(self, path: str) -> bool:
        return self._remote.is_doubted(path.rpartition("/")[0])

    async def _file(
        self,
        sync: Sync,
        below: str,
        mine: Found,
        other: RemoteEntry | None,
        known: tuple[int, int, int] | None,
        submit: Submit,
    ) -> None:
        local, path = os.path.join(self._here, below), join(self._there, below)
        # A listing that was cut does not tell that it is not there.
        compare = other is None and self._may_be_there(path)
        if other is not None and other.kind is Kind.FILE:
            if self._options.checksum:
                compare = mine.size == other.size
            elif unchanged(mine.size, mine.mtime_ns, other, known):
                self._report.unchanged += 1
                return
        job = Job(local, mine.size, partial(self._carry, sync, local, path, compare))
        if other is not None and other.kind is Kind.DIRECTORY:
            sync.doomed.directories.append(path)
            sync.blocked(path, job)
        elif compare or not self._options.dry_run:
            await submit(job)
        else:
            await job.run(Moving(local, mine.size))

    async def _carry(self, sync: Sync, local: str, path: str, compare: bool, moving: Moving) -> None:
        if compare and await self._is_same(local, path, moving):
            self._report.unchanged += 1
            return
        await sync.act("send", path, lambda: self._uploads.send(local, path, moving))

    async def _is_same(self, local: str, path: str, moving: Moving) -> bool:
        """Look at the file itself: its version, and with --checksum its content."""
        place = self._remote.place(path)
        try:
            version = await self._remote.transfers.stat(self._remote.folder, path)
        except NotFound:
            return False
        source = await in_thread(lambda: Source(local), local)
        try:
            mine = source.version
            if not self._options.checksum:
                (known,) = await self._records.known_same([place], [mine.path])
                entry = RemoteEntry(b"", Kind.FILE, version.size, 0, version.mtime_ns, 0)
                return unchanged(mine.size, mine.mtime_ns, entry, known)
            if not await self._uploads.is_same(source, path, version, moving):
                return False
        finally:
            source.close()
        if not self._options.dry_run:
            await self._records.same(place, mine, version)
        return True
