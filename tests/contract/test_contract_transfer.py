"""Ranges, validators and uploads against every server."""

from __future__ import annotations

import hashlib
import logging
import os

import pytest
import trio

from tests.contract.conftest import Server, put
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.errors import (
    InvalidName,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    RangeOutside,
    Stale,
    UploadFailed,
)
from vfsmount.values import Folder, Validator

MIB = 1 << 20


async def test_ranges(transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"0123456789")
    reply = await transfers.read_range(folder, "f", 2, 3)
    assert (reply.start, reply.data, reply.validator.size) == (2, b"234", 10)
    assert (await transfers.read_range(folder, "f", 8, 100, validator=reply.validator)).data == b"89"
    with pytest.raises(RangeOutside) as e:
        await transfers.read_range(folder, "f", 10, 1)
    assert e.value.size == 10


async def test_progress_tells_the_bytes_of_both_directions(transfers: Transfers, folder: Folder) -> None:
    data, up, down = os.urandom(3 * MIB), [], []

    async def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    await transfers.upload(folder, "f", len(data), read, on_progress=up.append)
    await transfers.read_range(folder, "f", 0, 2 * MIB, on_progress=down.append)
    assert sum(up) == 3 * MIB
    assert sum(down) == 2 * MIB


async def test_changed_file_is_stale(transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"old content")
    old = await transfers.stat(folder, "f")
    assert await transfers.revalidate(folder, "f", old) is None
    await put(transfers, folder, "f", b"new")
    with pytest.raises(Stale):
        await transfers.read_range(folder, "f", 0, 3, validator=old)
    new = await transfers.revalidate(folder, "f", old)
    assert new == await transfers.stat(folder, "f")
    assert new is not None and new.size == 3


async def test_missing_file_and_directory(client: Client, transfers: Transfers, folder: Folder) -> None:
    await client.mkdir(folder, "d")
    with pytest.raises(NotFound):
        await transfers.stat(folder, "nope")
    with pytest.raises(NotFound):
        await transfers.stat(folder, "no/pe")
    with pytest.raises(IsADirectory):
        await transfers.stat(folder, "d")
    with pytest.raises(IsADirectory):
        await transfers.read_range(folder, "d", 0, 1)
    with pytest.raises(NotFound):
        await transfers.revalidate(folder, "nope", Validator(1, 1))


async def test_empty_file(transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "empty", b"")
    validator = await transfers.stat(folder, "empty")
    assert validator.size == 0
    assert await transfers.revalidate(folder, "empty", validator) is None
    with pytest.raises(RangeOutside) as e:
        await transfers.read_range(folder, "empty", 0, 10)
    assert e.value.size == 0
    await put(transfers, folder, "f", b"x")
    other = await transfers.stat(folder, "f")
    assert await transfers.revalidate(folder, "empty", other) == validator


async def test_compressed_sibling_is_not_served(server: Server, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"plain")
    for suffix in (".gz", ".br"):
        (server.disk(folder) / f"f{suffix}").write_bytes(b"not plain at all")
    assert (await transfers.read_range(folder, "f", 0, 100)).data == b"plain"


@pytest.mark.parametrize("size", [1, MIB, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 40 * MIB])
async def test_upload_of_sizes_around_a_piece(
    server: Server, transfers: Transfers, folder: Folder, size: int
) -> None:
    data = os.urandom(size)
    asked = []

    async def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    validator = await transfers.upload(folder, "new/dir/f", size, read)
    assert validator.size == size
    assert max(asked) <= MIB
    on_disk = (server.disk(folder) / "new/dir/f").read_bytes()
    assert hashlib.sha256(on_disk).digest() == hashlib.sha256(data).digest()
    assert not (server.disk(folder) / ".upload").exists()


async def test_upload_replaces_atomically(server: Server, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"old")
    before = await transfers.stat(folder, "f")

    seen = []

    async def read(offset: int, length: int) -> bytes:
        seen.append((server.disk(folder) / "f").read_bytes())
        return b"newer"[offset : offset + length]

    after = await transfers.upload(folder, "f", 5, read)
    assert after != before
    assert seen == [b"old", b"newer"]  # while it is sent, and when it is read back
    assert (server.disk(folder) / "f").read_bytes() == b"newer"


