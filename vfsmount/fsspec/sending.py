"""Content on its way to the server, whole files only, read from where it lies meanwhile."""

from __future__ import annotations

import os
import tempfile
from typing import IO

import trio

from vfsmount.api.pieces import ReadPiece
from vfsmount.errors import AlreadyExists, Conflict, NotFound, Stale
from vfsmount.fsspec.reading import read
from vfsmount.fsspec.remote import Remote
from vfsmount.values import ANY, Base, Validator
from vfsmount.vfs.deadline import progress

_PIECE = 16 << 20
_TRIES = 5  # to append to a file that others append to as well


async def send_bytes(remote: Remote, name: str, rel: str, data: bytes, base: Base = ANY) -> Validator:
    """Put a file in place, atomically.

    Args:
        base: what must stand there, as of `Transfers.upload`.

    Raises:
        AlreadyExists: `base` is None, and something does.
        Conflict: another version does. And what `Transfers.upload` raises.
    """

    async def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return await _send(remote, name, rel, len(data), read, base)


async def send_file(remote: Remote, name: str, rel: str, content: IO[bytes], base: Base = ANY) -> Validator:
    """As `send_bytes`, of all that an open file holds."""

    async def read(offset: int, length: int) -> bytes:
        return await trio.to_thread.run_sync(os.pread, content.fileno(), length, offset)

    return await _send(remote, name, rel, os.fstat(content.fileno()).st_size, read, base)


async def _send(remote: Remote, name: str, rel: str, size: int, read: ReadPiece, base: Base) -> Validator:
    folder = await remote.folder(name)
    try:
        return await remote.transfers.upload(folder, rel, size, read, base=base, on_progress=progress)
    except Conflict as e:
        if base is None:
            raise AlreadyExists("the name is taken") from e
        raise


async def append(remote: Remote, name: str, rel: str, tail: IO[bytes], directory: str | None) -> Validator:
    """Put a file in place that is the one there now and, behind it, all that an open file holds.

    The server has no call for that: what is there is fetched first. It is never overwritten by a
    result that lacks something of it: who appended meanwhile is in front of us then.

    Args:
        directory: where the whole is put together; None for the system's directory.

    Raises:
        Conflict: others changed it again and again. And what `Transfers.upload` raises.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            base: Validator | None = await remote.transfers.stat(await remote.folder(name), rel)
        except NotFound:
            base = None
        with tempfile.TemporaryFile(dir=directory) as whole:
            try:
                for at in range(0, base.size if base else 0, _PIECE):
                    data, _ = await read(remote, name, rel, at, _PIECE, base)
                    await trio.to_thread.run_sync(whole.write, data)
                await trio.to_thread.run_sync(_copy, tail, whole)
                return await send_file(remote, name, rel, whole, base)
            except (AlreadyExists, Conflict, Stale):
                if not tries_left:
                    raise
    raise AssertionError("unreachable")


def _copy(source: IO[bytes], sink: IO[bytes]) -> None:
    at = 0
    while data := os.pread(source.fileno(), _PIECE, at):
        sink.write(data)
        at += len(data)
    sink.flush()
