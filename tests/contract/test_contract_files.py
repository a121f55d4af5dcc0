"""Files inside a folder: what every server does alike, seen through the client."""

from __future__ import annotations

import os

import pytest

from tests.contract.conftest import Server, put
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.transfer import Transfers
from vfsmount.errors import (
    AlreadyExists,
    InvalidName,
    InvalidRequest,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    RemoteError,
    VfsError,
)
from vfsmount.values import Folder, Kind

ODD_NAMES = [
    "with space",
    " leading and trailing ",
    "-dash",
    "100%",
    "%41%2F",
    "a+b&c=d;e,f@g:h!i'j(k)l*m$n~o",
    '#hash?query"quote',
    "back\\slash",
    "日本語.txt",
    "e\u0301 nfd",
    "\u00e9 nfc",
    "tab\there",
    "🦀",
    "dot.",
    "...",
    "a" * 255,
    "한" * 85,
]


async def names(client: Client, folder: Folder, path: str = "") -> set[str]:
    return {e.name.decode() for e in (await client.list_files(folder, path)).entries if e.name != b".upload"}


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_name_round_trips(
    server: Server, client: Client, transfers: Transfers, folder: Folder, name: str
) -> None:
    await client.mkdir(folder, f"{name}/sub", parents=True)
    await put(transfers, folder, f"{name}/sub/{name}", b"odd")
    assert await names(client, folder, f"{name}/sub") == {name}
    assert (await transfers.read_range(folder, f"{name}/sub/{name}", 0, 10)).data == b"odd"
    assert (server.disk(folder) / name / "sub" / name).read_bytes() == b"odd"
    await client.rename_file(folder, f"{name}/sub/{name}", "plain")
    await client.move_file(folder, f"{name}/sub/plain", name + "2" if len(name) < 80 else "other")
    await client.delete_files(folder, [name], recursive=True)
    assert len(await names(client, folder)) == 1


async def test_listing_tells_kind_size_mode_and_times(
    server: Server, client: Client, transfers: Transfers, folder: Folder
) -> None:
    await put(transfers, folder, "f", b"12345")
    await client.mkdir(folder, "d")
    os.chmod(server.disk(folder) / "f", 0o751)
    os.utime(server.disk(folder) / "f", ns=(10**18, 10**18 + 2_432_776))
    os.symlink("f", server.disk(folder) / "link")
    found = {e.name: e for e in (await client.list_files(folder, ".")).entries}
    assert (found[b"f"].kind, found[b"f"].size, found[b"f"].mode) == (Kind.FILE, 5, 0o751)
    validator = await transfers.stat(folder, "f")
    assert validator.mtime_ns == 10**18 + 2_432_776
    assert validator.matches_listing(found[b"f"].size, found[b"f"].mtime_ns)
    assert found[b"d"].kind is Kind.DIRECTORY
    assert found[b"link"].kind is Kind.SYMLINK


async def test_whole_second_timestamps_are_read(
    server: Server, client: Client, transfers: Transfers, folder: Folder
) -> None:
    await put(transfers, folder, "f")
    os.utime(server.disk(folder) / "f", (1_700_000_000, 1_700_000_000))
    (entry,) = [e for e in (await client.list_files(folder, "")).entries if e.name == b"f"]
    assert entry.mtime_ns == 1_700_000_000 * 10**9


async def test_listing_of_missing_directory(client: Client, folder: Folder) -> None:
    with pytest.raises(NotFound):
        await client.list_files(folder, "nowhere")
    with pytest.raises(NotFound):
        await client.list_files(folder, "nowhere/deeper")


