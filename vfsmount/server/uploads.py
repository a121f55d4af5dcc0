"""``/upload``: tus without its creation call, as blind or as careful as the dialect.

23.09 appends whatever comes and looks at the staging file's size; bytes of a broken PATCH stay.
26.x keeps the offset in its records, takes whole PATCHes only, and lets one PATCH at a time in.
Source: contract 4.3; Backend.AI storage-proxy ``api/client.py``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from vfsmount.server.faults import Rule
from vfsmount.server.problems import Problem, crash, refuse_strange, storage_params
from vfsmount.server.state import RULE, SERVER, Server

OFFSET_LIFE_S = 86400.0  # how long 26.x remembers an offset after the last PATCH
MAX_SIZE = 107374182400  # advertised, not enforced: the real default

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": (
        "Tus-Resumable, Upload-Length, Upload-Metadata, Upload-Offset, Content-Type"
    ),
    "Access-Control-Expose-Headers": (
        "Tus-Resumable, Upload-Length, Upload-Metadata, Upload-Offset, Content-Type"
    ),
    "Access-Control-Allow-Methods": "*",
    "Tus-Resumable": "1.0.0",
}


@dataclass(frozen=True, slots=True)
class Session:
    """One upload session, from its token.

    Attributes:
        root: the folder's directory.
        size: staging bytes at which the upload is complete.
    """

    id: str
    root: Path
    relpath: str
    dst_dir: str | None
    size: int

    @property
    def staging(self) -> Path:
        """Where the bytes are collected, visible to everybody."""
        return self.root / ".upload" / self.id


async def options(request: web.Request) -> web.Response:
    """What the tus implementation can do."""
    more = {"Tus-Version": "1.0.0", "Tus-Max-Size": str(MAX_SIZE), "X-Content-Type-Options": "nosniff"}
    return web.Response(headers=_CORS | more)


async def head(request: web.Request) -> web.Response:
    """Where the next PATCH has to begin."""
    server = request.app[SERVER]
    session = _session(request, server)
    return web.Response(headers=_headers(session, _offset(server, session)))


async def patch(request: web.Request) -> web.Response:
    """Take bytes; with the last of them the file replaces its target."""
    server = request.app[SERVER]
    rule = request.get(RULE)  # a fault that lets only part of the body in
    session = _session(request, server)
    received = server.calls.upload(session.relpath)
    received.patches += 1
    if server.dialect.tus_checks:
        return await _patch_new(request, server, session, rule)
    _offset(server, session)
    async with server.threads:
        await _append(request, server, session, rule)
        offset = session.staging.stat().st_size
        return _finish(server, session, offset)


async def _patch_new(
    request: web.Request, server: Server, session: Session, rule: Rule | None
) -> web.Response:
    try:
        async with _lease(server, session):
            start = _checked_offset(request, server, session)
            # Bytes of a PATCH that broke off do not count: they are cut away now.
            os.truncate(session.staging, start)
            taken = await _append(request, server, session, rule)
            await asyncio.to_thread(_sync, session.staging)
            server.records.set_upload_offset(session.id, start + taken, time.time() + OFFSET_LIFE_S)
            return _finish(server, session, start + taken)
    except Problem:
        # The connection stays usable after a refusal, so its body has to be read.
        while not request.content.at_eof():
            await request.content.readany()
        raise


@asynccontextmanager
async def _lease(server: Server, session: Session) -> AsyncIterator[None]:
    if session.id in server.busy_uploads:
        raise Problem("tus-lease-held", status=409, title="Upload lease is held.", storage=True)
    server.busy_uploads.add(session.id)
    try:
        yield
    finally:
        server.busy_uploads.discard(session.id)


def _checked_offset(request: web.Request, server: Server, session: Session) -> int:
    committed = _offset(server, session)
    try:
        claimed = int(request.headers["Upload-Offset"])
    except (KeyError, ValueError):
        raise storage_params({"Upload-Offset": "is required"}) from None
    if claimed != committed:
        title = f"Upload offset mismatch (expected {committed})"
        raise Problem("upload-offset-mismatch", status=409, title=title, storage=True)
    return committed


async def _append(request: web.Request, server: Server, session: Session, rule: Rule | None) -> int:
    """Write the body behind what is staged; return its length.

    Straight from the loop: a piece is at most the read buffer (1 MiB), its copy into the page
    cache costs less than a hop to a thread.
    """
    taken = 0
    counter = server.calls.upload(session.relpath)
    with open(session.staging, "ab", buffering=0) as staging:  # noqa: ASYNC230
        while not request.content.at_eof():
            piece = await request.content.readany()
            if rule is not None and taken + len(piece) >= rule.after_bytes:
                piece = piece[: rule.after_bytes - taken]
                staging.write(piece)
                counter.bytes += len(piece)
                raise ConnectionResetError("cut by a fault rule")
            staging.write(piece)
            taken += len(piece)
            counter.bytes += len(piece)
    return taken


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _finish(server: Server, session: Session, offset: int) -> web.Response:
    if offset >= session.size:
        try:
            _put_in_place(session)
        except (OSError, ValueError):  # a directory in the way, a file as parent, a name too long
            return crash()
        server.records.drop_upload(session.id)
    return web.Response(status=204, headers=_headers(session, offset))


def _put_in_place(session: Session) -> None:
    # No containment check: the real ones have none here either.
    target = session.root / (session.dst_dir or "") / session.relpath
    target.parent.mkdir(parents=True, exist_ok=True)
    session.staging.rename(target)
    with suppress(OSError):  # other sessions may still be in there
        session.staging.parent.rmdir()


def _session(request: web.Request, server: Server) -> Session:
    claims = server.tokens.read(request.query.get("token"), "upload")
    dst_dir = request.query.get("dst_dir")
    if not server.dialect.codes:
        refuse_strange(request, {"token", "dst_dir"})
    root = server.volume.folder(claims["vfid"].rpartition("/")[2])
    return Session(claims["session"], root, claims["relpath"], dst_dir, int(claims["size"]))


def _offset(server: Server, session: Session) -> int:
    """Bytes the session holds, as its dialect knows them.

    Raises:
        Problem: 404: unknown, finished, or its staging file was deleted.
    """
    if not server.dialect.tus_checks:
        if session.staging.exists():
            return session.staging.stat().st_size
        raise Problem("no-such-upload-session", status=404, title="No such upload session", storage=True)
    offset = server.records.upload_offset(session.id, time.time())
    if offset is None or not session.staging.exists():
        raise Problem("tus-session-not-found", status=404, title="TUS session not found", storage=True)
    return offset


def _headers(session: Session, offset: int) -> dict[str, str]:
    return _CORS | {
        "Cache-Control": "no-store",
        "Upload-Offset": str(offset),
        "Upload-Length": str(session.size),
    }
