"""The client when the server, or the way to it, fails: embedded servers of both generations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.contract.conftest import Server, drop_folder, put
from tests.support.embedded import Embedded
from vfsmount.api import retry
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.transfer import Transfers
from vfsmount.core import tus
from vfsmount.errors import (
    NotFound,
    RateLimited,
    RemoteError,
    RemoteUnavailable,
    ServerFrozen,
    UploadFailed,
    VfsError,
)
from vfsmount.values import Folder

MIB = 1 << 20
DATA = os.urandom(20 * MIB + 123)

pytestmark = pytest.mark.usefixtures("expect_warnings")


@pytest.fixture(params=["embedded-23.09", "embedded-26"])
def server(request: pytest.FixtureRequest) -> Server:
    """Only servers that can be told to fail."""
    old = request.param == "embedded-23.09"
    embedded: Embedded = request.getfixturevalue("embedded_23" if old else "embedded_26")
    embedded.clear_faults()
    return Server(Dialect.V23 if old else Dialect.V26, embedded)


@pytest.fixture
async def control(server: Server, client: Client) -> AsyncIterator[Embedded]:
    """The server's faults, with everything good again afterwards."""
    assert server.embedded is not None
    await client.list_folders()
    server.embedded.reset_calls()
    yield server.embedded
    server.embedded.clear_faults()


def rule(action: str, path: str, method: str = "", **more: Any) -> dict[str, Any]:
    return {"rules": [{"action": action, "path": path, "method": method, **more}]}


async def read_data(offset: int, length: int) -> bytes:
    return DATA[offset : offset + length]


async def upload(transfers: Transfers, folder: Folder) -> None:
    await transfers.upload(folder, "big", len(DATA), read_data)


def litter(server: Server, folder: Folder) -> list[Path]:
    return list((server.disk(folder) / ".upload").glob("*"))


@pytest.mark.parametrize("after", [0, 1, 5 * MIB, 16 * MIB - 1])
async def test_upload_cut_in_the_first_piece_arrives_whole(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder, after: int
) -> None:
    control.faults(rule("cut_up", "/upload", "PATCH", after_bytes=after))
    await upload(transfers, folder)
    assert (server.disk(folder) / "big").read_bytes() == DATA
    assert control.report()["uploads"]["big"]["sessions"] == 1


