"""``vfsmount sync`` both ways on both dialects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.commands import User, content, user_of
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def me(both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> User:
    return user_of(both, tmp_path, monkeypatch, capsys)


def plant(where: Path) -> Path:
    (where / "sub/deep").mkdir(parents=True)
    (where / "empty").mkdir()
    (where / "a.txt").write_text("hello")
    (where / "zero").write_text("")
    (where / "sub/b").write_bytes(os.urandom(100_000))
    (where / "sub/deep/c").write_bytes(os.urandom(70_000))
    return where


def test_up_and_nothing_to_do_the_second_time(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source = plant(me.here / "tree")
    there = both.folder_dir(ident) / "backup/of tree"
    me.run("sync", "tree", f"{name}:backup/of tree")
    assert content(there) == content(source)
    both.reset_calls()
    found = me.json("sync", "tree/", f"{name}:backup/of tree")
    assert (found["files"], found["carried_bytes"], found["unchanged"], found["directories"]) == (0, 0, 4, 0)
    assert both.count("POST", "/folders/{vf}/request-upload") == 0
    (source / "a.txt").write_text("HELLO")
    (source / "new").write_text("new")
    found = me.json("sync", "tree", f"{name}:backup/of tree")
    assert (found["files"], found["unchanged"]) == (2, 3)
    assert content(there) == content(source)


def test_down_and_nothing_to_do_the_second_time_nor_back(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    there = plant(both.folder_dir(ident))
    me.run("sync", f"{name}:", "copy")
    assert content(me.here / "copy") == content(there)
    for words in (["sync", f"{name}:", "copy"], ["sync", "copy", f"{name}:"]):
        found = me.json(*words)
        assert (found["files"], found["carried_bytes"], found["unchanged"]) == (0, 0, 4)
    (there / "a.txt").write_text("HELLO")
    found = me.json("sync", f"{name}:", "copy")
    assert (found["files"], found["unchanged"]) == (1, 3)
    assert content(me.here / "copy") == content(there)


def test_what_upload_sent_is_known_to_sync(me: User, both: Embedded) -> None:
    name, _ = fresh(both)
    plant(me.here / "tree")
    me.run("upload", name, "tree")
    assert me.json("sync", "tree", f"{name}:tree")["unchanged"] == 4
    assert me.json("sync", f"{name}:tree", "tree")["unchanged"] == 4


def test_checksum_looks_at_content_alone(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source = plant(me.here / "tree")
    me.run("sync", "tree", f"{name}:")
    # Of one size and time, as far as anybody remembers; and of another time, with the same content.
    info = (source / "a.txt").stat()
    (source / "a.txt").write_text("HELLO")
    os.utime(source / "a.txt", ns=(info.st_atime_ns, info.st_mtime_ns))
    os.utime(source / "sub/b")
    assert me.json("sync", "tree", f"{name}:", "-n")["actions"] == [{"action": "send", "path": "sub/b"}]
    dry = me.json("sync", "tree", f"{name}:", "-n", "--checksum")
    assert dry["actions"] == [{"action": "send", "path": "a.txt"}]
    found = me.json("sync", "tree", f"{name}:", "--checksum")
    assert (found["files"], found["unchanged"]) == (1, 3)
    assert content(both.folder_dir(ident)) == content(source)
    (source / "a.txt").write_text("again")
    found = me.json("sync", f"{name}:", "tree", "--checksum")
    assert (found["files"], found["unchanged"]) == (1, 3)
    assert (source / "a.txt").read_text() == "HELLO"
    assert me.json("sync", "tree", f"{name}:")["unchanged"] == 4


@pytest.mark.parametrize("up", [True, False])
def test_delete_after_a_dry_run_that_changed_nothing(me: User, both: Embedded, up: bool) -> None:
    name, ident = fresh(both)
    here, there = me.here / "tree", both.folder_dir(ident)
    source, target = (here, there) if up else (there, here)
    plant(source)
    (target / "old/in").mkdir(parents=True)
    (target / "old/in/x").write_text("x")
    (target / "sub").mkdir()
    (target / "sub/gone").write_text("x")
    (target / "a.txt").mkdir()  # in the way
    (target / "empty").write_text("in the way")
    words = ["sync", "tree", f"{name}:"] if up else ["sync", f"{name}:", "tree"]
    before = content(target)
    out, _ = me.run(*words, "--delete", "--dry-run")
    assert content(target) == before
    told = {line.replace(str(here) + "/", "") for line in out.splitlines()[:-1]}
    word = "send" if up else "fetch"
    assert {"delete old/", "delete sub/gone", "delete a.txt/", "delete empty", f"{word} zero"} <= told
    _, err = me.run(*words, status=1)
    assert "--delete removes it" in err and (target / "old/in/x").exists()
    found = me.json(*words, "--delete")
    assert found["deleted"] == 4 and found["failed"] == []
    assert content(target) == content(source)
    assert me.json(*words, "--delete")["deleted"] == 0


def test_filters_protect_from_deletion(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    source, there = plant(me.here / "tree"), both.folder_dir(ident)
    (there / "old").mkdir()
    for path in ("old/keep.log", "old/x", "keep.log", "y"):
        (there / path).write_text("x")
    found = me.json("sync", "tree", f"{name}:", "--delete", "--exclude", "*.log")
    assert found["deleted"] == 2
    assert content(there) == {**content(source), "old/keep.log": b"x", "keep.log": b"x"}


def test_nothing_is_deleted_when_a_listing_may_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    with Embedded(tmp_path / "server", dialect="26", scandir_limit=10) as server:
        me = user_of(server, tmp_path, monkeypatch, capsys)
        there = server.folder_dir(server.create_folder("owner", "data"))
        (there / "d").mkdir()
        for n in range(12):
            (there / f"d/f{n:02}").write_text(str(n))
        copy = me.here / "copy"
        (copy / "d").mkdir(parents=True)
        for n in range(14):
            (copy / f"d/f{n:02}").write_text("old")
        out, err = me.run("sync", "data:", "copy", "--delete", status=1)
        assert "nothing was deleted" in err and "deleted" not in out
        assert len(list((copy / "d").iterdir())) == 14
        # The other way: names that the listing hides are looked for one by one, and nothing is sent twice.
        me.run("sync", "copy", "data:")
        found = me.json("sync", "copy", "data:")
        assert (found["files"], found["unchanged"], found["partial_count"]) == (0, 14, 0)
        found = me.json("sync", "copy", "data:", "--delete", status=1)
        assert (found["deleted"], found["partial_count"]) == (0, 1)
        assert len(list((there / "d").iterdir())) == 14


def test_nothing_is_deleted_when_a_side_cannot_be_read(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    there = plant(both.folder_dir(ident))
    before = content(there)
    _, err = me.run("sync", "not-here", f"{name}:", "--delete", status=7)
    assert "not-here: failed" in err
    assert content(there) == before
    plant(me.here / "tree")
    me.run("sync", f"{name}:not-there", "tree", "--delete", status=7)
    assert len(content(me.here / "tree")) == 5


def test_links_on_the_server_are_not_deleted_nor_what_they_lead_to(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    there = both.folder_dir(ident)
    (there / "kept").mkdir()
    (there / "kept/a").write_text("a")
    (there / "link").symlink_to("kept")
    (me.here / "tree/kept").mkdir(parents=True)
    (me.here / "tree/kept/a").write_text("a")
    found = me.json("sync", "tree", f"{name}:", "--delete")
    assert found["deleted"] == 0 and [x["path"] for x in found["skipped"]] == ["link"]
    assert (there / "link").is_symlink() and (there / "kept/a").exists()


def test_words_that_are_no_sync(me: User, both: Embedded) -> None:
    name, _ = fresh(both)
    me.run("sync", "a", "b", status=2)
    me.run("sync", f"{name}:", f"{name}:x", status=2)
