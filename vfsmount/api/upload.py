"""Driving one upload: `core.tus` decides, this sends.

Source: contract 4.3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import httpx
import trio

from vfsmount.api import diagnose, paths, problems
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.files import token_claims
from vfsmount.api.http import Http, read_body
from vfsmount.api.lanes import SMALL, Lanes
from vfsmount.api.pieces import Pieces, Progress, ReadPiece, ReadRange, read_exactly, same_bytes
from vfsmount.api.tokens import transfer_url
from vfsmount.core import tus
from vfsmount.errors import (
    Conflict,
    InvalidRequest,
    IsADirectory,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RangeOutside,
    RemoteUnavailable,
    Stale,
    UploadFailed,
    VfsError,
)
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.values import ANY, Base, Folder, Grant, Kind, Validator

log = logging.getLogger("vfsmount.api")

OnSession = Callable[[Grant | None], Awaitable[None]]

PROBLEM_MAX = 64 << 10
CLEANUP_S = 3.0
AT_ONCE_S = 90.0  # left of a token's life when everything still missing goes into one request
LOOKS = 3
CHECK_AGE_S = 0.3  # of a look at the target when the bytes that complete the file begin to leave
MEASURED = 1 << 20  # a request with fewer bytes says more about the round trip than about the rate
CHECK = "BACKEND_OVERRIDE_STORAGE_PROXY"
UPLOADS = ".upload"  # where the server keeps the sessions of a folder, each a file
TUS = {"Tus-Resumable": "1.0.0", "Accept-Encoding": "identity", "User-Agent": "vfsmount"}


class Target(Protocol):
    """What an upload needs of `Transfers`."""

    @property
    def read_range(self) -> ReadRange: ...

    async def stat(self, folder: Folder, path: str) -> Validator: ...

    def is_there(self, folder: Folder, path: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What to upload, and where to; see `Transfers.upload`."""

    folder: Folder
    rel: str
    size: int
    read: ReadPiece
    base: Base = ANY
    session: Grant | None = None
    on_session: OnSession | None = None
    on_progress: Progress | None = None


# Read back of what was uploaded: whole small files, the end of others. In one request either way.
READ_BACK = 64 << 10


