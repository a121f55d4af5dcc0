"""One file to the server: what is on the server afterwards is the file as it was at one moment.

The upload itself is `Transfers.upload`, which also reads back size and end of what was put in place.
Its session is kept in the records from its first byte on, so that a later command goes on with it, if
the file here is still the same: path, size, time of change and inode. A file that changes while it is
sent is sent again, as it is then.
"""

from __future__ import annotations

import time
from contextlib import suppress

from vfsmount.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    RemoteError,
    Stale,
    UploadFailed,
    VfsError,
)
from vfsmount.store.transfers import TransferRecords
from vfsmount.transfer.disk import Source, in_thread
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Moving, Report
from vfsmount.values import ANY, Grant, Validator

# More of them keep a manager of 30 calls a second busy over a line of 20 ms, with the requests that go
# to the storage-proxy in between; the governor keeps them from being too many for it.
FILES = 24
TRIES = 3  # of a file that changes meanwhile
SAFE_SIZE = 64 << 20  # bytes of a file whose session is to survive a power cut
CLEANED = 20  # sessions that lead nowhere any more, removed by one command


class Uploads:
    """Sends files to one folder.

    Args:
        clobber: replace what is there.
        verify: read back all of what was sent.
    """

    def __init__(
        self,
        remote: Remote,
        records: TransferRecords,
        report: Report,
        *,
        clobber: bool = True,
        verify: bool = False,
    ) -> None:
        self._remote = remote
        self._records = records
        self._report = report
        self._clobber = clobber
        self._verify = verify

    async def send(self, local: str, path: str, moving: Moving) -> None:
        """Put a file here under a path in the folder.

        Args:
            local: absolute path.

        Raises:
            What `Transfers.upload` does, and what `Source` does.
            UploadFailed: the file does not stop changing.
        """
        if not self._clobber and await self._is_there(path):
            self._keep(path)
            return
        with self._records.claim(self._remote.place(path)):
            for _ in range(TRIES):
                source = await in_thread(lambda: Source(local), local)
                moving.size = source.size
                try:
                    if await self._send(source, path, moving):
                        return
                finally:
                    source.close()
        raise UploadFailed("it changes while it is being sent, each time; wait until it is finished")

    async def is_same(self, source: Source, path: str, version: Validator, moving: Moving) -> bool:
        """Whether that version in the folder has the content of the file here; both are read."""
        if source.size != version.size:
            return False
        try:
            return await self._remote.transfers.same_content(
                self._remote.folder, path, version, source.reading(moving), on_progress=None
            )
        except Stale:
            return False

    async def clean(self) -> None:
        """Remove what old sessions left on the server that nobody can go on with. Best effort."""
        now = self._remote.transfers.server_now()
        place = self._remote.place("")
        for path, grant in (await self._records.expired_sessions(place.server, place.folder, now))[:CLEANED]:
            with suppress(Conflict):
                where = self._remote.place(path)
                with self._records.claim(where):
                    await self._remote.transfers.discard(self._remote.folder, grant)
                    held = await self._records.session_for(where)
                    if held is not None and held[1] == grant:
                        await self._records.keep_session(where, held[0], None, durable=False)

    async def _is_there(self, path: str) -> bool:
        try:
            await self._remote.transfers.stat(self._remote.folder, path)
        except NotFound:
            return False
        return True

    def _keep(self, path: str) -> None:
        self._report.kept.add(path, "it is there already")

    async def _send(self, source: Source, path: str, moving: Moving) -> bool:
        """Send the file as it is now; whether it still was that at the end."""
        try:
            version = await self._upload(source, path, moving)
        except AlreadyExists:
            self._keep(path)
            return True
        except VfsError:
            if source.changed:
                return False
            raise
        if not await in_thread(source.is_still_there, source.path):
            return False
        if self._verify and not await self.is_same(source, path, version, moving):
            raise UploadFailed("what was read back is not what was sent; somebody may have been faster")
        await self._records.same(self._remote.place(path), source.version, version)
        self._report.files += 1
        self._report.size += source.size
        self._report.touch(path)
        return True

    async def _upload(self, source: Source, path: str, moving: Moving) -> Validator:
        place, durable = self._remote.place(path), source.size >= SAFE_SIZE
        session = await self._session(source, path)

        async def on_session(grant: Grant | None) -> None:
            await self._records.keep_session(place, source.version, grant, durable)

        def on_progress(count: int) -> None:
            self._report.carried += count

        try:
            return await self._remote.transfers.upload(
                self._remote.folder,
                path,
                source.size,
                source.reading(moving),
                base=ANY if self._clobber else None,
                session=session,
                on_session=on_session,
                on_progress=on_progress,
            )
        except Conflict as e:
            raise AlreadyExists("it is there already") from e

    async def _session(self, source: Source, path: str) -> Grant | None:
        """The session of an earlier try with this very content, if there is one to go on with."""
        place = self._remote.place(path)
        held = await self._records.session_for(place)
        if held is None:
            return None
        version, grant = held
        expired = 0 < grant.expires_at <= time.time()
        if version == source.version and not expired:
            return grant
        await self._remote.transfers.discard(self._remote.folder, grant)
        await self._records.keep_session(place, version, None, durable=False)
        return None


async def make_directory(remote: Remote, report: Report, path: str) -> None:
    """Make a directory in the folder, and those above it, where it is not there."""
    try:
        await remote.client.mkdir(remote.folder, path, parents=True, exist_ok=True)
    except RemoteError:
        # Two that are made at once may both find the parent missing, and one of them in the way then.
        await remote.client.mkdir(remote.folder, path, parents=True, exist_ok=True)
    report.directories += 1
    report.touch(path)
