"""The content of an upload: its bytes on their way out, and compared with what the server has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from vfsmount.errors import RangeOutside, UploadFailed
from vfsmount.metrics import counters
from vfsmount.values import Folder, RangeReply, Validator

Progress = Callable[[int], None]
ReadPiece = Callable[[int, int], Awaitable[bytes]]

READ_SIZE = 1 << 20
COMPARED = 4 << 20  # fetched in one request for a comparison: few round trips, little memory


class ReadRange(Protocol):
    """`Transfers.read_range`."""

    async def __call__(
        self, folder: Folder, path: str, start: int, length: int, *, validator: Validator | None = None
    ) -> RangeReply: ...


class Pieces(AsyncIterator[bytes]):
    """The bytes of one PATCH, read as they are sent. No generator: see `http.Body`.

    Args:
        on_progress: told the bytes of each piece once it has left.
    """

    def __init__(
        self,
        read: ReadPiece,
        offset: int,
        length: int,
        on_progress: Progress | None,
    ) -> None:
        self._read = read
        self._offset, self._stop = offset, offset + length
        self._sent = 0  # length of the piece handed out last, which has left when we are asked again
        self._on_progress = on_progress

    async def __anext__(self) -> bytes:
        counters.uploaded_bytes += self._sent
        if self._sent and self._on_progress is not None:
            self._on_progress(self._sent)
        missing = self._stop - self._offset
        if not missing:
            self._sent = 0
            raise StopAsyncIteration
        data = await read_exactly(self._read, self._offset, min(READ_SIZE, missing))
        self._sent = len(data)
        self._offset += len(data)
        return data


async def read_exactly(read: ReadPiece, offset: int, length: int) -> bytes:
    """These bytes of the content.

    Raises:
        UploadFailed: the content is not as long as was announced.
    """
    data = await read(offset, length)
    if len(data) != length:
        raise UploadFailed("the content to upload is not as long as was announced")
    return data


async def same_bytes(
    read: ReadPiece,
    read_range: ReadRange,
    folder: Folder,
    path: str,
    start: int,
    stop: int,
    *,
    validator: Validator | None = None,
    on_progress: Progress | None = None,
) -> bool:
    """Whether the content and a remote file agree in ``[start, stop)``. Ends at the first difference.

    Args:
        validator: the version of the remote file; None takes whatever is there.
        on_progress: told 0 bytes now and then, as a sign of life.

    Raises:
        Stale, NotFound, IsADirectory, RemoteUnavailable: as `Transfers.read_range`.
    """
    while start < stop:
        try:
            theirs = await read_range(folder, path, start, min(COMPARED, stop - start), validator=validator)
        except RangeOutside:
            return False
        if not theirs.data:
            return False
        for at in range(0, len(theirs.data), READ_SIZE):
            piece = theirs.data[at : at + READ_SIZE]
            if await read_exactly(read, start + at, len(piece)) != piece:
                return False
        start += len(theirs.data)
        if on_progress is not None:
            on_progress(0)
    return True