class UploadRun:
    """One upload from the first request to the verified file.

    Args:
        rate: the speed of uploads so far; what this one measures is added.
        lanes: shared by all uploads of a client.
    """

    def __init__(
        self, client: Client, http: Http, target: Target, order: Order, rate: tus.Rate, lanes: Lanes
    ) -> None:
        if order.size < 0:
            raise InvalidRequest("a file has no negative size")
        self._client = client
        self._http = http
        self._target = target
        self._folder, self._rel = order.folder, order.rel
        self._read = order.read
        self._base = order.base
        self._on_session, self._on_progress = order.on_session, order.on_progress
        self._rate = rate
        self._lanes = lanes
        self._plan = tus.Upload(
            order.size,
            blind_append=client.info.dialect is Dialect.V23,
            guarded=order.base is not ANY,
        )
        self._inherited = order.session
        self._grant: Grant | None = None
        self._kept = False  # the caller knows the session and may go on with it
        self._found: Validator | None = None  # what the last look at the target found
        self._looked_at = 0.0
        self._announced = False

    async def run(self) -> Validator:
        """See `Transfers.upload`."""
        try:
            action = await self._first()
            while True:
                result = await self._step(action)
                if isinstance(result, Validator):
                    return result
                action = result
        except BaseException:
            if not self._kept:
                await self._discard()
            raise

    async def _first(self) -> tus.Action:
        grant = self._inherited
        if grant is None:
            await self._open()
            return self._plan.begin()
        self._grant, self._kept = grant, self._on_session is not None
        if not belongs(grant, self._rel, self._plan.length):
            # It would complete a file of another name, or take another length for the whole.
            await self._restart("the session belongs to another file")
            return self._plan.begin()
        event(log, logging.DEBUG, "upload.resume", folder=self._folder.id, size=self._plan.length)
        return self._plan.resume()

    async def _step(self, action: tus.Action) -> tus.Action | Validator:
        match action:
            case tus.Send(offset, length):
                return self._plan.next(await self._send(offset, length))
            case tus.Probe(wait_s):
                await trio.sleep(wait_s)
                return self._plan.next(await self._probe())
            case tus.Check():
                return self._plan.next(await self._check())
            case tus.Compare(made):
                return self._plan.next(await self._compare(made))
            case tus.Inspect(start, stop):
                return self._plan.next(await self._inspect(start, stop))
            case tus.NewSession(reason):
                await self._restart(reason)
                return self._plan.begin()
            case tus.Done(litter):
                found = await self._verify()
                if found is None:
                    return self._plan.next(tus.Compared(False))
                if litter:
                    await self._discard()
                self._grant = None  # the server has ended the session
                return found
            case tus.Concede():
                await self._drop_session()
                raise Conflict("the file changed on the server", found=self._found)
            case tus.GiveUp(reason, unreachable, resumable):
                if not resumable:
                    await self._drop_session()
                raise await self._failure(reason, unreachable)

    # --- sessions ------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._grant = await self._client.request_upload(self._folder, self._rel, self._plan.length)
        if session := session_id(self._grant):
            self._target.is_there(self._folder, f"{UPLOADS}/{session}")
        if self._on_session is not None:
            await self._on_session(self._grant)
            self._kept = True

    async def _restart(self, why: str) -> None:
        event(log, logging.WARNING, "upload.restart", folder=self._folder.id, size=self._plan.length, why=why)
        await self._drop_session()
        await self._open()

    async def _drop_session(self) -> None:
        """The session is of no use any more: first nobody may go on with it, then it is removed."""
        if self._kept and self._on_session is not None:
            await self._on_session(None)
        self._kept = False
        await self._discard()

    async def _discard(self) -> None:
        grant, self._grant = self._grant, None
        if grant is not None:
            await discard(self._client, self._folder, grant)

    # --- requests ------------------------------------------------------------------------------

    async def _send(self, offset: int, length: int) -> tus.Event:
        headers = {
            **TUS,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(length),
        }
        self._announce_if_tight(offset)
        body: Pieces | bytes = Pieces(self._read, offset, length, self._on_progress)
        async with self._lanes.of(length, self._server_of_threads()):
            if length <= SMALL:
                # Before the request, which then waits for nothing; and before the look, so that nothing but
                # the request itself comes after that.
                body = await read_exactly(self._read, offset, length) if length else b""
            completes = offset + length >= self._plan.length
            if completes and self._base is not ANY and not await self._still_replaceable():
                return tus.Lost(sent=False)
            started = trio.current_time()
            happened = await self._exchange("PATCH", headers, body, tus.Accepted)
        if self._on_progress is not None and not isinstance(happened, tus.Lost):
            self._on_progress(length if isinstance(body, bytes) else 0)  # an answer is a sign of life, too
        if isinstance(happened, tus.Accepted) and length >= MEASURED:
            self._rate.add(length, trio.current_time() - started)
        return happened

    def _server_of_threads(self) -> str | None:
        """The storage-proxy, where each open request costs it a thread."""
        assert self._grant is not None
        is_old = self._client.info.dialect is Dialect.V23
        return httpx.URL(self._grant.url).netloc.decode("ascii") if is_old else None

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
        left_s = self._token_left_s(self._grant)
        self._plan.at_once = left_s is not None and left_s < AT_ONCE_S
        url = httpx.URL(transfer_url(self._grant))
        started = trio.current_time()
        status = 0
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
                status = response.status_code
        except (RemoteUnavailable, ProtocolError) as e:
            event(log, logging.DEBUG, "upload.lost", method=method, error=type(e).__name__, why=e.detail)
            return tus.Lost(sent=not isinstance(e, RemoteUnavailable) or e.sent)
        finally:
            counters.call("storage", method, "/upload").ended(status, trio.current_time() - started)
        if isinstance(body, bytes):
            counters.uploaded_bytes += len(body)
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
        if problems.is_token_problem(p) or (status == 400 and success is tus.Holds):
            return tus.TokenRefused()  # a HEAD is refused without words, but has nothing else to refuse
        if status == 500:
            return tus.Refused()
        error = problems.to_error(p)
        if isinstance(error, RemoteUnavailable):
            return tus.Lost()
        raise error

    def _token_left_s(self, grant: Grant) -> float | None:
        if not grant.expires_at:
            return None
        return grant.expires_at - time.time() - self._client.clock_offset_s

    def _announce_if_tight(self, offset: int) -> None:
        """Say before the first byte that the token will not live as long as the upload takes."""
        assert self._grant is not None
        left_s = self._token_left_s(self._grant)
        if self._announced or left_s is None:
            return
        self._announced = True
        needed = tus.rate_needed(self._plan.length - offset, left_s, self._rate.bytes_per_s)
        if needed is not None:
            event(
                log,
                logging.WARNING,
                "upload.tight",
                folder=self._folder.id,
                size=self._plan.length,
                seconds_left=round(left_s),
                needs_bytes_per_s=round(needed),
            )

    # --- what the server has -------------------------------------------------------------------

    async def _check(self) -> tus.Event:
        """Look whether the target may be replaced.

        Raises:
            IsADirectory: by nothing, as it is one.
        """
        # What was found was so when the server was asked, at the earliest; the answer may be read much later.
        self._looked_at = trio.current_time()
        try:
            found: Validator | None = await self._target.stat(self._folder, self._rel)
        except NotFound:
            found = None
        except PermissionDenied:
            return tus.Checked()  # host permissions may allow uploads and no downloads: nothing to see
        except RemoteUnavailable:
            return tus.Lost(sent=False)
        self._found = found
        return tus.Checked() if tus.may_replace(self._base, found) else tus.Conflicting()

    async def _still_replaceable(self) -> bool:
        """Look again where the last look was too long ago: waiting, reading or other work of this process
        took its time. Where the way there and back alone takes as long, the last look has to do.

        Before the request, not within it: see `Lanes`.
        """
        for _ in range(LOOKS):
            if trio.current_time() - self._looked_at <= CHECK_AGE_S:
                break
            if not isinstance(await self._check(), tus.Checked):
                return False
        return True

    async def _compare(self, made: int | None) -> tus.Event:
        """Whether the file that is there now has our content."""
        try:
            found = await self._target.stat(self._folder, self._rel)
            candidate = found.size == self._plan.length and not tus.is_base(self._base, found)
            ours = candidate and await self._same(self._rel, 0, found.size, found)
        except (NotFound, IsADirectory, PermissionDenied, Stale):
            return tus.Compared(False)
        except RemoteUnavailable:
            return tus.Lost(sent=False)
        if not ours and found.size == made and self._base is not ANY:
            self._base = found  # our own doing: nobody's version is lost when it is replaced
        return tus.Compared(ours)

    async def _inspect(self, start: int, stop: int) -> tus.Event:
        """Whether these staged bytes are ours. The server shows sessions like any other file."""
        session = session_id(self._grant)
        if not session:
            return tus.ReadBack(None)
        try:
            return tus.ReadBack(await self._same(f"{UPLOADS}/{session}", start, stop, None))
        except (NotFound, IsADirectory, PermissionDenied):
            return tus.ReadBack(None)
        except RemoteUnavailable:
            return tus.Lost(sent=False)

    async def _same(self, rel: str, start: int, stop: int, validator: Validator | None) -> bool:
        return await same_bytes(
            self._read,
            self._target.read_range,
            self._folder,
            rel,
            start,
            stop,
            validator=validator,
            on_progress=self._on_progress,
        )

    async def _verify(self) -> Validator | None:
        """The version the file became, None if it is not the size it should be.

        Its end is read back with it, because another client's file of the same size may have come
        directly after ours.

        Raises:
            Conflict: so it has.
        """
        size = self._plan.length
        start = max(0, size - READ_BACK)
        try:
            if not size:
                found = await self._target.stat(self._folder, self._rel)
                return found if found.size == 0 else None
            reply = await self._target.read_range(self._folder, self._rel, start, size - start)
        except (NotFound, RangeOutside):
            return None
        except PermissionDenied:
            # May write but not download (host permissions): the listing tells the size, at least.
            listed = await self._listed()
            return listed if listed is not None and listed.size == size else None
        found = reply.validator
        if found.size != size:
            return None
        if reply.data == await read_exactly(self._read, start, size - start):
            return found
        if self._base is ANY:
            return None
        self._grant = None  # the server has ended the session
        if self._kept and self._on_session is not None:
            await self._on_session(None)
        raise Conflict("another file came directly after ours", found=found)

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


def session_id(grant: Grant | None) -> str:
    """The name of an upload session's file in ``.upload``, "" where the token does not tell."""
    session = str(token_claims(grant.token).get("session", "")) if grant is not None else ""
    return "" if "/" in session or session in (".", "..") else session


def belongs(grant: Grant, rel: str, size: int) -> bool:
    """Whether an upload session is, as far as its token tells, for this file in this length."""
    claims = token_claims(grant.token)
    return claims.get("relpath", rel) == rel and str(claims.get("size", size)) == str(size)


async def discard(client: Client, folder: Folder, grant: Grant) -> None:
    """Remove what an unfinished session left in ``.upload``; nobody else ever does.

    Best effort, for callers that have their error already: raises no `VfsError`, not even cancelled
    takes longer than `CLEANUP_S`.
    """
    session = session_id(grant)
    if not session:
        return
    with trio.move_on_after(CLEANUP_S) as scope:
        scope.shield = True
        try:
            await client.delete_files(folder, [f"{UPLOADS}/{session}"], known=True)
        except VfsError:
            event(log, logging.DEBUG, "upload.litter", folder=folder.id)