async def test_upload_where_it_cannot_stand(
    server: Server, client: Client, transfers: Transfers, folder: Folder, expect_warnings: object
) -> None:
    await client.mkdir(folder, "d")
    await put(transfers, folder, "f")
    with pytest.raises(IsADirectory):
        await put(transfers, folder, "d", b"x")
    with pytest.raises(NotADirectory):
        await put(transfers, folder, "f/below", b"x")
    with pytest.raises(InvalidName):
        await put(transfers, folder, "line\nbreak", b"x")
    assert not list((server.disk(folder) / ".upload").glob("*"))


async def test_failed_source_leaves_nothing_behind(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    async def short(offset: int, length: int) -> bytes:
        return b"x" if offset == 0 else b""

    with pytest.raises(UploadFailed):
        await transfers.upload(folder, "f", 10, short)
    assert not (server.disk(folder) / "f").exists()
    assert not list((server.disk(folder) / ".upload").glob("*"))


async def test_cancelled_upload_leaves_nothing_behind(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    async def endless(offset: int, length: int) -> bytes:
        if offset >= 2 * MIB:
            scope.cancel()
            await trio.sleep_forever()
        return bytes(length)

    with trio.CancelScope() as scope:
        await transfers.upload(folder, "f", 8 * MIB, endless)
    assert scope.cancelled_caught
    assert not (server.disk(folder) / "f").exists()
    assert not list((server.disk(folder) / ".upload").glob("*"))


async def test_parallel_uploads_into_one_directory(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(put, transfers, folder, f"d/{n}", str(n).encode() * 1000)
    for n in range(20):
        assert (server.disk(folder) / f"d/{n}").read_bytes() == str(n).encode() * 1000


async def test_file_with_a_path_too_long_for_a_request_line(
    server: Server, client: Client, transfers: Transfers, folder: Folder
) -> None:
    # Percent-encoded it is over 8190 bytes, in a token of its own it just fits.
    path = "/".join(["한" * 83] * 11) + "/f"
    await put(transfers, folder, path, b"deep")
    assert (await transfers.read_range(folder, path, 1, 2)).data == b"ee"
    longer = "/".join(["한" * 83] * 13) + "/f"
    with pytest.raises(NameTooLong):
        await put(transfers, folder, longer, b"too deep")
    with pytest.raises(NameTooLong):
        await transfers.stat(folder, longer)
    assert not list((server.disk(folder) / ".upload").glob("*"))


async def test_name_with_line_break_is_refused_before_the_connection_drops(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    (server.disk(folder) / "a\nb").write_bytes(b"x")
    with pytest.raises(InvalidName):
        await transfers.stat(folder, "a\nb")


async def test_folder_replaced_by_another_of_its_name(
    client: Client, transfers: Transfers, folder: Folder
) -> None:
    # 23.09 goes by name: without a look at the token we would write into the new folder.
    await client.delete_folder(folder)
    if client.traits.has_trash:
        await client.delete_from_trash(folder)
    with trio.fail_after(30):
        while any(f.id == folder.id for f in await client.list_folders()):
            await trio.sleep(0.05)
    other = await client.create_folder(folder.name)
    try:
        with pytest.raises(NotFound):
            await put(transfers, folder, "f")
        assert b"f" not in {e.name for e in (await client.list_files(other, "")).entries}
    finally:
        await client.delete_folder(other)
        if client.traits.has_trash:
            await client.delete_from_trash(other)


async def test_nothing_secret_is_logged_or_shown(
    server: Server, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = server.settings("owner")
    async with Client(settings) as client:
        await client.connect()
        transfers = Transfers(client)
        await put(transfers, folder, "f", b"x" * 1000)
        await transfers.read_range(folder, "f", 0, 10)
        with pytest.raises(NotFound) as e:
            await transfers.stat(folder, "nope")
        grant = await client.request_download(folder, ".")
        shown = f"{caplog.text} {e.value!r} {settings!r} {grant!r} {client!r}"
    assert "manager.call" in caplog.text
    for secret in (settings.secret_key, settings.access_key + ":", "token=", "eyJ", "credential="):
        assert secret not in shown
