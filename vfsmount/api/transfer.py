"""Content of files: ranges, validators, uploads. All of it at the storage-proxy.

Source: contract 4.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar, cast

import httpx
import trio

from vfsmount.api import paths, problems
from vfsmount.api.client import Client
from vfsmount.api.fetcher import Body, Fetcher, Relayed
from vfsmount.api.http import Http
from vfsmount.api.lanes import Lanes
from vfsmount.api.pieces import Progress, ReadPiece, same_bytes
from vfsmount.api.retry import retrying
from vfsmount.api.tokens import FolderTokens, transfer_url
from vfsmount.api.upload import OnSession, Order, UploadRun, discard
from vfsmount.core import tus
from vfsmount.errors import (
    InvalidName,
    InvalidRequest,
    IsADirectory,
    NameTooLong,
    NotFound,
    ProtocolError,
    RangeOutside,
    RemoteError,
    RemoteUnavailable,
    Stale,
    TokenExpired,
    VfsError,
)
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.values import ANY, Base, Folder, Grant, RangeReply, Validator

log = logging.getLogger("vfsmount.api")

T = TypeVar("T")
Consume = Callable[[Body], Awaitable[T]]

PROBLEM_MAX = 64 << 10
DRAINED = 64 << 10  # bytes of a body that nobody wants, yet cost less than a new connection
ARCHIVE_PIECE = 64 << 10
_STALLED_S = 1.0  # without a byte in the middle of a body
CHECK = "BACKEND_OVERRIDE_STORAGE_PROXY"
# Whatever else is allowed makes the server send a sibling x.gz or x.br in place of x (trap 2).
PLAIN = {"Accept-Encoding": "identity", "User-Agent": "vfsmount"}
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")


class Sink(Protocol):
    """Takes the bytes of a range as they arrive."""

    def begin(self, found: Validator, stop: int) -> None:
        """The version they are of, and where they will end. After a broken connection: once more."""

    def room(self) -> memoryview:
        """Where the next bytes go; never empty before the end."""

    def add(self, count: int) -> None:
        """So many have been put there."""

    def looked_after(self, same: bool) -> None:
        """Whether the server still had this version when it had sent the last byte."""


class Transfers:
    """Reads and uploads of one client; keeps its download tokens."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._http: Http = client.http
        self._fetcher = Fetcher(client.http)
        client.on_close(self._fetcher.close)
        self._tokens = FolderTokens(client)
        self._upload_rate = tus.Rate()
        self._lanes = Lanes()
        self._proven: set[str] = set()  # hosts that were seen to serve a file through a folder's token
        self._witnesses: dict[str, str] = {}  # by folder: a file that is there, until that is seen

    async def read_range(
        self,
        folder: Folder,
        path: str,
        start: int,
        length: int,
        *,
        validator: Validator | None = None,
        on_progress: Progress | None = None,
    ) -> RangeReply:
        """Fetch up to ``length`` bytes from ``start``; fewer only at the file's end.

        A file that a container rewrites in place while the reply is under way gives old and new
        bytes mixed: whoever needs more than the server's promise calls `revalidate` afterwards.

        Args:
            validator: the version the bytes must belong to; None takes whatever is there.
            on_progress: told the bytes of each piece as it arrives.

        Raises:
            Stale: the file is another version now.
            NotFound, IsADirectory: there is no such file.
            RangeOutside: ``start`` is at or past the end; carries the size.
            RemoteUnavailable: no usable reply; a short one counts as none.
        """
        assert start >= 0 and length > 0
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        if validator is not None:
            headers["If-Match"] = validator.etag

        async def consume(body: Body) -> RangeReply:
            found = _validator(body)
            if validator is not None and found != validator:
                raise Stale("the file changed on the server")
            stop = _stop_of(body.head, found, start, length)
            got = 0

            def progress(count: int) -> None:
                nonlocal got
                got += count
                if on_progress is not None:
                    on_progress(count)

            data = await self._while_it_is_there(
                folder, path, found, lambda: got, lambda: _read_exactly(body, stop - start, progress)
            )
            return RangeReply(start, data, found)

        return await self._download(folder, path, headers, consume)

    async def read_into(
        self,
        folder: Folder,
        path: str,
        start: int,
        length: int,
        sink: Sink,
        *,
        validator: Validator | None,
        look_after: bool = False,
    ) -> None:
        """As `read_range`, with the bytes handed over as they arrive. A broken connection costs only what
        was not there yet; all bytes are of one validator.

        Args:
            look_after: have the server look at the file once more when it has sent the bytes, which costs
                no round trip, and tell the sink. Not everything that stands in the way lets that pass.

        Raises:
            as `read_range`, perhaps after a part of the bytes.
        """
        at = start
        headers: dict[str, str] = {}

        def ask(known: Validator | None) -> None:
            headers["Range"] = f"bytes={at}-{start + length - 1}"
            if known is not None:
                headers["If-Match"] = known.etag

        async def consume(body: Body) -> None:
            nonlocal at
            found = _validator(body)
            if headers.get("If-Match", found.etag) != found.etag:
                raise Stale("the file changed on the server")
            stop = _stop_of(body.head, found, at, start + length - at)
            sink.begin(found, stop)

            async def receive() -> None:
                nonlocal at
                while at < stop:
                    n = await body.receive_into(sink.room()[: stop - at])
                    if not n:
                        raise RemoteUnavailable("the storage-proxy sent less than it announced")
                    at += n
                    sink.add(n)

            try:
                await self._while_it_is_there(folder, path, found, lambda: at, receive)
                after = await body.after()
                if after is not None:
                    same = after.status_code == 304 and validator == found
                    told = Validator.from_etag(after.headers.get("ETag", ""))
                    sink.looked_after(same or (after.status_code in (200, 206) and told == found))
            finally:
                ask(found)  # whoever tries again goes on from here

        ask(validator)
        then: dict[str, str] | None = None
        if look_after:
            then = {**PLAIN, "Range": "bytes=0-0"}
            if validator is not None:
                then["If-None-Match"] = validator.etag
        while True:
            began = at
            try:
                await self._download(folder, path, headers, consume, then)
                return
            except RemoteUnavailable:
                if at == began:
                    raise

    async def _while_it_is_there(
        self,
        folder: Folder,
        path: str,
        found: Validator,
        moved: Callable[[], int],
        receive: Callable[[], Awaitable[T]],
    ) -> T:
        """Receive the bytes of a version. Where none come for a while, the file may have been replaced by a
        shorter one, or cut: the server has announced more than there is, and says nothing for ever.

        Args:
            moved: how far it has got.

        Raises:
            Stale: it was.
            and what `receive` raises.
        """
        replaced = False
        error: Exception | None = None
        result: T | None = None

        async def watch() -> None:
            nonlocal replaced
            while not replaced:
                before = moved()
                await trio.sleep(_STALLED_S)
                if moved() == before:
                    try:
                        replaced = await self.revalidate(folder, path, found) is not None
                    except (NotFound, IsADirectory):
                        replaced = True
                    except VfsError:
                        pass  # who receives is told in time
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                result = await receive()
            except Exception as e:  # as it is, not in a group
                error = e
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        if replaced:
            raise Stale("the file changed on the server")
        return cast(T, result)

    @property
    def has_archives(self) -> bool:
        """Whether a directory's archive may be asked for: 23.09 never recovers from one that is given up."""
        return self._client.info.has_archives

    def server_now(self) -> float:
        """Seconds since the epoch by the server's clock, to the second."""
        return time.time() + self._client.clock_offset_s

    async def read_archive(
        self, folder: Folder, path: str, feed: Callable[[memoryview], None], quiet_s: float
    ) -> None:
        """Read the ZIP archive of a directory and all below it to its end. It has no version, and no
        length. Asked for once: nobody needs it who could not ask for each file.

        Args:
            path: "" for the whole folder.
            feed: takes the bytes, and keeps none of them; what it raises gives the archive up.
            quiet_s: how long the server may say nothing.

        Raises:
            RemoteUnavailable, and others: it did not come, or not to its end.

        Source: contract 4.5.
        """
        rel = paths.downloadable(path) if path else ""
        target, grant = await self._tokens.target_for(folder, rel or ".")
        if folder.host in self._tokens.per_file or "&dst_dir=" not in target:
            raise RemoteUnavailable("the server serves no directory by the folder's token")
        if not rel:
            target = transfer_url(grant)
        room = memoryview(bytearray(ARCHIVE_PIECE))
        try:
            with trio.fail_after(quiet_s) as silence:
                url = httpx.URL(f"{target}&archive=true")
                async with self._exchange(url, PLAIN, fresh=False) as body:
                    if body.head.status_code != 200:
                        error = await _error(body)
                        if isinstance(error, TokenExpired):
                            self._tokens.drop(folder, grant)
                        raise error
                    if body.head.headers.get("Content-Type") != "application/zip":
                        raise ProtocolError("something else in place of an archive", status=200)
                    while n := await body.receive_into(room):
                        silence.deadline = trio.current_time() + quiet_s
                        feed(room[:n])
        except trio.TooSlowError as e:
            raise RemoteUnavailable("an archive that does not come", detail="timeout") from e

    async def stat(self, folder: Folder, path: str) -> Validator:
        """The version of a file that is there now, without a manager call.

        Raises:
            NotFound, IsADirectory: there is no such file.
        """
        try:
            return await self._download(folder, path, {"Range": "bytes=0-0"}, _only_validator)
        except RangeOutside:
            # Empty: a 416 carries no ETag, the whole (empty) file does.
            return await self._download(folder, path, {}, _only_validator)

    async def revalidate(self, folder: Folder, path: str, validator: Validator) -> Validator | None:
        """The version that is there now, None if it still is ``validator``: the cheapest question.

        Raises:
            NotFound, IsADirectory: there is no such file any more.
        """

        async def consume(body: Body) -> Validator | None:
            return None if body.head.status_code == 304 else _validator(body)

        headers = {"Range": "bytes=0-0", "If-None-Match": validator.etag}
        try:
            return await self._download(folder, path, headers, consume)
        except RangeOutside:
            found = await self.stat(folder, path)
            return None if found == validator else found

    async def upload(
        self,
        folder: Folder,
        path: str,
        size: int,
        read: ReadPiece,
        *,
        base: Base = ANY,
        session: Grant | None = None,
        on_session: OnSession | None = None,
        on_progress: Progress | None = None,
    ) -> Validator:
        """Put a whole file in place, atomically, and return the version it became.

        Args:
            read: ``await read(offset, length)`` returns exactly these bytes; asked for at most 1 MiB
                at a time, mostly in order, again from an earlier offset after a failure.
            base: what must stand under the name when the file is put in place: this version (or
                nothing any more), nothing, or `ANY`. Looked at directly before; the server has no
                request that would do both at once.
            session: an unfinished session of an earlier try with this path and content, perhaps of
                an earlier process, to go on with. It may be finished, gone or too old.
            on_session: awaited with every new session before a byte goes into it, and with None
                when the session is of no use any more. Who passes it keeps sessions: failure and
                cancellation then leave them on the server. Not called on success.
            on_progress: told the bytes of each piece as it leaves, and 0 for other signs of life.

        Raises:
            Conflict: another version than ``base`` stands there, and stays.
            IsADirectory, NotADirectory, NotFound: the file cannot stand there.
            PermissionDenied, QuotaExceeded: as the server says.
            RemoteUnavailable: it stopped answering; whether the file is in place is unknown.
            UploadFailed: for another reason the file is not in place as it should be.
        """
        order = Order(folder, paths.creatable(path), size, read, base, session, on_session, on_progress)
        return await UploadRun(self._client, self._http, self, order, self._upload_rate, self._lanes).run()

    async def same_content(
        self,
        folder: Folder,
        path: str,
        validator: Validator,
        read: ReadPiece,
        *,
        on_progress: Progress | None,
    ) -> bool:
        """Whether a version of a file has exactly the bytes that `read` gives, as long as it is.

        Raises:
            Stale, NotFound, IsADirectory, RemoteUnavailable: as `read_range`.
        """
        return await same_bytes(
            read,
            self.read_range,
            folder,
            path,
            0,
            validator.size,
            validator=validator,
            on_progress=on_progress,
        )

    async def discard(self, folder: Folder, grant: Grant) -> None:
        """Remove what an unfinished upload session holds on the server; best effort.

        Raises no `VfsError`: a session that stays behind costs room and nothing else.
        """
        await discard(self._client, folder, grant)

    async def _download(
        self,
        folder: Folder,
        path: str,
        headers: Mapping[str, str],
        consume: Consume[T],
        then: Mapping[str, str] | None = None,
    ) -> T:
        rel = paths.downloadable(path)

        async def attempt(fresh: bool) -> T:
            try:
                return await self._once(folder, rel, headers, consume, fresh, then=then)
            except TokenExpired:
                return await self._once(folder, rel, headers, consume, fresh, then=then)
            except (IsADirectory, NotFound):
                if folder.host in self._proven or folder.host in self._tokens.per_file:
                    raise
                if await self._proves_itself(folder):
                    raise
                return await self._without_dst_dir(folder, rel, headers, consume, fresh)

        try:
            return await retrying(attempt, what="GET download", idempotent=True, read=True)
        except TokenExpired as e:
            raise RemoteError(
                "the storage-proxy refuses tokens the manager has just issued", status=400
            ) from e

    @property
    def tells_what_it_sends(self) -> bool:
        """Whether a reply's validator is that of its first bytes at least (`Traits.looks_then_opens`)."""
        return not self._client.traits.looks_then_opens

    def is_there(self, folder: Folder, path: str) -> None:
        """A file that certainly is there, and may be looked at to find out how the server takes tokens."""
        # Nobody has asked for this one, so it must not be one that a server stumbles over.
        if folder.host not in self._proven and path.isprintable():
            with suppress(InvalidName, InvalidRequest, NameTooLong):  # a name that no request can carry
                self._witnesses[folder.id] = paths.downloadable(path)

    async def _proves_itself(self, folder: Folder) -> bool:
        """Whether a file that is there is found with the folder's token."""
        witness = self._witnesses.get(folder.id)
        if witness is not None:
            # Whatever it is that does not work with this one: a token of the file's own decides then.
            with suppress(VfsError):
                await self._once(folder, witness, {"Range": "bytes=0-0"}, _only_validator, fresh=False)
        return folder.host in self._proven

    async def _without_dst_dir(
        self, folder: Folder, rel: str, headers: Mapping[str, str], consume: Consume[T], fresh: bool
    ) -> T:
        """Ask for the file with a token of its own, as long as the folder's token is unproven.

        A server that ignores dst_dir calls everything a directory, because the token's "." is one;
        a server that refuses it may call everything missing.
        """
        result = await self._once(folder, rel, headers, consume, fresh, per_file=True)
        self._tokens.per_file.add(folder.host)
        event(log, logging.WARNING, "token.per_file", host=folder.host)
        return result

    async def _once(
        self,
        folder: Folder,
        rel: str,
        headers: Mapping[str, str],
        consume: Consume[T],
        fresh: bool,
        per_file: bool = False,
        then: Mapping[str, str] | None = None,
    ) -> T:
        target, grant = await self._tokens.target_for(folder, rel, per_file=per_file)
        by_folder = "&dst_dir=" in target
        async with self._exchange(httpx.URL(target), {**PLAIN, **headers}, fresh, then) as body:
            status = body.head.status_code
            if by_folder and status in (200, 206, 304, 416):
                self._proven.add(folder.host)
            if status not in (200, 206, 304):
                error = await _error(body)
                if isinstance(error, TokenExpired):
                    self._tokens.drop(folder, grant)
                raise error
            if body.head.headers.get("Content-Encoding", "identity") != "identity":
                raise ProtocolError("the server sends another file's compressed bytes in place of this one")
            result = await consume(body)
            await body.drain(DRAINED)
            return result

    @asynccontextmanager
    async def _exchange(
        self, url: httpx.URL, headers: Mapping[str, str], fresh: bool, then: Mapping[str, str] | None = None
    ) -> AsyncIterator[Body]:
        started = trio.current_time()
        status = 0
        try:
            if self._fetcher.reaches(url):
                async with self._fetcher.exchange(
                    url, headers=headers, fresh=fresh, check=CHECK, then=then
                ) as download:
                    status = download.head.status_code
                    yield download
            else:
                async with self._http.exchange(
                    "GET", url, headers=headers, fresh=fresh, check=CHECK
                ) as response:
                    status = response.status_code
                    yield Relayed(response)
        finally:
            counters.call("storage", "GET", "/download").ended(status, trio.current_time() - started)


