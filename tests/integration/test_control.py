"""The control socket without a kernel: what it answers, and whom it does not let it be held up by."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import Driver, serving, until
from vfsmount import __version__, log, places
from vfsmount.errors import RemoteUnavailable
from vfsmount.vfs import control
from vfsmount.vfs.control import Control


class Asked:
    """A filesystem that answers questions on a socket."""

    def __init__(self, d: Driver, path: Path, control: Control) -> None:
        self.d = d
        self.path = path
        self.control = control

    async def connect(self) -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(str(self.path))
        return trio.SocketStream(sock)

    async def ask(self, request: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        """All answers to one request."""
        line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        stream = await self.connect()
        async with stream:
            with trio.fail_after(20):
                with suppress(trio.BrokenResourceError):  # it had enough
                    await stream.send_all(line)
                return await heard(stream)

    async def one(self, request: dict[str, Any] | bytes) -> dict[str, Any]:
        (answer,) = await self.ask(request)
        return answer


async def heard(stream: trio.SocketStream) -> list[dict[str, Any]]:
    said = b""
    with suppress(trio.BrokenResourceError):  # a reset, after what was said
        async for piece in stream:
            said += piece
    return [json.loads(line) for line in said.splitlines()]


@asynccontextmanager
async def asked(server: Embedded, directory: Path, **policy: Any) -> AsyncIterator[Asked]:
    path = directory / "s"
    async with serving(server, directory / "state", **policy) as d, trio.open_nursery() as nursery:
        listening = places.listen_private(path)
        listening.setblocking(False)
        control = Control(d.fs, "/mnt/x", "0:42")
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        nursery.start_soon(control.run, listener)
        try:
            yield Asked(d, path, control)
        finally:
            await control.end()
            nursery.cancel_scope.cancel()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sockets have short paths."""
    return tmp_path_factory.mktemp("c")


async def test_hello_says_who_answers_and_in_which_protocol(both: Embedded, short_path: Path) -> None:
    async with asked(both, short_path) as a:
        hello = await a.one({"op": "hello"})
        assert {k: v for k, v in hello.items() if k != "uptime_s"} == {
            "protocol": 1,
            "mountpoint": "/mnt/x",
            "device": "0:42",
            "pid": os.getpid(),
            "holder": 0,
            "version": __version__,
            "draining": False,
        }
        status = await a.one({"op": "status"})
        assert status["protocol"] == 1 and set(hello) < set(status)
        assert (await a.one({"op": "metrics"}))["protocol"] == 1


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"op": "frobnicate"}, "this mount knows no request 'frobnicate'; is it of another version?"),
        ({}, "not a request"),
        ({"op": 7}, "not a request"),
        ([], "not a request"),
        (b"\xff\n", "not a request"),
        (b"[" * 100_000 + b"\n", "not a request"),
        (b'{"op": "' + b"x" * (2 << 20) + b'"}\n', "a request is one line of at most"),
        ({"op": "log-level", "level": "chatty"}, "no log level 'chatty'"),
        ({"op": "warmup", "paths": ["x"]}, "keeps nothing on disk"),
    ],
)
async def test_what_is_no_request_is_answered_with_a_sentence(
    new_server: Embedded, short_path: Path, request_: Any, says: str
) -> None:
    async with asked(new_server, short_path) as a:
        answer = await a.one(request_)
        assert says in answer["error"]
        assert (await a.one({"op": "hello"}))["protocol"] == 1


async def test_who_neither_asks_nor_reads_holds_nobody_up(
    new_server: Embedded, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 1.0)
    async with asked(new_server, short_path) as a:
        silent, slow, deaf = [await a.connect() for _ in range(3)]
        await slow.send_all(b'{"op": ')
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        await deaf.send_all(b'{"op": "status"}\n')
        await trio.sleep(0.05)
        with trio.fail_after(20):
            assert (await a.one({"op": "hello"}))["protocol"] == 1
            for stream in (silent, slow):
                assert await heard(stream) == []  # hung up on
                await stream.aclose()
            await until(lambda: a.control._clients <= 1)
        await deaf.aclose()


async def test_more_clients_than_it_can_bear_are_told_so(new_server: Embedded, short_path: Path) -> None:
    async with asked(new_server, short_path) as a:
        many = [await a.connect() for _ in range(control.MAX_CLIENTS)]
        await until(lambda: a.control._clients == control.MAX_CLIENTS)
        assert "too many clients" in (await a.one({"op": "hello"}))["error"]
        for stream in many:
            await stream.aclose()
        await until(lambda: a.control._clients == 0)
        assert (await a.one({"op": "hello"}))["protocol"] == 1


async def test_many_clients_at_once_are_all_answered(new_server: Embedded, short_path: Path) -> None:
    answered = []

    async def client() -> None:
        answered.append(await a.one({"op": "status"}))

    async with asked(new_server, short_path) as a, trio.open_nursery() as nursery:
        for _ in range(control.MAX_CLIENTS):
            nursery.start_soon(client)
        await until(lambda: len(answered) == control.MAX_CLIENTS)
    assert all("unsent" in status for status in answered)


