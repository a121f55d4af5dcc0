"""``/download``: one file by ranges, or a directory as a ZIP stream.

aiohttp's own FileResponse answers, as in the real storage-proxy, so ETag, ranges and
preconditions cannot drift; what the contract's table says otherwise stands here.
Source: contract 4.2, 4.5; Backend.AI storage-proxy ``api/client.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import ETag

from vfsmount.server.archive import disposition, send_archive
from vfsmount.server.dialect import Dialect
from vfsmount.server.problems import Problem, crash, refuse_strange
from vfsmount.server.state import SERVER, Server

_TRUE = frozenset({"t", "true", "y", "yes", "on", "1"})


async def download(request: web.Request) -> web.StreamResponse:
    """The file that token and ``dst_dir`` name together.

    A token for ``.`` with the file's path in ``dst_dir`` serves every file of the folder.
    """
    server = request.app[SERVER]
    claims = server.tokens.read(request.query.get("token"), "download")
    dst_dir = request.query.get("dst_dir")
    if server.dialect.codes and dst_dir == "":
        return crash()
    if not server.dialect.codes:
        refuse_strange(request, {"token", "dst_dir", "archive", "no_cache"})
    if dst_dir is not None and not server.faults.switches.folder_token:
        raise _not_found()
    try:
        path = _find(server, claims, dst_dir)
        regular = path.is_file()
    except OSError:  # a name over 255 bytes, a path over 4096
        return crash()
    if regular and not os.access(path, os.R_OK):
        return crash()  # newer versions of aiohttp would say 403
    if regular:
        if not server.dialect.tus_checks:
            async with server.threads:
                pass  # one that opens the file
        return _file(request, server.dialect, path)
    if request.query.get("archive", "").lower() in _TRUE and path.is_dir():
        return await send_archive(request, path, {"": path}, f"{path.name}.zip")
    raise _not_regular(server.dialect)


async def download_archive(request: web.Request) -> web.StreamResponse:
    """Several paths in one ZIP (26.x)."""
    server = request.app[SERVER]
    claims = server.tokens.read(request.query.get("token"), "archive")
    root = server.volume.folder(claims["virtual_folder_id"].rpartition("/")[2])
    parts = {name: root / name for name in claims["files"]}
    return await send_archive(request, root, parts, claims.get("filename") or "archive.zip")


def _find(server: Server, claims: dict[str, Any], dst_dir: str | None) -> Path:
    """The path a download means.

    Raises:
        Problem: 404: missing, or out of the folder by the dialect's idea of it.
        OSError: it cannot be looked at.
    """
    root = server.volume.folder(claims["vfid"].rpartition("/")[2])
    path: Path = root / (dst_dir or "") / claims["relpath"]
    if server.dialect.contained:
        contained = path.resolve().is_relative_to(root.resolve())
    else:
        # By the letters only: ``..`` and symlinks lead out of a 23.09 folder.
        contained = path.is_relative_to(root)
    if not contained or not path.exists():
        raise _not_found()
    return path


def _not_found() -> Problem:
    return Problem("file-not-found", status=404, title="File not found", storage=True)


def _not_regular(dialect: Dialect) -> Problem:
    # The old code passes its sentence as the problem's type, by accident.
    suffix = "invalid-api-params" if dialect.codes else "The file is not a regular file."
    return Problem(suffix, status=400, title="Invalid API parameters", storage=True)


def _file(request: web.Request, dialect: Dialect, path: Path) -> web.StreamResponse:
    if "\r" in path.name or "\n" in path.name:
        # Writing such a name into Content-Disposition breaks the real server's reply.
        raise ConnectionResetError("a name that no header can carry")
    headers = disposition(path.name) | {"Content-Type": "application/octet-stream"}
    if request.query.get("no_cache", "").lower() in _TRUE:
        headers["Cache-Control"] = "no-store"
    faults = request.app[SERVER].faults
    return FileReply(
        path,
        headers,
        dialect,
        siblings=faults.switches.gz_sibling,
        is_held=lambda: faults.switches.hold_open,
    )


class FileReply(web.FileResponse):
    """aiohttp's file reply, held to what the dialect's aiohttp version did.

    Args:
        siblings: serve ``x.gz`` (26.x: also ``x.br``) for ``x`` to who accepts it.
        is_held: a fault: whether the file is not to be opened yet, after the look at it.
    """

    def __init__(
        self,
        path: Path,
        headers: dict[str, str],
        dialect: Dialect,
        *,
        siblings: bool,
        is_held: Callable[[], bool],
    ) -> None:
        super().__init__(path, headers=headers)
        self._is_held = is_held
        self._seen: os.stat_result | None = None
        self._dialect = dialect
        self._siblings = siblings
        self.cut_after: int | None = None  # a fault: hang up after so many bytes

    async def _sendfile(
        self, request: web.BaseRequest, fobj: IO[Any], offset: int, count: int
    ) -> AbstractStreamWriter:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        if self.cut_after is None or self.cut_after >= count:
            try:
                return await super()._sendfile(request, fobj, offset, count)
            except RuntimeError:
                # asyncio takes sending to who has gone for a mistake of ours.
                if request.transport is not None and not request.transport.is_closing():
                    raise
                raise ConnectionResetError("the client has gone") from None
        if self.cut_after:
            await super()._sendfile(request, fobj, offset, self.cut_after)
        raise ConnectionResetError("cut after the first bytes")

    def _get_file_path_stat_encoding(
        self, accept_encoding: str
    ) -> tuple[Path | None, os.stat_result, str | None]:
        if not self._siblings:
            accept_encoding = ""
        elif not self._dialect.codes:
            accept_encoding = "gzip" if "gzip" in accept_encoding else ""
        path, self._seen, encoding = super()._get_file_path_stat_encoding(accept_encoding)
        while self._is_held():
            time.sleep(0.01)  # in a thread of aiohttp's
        return path, self._seen, encoding

    def _make_response(self, request: web.BaseRequest, accept_encoding: str) -> Any:
        # aiohttp 3.8 did not look again at what it had opened.
        result, file, seen, encoding = super()._make_response(request, accept_encoding)
        if self._dialect.looks_then_opens and self._seen is not None:
            seen = self._seen
        return result, file, seen, encoding

    def _etag_match(self, etag_value: str, etags: tuple[ETag, ...], *, weak: bool) -> bool:  # type: ignore[override]
        # aiohttp 3.8 never let a weak ETag match.
        return super()._etag_match(etag_value, etags, weak=weak and self._dialect.codes)