async def test_listing_of_a_file(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f")
    with pytest.raises(NotADirectory):
        await client.list_files(folder, "f")
    with pytest.raises(NotADirectory):
        await client.list_files(folder, "f/x")


async def test_mkdir_refusals(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f")
    await client.mkdir(folder, "d")
    with pytest.raises(AlreadyExists):
        await client.mkdir(folder, "d")
    with pytest.raises(AlreadyExists):
        await client.mkdir(folder, "f")
    with pytest.raises(NotFound):
        await client.mkdir(folder, "no/where")
    with pytest.raises(NotADirectory):
        await client.mkdir(folder, "f/below")
    await client.mkdir(folder, "d", exist_ok=True)
    await client.mkdir(folder, "p/q/r", parents=True)
    assert await names(client, folder, "p/q") == {"r"}


async def test_move_as_the_server_does_it(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "a", b"a")
    await put(transfers, folder, "b", b"b")
    await client.move_file(folder, "a", "b")
    assert (await transfers.read_range(folder, "b", 0, 9)).data == b"a"
    await client.mkdir(folder, "d")
    await client.move_file(folder, "b", "d")
    assert await names(client, folder, "d") == {"b"}
    await client.move_file(folder, "d", "new/parents/d")
    assert await names(client, folder, "new/parents/d") == {"b"}


async def test_move_refusals(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f")
    await client.mkdir(folder, "d/f", parents=True)
    await client.mkdir(folder, "e")
    with pytest.raises(NotFound):
        await client.move_file(folder, "nope", "x")
    with pytest.raises(NotFound):
        await client.move_file(folder, "f", "nope/x")
    with pytest.raises(AlreadyExists):
        await client.move_file(folder, "f", "d")
    with pytest.raises(AlreadyExists):
        await client.move_file(folder, "e", "f")
    with pytest.raises(InvalidRequest):
        await client.move_file(folder, "d", "d/inside")
    with pytest.raises(NotADirectory):
        await client.move_file(folder, "f/x", "y")


async def test_rename_file(client: Client, transfers: Transfers, folder: Folder) -> None:
    await client.mkdir(folder, "d")
    await put(transfers, folder, "d/f")
    await client.rename_file(folder, "d/f", "g")
    assert await names(client, folder, "d") == {"g"}
    with pytest.raises(NotFound):
        await client.rename_file(folder, "d/f", "h")
    for bad in ("a/b", "..", ".", ""):
        with pytest.raises((InvalidName, InvalidRequest)):
            await client.rename_file(folder, "d/g", bad)


async def test_delete_refusals(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f")
    await client.mkdir(folder, "d")
    with pytest.raises(NotFound):
        await client.delete_files(folder, ["nope"])
    with pytest.raises(IsADirectory):
        await client.delete_files(folder, ["d"])
    await client.delete_files(folder, ["f"])
    await client.delete_files(folder, ["d"], recursive=True)
    assert await names(client, folder) == set()


@pytest.mark.parametrize("path", ["", ".", "./", "/", "././/.", "//"])
async def test_deleting_the_root_is_refused_before_anything_is_sent(
    server: Server, client: Client, folder: Folder, path: str
) -> None:
    with pytest.raises(InvalidRequest):
        await client.delete_files(folder, [path], recursive=True)
    with pytest.raises(InvalidRequest):
        await client.delete_files(folder, [], recursive=True)
    assert server.disk(folder).is_dir()


async def test_leaving_the_folder_is_refused_before_anything_is_sent(
    client: Client, transfers: Transfers, folder: Folder
) -> None:
    for call in (
        client.list_files(folder, "../x"),
        client.mkdir(folder, "a/../../x"),
        client.delete_files(folder, [".."]),
        client.move_file(folder, "a", "../b"),
        client.request_upload(folder, "../x", 1),
        transfers.stat(folder, "../x"),
    ):
        with pytest.raises(InvalidName):
            await call


async def test_names_the_server_cannot_keep_are_refused(client: Client, folder: Folder) -> None:
    for bad in ("line\nbreak", "cr\r", "nul\0", "not\udcffutf8"):
        with pytest.raises(InvalidName):
            await client.mkdir(folder, bad)
    with pytest.raises(NameTooLong):
        await client.mkdir(folder, "x" * 256)


async def test_name_that_is_not_utf8(
    server: Server, client: Client, folder: Folder, expect_warnings: object
) -> None:
    (server.disk(folder) / os.fsdecode(b"bad\xff")).touch()
    if server.dialect is Dialect.V26:
        with pytest.raises(RemoteError) as e:
            await client.list_files(folder, "")
        assert e.value.status == 500
        return
    listing = await client.list_files(folder, "")
    assert b"bad\xff" in {e.name for e in listing.entries}


async def test_long_path_is_listed_or_refused_clearly(server: Server, client: Client, folder: Folder) -> None:
    # 14 components of 85 Hangul: 3.5 KB on disk, 10 KB percent-encoded
    path = "/".join(["한" * 85] * 14)
    await client.mkdir(folder, path, parents=True)
    if server.dialect is Dialect.V23:
        assert (await client.list_files(folder, path)).entries == ()
    else:
        with pytest.raises(NameTooLong):
            await client.list_files(folder, path)


async def test_symlink_out_of_the_folder_is_not_followed(
    server: Server, client: Client, folder: Folder
) -> None:
    os.symlink("/etc", server.disk(folder) / "out")
    with pytest.raises(VfsError):
        await client.list_files(folder, "out")


async def test_cut_listing_is_marked(server: Server, client: Client, folder: Folder) -> None:
    for n in range(1001):
        (server.disk(folder) / f"{n:04}").touch()
    listing = await client.list_files(folder, "")
    assert listing.cut
    assert len(listing.entries) == 1000


async def test_short_listing_is_not_marked(server: Server, client: Client, folder: Folder) -> None:
    for n in range(99):
        (server.disk(folder) / f"{n:04}").touch()
    assert not (await client.list_files(folder, "")).cut
