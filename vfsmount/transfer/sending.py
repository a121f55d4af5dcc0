"""Which files an upload sends: those named, and what is in the directories named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from vfsmount.api import paths
from vfsmount.core.globs import Filter
from vfsmount.errors import NotFound, VfsError
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.crew import Crew, Job, Submit, walk
from vfsmount.transfer.disk import Found, in_thread, scan
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Progress, Report
from vfsmount.transfer.uploads import FILES, Uploads, make_directory

SCANS = 4  # directories read at a time


@dataclass(frozen=True, slots=True)
class Upload:
    """A file or directory to send, and where to.

    Attributes:
        local: absolute.
        path: in the folder; "" only for a directory, whose content then goes into the root.
    """

    local: str
    path: str


@dataclass(frozen=True, slots=True)
class _Directory:
    local: str
    path: str
    below: str  # path from the directory that was named
    top: str  # that directory, links followed
    chain: tuple[tuple[int, int], ...]


class Sending:
    """One upload command.

    Args:
        filters: relative to each directory named; also applied to the names of files named.
        follow: follow links to directories, and to files outside the directory named.
    """

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        progress: Progress,
        *,
        filters: Filter,
        follow: bool = False,
        clobber: bool = True,
        verify: bool = False,
    ) -> None:
        self._remote = remote
        self._report = report
        self._progress = progress
        self._filters = filters
        self._follow = follow
        self._uploads = Uploads(remote, records, report, clobber=clobber, verify=verify)

    async def run(self, wanted: Iterable[Upload]) -> None:
        """Send it all; what became of it is in the report.

        Raises:
            VfsError: what ended all at once.
        """
        await self._uploads.clean()
        await Crew(self._report, self._progress, FILES).run(partial(self._find, list(wanted)))

    async def _find(self, wanted: list[Upload], submit: Submit) -> None:
        tops = []
        for upload in wanted:
            try:
                info = await in_thread(partial(os.stat, upload.local), upload.local)
            except VfsError as e:
                self._report.fail(upload.local, NotFound("no such file") if isinstance(e, NotFound) else e)
                continue
            if stat.S_ISDIR(info.st_mode):
                top = await in_thread(partial(os.path.realpath, upload.local), upload.local)
                chain = ((info.st_dev, info.st_ino),)
                tops.append(_Directory(upload.local, upload.path, "", top, chain))
            elif not stat.S_ISREG(info.st_mode):
                self._report.skipped.add(upload.local, "a FIFO, socket or device")
            elif self._filters.takes(os.path.basename(upload.local)):
                await self._file(upload.local, upload.path, info.st_size, submit)
        await walk(tops, partial(self._visit, submit), SCANS)

    async def _visit(self, submit: Submit, directory: _Directory) -> list[_Directory]:
        def read() -> list[Found]:
            return scan(directory.local, directory.top, follow=self._follow, chain=directory.chain)

        try:
            names = await in_thread(read, directory.local)
            if not names and directory.path and self._filters.makes(directory.below):
                await make_directory(self._remote, self._report, directory.path)
        except VfsError as e:
            self._report.fail(directory.local, e)
            return []
        inner = []
        for found in names:
            local = os.path.join(directory.local, found.name)
            path, below = join(directory.path, found.name), join(directory.below, found.name)
            if found.kind == "directory":
                if self._filters.enters(below) and self._fits(local, path):
                    inner.append(_Directory(local, path, below, directory.top, found.chain))
            elif not self._filters.takes(below):
                continue
            elif found.kind == "file":
                await self._file(local, path, found.size, submit)
            else:
                self._report.skipped.add(local, found.why)
        return inner

    async def _file(self, local: str, path: str, size: int, submit: Submit) -> None:
        if self._fits(local, path):
            await submit(Job(local, size, partial(self._uploads.send, local, path)))

    def _fits(self, local: str, path: str) -> bool:
        return fits(self._report, local, path)


def join(directory: str, name: str) -> str:
    """A path below a directory; either may be "", the top itself."""
    return f"{directory}/{name}" if directory and name else directory or name


def fits(report: Report, local: str, path: str) -> bool:
    """Whether the server can have a file of that name; if not, that is reported."""
    try:
        paths.creatable(path)
    except VfsError as e:
        report.fail(local, e)
        return False
    return True
