"""``vfsmount upload`` on both dialects."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.support.commands import User, content, user_of
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def me(both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> User:
    return user_of(both, tmp_path, monkeypatch, capsys)


def tree(where: Path) -> Path:
    """A directory with files of all kinds of sizes, an empty one, and one in which another is."""
    (where / "sub/deep").mkdir(parents=True)
    (where / "empty/er").mkdir(parents=True)
    (where / "a.txt").write_bytes(b"hello")
    (where / "zero").write_bytes(b"")
    (where / "sub/ü b.bin").write_bytes(os.urandom(3 << 20))
    (where / "sub/deep/c").write_bytes(os.urandom(70_000))
    return where


@pytest.mark.parametrize("words", [["upload"], ["vfolder", "upload"]])
def test_file_is_sent_and_replaces_what_was_there(me: User, both: Embedded, words: list[str]) -> None:
    name, ident = fresh(both)
    (me.here / "bigdata.csv").write_text("first")
    assert "1 file sent (5 B)" in me.run(*words, name, "./bigdata.csv")[0]
    (me.here / "bigdata.csv").write_text("second one")
    me.run(*words, name, "./bigdata.csv")
    assert (both.folder_dir(ident) / "bigdata.csv").read_text() == "second one"


def test_trees_are_sent_with_all_that_is_in_them(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source = tree(me.here / "data")
    me.run("upload", "-r", name, "data")
    assert content(both.folder_dir(ident)) == {f"data/{k}": v for k, v in content(source).items()}
    found = me.json("upload", "--verify", f"{name}:copy", "-b", "data", ".", "--chunk-size", "16m")
    assert content(both.folder_dir(ident) / "copy") == content(source)
    assert (found["files"], found["directories"], found["failed"]) == (4, 1, [])
    assert found["bytes"] == found["carried_bytes"] == 5 + (3 << 20) + 70_000


def test_files_elsewhere_go_under_their_own_names(me: User, both: Embedded, tmp_path: Path) -> None:
    name, ident = fresh(both)
    tree(tmp_path / "elsewhere")
    me.run("upload", name, tmp_path / "elsewhere/a.txt", tmp_path / "elsewhere/sub", "-d", "x")
    assert sorted(content(both.folder_dir(ident))) == ["x/a.txt", "x/sub/deep/c", "x/sub/ü b.bin"]


def test_includes_and_excludes(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    tree(me.here / "data")
    me.run("upload", name, "data", "--exclude", "/sub/deep", "--exclude", "empty", "--exclude", "z*")
    assert sorted(content(both.folder_dir(ident))) == ["data/a.txt", "data/sub/ü b.bin"]
    me.run("upload", f"{name}:csv", "data", "--include", "c")
    assert sorted(content(both.folder_dir(ident) / "csv")) == ["data/sub/deep/c"]


def test_no_clobber_keeps_what_is_there_and_says_so(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    (me.here / "a").write_text("mine")
    (me.here / "b").write_text("mine")
    (both.folder_dir(ident) / "a").write_text("theirs")
    out, err = me.run("upload", name, "a", "b", "--no-clobber", status=9)
    assert "1 file sent" in out and "1 left as they are" in out and "a: left as it is" in err
    assert content(both.folder_dir(ident)) == {"a": b"theirs", "b": b"mine"}


def test_links_lead_where_they_may_and_the_rest_is_left_out(me: User, both: Embedded, tmp_path: Path) -> None:
    name, ident = fresh(both)
    (tmp_path / "secret").write_text("not yours")
    source = me.here / "data"
    (source / "d").mkdir(parents=True)
    (source / "d/a").write_text("a")
    for link, target in (
        ("in", "d/a"),
        ("out", tmp_path / "secret"),
        ("dir", "d"),
        ("dead", "none"),
        ("me", "."),
    ):
        (source / link).symlink_to(target)
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "s"))
    found = me.json("upload", name, "data")
    assert content(both.folder_dir(ident)) == {"data/d/a": b"a", "data/in": b"a"}
    assert {Path(x["path"]).name for x in found["skipped"]} == {"out", "dir", "dead", "me", "fifo", "s"}
    assert (found["failed_count"], found["skipped_count"]) == (0, 6)
    found = me.json("upload", "-L", f"{name}:all", "-b", "data", ".")
    assert content(both.folder_dir(ident) / "all") == {
        "d/a": b"a",
        "in": b"a",
        "out": b"not yours",
        "dir/a": b"a",
    }
    assert {Path(x["path"]).name for x in found["skipped"]} == {"dead", "me", "fifo", "s"}


def test_names_that_the_server_cannot_have_fail_alone(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source = me.here / "data"
    source.mkdir()
    for bad in (b"two\nlines", b"r\r", b"no utf8 \xff"):
        (source / os.fsdecode(bad)).write_text("x")
    (source / "d\n").mkdir()
    (source / "d\n/x").write_text("x")
    (source / "good").write_text("x")
    out, err = me.run("upload", name, "data", status=1)
    assert "1 file sent" in out and "4 failed" in out
    assert "line break" in err and "UTF-8" in err and "\n\n" not in err
    assert content(both.folder_dir(ident)) == {"data/good": b"x"}


def test_failures_of_single_files_and_their_status(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    (both.folder_dir(ident) / "taken").mkdir()
    (me.here / "taken").write_text("x")
    (me.here / "good").write_text("x")
    _, err = me.run("upload", name, "taken", "good", "none", status=1)
    assert "taken: failed" in err and "none: failed: no such file" in err
    assert (both.folder_dir(ident) / "good").read_text() == "x"
    me.run("upload", name, "none", status=7)
    me.run("upload", "nofolder", "good", status=7)
    me.run("upload", name, "good", "-d", "../x", status=1)


def test_a_key_that_is_refused_ends_it(me: User, both: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = fresh(both)
    (me.here / "a").write_text("x")
    monkeypatch.setenv("BACKEND_SECRET_KEY", "wrong")
    me.run("upload", name, "a", status=3)


@pytest.mark.parametrize("action", ["cut_up", "lose_reply", "reset", "status"])
def test_broken_requests_are_ridden_out(me: User, both: Embedded, action: str) -> None:
    name, ident = fresh(both)
    source = tree(me.here / "data")
    rule = {"action": action, "method": "PATCH", "path": "/upload", "after_bytes": 30_000, "times": 2}
    both.faults({"rules": [rule]})
    me.run("upload", name, "data")
    assert content(both.folder_dir(ident) / "data") == content(source)


def test_a_file_that_grows_meanwhile_is_sent_again_or_fails(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    file = me.here / "log"
    file.write_bytes(b"x" * (20 << 20))
    both.faults({"rules": [{"action": "stall", "method": "PATCH", "path": "/upload"}]})
    process = me.start("upload", name, "log", "--json")
    eventually(lambda: both.count("PATCH", "/upload") == 1)
    with file.open("ab") as log:
        log.write(b"more")
    both.faults({"release": True})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert (both.folder_dir(ident) / "log").read_bytes() == file.read_bytes()


def test_two_commands_do_not_send_one_file_at_once(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    (me.here / "a").write_bytes(b"a" * 100_000)
    both.faults({"rules": [{"action": "stall", "method": "PATCH", "path": "/upload"}]})
    first = me.start("upload", name, "a")
    eventually(lambda: both.count("PATCH", "/upload") == 1)
    _, err = me.run("upload", name, "a", status=9)
    assert "another vfsmount command" in err
    both.faults({"release": True})
    assert first.wait(timeout=60) == 0
    first.communicate()
    assert (both.folder_dir(ident) / "a").stat().st_size == 100_000


def test_four_requests_with_content_are_open_at_once_however_quick_they_were(
    me: User, both: Embedded
) -> None:
    """As many as a 23.09 storage-proxy has threads, and it is stuck for good."""
    name, _ = fresh(both)
    (me.here / "many").mkdir()
    for n in range(40):
        (me.here / f"many/f{n}").write_bytes(b"x" * (1 << 20))
    quick = {"action": "delay", "method": "PATCH", "path": "/upload", "times": 20}
    both.faults({"rules": [quick, {**quick, "action": "stall", "times": None}]})
    process = me.start("upload", name, "many")
    eventually(lambda: both.count("PATCH", "/upload") >= 24)
    # All others have their sessions by then, and wait.
    eventually(lambda: both.count("POST", "/folders/{vf}/request-upload") == 40)
    time.sleep(0.5)
    assert both.count("PATCH", "/upload") == 24
    process.kill()
    process.communicate()


def test_many_small_files_cost_one_manager_call_each(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source = me.here / "many"
    source.mkdir()
    for n in range(100):
        (source / f"f{n}").write_bytes(b"x" * n)
    both.reset_calls()
    me.run("upload", name, "many")
    manager = sum(both.calls("manager").values())
    assert manager <= 100 + 8, both.calls("manager")
    assert content(both.folder_dir(ident) / "many") == content(source)