async def test_upload_cut_three_times_arrives_whole(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    control.faults(rule("cut_up", "/upload", "PATCH", after_bytes=3 * MIB, times=3))
    await upload(transfers, folder)
    assert (server.disk(folder) / "big").read_bytes() == DATA


async def test_lost_reply_to_the_first_piece(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    control.faults(rule("lose_reply", "/upload", "PATCH"))
    await upload(transfers, folder)
    assert (server.disk(folder) / "big").read_bytes() == DATA
    received = control.report()["uploads"]["big"]
    assert (received["bytes"], received["sessions"]) == (len(DATA), 1), "nothing is sent twice"


@pytest.mark.parametrize("size", [0, 1000])
async def test_lost_reply_to_the_last_piece_is_no_second_upload(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder, size: int
) -> None:
    await put(transfers, folder, "f", b"y" * size)  # an older file of the same size
    before = await transfers.stat(folder, "f")
    control.faults(rule("lose_reply", "/upload", "PATCH"))
    await put(transfers, folder, "f", b"x" * size)
    assert (server.disk(folder) / "f").read_bytes() == b"x" * size
    assert await transfers.stat(folder, "f") != before
    assert control.report()["uploads"]["f"]["sessions"] == 2


async def test_staging_file_removed_under_an_upload(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    # An older file of the same size must not be taken for the result.
    await put(transfers, folder, "big", bytes(len(DATA)))
    removed = False

    async def read(offset: int, length: int) -> bytes:
        nonlocal removed
        if offset >= 17 * MIB and not removed:
            removed = True
            for path in litter(server, folder):
                path.unlink()
        return DATA[offset : offset + length]

    await transfers.upload(folder, "big", len(DATA), read)
    assert (server.disk(folder) / "big").read_bytes() == DATA


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_upload_through_passing_gateway_errors(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder, status: int
) -> None:
    control.faults(rule("status", "/upload", "PATCH", status=status, times=2))
    await upload(transfers, folder)
    assert (server.disk(folder) / "big").read_bytes() == DATA


async def test_upload_to_a_server_that_refuses_the_token(
    server: Server, control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    control.faults(rule("refuse_token", "/upload", "PATCH"))
    await upload(transfers, folder)
    assert (server.disk(folder) / "big").read_bytes() == DATA
    control.faults(rule("refuse_token", "/upload", times=None))
    with pytest.raises(UploadFailed):
        await put(transfers, folder, "other")


async def test_upload_to_a_server_that_is_silent_ends_in_time(
    server: Server, control: Embedded, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tus, "RETRY_WAIT_S", 0.01)
    hasty = dataclasses.replace(server.settings("owner"), read_timeout_s=0.2)
    async with Client(hasty) as client:
        await client.connect()
        control.faults(rule("stall", "/upload", times=None))
        with pytest.raises(RemoteUnavailable):
            with trio.fail_after(60):
                await put(Transfers(client), folder, "f")
        control.clear_faults()


async def test_short_body_is_fetched_again(control: Embedded, transfers: Transfers, folder: Folder) -> None:
    await upload(transfers, folder)
    control.faults(rule("cut_down", "/download", "GET", after_bytes=3 * MIB))
    assert (await transfers.read_range(folder, "big", 5, 8 * MIB)).data == DATA[5 : 8 * MIB + 5]


async def test_body_that_is_always_short_is_an_error(
    control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    await upload(transfers, folder)
    control.faults(rule("cut_down", "/download", "GET", after_bytes=100, times=None))
    with pytest.raises(RemoteUnavailable):
        await transfers.read_range(folder, "big", 0, MIB)


async def test_silent_download_ends_in_time(server: Server, control: Embedded, folder: Folder) -> None:
    hasty = dataclasses.replace(server.settings("owner"), read_timeout_s=0.2)
    async with Client(hasty) as client:
        await client.connect()
        transfers = Transfers(client)
        await put(transfers, folder, "f")
        control.faults(rule("stall", "/download", times=None))
        with pytest.raises(RemoteUnavailable):
            await transfers.read_range(folder, "f", 0, 10)
        control.clear_faults()


async def test_refused_download_token_is_renewed_once(
    control: Embedded, transfers: Transfers, folder: Folder
) -> None:
    await put(transfers, folder, "f", b"content")
    control.reset_calls()
    control.faults(rule("refuse_token", "/download", "GET"))
    assert (await transfers.read_range(folder, "f", 0, 10)).data == b"content"
    assert control.count("POST", "/folders/{vf}/request-download") == 1
    control.faults(rule("refuse_token", "/download", "GET", times=None))
    with pytest.raises(VfsError):
        await transfers.read_range(folder, "f", 0, 10)


async def test_many_reads_cost_one_token(control: Embedded, transfers: Transfers, folder: Folder) -> None:
    for n in range(3):
        await put(transfers, folder, str(n), b"x")
    fresh = Transfers(transfers._client)
    control.reset_calls()
    async with trio.open_nursery() as nursery:
        for n in range(60):
            nursery.start_soon(fresh.read_range, folder, str(n % 3), 0, 1)
    assert control.count("POST", "/folders/{vf}/request-download") == 1


async def test_server_without_folder_tokens_gives_one_for_each_file(
    control: Embedded, folder: Folder, client: Client
) -> None:
    control.faults({"switches": {"folder_token": False}})
    transfers = Transfers(client)
    await put(transfers, folder, "f", b"content")
    await put(transfers, folder, "d/g", b"other")
    for _ in range(3):
        assert (await transfers.read_range(folder, "d/g", 0, 10)).data == b"other"
    with pytest.raises(NotFound):
        await transfers.stat(folder, "nope")


@pytest.mark.parametrize("fault", ["reset", "status"])
async def test_reads_are_repeated_through_passing_failures(
    control: Embedded, client: Client, folder: Folder, fault: str
) -> None:
    control.faults(rule(fault, "/folders/", "GET", times=2, status=503))
    await client.list_files(folder, "")


async def test_change_that_may_have_happened_is_not_repeated(
    server: Server, control: Embedded, client: Client, folder: Folder
) -> None:
    control.faults(rule("lose_reply", "/folders/*/mkdir", "POST"))
    with pytest.raises(RemoteUnavailable):
        await client.mkdir(folder, "d")
    assert control.count("POST", "/folders/{vf}/mkdir") == 1
    assert (server.disk(folder) / "d").is_dir()


async def test_change_that_may_be_repeated_is(
    server: Server, control: Embedded, client: Client, folder: Folder
) -> None:
    control.faults(rule("lose_reply", "/folders/*/mkdir", "POST"))
    await client.mkdir(folder, "d", exist_ok=True)
    assert (server.disk(folder) / "d").is_dir()


async def test_deadline_is_not_spent_on_waiting_for_a_retry(
    control: Embedded, client: Client, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 600.0)
    monkeypatch.setattr(retry, "MAX_WAIT_S", 600.0)
    control.faults(rule("status", "/folders/", "GET", times=None, status=503))
    with trio.fail_after(30):
        with pytest.raises(RemoteUnavailable):
            await client.list_files(folder, "")
    assert control.count("GET", "/folders/{vf}/files") == 1


async def test_rate_limit_is_told_and_remembered(server: Server, control: Embedded, folder: Folder) -> None:
    async with Client(server.settings("owner")) as spent:
        await spent.connect()
        control.faults(rule("status", "/folders/", "GET", status=429))
        with trio.fail_after(30):
            with pytest.raises(RateLimited):
                await spent.list_files(folder, "")
            control.reset_calls()
            with pytest.raises(RateLimited):
                await spent.list_files(folder, "")
    assert control.calls("manager") == {}, "no call may follow a 429 for long"


async def test_listing_that_met_a_file_is_repeated_where_a_directory_is_by_now(
    server: Server, control: Embedded, client: Client, folder: Folder
) -> None:
    """26.x tells no errno, and by the time of the look there is nothing wrong."""
    await client.mkdir(folder, "d")
    await client.mkdir(folder, "d/e")
    if server.dialect is Dialect.V26:
        control.faults(rule("status", "/folders/*/files", "GET", status=400))
    assert [e.name for e in (await client.list_files(folder, "d")).entries] == [b"e"]
    if server.dialect is Dialect.V26:
        control.faults(rule("status", "/folders/*/files", "GET", status=400, times=3))
        with pytest.raises(VfsError):
            await client.list_files(folder, "d")


async def test_listing_of_a_name_whose_kind_changes_again_and_again_is_had_in_the_end(
    server: Server, control: Embedded, client: Client, folder: Folder
) -> None:
    """Each time that it is a file when it is listed, it is a directory when its parent is."""
    if server.dialect is not Dialect.V26:
        pytest.skip("23.09 tells the errno")
    await client.mkdir(folder, "d")
    await client.mkdir(folder, "d/e")
    fails = {"action": "status", "path": "/folders/*/files", "method": "GET", "status": 400}
    answers = {"action": "delay", "path": "/folders/*/files", "method": "GET"}
    control.faults({"rules": [fails, answers] * 3})
    assert [e.name for e in (await client.list_files(folder, "d")).entries] == [b"e"]
    control.faults({"rules": [fails, answers] * 4})
    with pytest.raises(RemoteError):
        await client.list_files(folder, "d")


async def test_maintenance_is_told(server: Server, control: Embedded, client: Client, folder: Folder) -> None:
    control.faults({"switches": {"frozen": True}})
    with pytest.raises(ServerFrozen):
        await client.rename_folder(folder, folder.name + "-x")
    await client.list_files(folder, "")
    if server.dialect is Dialect.V26:
        with pytest.raises(ServerFrozen):
            await client.mkdir(folder, "d")


async def test_folder_is_made_once_where_the_server_fails_at_first(
    server: Server, control: Embedded, client: Client, new_name: str
) -> None:
    """23.09 answers 500 where two such calls meet in its database."""
    control.faults(rule("status", "/folders", "POST", status=500, times=2))
    made = await client.create_folder(new_name)
    assert control.count("POST", "/folders") == 3
    assert [f.id for f in await client.list_folders() if f.name == new_name] == [made.id]
    await drop_folder(client, made)
    control.faults(rule("status", "/folders", "POST", status=500, times=None))
    with pytest.raises(RemoteError):
        await client.create_folder(new_name)
    control.clear_faults()
    left = [f for f in await client.list_folders() if f.name == new_name]
    assert all(f.id == made.id and f.status in ("deleting", "delete-ongoing") for f in left)