async def test_status_tells_folders_budget_and_caches(both: Embedded, short_path: Path) -> None:
    name, ident = fresh(both)
    async with asked(both, short_path, sync=False) as a:
        both.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
        await a.d.write(f"{name}/one", b"x" * 100)
        await a.d.write(f"{name}/two", b"x" * 50)
        status = await a.one({"op": "status", "limit": 1000})
        (folder,) = [f for f in status["folders"] if f["name"] == name]
        assert folder == {
            "name": name,
            "id": ident,
            "permission": folder["permission"],
            "is_owner": True,
            "unsent_files": 2,
            "unsent_bytes": 150,
            "quota_limit": None,  # nobody has asked for df
            "quota_used": None,
        }
        assert folder["permission"] in ("rw", "wd")
        assert status["folders_total"] == len(status["folders"])
        budget = status["budget"]
        assert budget["left"] == status["calls_left"] and 0 < budget["left"] < budget["limit"] == 30000
        assert budget["window_s"] == 900
        assert status["cache"]["memory_limit"] == 112 << 20 and status["cache"]["directory"] is None
        assert len((await a.one({"op": "status", "limit": 1}))["folders"]) == 1
        both.clear_faults()
        await a.d.fs.wait()


async def test_failures_are_told_with_the_requests_name(both: Embedded, short_path: Path) -> None:
    name, _ = fresh(both)
    async with asked(both, short_path, sync=False) as a:
        both.faults(
            {"rules": [{"action": "status", "status": 500, "path": "/folders/*/request-upload", "times": 4}]}
        )
        await a.d.write(f"{name}/file", b"x")
        await until(lambda: not a.d.fs.unsent())
        errors = (await a.one({"op": "status"}))["errors"]
        (failure,) = [e for e in errors if e["name"] == f"{name}/file"]
        assert (failure["what"], failure["error"]) == ("upload", "RemoteError")
        assert "500" in failure["reason"] and failure["times"] == 2
        assert len(failure["request_id"]) == 36


async def test_kinds_of_failure_are_bounded_and_the_newest_come_first(
    new_server: Embedded, short_path: Path
) -> None:
    async with asked(new_server, short_path) as a:
        recent = a.d.fs.parts.recent
        for n in range(200):
            recent.note("read", RemoteUnavailable(f"reason {n}"))
        for _ in range(3):
            recent.note("read", RemoteUnavailable("reason 180"))
        errors = (await a.one({"op": "status", "limit": 1000}))["errors"]
        assert len(errors) == 50
        assert [(e["reason"], e["times"]) for e in errors[:2]] == [("reason 180", 4), ("reason 199", 1)]


async def test_queue_is_in_the_order_of_sending(
    both: Embedded, short_path: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    name, _ = fresh(both)
    async with asked(both, short_path, sync=False) as a:
        refused = {"action": "status", "status": 403, "path": "/folders/*/request-upload", "times": 1}
        both.faults({"rules": [refused]})
        await a.d.write(f"{name}/parked", b"x" * 10)
        await until(lambda: a.d.fs.unsent()[0].state == "parked")
        both.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
        await a.d.write(f"{name}/stalled", b"x" * 20)
        await until(lambda: a.d.fs.queue()[0].next_try_s is None)
        *pages, last = await a.ask({"op": "queue"})
        queue = [file for page in pages for file in page["queue"]]
        assert last == {"done": True, "files": 2, "bytes": 30}
        assert [f["name"] for f in queue] == [f"{name}/stalled", f"{name}/parked"]
        assert queue[0]["state"] == "uploading 0%" and queue[0]["next_try_s"] is None
        assert 200 < queue[1]["next_try_s"] <= 300 and queue[1]["reason"]
        both.clear_faults()
        for node in a.d.fs._uploader.unsent:
            a.d.fs._uploader.want([node])
        await a.d.fs.wait()
        assert await a.ask({"op": "queue"}) == [{"done": True, "files": 0, "bytes": 0}]


async def test_log_level_changes_and_secrets_stay_out(
    both: Embedded, short_path: Path, tmp_path: Path
) -> None:
    name, _ = fresh(both)
    environment = both.env("owner")
    ours, root = logging.getLogger("vfsmount"), logging.getLogger()
    before = ours.level, root.level
    log.add_secret(environment["BACKEND_SECRET_KEY"])
    log.setup("WARNING", tmp_path / "log", stderr=False)
    try:
        async with asked(both, short_path) as a:
            await a.d.write(f"{name}/quiet", b"x")
            assert (tmp_path / "log").read_text() == ""
            answer = await a.one({"op": "log-level", "level": "Debug"})
            assert answer == {"done": True, "level": "DEBUG", "was": "WARNING"}
            await a.d.write(f"{name}/loud", b"x" * 10)
            assert await a.d.read(f"{name}/loud") == b"x" * 10
            assert (await a.one({"op": "log-level", "level": "error"}))["was"] == "DEBUG"
            said = (tmp_path / "log").read_text()
            await a.d.write(f"{name}/quiet again", b"x")
            assert (tmp_path / "log").read_text() == said
        assert "log.level level=DEBUG was=WARNING" in said and "manager.call" in said
        for secret in (environment["BACKEND_SECRET_KEY"], "token=ey", "signMethod", "eyJ"):
            assert secret not in said
    finally:
        for handler in [h for h in root.handlers if isinstance(h.formatter, log.RedactingFormatter)]:
            root.removeHandler(handler)
            handler.close()
        ours.setLevel(before[0])
        root.setLevel(before[1])
