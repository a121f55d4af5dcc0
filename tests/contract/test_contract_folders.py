"""Folders as a whole, who may use them, dotfiles, credentials."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from tests.contract.conftest import Server, drop_folder, put
from vfsmount.api import session
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.dotfiles import Dotfile
from vfsmount.api.tasks import TaskState
from vfsmount.api.transfer import Transfers
from vfsmount.errors import (
    AlreadyExists,
    AuthFailed,
    ClockSkew,
    InvalidRequest,
    NotFound,
    NotSupported,
    PermissionDenied,
    RemoteUnavailable,
    VfsError,
)
from vfsmount.login_file import Login, write_login
from vfsmount.values import Folder


async def by_name(client: Client, name: str) -> Folder | None:
    return next((f for f in await client.list_folders() if f.name == name), None)


async def share(client: Client, friend: Client, server: Server, folder: Folder, permission: str) -> Folder:
    """Invite the friend and accept in their name; the folder as they see it."""
    email = await email_of(server, friend)
    assert await client.invite(folder, [email], permission) == [email]
    (mine,) = [i for i in await friend.list_invitations() if i.folder_id == folder.id]
    assert (mine.folder_name, mine.permission) == (folder.name, permission)
    await friend.accept_invitation(mine)
    seen = await by_name(friend, folder.name)
    assert seen is not None and seen.id == folder.id
    assert not seen.is_owner
    return seen


async def email_of(server: Server, who: Client) -> str:
    """Learned from a folder of theirs: the environment need not tell it."""
    made = await who.create_folder(f"whoami-{id(who)}")
    try:
        seen = await by_name(who, made.name)
        assert seen is not None and "@" in seen.owner
        return seen.owner
    finally:
        await drop_folder(who, made)


async def test_connect_tells_dialect_and_versions(server: Server, client: Client) -> None:
    assert client.info.dialect is server.dialect
    assert client.info.manager.startswith("23." if server.dialect is Dialect.V23 else "26.")


async def test_created_folder_is_listed(client: Client, folder: Folder) -> None:
    seen = await by_name(client, folder.name)
    assert seen is not None
    assert (seen.id, seen.status, seen.is_owner, seen.host) == (folder.id, "ready", True, folder.host)
    assert len(seen.id) == 32 and "-" not in seen.id
    assert seen.mtime_ns > 1.6e18
    assert "@" in seen.owner


async def test_folder_name_is_taken(client: Client, folder: Folder, new_name: str) -> None:
    with pytest.raises(AlreadyExists):
        await client.create_folder(folder.name)
    other = await client.create_folder(new_name + "-b")
    try:
        with pytest.raises(AlreadyExists):
            await client.rename_folder(other, folder.name)
    finally:
        await drop_folder(client, other)


async def test_folder_name_is_reserved(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        await client.create_folder(".ssh")


async def test_rename_folder(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"kept")
    await client.rename_folder(folder, folder.name + "-new")
    renamed = await by_name(client, folder.name + "-new")
    assert renamed is not None and renamed.id == folder.id
    assert (await transfers.read_range(renamed, "f", 0, 9)).data == b"kept"
    await client.rename_folder(renamed, folder.name)


async def test_folder_counters_and_options(client: Client, transfers: Transfers, folder: Folder) -> None:
    await put(transfers, folder, "f", b"12345")
    info = await client.folder_info(folder)
    assert (info.folder.id, info.folder.name) == (folder.id, folder.name)
    assert info.num_files is not None and info.num_files >= 1
    await client.update_folder_options(folder, cloneable=True)
    seen = await by_name(client, folder.name)
    assert seen is not None and seen.cloneable


async def test_deleted_folder_goes(client: Client, new_name: str) -> None:
    made = await client.create_folder(new_name)
    await client.delete_folder(made)
    if client.traits.has_trash:
        trashed = await by_name(client, new_name)
        assert trashed is not None and trashed.status == "delete-pending"
        await client.restore_folder(trashed)
        back = await by_name(client, new_name)
        assert back is not None and back.status == "ready"
        await client.delete_folder(made)
        await client.delete_from_trash(made)
    with trio.fail_after(30):
        while (seen := await by_name(client, new_name)) is not None:
            assert seen.status.startswith("delet")
            await trio.sleep(0.05)
    with pytest.raises(NotFound):
        await client.list_files(made, "")


async def test_no_trash_is_said_plainly(server: Server, client: Client, folder: Folder) -> None:
    if server.dialect is Dialect.V26:
        pytest.skip("this server has a trash")
    with pytest.raises(NotSupported):
        await client.restore_folder(folder)


async def test_hosts(client: Client, folder: Folder) -> None:
    hosts = await client.list_hosts()
    assert folder.host in hosts.allowed
    assert folder.host in hosts.usage
    assert "user" in await client.list_allowed_types()


async def test_quota_of_a_plain_filesystem(client: Client, friend: Client, folder: Folder) -> None:
    assert folder.quota_scope.startswith("user:")
    listed = {f.id: f.quota_scope for f in await client.list_folders()}
    assert listed[folder.id] == folder.quota_scope
    assert await client.fetch_quota(folder.host, folder.quota_scope) is None
    with pytest.raises(PermissionDenied):
        await friend.fetch_quota(folder.host, folder.quota_scope)
    with pytest.raises(PermissionDenied):
        await client.fetch_quota("no:such", folder.quota_scope)


async def test_administrators_calls_are_refused_to_users(client: Client, folder: Folder) -> None:
    # 23.09 answers 401, which must not read as a wrong key.
    with pytest.raises(PermissionDenied):
        await client.list_all_hosts()


@pytest.fixture
async def shared_ro(server: Server, client: Client, friend: Client, folder: Folder) -> AsyncIterator[Folder]:
    seen = await share(client, friend, server, folder, "ro")
    yield seen
    await friend.leave_folder(seen)


async def test_reading_a_folder_shared_for_reading(
    transfers: Transfers, folder: Folder, friend: Client, shared_ro: Folder
) -> None:
    await put(transfers, folder, "f", b"shared")
    assert not shared_ro.writable
    theirs = Transfers(friend)
    assert (await theirs.read_range(shared_ro, "f", 0, 9)).data == b"shared"
    assert {e.name for e in (await friend.list_files(shared_ro, "")).entries} - {b".upload"} == {b"f"}


async def test_writing_a_folder_shared_for_reading_is_denied(
    transfers: Transfers, folder: Folder, friend: Client, shared_ro: Folder
) -> None:
    # 23.09 answers 404 to all of these.
    await put(transfers, folder, "f", b"shared")
    theirs = Transfers(friend)
    for call in (
        friend.mkdir(shared_ro, "d"),
        friend.move_file(shared_ro, "f", "g"),
        friend.rename_file(shared_ro, "f", "g"),
        friend.delete_files(shared_ro, ["f"]),
        put(theirs, shared_ro, "g"),
        put(theirs, shared_ro, "f"),
    ):
        with pytest.raises(PermissionDenied):
            await call
    assert (await transfers.read_range(folder, "f", 0, 9)).data == b"shared"


async def test_invitation_can_be_rejected_and_cancelled(
    server: Server, client: Client, friend: Client, folder: Folder
) -> None:
    email = await email_of(server, friend)
    await client.invite(folder, [email], "ro")
    (received,) = [i for i in await friend.list_invitations() if i.folder_id == folder.id]
    await friend.delete_invitation(received)
    await client.invite(folder, [email], "rw")
    (sent,) = [i for i in await client.list_sent_invitations() if i.folder_id == folder.id]
    assert sent.invitee == email
    await client.update_invitation(sent, "ro")
    (received,) = [i for i in await friend.list_invitations() if i.folder_id == folder.id]
    assert received.permission == "ro"
    await client.delete_invitation(sent)
    assert folder.id not in {i.folder_id for i in await friend.list_invitations()}
    with pytest.raises(VfsError):
        await friend.accept_invitation(received)


async def test_share_can_be_changed_and_taken_back(
    server: Server, client: Client, friend: Client, folder: Folder
) -> None:
    seen = await share(client, friend, server, folder, "ro")
    with pytest.raises(AlreadyExists):
        await client.invite(folder, [await email_of(server, friend)], "ro")
    (given,) = [s for s in await client.list_shares() if s.folder_id == folder.id]
    assert (given.permission, given.kind) == ("ro", "user")
    await client.update_share(given, "rw")
    changed = await by_name(friend, folder.name)
    assert changed is not None and changed.permission == "rw"
    await client.update_share(given, None)
    assert await by_name(friend, folder.name) is None
    with pytest.raises((NotFound, PermissionDenied)):
        await friend.list_files(seen, "")


async def test_own_folder_cannot_be_left(client: Client, folder: Folder) -> None:
    with pytest.raises(InvalidRequest):
        await client.leave_folder(folder)


async def test_dotfiles(client: Client, new_name: str) -> None:
    path = f".config-{new_name}/settings"
    dotfile = Dotfile(path, "600", "a = 1\n# 한글\n")
    await client.create_dotfile(dotfile)
    try:
        assert await client.read_dotfile(path) == dotfile
        assert dotfile in await client.list_dotfiles()
        changed = dataclasses.replace(dotfile, data="b = 2\n", permission="644")
        await client.update_dotfile(changed)
        assert await client.read_dotfile(path) == changed
        with pytest.raises((InvalidRequest, AlreadyExists)):
            await client.create_dotfile(dotfile)
    finally:
        await client.delete_dotfile(path)
    with pytest.raises(NotFound):
        await client.read_dotfile(path)
    with pytest.raises(InvalidRequest):
        await client.create_dotfile(Dotfile(".ssh", "700", "x"))


async def test_clone_and_its_progress(
    server: Server, client: Client, transfers: Transfers, folder: Folder
) -> None:
    if server.embedded is None:
        pytest.skip("cloning leaves the source unusable on the real 23.09")
    await put(transfers, folder, "f", b"cloned")
    with pytest.raises(PermissionDenied):
        await client.clone_folder(folder, folder.name + "-clone")
    await client.update_folder_options(folder, cloneable=True)
    clone, task = await client.clone_folder(folder, folder.name + "-clone")
    async with aclosing(client.follow_task(task)) as events:
        last = [event async for event in events][-1]
    assert last.state is TaskState.DONE
    assert (await transfers.read_range(clone, "f", 0, 9)).data == b"cloned"
    await drop_folder(client, clone)


async def test_calls_of_the_newer_generation(
    server: Server, client: Client, transfers: Transfers, folder: Folder
) -> None:
    await put(transfers, folder, "d/f")
    if server.dialect is Dialect.V23:
        with pytest.raises(NotSupported):
            await client.delete_files_async(folder, ["d"], recursive=True)
        with pytest.raises(NotSupported):
            await client.request_download_archive(folder, ["d"])
        return
    assert (await client.request_download_archive(folder, ["d"])).url.endswith("/download-archive")
    task = await client.delete_files_async(folder, ["d"], recursive=True)
    async with aclosing(client.follow_task(task)) as events:
        assert [event async for event in events][-1].state is TaskState.DONE
    assert b"d" not in {e.name for e in (await client.list_files(folder, "")).entries}


async def test_bootstrap_script(server: Server, client: Client) -> None:
    if server.embedded is None:
        pytest.skip("there is no call that removes the script again")
    await client.write_bootstrap_script("  echo hello\necho again\n")
    # The server strips blanks at both ends.
    assert await client.read_bootstrap_script() == "echo hello\necho again"


async def test_wrong_key_names_the_variables(server: Server) -> None:
    good = server.settings("owner")
    for bad in (
        dataclasses.replace(good, secret_key="wrong" * 8),
        dataclasses.replace(good, access_key="AKIANOBODY0000000000"),
    ):
        async with Client(bad) as client:
            with pytest.raises(AuthFailed, match="BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY") as e:
                await client.connect()
        assert bad.secret_key not in str(e.value) and bad.access_key not in str(e.value)


@pytest.mark.parametrize(("minutes", "way"), [(-20, "behind"), (20, "ahead of")])
async def test_wrong_clock_is_measured(server: Server, minutes: int, way: str) -> None:
    def wrong() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=minutes)

    async with Client(server.settings("owner"), now=wrong) as client:
        with pytest.raises(ClockSkew, match=f"clock is 20 minutes {way} the server's"):
            await client.connect()


async def test_clock_a_little_wrong_is_fine(server: Server) -> None:
    async with Client(
        server.settings("owner"), now=lambda: datetime.now(UTC) - timedelta(minutes=14)
    ) as client:
        await client.connect()


async def test_session_mode(server: Server, tmp_path: Path) -> None:
    if server.embedded is None:
        pytest.skip("the real server has no webserver in front")
    environment = server.environment("owner")
    path = tmp_path / "login.json"
    settings = dataclasses.replace(
        server.settings("owner"), mode="session", access_key="", secret_key="", cookie_file=path
    )
    with pytest.raises(AuthFailed):
        await session.login(settings, environment["BACKEND_USER"], "wrong password")
    cookie = await session.login(settings, environment["BACKEND_USER"], environment["BACKEND_PASSWORD"])
    write_login(path, Login(settings.endpoints[0], cookie))
    async with Client(settings) as client:
        await client.connect()
        made = await client.create_folder(f"session-{server.dialect.value.replace('.', '')}")
        await put(Transfers(client), made, "f", b"through the webserver")
        await drop_folder(client, made)
        await session.logout(settings, cookie)
        with pytest.raises(AuthFailed, match="vfsmount login"):
            await client.list_folders()


async def test_login_of_another_endpoint_is_not_sent(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "login.json"
    write_login(path, Login("https://elsewhere.example", "secret-cookie-value"))
    settings = dataclasses.replace(server.settings("owner"), mode="session", cookie_file=path)
    with pytest.raises(AuthFailed, match="another endpoint"):
        Client(settings)


async def test_missing_key_names_the_variable(server: Server) -> None:
    bad = dataclasses.replace(server.settings("owner"), access_key="")
    async with Client(bad) as client:
        with pytest.raises(AuthFailed, match="BACKEND_ACCESS_KEY"):
            await client.connect()


async def test_other_endpoint_is_taken_when_one_is_down(server: Server, expect_warnings: object) -> None:
    good = server.settings("owner")
    # Port 1 refuses connections; eight dead ones in front make it certain that some are tried.
    dead = tuple(f"http://127.0.0.1:1/{n}" for n in range(8))
    async with Client(dataclasses.replace(good, endpoints=dead + good.endpoints)) as client:
        await client.connect()
        await client.list_folders()


async def test_nothing_listens(expect_warnings: object, server: Server) -> None:
    dead = dataclasses.replace(server.settings("owner"), endpoints=("http://127.0.0.1:1",))
    async with Client(dead) as client:
        with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.1 refuses the connection.*BACKEND_ENDPOINT"):
            await client.connect()
