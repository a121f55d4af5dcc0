"""A directory as a ZIP that is written while it is sent: correct, and as touchy as the real one.

Deflated, sizes in data descriptors; empty directories get an entry, others do not; links to
directories are left out. A dangling link, a time before 1980 or a name that is not UTF-8 breaks
the stream after its headers: 23.09 then hangs for ever, 26.x cuts it.
Source: contract 4.5.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from aiohttp import web

from vfsmount.server.state import SERVER

_PIECE = 256 * 1024


def disposition(name: str) -> dict[str, str]:
    """``Content-Disposition`` for a download that should be saved as `name`."""
    plain = name.encode("ascii", errors="ignore").decode("ascii").replace('"', r"\"")
    quoted = urllib.parse.quote(os.fsencode(name))
    return {"Content-Disposition": f"attachment;filename=\"{plain}\"; filename*=UTF-8''{quoted}"}


class _Pipe(io.RawIOBase):
    """A write-only, unseekable file that gives back what was written since the last `take`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


async def send_archive(
    request: web.Request, top: Path, parts: Mapping[str, Path], filename: str
) -> web.StreamResponse:
    """Stream `parts` (name in the archive → path) as one ZIP.

    Raises:
        ConnectionResetError: the stream broke, or was told to.
    """
    server = request.app[SERVER]
    fate = server.faults.switches.archive
    entries = await asyncio.to_thread(lambda: [e for n, p in parts.items() for e in _entries(n, p)])
    reply = web.StreamResponse(headers=disposition(filename) | {"Content-Type": "application/zip"})
    reply.enable_chunked_encoding()
    await reply.prepare(request)
    pieces = _pieces(entries)
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await reply.write(piece)
            if fate != "ok":
                raise ValueError("told to break")
    except (OSError, ValueError):
        if fate == "hang" or (fate == "ok" and not server.dialect.codes):
            await server.faults.stalled()
        raise ConnectionResetError("the archive cannot be finished") from None
    await reply.write_eof()
    return reply


def _entries(name: str, path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(name, path)]
    found: list[tuple[str, Path]] = []
    for root, dirs, files in os.walk(path):
        base = Path(name) / Path(root).relative_to(path)
        found += [(str(base / f), Path(root) / f) for f in files]
        if not dirs and not files:
            found.append((f"{base}/", Path(root)))
    return found


def _pieces(entries: list[tuple[str, Path]]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in entries:
            name.encode()  # not UTF-8: UnicodeEncodeError, a ValueError
            yield from _entry(archive, pipe, name, path)
    yield pipe.take()


def _entry(archive: zipfile.ZipFile, pipe: _Pipe, name: str, path: Path) -> Iterator[bytes]:
    st = path.stat()
    info = zipfile.ZipInfo(name, time.localtime(st.st_mtime)[:6])
    info.external_attr = (st.st_mode & 0xFFFF) << 16
    if name.endswith("/"):
        archive.writestr(info, b"")
        return
    info.compress_type = zipfile.ZIP_DEFLATED
    with open(path, "rb") as source, archive.open(info, "w") as target:
        while data := source.read(_PIECE):
            target.write(data)
            if ready := pipe.take():
                yield ready
