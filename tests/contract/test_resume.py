"""Uploads that outlive a try or a process, and the version they may replace, against every server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from tests.contract.conftest import Server, put
from tests.support.embedded import Embedded
from tests.support.live import settings_of
from vfsmount.api import upload
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.transfer import Transfers
from vfsmount.core import tus
from vfsmount.errors import Conflict, IsADirectory, RemoteUnavailable
from vfsmount.values import ANY, Base, Folder, Grant, Validator

MIB = 1 << 20
SIZE = 40 * MIB + 123
DATA = os.urandom(SIZE)
FOREIGN = b"somebody else's"


@dataclass
class Try:
    """One try of an upload of `data`, as a caller that keeps sessions makes it.

    Attributes:
        session: what our records name; handed from one try to the next.
        calls: what was told about sessions.
        sent: bytes that left.
        stop_at: offset at which the try is cancelled.
        foreign: file to overwrite when this offset is read.
    """

    data: bytes = DATA
    base: Base = ANY
    session: Grant | None = None
    stop_at: int | None = None
    foreign: tuple[int, Path] | None = None
    calls: list[Grant | None] = field(default_factory=list)
    sent: int = 0
    read_to: int = 0

    async def read(self, offset: int, length: int) -> bytes:
        if self.stop_at is not None and offset >= self.stop_at:
            self.scope.cancel()
            await trio.sleep_forever()
        if self.foreign is not None and offset >= self.foreign[0]:
            self.foreign[1].write_bytes(FOREIGN)
            self.foreign = None
        self.read_to = max(self.read_to, offset + length)
        return self.data[offset : offset + length]

    async def on_session(self, grant: Grant | None) -> None:
        self.calls.append(grant)
        self.session = grant

    def on_progress(self, sent: int) -> None:
        self.sent += sent

    async def run(self, transfers: Transfers, folder: Folder, path: str = "f") -> Validator | None:
        """The version made; None where the try was cancelled."""
        with trio.CancelScope() as self.scope:
            return await transfers.upload(
                folder,
                path,
                len(self.data),
                self.read,
                base=self.base,
                session=self.session,
                on_session=self.on_session,
                on_progress=self.on_progress,
            )
        return None


def litter(server: Server, folder: Folder) -> list[Path]:
    return list((server.disk(folder) / ".upload").glob("*"))


def faults_of(server: Server) -> Embedded:
    if server.embedded is None:
        pytest.skip("the real server cannot be told to fail")
    return server.embedded


@pytest.fixture
async def next_process(server: Server) -> AsyncIterator[Transfers]:
    """Another client, which shares no connection and no memory with `transfers`."""
    async with Client(server.settings("owner")) as client:
        await client.connect()
        yield Transfers(client)


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0, MIB, 25 * MIB, 39 * MIB])
@pytest.mark.parametrize("base", [ANY, None])
async def test_next_process_goes_on_where_a_cancelled_one_was(
    server: Server, transfers: Transfers, next_process: Transfers, folder: Folder, stop_at: int, base: Base
) -> None:
    if server.embedded is not None:
        server.embedded.reset_calls()
    first = Try(base=base, stop_at=stop_at)
    assert await first.run(transfers, folder) is None
    (grant,) = first.calls
    assert first.session is grant is not None
    assert len(litter(server, folder)) == 1
    assert not (server.disk(folder) / "f").exists()

    second = Try(base=base, session=first.session)
    made = await second.run(next_process, folder)
    assert made is not None and made.size == SIZE
    assert (server.disk(folder) / "f").read_bytes() == DATA
    assert second.calls == []
    assert first.sent + second.sent <= SIZE + tus.PIECE
    assert not litter(server, folder)
    if server.embedded is not None:
        received = server.embedded.report()["uploads"]["f"]
        assert received["sessions"] == 1
        assert received["bytes"] <= SIZE + tus.PIECE
        if server.dialect is Dialect.V23:
            assert received["bytes"] == SIZE, "what this server has, it keeps"


async def test_ten_cancelled_tries_send_little_twice(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    session, sent = None, 0
    for n in range(1, 11):
        one = Try(base=None, session=session, stop_at=n * 7 * MIB // 2)
        assert await one.run(transfers, folder) is None
        session, sent = one.session, sent + one.sent
    last = Try(base=None, session=session)
    await last.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == DATA
    assert sent + last.sent <= SIZE + 10 * tus.PIECE


@pytest.mark.parametrize("data", [b"", b"small", DATA])
@pytest.mark.parametrize("base", [ANY, None])
async def test_file_that_the_earlier_process_finished_is_not_sent_again(
    server: Server, transfers: Transfers, next_process: Transfers, folder: Folder, data: bytes, base: Base
) -> None:
    first = Try(data, base)
    made = await first.run(transfers, folder)
    # Killed before it could write down that it was done.
    second = Try(data, base, session=first.session)
    assert await second.run(next_process, folder) == made
    assert (second.sent, second.calls) == (0, [])
    assert (server.disk(folder) / "f").read_bytes() == data


@pytest.mark.usefixtures("expect_warnings")
async def test_foreign_file_of_the_same_size_is_not_taken_for_ours(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    ours, theirs = b"x" * 5 * MIB, b"x" * (5 * MIB - 1) + b"y"
    first = Try(ours, stop_at=2 * MIB)
    await first.run(transfers, folder)
    for path in litter(server, folder):
        path.unlink()  # finished or removed, who knows
    (server.disk(folder) / "f").write_bytes(theirs)

    guarded = Try(ours, base=None, session=first.session)
    with pytest.raises(Conflict):
        await guarded.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == theirs
    assert guarded.calls[0] is None and guarded.calls[-1] is None

    await Try(ours, session=first.session).run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == ours


@pytest.mark.usefixtures("expect_warnings")
async def test_session_of_another_path_or_length_is_not_used(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    first = Try(b"x" * 3 * MIB, stop_at=MIB)
    await first.run(transfers, folder, "old-name")
    renamed = Try(b"x" * 3 * MIB, session=first.session)
    await renamed.run(transfers, folder, "new/name")
    assert (server.disk(folder) / "new/name").read_bytes() == renamed.data
    assert not (server.disk(folder) / "old-name").exists()

    first = Try(b"x" * 3 * MIB, stop_at=MIB)
    await first.run(transfers, folder)
    longer = Try(b"y" * 4 * MIB, session=first.session)
    await longer.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == longer.data
    assert not litter(server, folder)


@pytest.mark.usefixtures("expect_warnings")
async def test_spoilt_session_is_not_built_upon(server: Server, transfers: Transfers, folder: Folder) -> None:
    if server.dialect is not Dialect.V23:
        pytest.skip("this server takes whole pieces in order or none")
    first = Try(base=None, stop_at=20 * MIB)
    await first.run(transfers, folder)
    (staged,) = litter(server, folder)
    with staged.open("ab") as file:  # came late, or twice
        file.write(DATA[:1000])
    second = Try(base=None, session=first.session)
    await second.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == DATA
    assert second.calls[0] is None
    assert not litter(server, folder)


@pytest.mark.usefixtures("expect_warnings")
async def test_silent_server_leaves_a_session_to_go_on_with(
    server: Server, transfers: Transfers, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = faults_of(server)
    control.reset_calls()
    monkeypatch.setattr(tus, "RETRY_WAIT_S", 0.01)
    control.faults(
        {
            "rules": [
                {"action": "cut_up", "path": "/upload", "method": "PATCH", "after_bytes": 3 * MIB},
                {"action": "status", "path": "/upload", "status": 503, "times": None},
            ]
        }
    )
    first = Try(base=None)
    with pytest.raises(RemoteUnavailable):
        await first.run(transfers, folder)
    assert first.session is not None
    assert len(litter(server, folder)) == 1
    control.clear_faults()
    await Try(base=None, session=first.session).run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == DATA
    assert control.report()["uploads"]["f"]["sessions"] == 1


async def test_discarded_session_leaves_nothing_behind(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    first = Try(stop_at=MIB)
    await first.run(transfers, folder)
    assert first.session is not None
    for _ in range(2):  # a second time there is nothing to remove, which is no error
        await transfers.discard(folder, first.session)
        assert not litter(server, folder)


@pytest.mark.parametrize("dialect", ["23.09", "26"])
async def test_session_too_old_is_replaced_and_the_hurry_announced(
    tmp_path: Path, dialect: str, expect_warnings: list[logging.LogRecord]
) -> None:
    with Embedded(tmp_path, dialect=dialect, token_life=2) as server:
        async with Client(settings_of(server.env("owner"))) as client:
            await client.connect()
            folder = await client.create_folder("aging")
            transfers = Transfers(client)
            first = Try(base=None, stop_at=2 * MIB)
            await first.run(transfers, folder)
            assert first.session is not None
            assert any("upload.tight" in r.getMessage() for r in expect_warnings)
            while time.time() < first.session.expires_at + 1:
                await trio.sleep(0.05)
            second = Try(base=None, session=first.session)
            await second.run(transfers, folder)
            none, *_, new = second.calls  # where this machine is slow the next one is too old, too
            assert none is None and new is not None
            on_disk = server.folder_dir(folder.id)
            assert (on_disk / "f").read_bytes() == DATA
            assert not list((on_disk / ".upload").glob("*"))
    assert any("upload.restart" in r.getMessage() for r in expect_warnings)


# --- conflicts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
async def test_version_our_content_was_made_from_is_replaced(
    server: Server, client: Client, transfers: Transfers, folder: Folder, size: int
) -> None:
    made = await Try(b"1" * size, base=None).run(transfers, folder)
    assert made is not None
    again = await Try(b"2" * size, base=made).run(transfers, folder)
    (entry,) = [e for e in (await client.list_files(folder, "")).entries if e.name == b"f"]
    listed = Validator(entry.mtime_ns, entry.size)  # to a microsecond, which must do
    third = await Try(b"3" * size, base=listed).run(transfers, folder)
    assert len({made, again, third}) == 3
    assert (server.disk(folder) / "f").read_bytes() == b"3" * size
    (server.disk(folder) / "f").unlink()  # what is gone cannot be lost
    await Try(b"4" * size, base=third).run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == b"4" * size


@pytest.mark.parametrize("size", [0, len(FOREIGN), 3 * MIB])
@pytest.mark.parametrize("had", [True, False])
async def test_other_version_stays_and_nothing_is_sent(
    server: Server, transfers: Transfers, folder: Folder, size: int, had: bool
) -> None:
    base = None
    if had:
        base = await Try(b"base", base=None).run(transfers, folder)
    (server.disk(folder) / "f").write_bytes(FOREIGN)
    ours = Try(b"o" * size, base=base)
    with pytest.raises(Conflict) as e:
        await ours.run(transfers, folder)
    assert e.value.found == await transfers.stat(folder, "f")
    assert (server.disk(folder) / "f").read_bytes() == FOREIGN
    assert (ours.sent, ours.read_to) == (0, 0)
    assert ours.calls[-1] is None
    assert not litter(server, folder)


async def test_version_that_comes_while_we_send_stays(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    ours = Try(base=None, foreign=(10 * MIB, server.disk(folder) / "f"))
    with pytest.raises(Conflict):
        await ours.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == FOREIGN
    assert ours.read_to == SIZE - tus.COMMIT_PIECE
    assert not litter(server, folder)


async def test_version_that_comes_before_a_resumed_upload_stays(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    first = Try(base=None, stop_at=20 * MIB)
    await first.run(transfers, folder)
    (server.disk(folder) / "f").write_bytes(FOREIGN)
    second = Try(base=None, session=first.session)
    with pytest.raises(Conflict):
        await second.run(transfers, folder)
    assert second.sent == 0
    assert second.calls == [None]
    assert (server.disk(folder) / "f").read_bytes() == FOREIGN
    assert not litter(server, folder)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_last_bytes_that_were_slow_to_come_are_not_sent_on_an_old_look(
    server: Server, transfers: Transfers, folder: Folder, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(upload, "CHECK_AGE_S", 0.0)
    # Between the look and the last bytes, while these are being read.
    ours = Try(b"o" * size, base=None, foreign=(max(0, size - MIB), server.disk(folder) / "f"))
    with pytest.raises(Conflict):
        await ours.run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == FOREIGN


async def test_many_uploads_at_once_leave_the_server_threads_to_answer_with(
    server: Server, transfers: Transfers, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23.09 blocks one for each open PATCH; a look made within it would wait for one that never comes."""
    bases = [await Try(b"old", base=None).run(transfers, folder, f"f{i}") for i in range(24)]
    monkeypatch.setattr(upload, "CHECK_AGE_S", 0.0)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for i, base in enumerate(bases):
                assert base is not None
                nursery.start_soon(Try(b"%d" % i, base=base).run, transfers, folder, f"f{i}")
    files = {p.name: p.read_bytes() for p in server.disk(folder).iterdir() if p.is_file()}
    assert files == {f"f{i}": b"%d" % i for i in range(24)}


