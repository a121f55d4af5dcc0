"""``vfsmount download`` on both dialects."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import User, content, user_of
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.lying import LyingManager

Capsys = pytest.CaptureFixture[str]
Items = list[dict[str, Any]]


@pytest.fixture
def me(both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> User:
    return user_of(both, tmp_path, monkeypatch, capsys)


@pytest.fixture
def data(both: Embedded) -> tuple[str, Path]:
    """Name of a folder, and where its files are on the server's disk."""
    name, ident = fresh(both)
    where = both.folder_dir(ident)
    (where / "sub/deep").mkdir(parents=True)
    (where / "empty/er").mkdir(parents=True)
    (where / "a.txt").write_bytes(b"hello")
    (where / "zero").write_bytes(b"")
    (where / "sub/ü b.bin").write_bytes(os.urandom(9 << 20))
    (where / "sub/deep/c").write_bytes(os.urandom(70_000))
    return name, where


@pytest.mark.parametrize("words", [["download"], ["vfolder", "download"]])
def test_file_is_fetched_with_its_time_and_replaces_what_was_here(
    me: User, data: tuple[str, Path], words: list[str]
) -> None:
    name, where = data
    (me.here / "a.txt").write_text("old")
    (me.here / "a.txt").chmod(0o750)
    official = ["--chunk-size", "16m", "--max-retries", "3"]
    assert "1 file fetched (5 B)" in me.run(*words, *official, name, "./a.txt")[0]
    assert (me.here / "a.txt").read_text() == "hello"
    info = (me.here / "a.txt").stat()
    assert info.st_mtime_ns == (where / "a.txt").stat().st_mtime_ns
    assert info.st_mode & 0o777 == 0o750
    assert sorted(p.name for p in me.here.iterdir()) == ["a.txt"]


def test_where_things_go(me: User, data: tuple[str, Path]) -> None:
    name, where = data
    everything = content(where)
    sub = {k.removeprefix("sub/"): v for k, v in everything.items() if k.startswith("sub/")}
    me.run("download", name, "sub/deep/c", "-r", "a.txt")
    assert content(me.here) == {"a.txt": b"hello", "sub/deep/c": sub["deep/c"]}
    (me.here / "out").mkdir()
    me.run("download", name, "sub/deep/c", "sub", "out")
    assert content(me.here / "out") == {"c": sub["deep/c"], **{f"sub/{k}": v for k, v in sub.items()}}
    me.run("download", name, ".", "all/")
    assert content(me.here / "all") == everything
    me.run("download", name, "sub", "-b", "base/new")
    assert content(me.here / "base/new") == {f"sub/{k}": v for k, v in sub.items()}
    me.run("download", f"{name}:sub/deep", "--dest", "d", "--verify")
    assert content(me.here / "d") == {"deep/c": sub["deep/c"]}
    me.run("download", name, "sub", "csv/", "--include", "c")
    assert content(me.here / "csv") == {"sub/deep/c": sub["deep/c"]}


def test_a_word_that_could_mean_both_is_not_guessed_at(me: User, data: tuple[str, Path]) -> None:
    name, _ = data
    (me.here / "sub").mkdir()
    for words in (["a.txt", "sub"], ["a.txt", "sub/"], ["a.txt", "empty/"]):
        me.run("download", name, *words, status=2)
    assert content(me.here) == {"sub/": b""}
    me.run("download", name, "a.txt", "--dest", "sub")
    assert content(me.here) == {"sub/a.txt": b"hello"}
    me.run("download", name, status=2)
    me.run("download", name, "a.txt", "/no/such", status=2)
    _, err = me.run("download", name, "zero", "new", status=1)
    assert "new: failed" in err and "end it with a slash (new/)" in err
    _, err = me.run("download", name, "new", status=7)
    assert "slash" not in err


def test_no_clobber_keeps_what_is_here(me: User, data: tuple[str, Path]) -> None:
    name, _ = data
    (me.here / "a.txt").write_text("mine")
    out, _ = me.run("download", name, "a.txt", "zero", "--no-clobber", status=9)
    assert "1 file fetched" in out and "1 left as they are" in out
    assert content(me.here) == {"a.txt": b"mine", "zero": b""}


def test_single_failures_and_their_status(me: User, data: tuple[str, Path]) -> None:
    name, _ = data
    (me.here / "zero").mkdir()
    _, err = me.run("download", name, "none", "zero", "a.txt", "-b", ".", status=1)
    assert "none: failed" in err and "zero: failed: a directory stands" in err
    assert (me.here / "a.txt").read_text() == "hello"
    me.run("download", name, "none", status=7)
    me.run("download", name, "../a.txt", status=1)


def test_nothing_is_written_through_links_here(me: User, data: tuple[str, Path], tmp_path: Path) -> None:
    name, _ = data
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")
    (me.here / "sub").symlink_to(tmp_path / "outside")
    (me.here / "a.txt").symlink_to(tmp_path / "outside/file")
    _, err = me.run("download", name, ".", "-b", ".", status=1)
    assert "a link stands at" in err
    assert content(tmp_path / "outside") == {"file": b"mine"}
    assert not (me.here / "a.txt").is_symlink() and (me.here / "a.txt").read_text() == "hello"


