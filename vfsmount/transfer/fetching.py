"""Which files a download fetches: those named, and what is in the directories named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from vfsmount.core.globs import Filter
from vfsmount.errors import IsADirectory, NotFound, VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.crew import Crew, Job, Submit, walk
from vfsmount.transfer.disk import Tree, in_thread
from vfsmount.transfer.downloads import FILES, Downloads
from vfsmount.transfer.remote import LISTINGS, Remote
from vfsmount.transfer.report import Moving, Progress, Report
from vfsmount.transfer.sending import join
from vfsmount.values import Kind

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Download:
    """A file or directory to fetch, and under which name.

    Attributes:
        path: in the folder.
        parts: components of the name below the `Tree`; empty only for a directory, whose content then
            goes there.
    """

    path: str
    parts: Parts


@dataclass(frozen=True, slots=True)
class _Directory:
    path: str
    parts: Parts
    below: str  # path from the directory that was named


class Fetching:
    """One download command.

    Args:
        filters: relative to each directory named; also applied to the names of files named.
    """

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        progress: Progress,
        tree: Tree,
        *,
        filters: Filter,
        clobber: bool = True,
        verify: bool = False,
    ) -> None:
        self._remote = remote
        self._report = report
        self._progress = progress
        self._tree = tree
        self._filters = filters
        self._downloads = Downloads(remote, records, report, tree, clobber=clobber, verify=verify)

    async def run(self, wanted: Iterable[Download]) -> None:
        """Fetch it all; what became of it is in the report.

        Raises:
            VfsError: what ended all at once.
        """
        await Crew(self._report, self._progress, FILES).run(partial(self._find, list(wanted)))
        self._remote.tell(self._report, await self._remote.doubted())

    async def _find(self, wanted: list[Download], submit: Submit) -> None:
        tops = []
        for w in wanted:
            if not w.path:
                tops.append(_Directory(w.path, w.parts, ""))
                continue
            try:
                version = await self._remote.transfers.stat(self._remote.folder, w.path)
            except IsADirectory:
                tops.append(_Directory(w.path, w.parts, ""))
            except VfsError as e:
                if e.retryable:
                    raise
                self._report.fail(
                    w.path, NotFound("no such file in the folder") if isinstance(e, NotFound) else e
                )
            else:
                if self._filters.takes(w.parts[-1]):
                    run = partial(self._downloads.fetch, w.path, w.parts, version.size)
                    await submit(Job(w.path, version.size, run))
        await walk(tops, partial(self._visit, submit), LISTINGS)

    async def _visit(self, submit: Submit, directory: _Directory) -> list[_Directory]:
        try:
            entries = await self._remote.entries(directory.path)
            if not entries and self._filters.makes(directory.below):
                await make_here(self._tree, self._report, directory.parts)
        except VfsError as e:
            if e.retryable:
                raise
            self._report.fail(directory.path or ".", e)
            return []
        inner = []
        for name, entry in entries.items():
            path, below = join(directory.path, name), join(directory.below, name)
            parts = (*directory.parts, name)
            if entry.kind is Kind.DIRECTORY:
                if self._filters.enters(below):
                    inner.append(_Directory(path, parts, below))
            elif not self._filters.takes(below):
                continue
            elif entry.kind is Kind.SYMLINK:
                await submit(Job(path, 0, partial(self._link, path, parts)))
            else:
                run = partial(self._downloads.fetch, path, parts, entry.size)
                await submit(Job(path, entry.size, run))
        return inner

    async def _link(self, path: str, parts: Parts, moving: Moving) -> None:
        """A link on the server: what it leads to, if that is a file. Where to, nobody tells."""
        try:
            await self._remote.transfers.stat(self._remote.folder, path)
        except (IsADirectory, NotFound) as e:
            self._report.skipped.add(path, link_note(e))
            return
        await self._downloads.fetch(path, parts, None, moving)


def link_note(e: VfsError) -> str:
    """Why a link on the server is left out."""
    return "a link to a directory" if isinstance(e, IsADirectory) else "a link that leads nowhere"


async def make_here(tree: Tree, report: Report, parts: Parts) -> None:
    """Make a directory of the tree, if it is not there."""

    def make() -> bool:
        before = os.path.isdir(tree.path(parts))
        os.close(tree.open_directory(parts, create=True))
        return not before

    if await in_thread(make, tree.path(parts)):
        report.directories += 1
