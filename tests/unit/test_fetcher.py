"""Bodies received straight into memory: what comes broken, in odd forms, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.unit.test_client_wire import FOLDER, VALIDATOR, Wire, connected, ranged, wire
from vfsmount.api.transfer import Transfers
from vfsmount.errors import RangeOutside, RemoteUnavailable, Stale
from vfsmount.values import Validator

__all__ = ["wire"]

WHOLE = b"0123456789"


class Into:
    """A sink of ten bytes."""

    def __init__(self) -> None:
        self.data = bytearray(10)
        self.at = 0
        self.found: list[tuple[Validator, int]] = []
        self.same: list[bool] = []

    def begin(self, found: Validator, stop: int) -> None:
        self.found.append((found, stop))

    def room(self) -> memoryview:
        return memoryview(self.data)[self.at :]

    def add(self, count: int) -> None:
        self.at += count

    def looked_after(self, same: bool) -> None:
        assert self.at == 10
        self.same.append(same)


@asynccontextmanager
async def transfers(wire: Wire, **settings: object) -> AsyncIterator[Transfers]:
    async with connected(wire, **settings) as client:
        yield Transfers(client)


def downloads(wire: Wire) -> list[dict[str, str]]:
    return [headers for _, target, headers in wire.requests if target.startswith("/download")]


async def test_broken_connection_costs_what_was_not_there_yet(wire: Wire) -> None:
    cut = ranged(WHOLE, more="Connection: close\r\n")[:-6]  # four of ten bytes, then the end
    wire.reply("/download", cut, ranged(WHOLE[4:], "bytes 4-9/10"))
    sink = Into()
    async with transfers(wire) as t:
        await t.read_into(FOLDER, "x", 0, 10, sink, validator=None)
    assert bytes(sink.data) == WHOLE and sink.at == 10
    assert [(h["range"], h.get("if-match")) for h in downloads(wire)] == [
        ("bytes=0-9", None),
        ("bytes=4-9", VALIDATOR.etag),
    ]


async def test_rest_of_another_version_is_not_taken(wire: Wire) -> None:
    cut = ranged(WHOLE, more="Connection: close\r\n")[:-6]
    other = ranged(b"xxxxxx", "bytes 4-9/10").replace(b'"10-a"', b'"11-a"')
    wire.reply("/download", cut, other)
    sink = Into()
    async with transfers(wire) as t:
        with pytest.raises(Stale):
            await t.read_into(FOLDER, "x", 0, 10, sink, validator=None)
    assert bytes(sink.data[: sink.at]) == WHOLE[:4]


@pytest.mark.usefixtures("expect_warnings")
async def test_server_that_always_breaks_is_given_up(wire: Wire, autojump_clock: object) -> None:
    wire.reply("/download", ranged(WHOLE, more="Connection: close\r\n")[:-10])
    async with transfers(wire) as t:
        with pytest.raises(RemoteUnavailable):
            await t.read_into(FOLDER, "x", 0, 10, Into(), validator=None)


async def test_shorter_file_ends_where_it_ends(wire: Wire) -> None:
    wire.reply("/download", ranged(WHOLE))
    sink = Into()
    async with transfers(wire) as t:
        await t.read_into(FOLDER, "x", 0, 1000, sink, validator=None)
    assert sink.found == [(VALIDATOR, 10)] and bytes(sink.data) == WHOLE


async def test_connection_is_used_again_after_each_kind_of_reply(wire: Wire) -> None:
    wire.reply(
        "/download",
        ranged(WHOLE),
        b'HTTP/1.1 304 Not Modified\r\nETag: "10-a"\r\n\r\n',
        b"HTTP/1.1 416 Range\r\nContent-Range: bytes */10\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n\r\n",
        ranged(WHOLE),
    )
    async with transfers(wire) as t:
        await t.read_range(FOLDER, "x", 0, 10)
        before = wire.connections
        assert await t.revalidate(FOLDER, "x", VALIDATOR) is None
        with pytest.raises(RangeOutside):
            await t.read_range(FOLDER, "x", 20, 10)
        assert (await t.read_range(FOLDER, "x", 0, 10)).data == WHOLE
        assert wire.connections == before


NOT_MODIFIED = b'HTTP/1.1 304 Not Modified\r\nETag: "10-a"\r\n\r\n'
IN_CHUNKS = (
    ranged(WHOLE).partition(b"Content-Length")[0]
    + b"Transfer-Encoding: chunked\r\n\r\na\r\n"
    + WHOLE
    + b"\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("first", [ranged(WHOLE), IN_CHUNKS], ids=["length", "chunks"])
@pytest.mark.parametrize(
    ("known", "second", "same"),
    [
        (VALIDATOR, NOT_MODIFIED, True),
        (VALIDATOR, ranged(b"0", "bytes 0-0/10").replace(b'"10-a"', b'"11-a"'), False),
        (VALIDATOR, b"HTTP/1.1 404 Gone\r\nContent-Length: 4\r\n\r\ngone", False),
        (None, ranged(b"0", "bytes 0-0/10"), True),
        (None, ranged(b"0", "bytes 0-0/10").replace(b'"10-a"', b'"11-a"'), False),
    ],
)
async def test_server_looks_again_after_the_last_byte(
    wire: Wire, first: bytes, known: Validator | None, second: bytes, same: bool
) -> None:
    wire.reply("/download", first, second, ranged(WHOLE))
    sink = Into()
    async with transfers(wire) as t:
        await t.read_into(FOLDER, "x", 0, 10, sink, validator=known, look_after=True)
        assert bytes(sink.data) == WHOLE and sink.same == [same]
        asked = [(h["range"], h.get("if-match"), h.get("if-none-match")) for h in downloads(wire)]
        etag = known and known.etag
        assert asked == [("bytes=0-9", etag, None), ("bytes=0-0", None, etag)]
        before = wire.connections
        assert (await t.read_range(FOLDER, "x", 0, 10)).data == WHOLE
        assert wire.connections == before


async def test_server_that_forgets_what_comes_with_a_request_is_asked_once_at_a_time(wire: Wire) -> None:
    """As a proxy may that knows nothing of pipelining."""
    wire.forgetful = True
    wire.reply("/download", ranged(WHOLE))
    async with transfers(wire) as t:
        for _ in range(3):
            sink = Into()
            with trio.fail_after(60):
                await t.read_into(FOLDER, "x", 0, 10, sink, validator=VALIDATOR, look_after=True)
            assert bytes(sink.data) == WHOLE and sink.same == []
        assert wire.connections == 3  # the client's, the one that went silent, and the one that is kept


@pytest.mark.parametrize("second", [b"", b"HTTP/1.1 304 Not", b"nonsense\r\n\r\n"])
async def test_bytes_are_there_though_the_server_does_not_look_again(wire: Wire, second: bytes) -> None:
    wire.reply("/download", ranged(WHOLE, more="Connection: close\r\n") + second, ranged(WHOLE))
    sink = Into()
    async with transfers(wire) as t:
        await t.read_into(FOLDER, "x", 0, 10, sink, validator=VALIDATOR, look_after=True)
        assert bytes(sink.data) == WHOLE and sink.same == []
        assert (await t.read_range(FOLDER, "x", 0, 10)).data == WHOLE


async def test_body_in_chunks(wire: Wire) -> None:
    """As a proxy on the way may send it."""
    wire.reply(
        "/download",
        b'HTTP/1.1 206 Partial Content\r\nETag: "10-a"\r\nContent-Range: bytes 0-9/10\r\n'
        b"Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n",
    )
    async with transfers(wire) as t:
        for _ in range(2):
            assert (await t.read_range(FOLDER, "x", 0, 10)).data == WHOLE
        assert wire.connections <= 2


@pytest.mark.usefixtures("expect_warnings")
async def test_silent_server_is_given_up_in_time(wire: Wire, autojump_clock: object) -> None:
    wire.reply("/download", ranged(WHOLE)[:-6])
    async with transfers(wire, read_timeout_s=1.0) as t:
        began = trio.current_time()
        with pytest.raises(RemoteUnavailable):
            await t.read_range(FOLDER, "x", 0, 10)
        assert trio.current_time() - began < 30
