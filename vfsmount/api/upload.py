"""Driving one upload: `core.tus` decides, this sends.

Source: contract 4.3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import trio

from vfsmount.api import diagnose, paths, problems
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.files import token_claims
from vfsmount.api.http import Http, read_body
from vfsmount.api.tokens import transfer_url
from vfsmount.core import tus
from vfsmount.errors import (
    InvalidRequest,
    IsADirectory,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RemoteUnavailable,
    UploadFailed,
    VfsError,
)
from vfsmount.log import event
from vfsmount.values import Folder, Grant, Kind, Validator

log = logging.getLogger("vfsmount.api")

Progress = Callable[[int], None]
ReadPiece = Callable[[int, int], Awaitable[bytes]]
Stat = Callable[[Folder, str], Awaitable[Validator]]

READ_SIZE = 1 << 20
PROBLEM_MAX = 64 << 10
CLEANUP_S = 3.0
AT_ONCE_S = 90.0  # left of a token's life when everything still missing goes into one request
CHECK = "BACKEND_OVERRIDE_STORAGE_PROXY"
TUS = {"Tus-Resumable": "1.0.0", "Accept-Encoding": "identity", "User-Agent": "vfsmount"}


class Pieces(AsyncIterator[bytes]):
    """The bytes of one PATCH, read as they are sent. No generator: see `http.Body`."""

    def __init__(self, read: ReadPiece, offset: int, length: int, on_progress: Progress | None) -> None:
        self._read = read
        self._offset, self._stop = offset, offset + length
        self._sent = 0  # length of the piece handed out last, which has left when we are asked again
        self._on_progress = on_progress

    async def __anext__(self) -> bytes:
        if self._sent and self._on_progress is not None:
            self._on_progress(self._sent)
        missing = self._stop - self._offset
        if not missing:
            raise StopAsyncIteration
        data = await self._read(self._offset, min(READ_SIZE, missing))
        if not 0 < len(data) <= missing:
            raise UploadFailed("the content to upload is not as long as was announced")
        self._sent = len(data)
        self._offset += len(data)
        return data


class UploadRun:
    """One upload from the first request to the verified file."""

    def __init__(
        self, client: Client, http: Http, stat: Stat, folder: Folder, rel: str, size: int, read: ReadPiece
    ) -> None:
        if size < 0:
            raise InvalidRequest("a file has no negative size")
        self._client = client
        self._http = http
        self._stat = stat
        self._folder = folder
        self._rel = rel
        self._read = read
        self._plan = tus.Upload(size, blind_append=client.info.dialect is Dialect.V23)
        self._grant: Grant | None = None
        self._before: Validator | None = None
        self._before_known = False

    async def run(self, on_progress: Progress | None) -> Validator:
        """See `Transfers.upload`."""
        try:
            await self._open()
            action = self._plan.begin()
            while True:
                result = await self._step(action, on_progress)
                if isinstance(result, Validator):
                    return result
                action = result
        except BaseException:
            await self._discard()
            raise

    async def _step(self, action: tus.Action, on_progress: Progress | None) -> tus.Action | Validator:
        match action:
            case tus.Send(offset, length):
                return self._plan.next(await self._send(offset, length, on_progress))
            case tus.Probe(wait_s):
                await trio.sleep(wait_s)
                return self._plan.next(await self._probe())
            case tus.Compare():
                return self._plan.next(tus.Compared(await self._is_ours()))
            case tus.NewSession():
                event(log, logging.WARNING, "upload.restart", folder=self._folder.id, size=self._plan.length)
                await self._discard()
                await self._open()
                return self._plan.begin()
            case tus.Done():
                found = await self._verify()
                if found is not None:
                    self._grant = None  # the server has ended the session
                    return found
                return self._plan.next(tus.Compared(False))
            case tus.GiveUp(reason, unreachable):
                raise await self._failure(reason, unreachable)

    async def _open(self) -> None:
        """Begin a session, and meanwhile look at what stands there now, at another server."""
        if self._before_known:
            self._grant = await self._client.request_upload(self._folder, self._rel, self._plan.length)
            return
        failed: list[VfsError] = []

        async def look() -> None:
            # Known beforehand, it tells our file from an older one of the same size when the last
            # reply is lost. Where it cannot be had, such a loss just costs a second upload.
            try:
                self._before, self._before_known = await self._stat(self._folder, self._rel), True
            except (NotFound, IsADirectory):
                self._before_known = True
            except VfsError:
                pass

        async def ask() -> None:
            try:
                self._grant = await self._client.request_upload(self._folder, self._rel, self._plan.length)
            except VfsError as e:
                failed.append(e)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(ask)
        if failed:
            raise failed[0]

    async def _send(self, offset: int, length: int, on_progress: Progress | None) -> tus.Event:
        headers = {
            **TUS,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(length),
        }
        body = Pieces(self._read, offset, length, on_progress)
        return await self._exchange("PATCH", headers, body, tus.Accepted)

    async def _probe(self) -> tus.Event:
        return await self._exchange("HEAD", TUS, None, tus.Holds)

    async def _exchange(
        self,
        method: str,
        headers: dict[str, str],
        body: AsyncIterator[bytes] | bytes | None,
        success: type[tus.Accepted] | type[tus.Holds],
    ) -> tus.Event:
        assert self._grant is not None
        grant = self._grant
        left_s = grant.expires_at - time.time() - self._client.clock_offset_s
        self._plan.at_once = bool(grant.expires_at) and left_s < AT_ONCE_S
        url = httpx.URL(transfer_url(grant))
        try:
            async with self._http.exchange(
                # After a failure the pool may hold other connections that died with this one.
                method,
                url,
                headers=headers,
                content=body,
                fresh=method == "HEAD",
                check=CHECK,
            ) as response:
                raw = await read_body(response, PROBLEM_MAX)
        except (RemoteUnavailable, ProtocolError) as e:
            event(log, logging.DEBUG, "upload.lost", method=method, error=type(e).__name__, why=e.detail)
            return tus.Lost(sent=not isinstance(e, RemoteUnavailable) or e.sent)
        return self._read_reply(response, raw, success)

    def _read_reply(
        self,
        response: httpx.Response,
        raw: bytes,
        success: type[tus.Accepted] | type[tus.Holds],
    ) -> tus.Event:
        status = response.status_code
        if 200 <= status < 300:
            try:
                return success(int(response.headers["Upload-Offset"]))
            except (KeyError, ValueError):
                return tus.Lost()
        p = problems.read_problem(status, raw)
        if status == 409:
            return tus.LeaseHeld() if "lease" in p.kind else tus.Mismatch()
        if status == 404:
            return tus.SessionGone()
        if problems.is_token_problem(p):
            return tus.TokenRefused()
        if status == 500:
            return tus.Refused()
        error = problems.to_error(p)
        if isinstance(error, RemoteUnavailable):
            return tus.Lost()
        raise error

    async def _is_ours(self) -> bool:
        """Whether the file that is there now came from this upload."""
        if not self._before_known:
            return False
        try:
            found = await self._stat(self._folder, self._rel)
        except (NotFound, IsADirectory):
            return False
        return found.size == self._plan.length and found != self._before

    async def _verify(self) -> Validator | None:
        """The version the file became, None if it is not the size it should be."""
        try:
            found = await self._stat(self._folder, self._rel)
        except NotFound:
            return None
        except PermissionDenied:
            # May write but not download (host permissions): the listing tells as much, to a µs.
            found_there = await self._listed()
            if found_there is None:
                return None
            found = found_there
        return found if found.size == self._plan.length else None

    async def _listed(self) -> Validator | None:
        parent, name = paths.split(self._rel)
        for entry in (await self._client.list_files(self._folder, parent)).entries:
            if entry.name == name.encode() and entry.kind is Kind.FILE:
                return Validator(entry.mtime_ns, entry.size)
        return None

    async def _failure(self, reason: str, unreachable: bool) -> VfsError:
        if unreachable:
            return RemoteUnavailable(reason)
        # A 500 says nothing; most often something stands in the file's way.
        try:
            states = await self._client.look_at(self._folder, [self._rel])
        except VfsError as e:
            return e
        blocked = diagnose.for_upload(states, self._rel)
        return blocked or UploadFailed(f"the upload failed: {reason}")

    async def _discard(self) -> None:
        """Remove what an unfinished session left in ``.upload``; nobody else ever does.

        Best effort: the caller has its error already.
        """
        grant, self._grant = self._grant, None
        session = str(token_claims(grant.token).get("session", "")) if grant is not None else ""
        if not session or "/" in session:
            return
        with trio.move_on_after(CLEANUP_S) as scope:
            scope.shield = True
            try:
                await self._client.delete_files(self._folder, [f".upload/{session}"], known=True)
            except VfsError:
                event(log, logging.DEBUG, "upload.litter", folder=self._folder.id)