async def test_directory_in_the_way_is_told_before_anything_is_sent(
    client: Client, transfers: Transfers, folder: Folder
) -> None:
    await client.mkdir(folder, "f")
    ours = Try(base=None)
    with pytest.raises(IsADirectory):
        await ours.run(transfers, folder)
    assert ours.sent == 0
    assert ours.session is not None
    await transfers.discard(folder, ours.session)


async def test_without_sessions_kept_a_conflict_leaves_nothing_behind(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    await put(transfers, folder, "f")
    with pytest.raises(Conflict):
        await transfers.upload(folder, "f", 3, Try(b"abc").read, base=None)
    assert not litter(server, folder)


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("data", [b"", b"small", DATA])
async def test_lost_last_reply_is_no_conflict(
    server: Server, transfers: Transfers, folder: Folder, data: bytes
) -> None:
    control = faults_of(server)
    control.reset_calls()
    base = await Try(b"base", base=None).run(transfers, folder)
    patches = 1 if len(data) < MIB else 4  # 16, 16, 7 and the last MiB
    control.faults(
        {
            "rules": [
                {"action": "delay", "path": "/upload", "method": "PATCH", "times": patches - 1},
                {"action": "lose_reply", "path": "/upload", "method": "PATCH"},
            ]
        }
    )
    await Try(data, base).run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == data
    assert control.report()["uploads"]["f"]["sessions"] == 2


@pytest.mark.usefixtures("expect_warnings")
async def test_who_may_upload_but_not_download_is_not_stopped_by_the_look(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    control = faults_of(server)
    control.faults({"rules": [{"action": "status", "path": "/download", "status": 403, "times": None}]})
    await Try(base=None).run(transfers, folder)
    assert (server.disk(folder) / "f").read_bytes() == DATA


async def test_small_new_file_costs_one_look_and_one_check(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    control = faults_of(server)
    await put(transfers, folder, "other")
    control.reset_calls()
    await Try(b"small", base=None).run(transfers, folder)
    assert control.calls() == {
        ("manager", "POST", "/folders/{vf}/request-upload"): 1,
        ("storage", "GET", "/download"): 2,
        ("storage", "PATCH", "/upload"): 1,
    }


@pytest.mark.parametrize("dialect", ["23.09", "26"])
@pytest.mark.parametrize("keep", [True, False])
async def test_server_that_is_killed_and_started_again_costs_one_piece(
    tmp_path: Path, dialect: str, keep: bool, expect_warnings: object
) -> None:
    server = Embedded(tmp_path, dialect=dialect)
    ports = {
        "port": urlsplit(server.url).port,
        "storage_port": None,
    }
    try:
        async with Client(settings_of(server.env("owner"))) as client:
            await client.connect()
            folder = await client.create_folder("restarted")
            transfers = Transfers(client)
            ports["storage_port"] = urlsplit((await client.request_download(folder, ".")).url).port

            async def read(offset: int, length: int) -> bytes:
                nonlocal server
                if offset >= 20 * MIB and server.process.poll() is None and not restarted:
                    restarted.append(True)
                    server.kill()
                    server.stop()
                    server = await trio.to_thread.run_sync(
                        lambda: Embedded(tmp_path, dialect=dialect, **ports)
                    )
                return DATA[offset : offset + length]

            restarted: list[bool] = []
            one, sent = Try(), []
            on_session = one.on_session if keep else None
            await transfers.upload(
                folder, "f", SIZE, read, base=None, on_session=on_session, on_progress=sent.append
            )
            assert restarted
            assert (server.folder_dir(folder.id) / "f").read_bytes() == DATA
            assert sum(sent) <= SIZE + tus.PIECE
    finally:
        server.stop()


async def test_other_file_of_the_same_size_directly_after_ours_is_a_conflict(
    server: Server, transfers: Transfers, folder: Folder
) -> None:
    """What is read back is compared: the server would show both as done."""
    disk = server.disk(folder) / "f"
    replaced = []

    async def read(offset: int, length: int) -> bytes:
        if disk.exists() and not replaced:  # ours is in place: this is the reading back
            other = disk.with_name("other")
            other.write_bytes(b"THEIRS")
            replaced.append(other.rename(disk))
        return b"ours__"[offset : offset + length]

    class Slow(Transfers):
        async def read_range(self, *args: Any, **kwargs: Any) -> Any:
            await read(0, 1)
            return await super().read_range(*args, **kwargs)

    with pytest.raises(Conflict):
        await Slow(transfers._client).upload(folder, "f", 6, read, base=None)
    assert replaced
    assert disk.read_bytes() == b"THEIRS"