async def _only_validator(body: Body) -> Validator:
    return _validator(body)


def _validator(body: Body) -> Validator:
    found = Validator.from_etag(body.head.headers.get("ETag", ""))
    if found is None:
        raise ProtocolError("a file without a usable ETag", status=body.head.status_code)
    return found


def _stop_of(response: httpx.Response, found: Validator, start: int, length: int) -> int:
    """The offset at which the reply's bytes end, checked against what was asked and what it is."""
    if response.status_code == 200:
        # A proxy in between dropped the Range; the beginning is still what it should be.
        if start == 0 and found.size:
            return min(length, found.size)
        if start >= found.size:
            raise RangeOutside("past the end of the file", size=found.size)
        raise ProtocolError("the server ignores ranges", status=200)
    m = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if m is None or m[1] is None or m[3] != str(found.size):
        raise ProtocolError("a range that contradicts the file's size", status=206)
    stop = min(start + length, found.size)
    if (int(m[1]), int(m[2]) + 1) != (start, stop):
        raise ProtocolError("another range than was asked for", status=206)
    return stop


async def _read_exactly(body: Body, length: int, on_progress: Progress | None) -> bytes:
    data = bytearray(length)
    room = memoryview(data)
    while room:
        n = await body.receive_into(room)
        if not n:
            raise RemoteUnavailable("the storage-proxy sent less than it announced")
        room = room[n:]
        if on_progress is not None:
            on_progress(n)
    return bytes(data)


async def _error(body: Body) -> Exception:
    """The error a refused download means."""
    status = body.head.status_code
    if status in (412, 416):
        await body.drain(DRAINED)
    if status == 416:
        m = _CONTENT_RANGE.match(body.head.headers.get("Content-Range", ""))
        size = int(m[3]) if m is not None and m[3] != "*" else 0
        return RangeOutside("past the end of the file", size=size)
    if status == 412:
        return Stale("the file changed on the server")
    p = problems.read_problem(status, (await body.read(PROBLEM_MAX)).content)
    if problems.is_token_problem(p):
        return TokenExpired("the transfer token is refused", detail=p.text)
    if status == 400:
        return IsADirectory("this is no regular file", detail=p.text)
    if status == 404:
        return NotFound("no such file on the server", detail=p.text)
    return problems.to_error(p)