def test_links_on_the_server_are_what_they_lead_to(me: User, data: tuple[str, Path]) -> None:
    name, where = data
    (where / "file").symlink_to("a.txt")
    (where / "dir").symlink_to("sub")
    (where / "dead").symlink_to("none")
    found = me.json("download", name, ".", "-d", "out")
    assert (me.here / "out/file").read_text() == "hello"
    assert {x["path"] for x in found["skipped"]} == {"dir", "dead"}
    me.run("download", name, "dir/deep/c")
    assert (me.here / "dir/deep/c").stat().st_size == 70_000


def lying(
    both: Embedded, monkeypatch: pytest.MonkeyPatch, rewrite: Callable[[str, Items], Items]
) -> LyingManager:
    front = LyingManager(both.url, rewrite)
    monkeypatch.setenv("BACKEND_ENDPOINT", front.url)
    return front


def test_hostile_names_write_nothing_elsewhere(
    me: User,
    both: Embedded,
    data: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    expect_warnings: object,
) -> None:
    name, where = data
    (where.parent / "out.txt").write_text("not of this folder")
    names = [
        "../out.txt",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b",
        "n\0l",
        "x" * 256,
        "a.txt",
        "new\nline",
        "\x1b[2J",
    ]

    def rewrite(path: str, items: Items) -> Items:
        like = next(i for i in items if i["name"] == "a.txt") if path == "" else None
        return [*items, *({**like, "name": n} for n in names)] if like else items

    with lying(both, monkeypatch, rewrite):
        found = me.json("download", name, ".", "-d", "out", status=1)
    assert content(me.here / "out") == content(where)
    assert {x["path"] for x in found["failed"]} == {"new\nline", "\x1b[2J"}
    (partial,) = found["partial"]
    assert partial["path"] == "." and "cannot stand" in partial["reason"]
    assert content(me.here) == {f"out/{k}": v for k, v in content(where).items()}


def test_sizes_in_listings_are_not_believed(
    me: User, both: Embedded, data: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, where = data

    def rewrite(path: str, items: Items) -> Items:
        return [{**i, "size": 7 if i["name"].startswith("ü") else 1 << 40} for i in items]

    with lying(both, monkeypatch, rewrite):
        me.run("download", name, "sub", "zero", "-d", "out")
    assert content(me.here / "out/sub") == content(where / "sub")


def test_listing_that_may_be_cut_is_said_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    with Embedded(tmp_path / "server", dialect="23.09", scandir_limit=10) as server:
        me = user_of(server, tmp_path, monkeypatch, capsys)
        ident = server.create_folder("owner", "data")
        where = server.folder_dir(ident)
        (where / "d").mkdir()
        for n in range(12):
            (where / f"d/f{n:02}").write_text(str(n))
        out, err = me.run("download", "data", "d", status=1)
        assert "d: may hold more" in err and "10 files fetched" in out
        me.run("download", "data", "d", "--trust-listings")
        missing = next(n for n in range(12) if not (me.here / f"d/f{n:02}").exists())
        me.run("download", "data", f"d/f{missing:02}")
        assert (me.here / f"d/f{missing:02}").read_text() == str(missing)


def test_a_round_number_of_files_is_believed_where_longer_listings_are_seen(
    me: User, both: Embedded, data: tuple[str, Path]
) -> None:
    name, where = data
    (where / "ten").mkdir()
    for n in range(10):
        (where / f"ten/{n}").write_text("x")
    _, other = fresh(both)
    for n in range(11):
        (both.folder_dir(other) / f"{n}").write_text("x")
    assert me.json("download", name, "ten")["partial"] == []


@pytest.mark.parametrize("action", ["cut_down", "reset", "status", "refuse_token"])
def test_broken_replies_are_ridden_out(me: User, both: Embedded, data: tuple[str, Path], action: str) -> None:
    name, where = data
    rule = {"action": action, "method": "GET", "path": "/download", "after_bytes": 100_000, "times": 2}
    both.faults({"rules": [rule]})
    found = me.json("download", name, ".", "-d", "out")
    assert content(me.here / "out") == content(where)
    assert found["carried_bytes"] <= found["bytes"] + (1 << 20)


def test_a_file_that_changes_meanwhile_is_fetched_anew(
    me: User, both: Embedded, data: tuple[str, Path]
) -> None:
    name, where = data
    new = os.urandom(9 << 20)
    # All three ranges wait until the file that was looked at (twice) is another one.
    look = {"action": "delay", "method": "GET", "path": "/download", "times": 2}
    both.faults({"rules": [look, {**look, "action": "stall", "times": 3}]})
    process = me.start("download", name, "sub/ü b.bin", "--json")
    eventually(lambda: both.count("GET", "/download") >= 5)
    (where / "sub/new").write_bytes(new)
    (where / "sub/new").rename(where / "sub/ü b.bin")
    both.faults({"release": True})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert (me.here / "sub/ü b.bin").read_bytes() == new
    assert sorted(p.name for p in (me.here / "sub").iterdir()) == ["ü b.bin"]
