"""upload, download and sync against the real 23.09."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.commands import User, content
from tests.support.cutproxy import CutProxy
from tests.support.embedded import RawClient
from tests.support.live import live_environment

pytestmark = pytest.mark.live


@pytest.fixture
def name() -> Iterator[str]:
    """A folder of the test's own."""
    owner = RawClient(dict(live_environment("owner")))
    found = f"transfers-{secrets.token_hex(4)}"
    owner.ok("POST", "/folders", {"name": found})
    yield found
    owner.ok("DELETE", f"/folders/{found}")
    owner.close()


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> User:
    return User(dict(live_environment("owner")), tmp_path / "home", monkeypatch, capsys)


def plant(where: Path) -> Path:
    (where / "sub/deep").mkdir(parents=True)
    (where / "empty").mkdir()
    (where / "zero").write_bytes(b"")
    (where / "日本語 %41?#&+").write_text("odd")
    (where / "sub/big").write_bytes(os.urandom(33 << 20))
    for n in range(30):
        (where / f"sub/deep/f{n}").write_bytes(os.urandom(n * 1000))
    return where


@pytest.mark.parametrize("group", [[], ["vfolder"]], ids=["own", "official"])
def test_storage_chapter_as_typed(me: User, name: str, group: list[str]) -> None:
    (me.here / "bigdata.csv").write_text("a,b\n")
    me.run(*group, "upload", name, "./bigdata.csv")
    (me.here / "bigdata.csv").unlink()
    me.run(*group, "download", name, "./bigdata.csv")
    assert (me.here / "bigdata.csv").read_text() == "a,b\n"


def test_tree_goes_there_and_back_and_nothing_twice(me: User, name: str) -> None:
    source = plant(me.here / "tree")
    assert me.json("upload", name, "tree", "--verify")["failed"] == []
    assert me.json("sync", "tree", f"{name}:tree")["unchanged"] == 33
    me.run("download", name, "tree", "-d", "back", "--verify")
    assert content(me.here / "back/tree") == content(source)
    assert me.json("sync", "back/tree", f"{name}:tree")["unchanged"] == 33
    (source / "sub/deep/f3").write_text("changed")
    (source / "zero").unlink()
    found = me.json("sync", "tree", f"{name}:tree", "--delete", "--checksum")
    assert (found["files"], found["deleted"], found["unchanged"]) == (1, 1, 31)
    found = me.json("sync", f"{name}:tree", "back/tree", "--delete")
    assert (found["files"], found["deleted"], found["unchanged"]) == (1, 1, 31)
    assert content(me.here / "back/tree") == content(source)


def test_killed_upload_and_download_go_on(me: User, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = RawClient(dict(me.env))
    storage = urlsplit(owner.grant(name, ".")[0])
    owner.close()
    size = 96 << 20
    file = me.here / "big"
    file.write_bytes(os.urandom(1 << 20) * (size >> 20))
    with CutProxy(f"{storage.scheme}://{storage.netloc}") as line:
        mapped = f"{storage.scheme}://{storage.netloc}={line.url}"
        monkeypatch.setenv("BACKEND_OVERRIDE_STORAGE_PROXY", mapped)
        for kill in (1, 2):
            line.hold_at(kill * (24 << 20))
            process = me.start("upload", name, "big", BACKEND_OVERRIDE_STORAGE_PROXY=mapped)
            line.wait_held()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            line.hold_at(None)
        me.run("upload", name, "big")
        assert line.sent_up <= size + (4 << 20)
    data = file.read_bytes()
    file.unlink()
    monkeypatch.delenv("BACKEND_OVERRIDE_STORAGE_PROXY")
    process = me.start("download", name, "big")
    while process.poll() is None and not any(
        p.stat().st_blocks > 1000 for p in me.here.glob(".vfsmount-*.part")
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    me.run("download", name, "big")
    assert file.read_bytes() == data


def test_some_hundred_small_files_take_a_call_each(me: User, name: str) -> None:
    source = me.here / "many"
    source.mkdir()
    for n in range(301):
        (source / f"f{n}").write_bytes(os.urandom(2000))
    assert me.json("upload", name, "many")["files"] == 301
    assert me.json("download", name, "many", "-d", "back")["files"] == 301
    assert content(me.here / "back/many") == content(source)
