"""Making one tree like another: a directory here like one in a folder, or the other way round.

Both are walked side by side, a directory at a time. Files of one size and time are left alone
(`core.syncing`). What is not in the source is deleted only when asked for, behind everything else, and
only where everything was seen: a listing that may be cut, or a directory that cannot be read, and
nothing is deleted at all.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from vfsmount.core.globs import Filter
from vfsmount.core.syncing import Known, is_unchanged
from vfsmount.errors import AlreadyExists, NotFound, VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.crew import Crew, Job, Submit, walk
from vfsmount.transfer.deleting import Doomed
from vfsmount.transfer.remote import LISTINGS, Remote
from vfsmount.transfer.report import Progress, Report
from vfsmount.transfer.sending import join
from vfsmount.values import RemoteEntry

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a sync is to do.

    Attributes:
        checksum: read files of one size and compare them, whatever their times.
        delete: what is not in the source.
        dry_run: change nothing, only tell.
        follow: links here, as `Sending`.
    """

    filters: Filter
    checksum: bool = False
    delete: bool = False
    dry_run: bool = False
    follow: bool = False
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of both trees.

    Attributes:
        below: path from the top.
        here, there: whether it is on this machine, in the folder.
        doomed: it is not in the source, and only walked to find what the filters take.
        chain: see `disk.Found`.
    """

    below: str
    here: bool
    there: bool
    doomed: bool = False
    chain: tuple[tuple[int, int], ...] = ()


class Way(Protocol):
    """What differs with the direction (`syncing_up`, `syncing_down`)."""

    files: int
    needs_listings: bool  # what a listing does not show is missed

    async def visit(self, sync: Sync, directory: Directory, submit: Submit) -> list[Directory]:
        """Compare one directory, submit what is to be carried, and return those to visit next."""

    async def delete(self, doomed: Doomed) -> None:
        """Delete what was found to be too much."""


class Sync:
    """One sync command.

    Args:
        tell: called with "send", "fetch", "make" or "delete" and a path, for everything that is done, or
            with `dry_run` would be.
    """

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        progress: Progress,
        way: Way,
        options: Options,
        tell: Tell,
    ) -> None:
        self.remote = remote
        self.records = records
        self.report = report
        self.options = options
        self.doomed = Doomed()
        self._progress = progress
        self._way = way
        self._tell = tell
        self._whole = True
        self._blocked: list[tuple[str, Directory | Job]] = []

    async def run(self, top: Directory) -> None:
        """Do it all; what became of it is in the report.

        Raises:
            VfsError: what ended all at once.
        """
        await self._carry([top])
        doubted = await self.remote.doubted()
        if self._way.needs_listings or self.options.delete:
            self.remote.tell(self.report, doubted)
        may_delete = self.options.delete and self._whole and not doubted
        if self.options.delete and not may_delete:
            self.report.undeleted = len(self.doomed)
        if may_delete:
            for path in self.doomed.shown():
                self._tell("delete", path)
            if not self.options.dry_run:
                await self._way.delete(self.doomed)
        blocked, self._blocked = self._blocked, []
        if may_delete and blocked:
            await self._carry([b for _, b in blocked])
            return
        for path, _ in blocked:
            self.report.fail(path, AlreadyExists(self._in_the_way()))

    def _in_the_way(self) -> str:
        what = "a file stands where a directory is to be, or the other way round"
        return (
            f"{what}; nothing is deleted this time" if self.options.delete else f"{what}; --delete removes it"
        )

    async def _carry(self, todo: list[Directory | Job]) -> None:
        async def find(submit: Submit) -> None:
            for job in todo:
                if isinstance(job, Job):
                    await submit(job)
            tops = [d for d in todo if isinstance(d, Directory)]
            await walk(tops, lambda d: self._way.visit(self, d, submit), LISTINGS)

        await Crew(self.report, self._progress, self._way.files).run(find)

    # --- what a `Way` finds --------------------------------------------------------------------

    def unreadable(self, path: str, e: VfsError) -> None:
        """A directory whose content is not known: from now on nothing may be deleted.

        Raises:
            VfsError: the server does not answer, so it is not this one directory.
        """
        self._whole = False
        if e.retryable:
            raise e
        self.report.fail(path, e)

    def blocked(self, path: str, what: Directory | Job) -> None:
        """Something of another kind stands in the way; it is in `doomed`."""
        self._blocked.append((path, what))

    async def act(self, action: str, path: str, do: Callable[[], Awaitable[None]]) -> None:
        """Tell, and do it unless nothing is to be changed."""
        self._tell(action, path)
        if not self.options.dry_run:
            await do()

    async def known(self, below: str, names: list[str], top: str, here: str) -> dict[str, Known]:
        """What is remembered of files of a directory by their names here and there."""
        places = [self.remote.place(join(join(top, below), name)) for name in names]
        local = [os.fsencode(os.path.join(here, name)) for name in names]
        found = await self.records.known_same(places, local)
        return {name: known for name, known in zip(names, found, strict=True) if known is not None}


def unchanged(size: int, mtime_ns: int, entry: RemoteEntry, known: Known | None) -> bool:
    """`is_unchanged`, for a file here and an entry of a listing."""
    return is_unchanged(size, mtime_ns, entry.size, entry.mtime_ns, known)


async def entries_or_none(remote: Remote, path: str) -> dict[str, RemoteEntry] | None:
    """As `Remote.entries`; None where there is no such directory."""
    try:
        return await remote.entries(path)
    except NotFound:
        return None
