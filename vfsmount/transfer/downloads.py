"""One file from the server: under its name there is never anything but a whole version of it.

The bytes are collected in a hidden file beside it (`TransferRecords.part_name`), all of one version
(``If-Match``), which is recorded together with what has arrived. A later command goes on there, also
after a restart of the machine: then it believes only what had been synced. At the end the server is asked
once more whether that version still stands; the content is synced, gets the server's time of change,
and takes the place of what was there, in one step. A file that changes on the server begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import trio

from vfsmount.core.extents import Extents
from vfsmount.errors import AlreadyExists, IsADirectory, LocalIOError, NotFound, RangeOutside, Stale
from vfsmount.store.transfers import Local, Partial, Runs, TransferRecords
from vfsmount.transfer.disk import Source, Tree, existing, in_thread
from vfsmount.transfer.partfile import PartFile
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Moving, Report
from vfsmount.transfer.segments import SEGMENT, Collecting, Segment
from vfsmount.values import Validator

FILES = 16
LINES = 16  # requests of all files at once, so at most that many segments in memory
TRIES = 3  # of a file that changes meanwhile


class Downloads:
    """Fetches files of one folder into one tree.

    Args:
        clobber: replace what is there.
        verify: read everything a second time and compare.
    """

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        tree: Tree,
        *,
        clobber: bool = True,
        verify: bool = False,
    ) -> None:
        self._remote = remote
        self._records = records
        self._report = report
        self._tree = tree
        self._clobber = clobber
        self._verify = verify
        self._lines = trio.CapacityLimiter(LINES)
        umask = os.umask(0o077)  # there is no way to only look at it
        os.umask(umask)
        self._mode = 0o666 & ~umask

    async def fetch(self, path: str, parts: Sequence[str], size: int | None, moving: Moving) -> None:
        """Put a file of the folder under a name in the tree.

        Args:
            parts: components of that name.
            size: as a listing tells it; None: not known.

        Raises:
            Stale: it does not stop changing.
            IsADirectory: it is none here, or it is none there.
            NotFound, RemoteUnavailable and others: as `Transfers.read_into`.
            NoSpace, LocalIOError: the disk here fails.
        """
        target = self._tree.path(parts)
        # Before anything is made here: it may not exist, or be no file.
        version = await self._remote.transfers.stat(self._remote.folder, path) if size is None else None
        fd = await in_thread(lambda: self._tree.open_directory(parts[:-1], create=True), target)
        try:
            before = await in_thread(lambda: existing(parts[-1], fd), target)
            if before is not None and not self._clobber:
                raise AlreadyExists("it is there already")
            with self._records.claim(os.fsencode(target)):
                part = PartFile(fd, parts[-1], self._records.part_name(os.fsencode(target)))
                version = await self._changing(_Way(path, target, part, moving), version, size)
        except AlreadyExists as e:
            self._report.kept.add(target, str(e))
            return
        finally:
            os.close(fd)
        if self._verify and not await self.is_same(path, version, parts, moving):
            raise LocalIOError("what was read a second time is not what was written")
        self._report.files += 1
        self._report.size += version.size

    async def is_same(self, path: str, version: Validator, parts: Sequence[str], moving: Moving) -> bool:
        """Whether a file here has the content of that version; both are read."""
        target = self._tree.path(parts)
        source = await in_thread(lambda: Source(target), target)
        try:
            if source.size != version.size:
                return False
            same = await self._remote.transfers.same_content(
                self._remote.folder, path, version, source.reading(moving), on_progress=None
            )
        except Stale:
            return False
        finally:
            source.close()
        if same:
            await self._records.same(self._remote.place(path), source.version, version)
        return same

    async def _changing(self, way: _Way, version: Validator | None, size: int | None) -> Validator:
        """Fetch a file that may change meanwhile; the version that it is here.

        Args:
            version: as far as it is known; or only its size is.
        """
        for _ in range(TRIES):
            try:
                return await self._fetch(way, version, size)
            except (Stale, NotFound, IsADirectory) as e:
                await self._records.forget_partial(way.key)
                await in_thread(way.part.drop, way.target)
                if not isinstance(e, Stale):
                    raise
            version = size = None
        raise Stale("it changes on the server while it is fetched, each time")

    async def _fetch(self, way: _Way, version: Validator | None, size: int | None) -> Validator:
        partial = await self._partial(way)
        if partial is not None:
            return await self._large(way, partial.version, partial.arrived)
        if version is None and size is not None and size <= SEGMENT:
            return await self._small(way)
        if version is None:
            version = await self._remote.transfers.stat(self._remote.folder, way.path)
        return await self._large(way, version, [])

    # --- in one request ------------------------------------------------------------------------

    async def _small(self, way: _Way) -> Validator:
        """A file that comes in one piece, asked for without a question before."""
        way.moving.at = 0
        segment = Segment(0, way.counting(self._report))
        async with self._lines:
            version = await self._read_whole(way, segment)

            def write() -> int:
                fd = way.part.open(fresh=True)
                try:
                    segment.save(fd)
                    return way.part.commit(fd, version, mode=self._mode, clobber=self._clobber)
                finally:
                    os.close(fd)

            mtime_ns = await in_thread(write, way.target)
        way.moving.size = version.size
        await self._remember(way, version, mtime_ns)
        return version

    async def _read_whole(self, way: _Way, segment: Segment) -> Validator:
        transfers, folder = self._remote.transfers, self._remote.folder
        try:
            await transfers.read_into(folder, way.path, 0, SEGMENT, segment, validator=None, look_after=True)
        except RangeOutside:
            version = await transfers.stat(folder, way.path)
            if version.size:
                raise Stale("the file changed on the server") from None
            return version
        assert segment.version is not None
        if segment.version.size > SEGMENT:  # it has grown since it was listed
            raise Stale("the file changed on the server")
        if not segment.same:
            await self._look_again(way, segment.version)
        return segment.version

    # --- in many -------------------------------------------------------------------------------

    async def _large(self, way: _Way, version: Validator, arrived: Runs) -> Validator:
        have, place = Extents(arrived), self._remote.place(way.path)
        way.moving.size, way.moving.at = version.size, have.total
        fd = await in_thread(lambda: way.part.open(fresh=not have.total), way.target)

        async def fetch(start: int, length: int, segment: Segment) -> None:
            async with self._lines:
                await self._remote.transfers.read_into(
                    self._remote.folder, way.path, start, length, segment, validator=version
                )

        async def keep(arrived: Runs, synced: Runs) -> None:
            await self._records.keep_partial(way.key, Partial(place, version, arrived), synced)

        try:
            if have.total and os.fstat(fd).st_size < max(stop for _, stop in have):
                have, way.moving.at = Extents(), 0  # it was cut, or is another file
            count = way.counting(self._report)
            await Collecting(fd, version.size, have, fetch, keep, count, way.target).run()
            await self._look_again(way, version)
            mtime_ns = await in_thread(
                lambda: way.part.commit(fd, version, mode=self._mode, clobber=self._clobber), way.target
            )
        finally:
            os.close(fd)
        await self._records.forget_partial(way.key)
        await self._remember(way, version, mtime_ns)
        return version

    async def _partial(self, way: _Way) -> Partial | None:
        """What an earlier try has left, if it is of the version that is there now."""
        partial = await self._records.partial_for(way.key)
        if partial is None:
            return None
        same = partial.place == self._remote.place(way.path)
        if same and await in_thread(way.part.is_there, way.target):
            version = partial.version
            if await self._remote.transfers.revalidate(self._remote.folder, way.path, version) is None:
                return partial
        await self._records.forget_partial(way.key)
        await in_thread(way.part.drop, way.target)
        return None

    async def _look_again(self, way: _Way, version: Validator) -> None:
        """Raises:
        Stale: another version is there by now, so perhaps in what was read.
        """
        if await self._remote.transfers.revalidate(self._remote.folder, way.path, version) is not None:
            raise Stale("the file changed on the server")

    async def _remember(self, way: _Way, version: Validator, mtime_ns: int) -> None:
        if mtime_ns != version.mtime_ns:
            # The times of this disk are coarser, and `sync` is to know the file again.
            local = Local(way.key, version.size, mtime_ns, 0)
            await self._records.same(self._remote.place(way.path), local, version)


class _Way:
    """From where to where one file goes."""

    def __init__(self, path: str, target: str, part: PartFile, moving: Moving) -> None:
        self.path = path
        self.target, self.key = target, os.fsencode(target)
        self.part = part
        self.moving = moving

    def counting(self, report: Report) -> Callable[[int], None]:
        """Who counts bytes as they arrive."""

        def count(arrived: int) -> None:
            self.moving.at += arrived
            report.carried += arrived

        return count
