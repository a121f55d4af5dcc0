"""Content of files, each answer of one version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from vfsmount.errors import RangeOutside, Stale, VfsError
from vfsmount.fsspec.remote import Remote, each
from vfsmount.values import Validator
from vfsmount.vfs.deadline import progress

_IN_PAIRS = 256 << 10  # a reply up to this size brings its own confirmation along
_TRIES = 3  # of a file that is replaced while it is read
_EVERYTHING = 1 << 62  # bytes: to the end, wherever that is


async def read(
    remote: Remote, name: str, rel: str, start: int, length: int, version: Validator | None
) -> tuple[bytes, Validator]:
    """Bytes of one version, and which that is; fewer only at its end.

    Raises:
        Stale: it is another version now.
        NotFound, IsADirectory, RangeOutside, RemoteUnavailable: as `Transfers.read_range`.
    """
    folder = await remote.folder(name)
    sink = _Buffer(start)
    await remote.transfers.read_into(
        folder, rel, start, length, sink, validator=version, look_after=length <= _IN_PAIRS
    )
    assert sink.version is not None
    if sink.is_confirmed is None:
        # A file rewritten in place meanwhile gives old and new bytes under one validator.
        sink.is_confirmed = await remote.transfers.revalidate(folder, rel, sink.version) is None
    if not sink.is_confirmed:
        raise Stale("the file changed on the server while it was read")
    return bytes(sink.buffer), sink.version


async def read_slice(remote: Remote, name: str, rel: str, start: int | None, end: int | None) -> bytes:
    """Bytes of a file as Python slices them, of the version that is there now.

    Raises:
        as `read`.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            if not start and end is None:
                return (await read(remote, name, rel, 0, _EVERYTHING, None))[0]
            version = await remote.transfers.stat(await remote.folder(name), rel)
            return await read_of(remote, name, rel, start, end, version)
        except RangeOutside as e:
            if not e.size and not start and end is None:
                return b""
            if not tries_left:
                raise
        except Stale:
            if not tries_left:
                raise
    raise AssertionError("unreachable")


async def read_of(
    remote: Remote, name: str, rel: str, start: int | None, end: int | None, version: Validator
) -> bytes:
    """As `read_slice`, of this version."""
    first, stop, _ = slice(start, end).indices(version.size)
    return (await read(remote, name, rel, first, stop - first, version))[0] if stop > first else b""


async def read_many(
    remote: Remote, wanted: Sequence[tuple[str, str, int | None, int | None]]
) -> list[bytes | VfsError]:
    """Slices of files, all of a file's of one version; an error in the place of those that fail."""
    found: list[bytes | VfsError] = [b""] * len(wanted)
    of_file: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (name, rel, _, _) in enumerate(wanted):
        of_file[name, rel].append(i)

    async def one(i: int, version: Validator | None) -> None:
        name, rel, start, end = wanted[i]
        try:
            if version is None:
                found[i] = await read_slice(remote, name, rel, start, end)
            else:
                found[i] = await read_of(remote, name, rel, start, end, version)
        except VfsError as e:
            found[i] = e

    async def several(name: str, rel: str, places: list[int]) -> None:
        try:
            version = await remote.transfers.stat(await remote.folder(name), rel)
        except VfsError as e:
            for i in places:
                found[i] = e
        else:
            later.extend(partial(one, i, version) for i in places)

    later: list[Callable[[], Awaitable[None]]] = []
    await each(partial(several, *file, places) for file, places in of_file.items() if len(places) > 1)
    later += [partial(one, places[0], None) for places in of_file.values() if len(places) == 1]
    await each(later)
    return found


class _Buffer:
    """Takes a range whole."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._filled = 0
        self.buffer = bytearray()
        self.version: Validator | None = None
        self.is_confirmed: bool | None = None

    def begin(self, found: Validator, stop: int) -> None:
        if self.version is None:
            self.version, self.buffer = found, bytearray(stop - self._start)

    def room(self) -> memoryview:
        return memoryview(self.buffer)[self._filled :]

    def add(self, count: int) -> None:
        self._filled += count
        progress()

    def looked_after(self, same: bool) -> None:
        self.is_confirmed = same
