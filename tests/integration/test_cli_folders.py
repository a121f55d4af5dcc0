"""The commands about folders as a whole, on both dialects."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from vfsmount.cli.exit_codes import CONFLICT, DENIED, FAILED, NOT_FOUND, UNREACHABLE, USAGE

DESCRIBED = {
    "name",
    "id",
    "host",
    "owner",
    "is_owner",
    "ownership",
    "permission",
    "status",
    "usage_mode",
    "cloneable",
    "created",
    "created_ns",
}
As = Callable[[str], CommandLine]


@pytest.fixture
def as_user(
    both: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> As:
    return lambda user: CommandLine(both.env(user), monkeypatch, capsys, tmp_path)


@pytest.fixture
def run(as_user: As) -> CommandLine:
    return as_user("owner")


def new_name() -> str:
    return f"f{secrets.token_hex(4)}"


def test_storage_chapter_line_creates_on_the_host(run: CommandLine) -> None:
    name = new_name()
    row = run.json("create", name, "local:volume1")
    assert set(row) == DESCRIBED
    assert (row["name"], row["host"], row["is_owner"]) == (name, "local:volume1", True)
    assert name in run.names()


@pytest.mark.parametrize("words", [("create",), ("vfolder", "create")])
def test_create_takes_the_official_options(run: CommandLine, words: tuple[str, ...]) -> None:
    name = new_name()
    said = run(*words, "-m", "data", "-p", "ro", "--allow-clone", name)
    assert (said.code, said.out) == (0, "")
    assert f"{name} is created on local:volume1" in said.err
    (row,) = (row for row in run.json("list") if row["name"] == name)
    assert (row["usage_mode"], row["permission"], row["cloneable"]) == ("data", "ro", True)


def test_create_of_a_taken_name_is_a_conflict_that_names_it(both: Embedded, run: CommandLine) -> None:
    name, _ = fresh(both)
    said = run("create", name)
    assert said.code == CONFLICT
    assert name in said.err


@pytest.mark.parametrize("unfit", ["a/b", "."])
def test_name_that_no_mount_could_show_is_refused_unsent(
    both: Embedded, run: CommandLine, unfit: str
) -> None:
    # 26.x takes them, and no command finds them by these names afterwards.
    name, _ = fresh(both)
    run.ok("options", name, "--cloneable")
    both.reset_calls()
    for words in (["create", unfit], ["rename", name, unfit], ["clone", name, unfit]):
        said = run(*words)
        assert said.code == FAILED
        assert f"{unfit}: no directory on a mount could have this name" in said.err
    assert not [method for (_, method, _) in both.calls() if method != "GET"]
    assert name in run.names()


def test_create_on_an_unknown_host_is_denied(run: CommandLine) -> None:
    name = new_name()
    said = run("create", name, "local:elsewhere")
    assert said.code == DENIED
    assert name in said.err
    assert name not in run.names()


def test_create_with_nonsense_is_wrong_usage(run: CommandLine) -> None:
    assert run("create", new_name(), "-m", "nonsense").code == USAGE
    assert run("create").code == USAGE


def test_only_administrators_create_folders_of_a_project(both: Embedded, as_user: As) -> None:
    name, project = new_name(), "default"
    if both.dialect == "26":
        said = as_user("admin")("create", name, "--group", project)
        assert said.code == USAGE
        assert "id" in said.err
        return
    assert as_user("owner")("create", name, "-g", project).code == DENIED
    row = as_user("admin").json("create", name, "-g", project)
    assert row["ownership"] == "group"
    assert name in as_user("owner").names()


def test_dead_server_is_unreachable(run: CommandLine) -> None:
    run.env["BACKEND_ENDPOINT"] = "http://127.0.0.1:9"
    for words in (["info", "x"], ["create", "x"], ["delete", "-y", "x"], ["shared"], ["accept", "x"]):
        assert run(*words).code == UNREACHABLE


def test_hosts(run: CommandLine) -> None:
    found = run.json("list-hosts")
    assert found["default"] == "local:volume1"
    (host,) = found["hosts"]
    assert set(host) == {"host", "is_default", "used", "total", "percentage"}
    assert host["is_default"]
    assert "local:volume1" in run.ok("vfolder", "list-hosts")


def test_info_counts(both: Embedded, run: CommandLine) -> None:
    name, ident = fresh(both)
    (both.folder_dir(ident) / "a").write_bytes(b"0123456789")
    row = run.json("info", name)
    assert set(row) == DESCRIBED | {"num_files", "used_bytes"}
    assert (row["name"], row["id"]) == (name, ident)
    assert row["used_bytes"] >= 10 and row["num_files"] >= 1
    shown = run.ok("vfolder", "info", name)
    assert ident in shown and "you (user)" in shown


@pytest.mark.parametrize(
    "words",
    [
        ["info", "{}"],
        ["rename", "{}", "b"],
        ["clone", "{}", "b"],
        ["options", "{}"],
        ["delete", "--yes", "{}"],
        ["leave", "{}"],
        ["share", "{}", "a@b.example"],
        ["unshare", "{}", "a@b.example"],
        ["invite", "{}", "a@b.example"],
        ["accept", "{}"],
        ["reject", "{}"],
        ["cancel", "{}"],
        ["shared", "{}"],
        ["permission", "{}", "a@b.example", "ro"],
    ],
    ids=lambda words: words[0],
)
def test_unknown_name_is_not_found_and_named(run: CommandLine, words: list[str]) -> None:
    said = run(*(word.format("no-such-thing") for word in words))
    assert said.code == NOT_FOUND
    assert "no-such-thing" in said.err
    assert said.err.count("\n") == 1


def test_rename(both: Embedded, run: CommandLine) -> None:
    (name, ident), other = fresh(both), new_name()
    row = run.json("rename", name, other)
    assert (row["name"], row["old_name"], row["id"]) == (other, name, ident)
    assert other in run.names() and name not in run.names()
    taken, _ = fresh(both)
    said = run("vfolder", "rename", other, taken)
    assert said.code == CONFLICT
    assert other in said.err and taken in said.err


def test_rename_of_somebody_elses_folder_is_denied(both: Embedded, as_user: As) -> None:
    name, _ = fresh(both)
    both.share_folder("owner", name, "friend")
    said = as_user("friend")("rename", name, new_name())
    assert said.code == DENIED
    assert name in said.err


def test_options_show_and_change(both: Embedded, run: CommandLine) -> None:
    name, _ = fresh(both)
    assert run.json("options", name)["cloneable"] is False
    row = run.json("options", name, "--cloneable", "-p", "ro")
    assert (row["cloneable"], row["permission"]) == (True, "ro")
    run.ok("vfolder", "update-options", name, "--set-cloneable", "no")
    row = run.json("options", name)
    assert (row["cloneable"], row["permission"]) == (False, "ro")


def test_options_of_somebody_elses_folder_are_denied(both: Embedded, as_user: As) -> None:
    name, _ = fresh(both)
    both.share_folder("owner", name, "friend")
    assert as_user("friend")("options", name, "--cloneable").code == DENIED
    assert as_user("owner").json("options", name)["cloneable"] is False


def test_commands_work_with_a_login_as_well(both: Embedded, as_user: As) -> None:
    owner, friend = as_user("owner"), as_user("friend")
    for run in (owner, friend):
        run.env["BACKEND_ENDPOINT_TYPE"] = "session"
    # One login at an endpoint is kept, that of who came last.
    assert owner("login").code == 0
    name, email = new_name(), both.env("friend")["BACKEND_USER"]
    assert owner.json("create", name, "--cloneable")["is_owner"]
    assert owner.json("clone", name, f"{name}-2")["outcome"] == "done"
    assert owner.json("invite", name, email)["invited"] == [email]
    assert friend("login").code == 0
    friend.ok("accept", name)
    assert name in friend.names()
    friend.ok("leave", name)
    assert owner("login").code == 0
    owner.ok("delete", "--yes", name)
    assert name not in owner.names()


# --- clone -------------------------------------------------------------------------------------


def test_clone_is_complete_when_the_command_returns(both: Embedded, run: CommandLine) -> None:
    name, copy = new_name(), new_name()
    ident = run.json("create", name, "--cloneable")["id"]
    for n in range(20):
        (both.folder_dir(ident) / f"f{n}").write_bytes(b"x" * n)
    row = run.json("clone", name, copy)
    assert set(row) == DESCRIBED | {"source", "outcome"}
    assert (row["name"], row["source"], row["outcome"]) == (copy, name, "done")
    assert {p.name for p in both.folder_dir(row["id"]).iterdir()} == {f"f{n}" for n in range(20)}
    listed = {row["name"]: row for row in run.json("list")}
    assert listed[name]["status"] == "ready"
    assert {key: row[key] for key in DESCRIBED} == listed[copy] and row["is_owner"]


def test_clone_without_the_event_stream_looks_at_the_folders(both: Embedded, run: CommandLine) -> None:
    name, copy = new_name(), new_name()
    run.ok("create", name, "--cloneable")
    both.faults({"rules": [{"action": "status", "path": "/events", "status": 503}]})
    assert run.json("vfolder", "clone", name, copy)["outcome"] == "done"
    assert copy in run.names()


def test_clone_that_hangs_is_given_up_and_says_so(both: Embedded, run: CommandLine) -> None:
    name, copy = new_name(), new_name()
    run.ok("create", name, "--cloneable")
    both.faults({"rules": [{"action": "stall", "path": "/events"}]})
    began = time.monotonic()
    said = run("clone", name, copy, "--timeout", "1")
    assert time.monotonic() - began < 30
    assert said.code == UNREACHABLE
    assert "has not said within 1 s" in said.err and name in said.err


def test_clone_that_fails_on_the_server_says_what_the_server_says(both: Embedded, run: CommandLine) -> None:
    name, copy = new_name(), new_name()
    ident = run.json("create", name, "--cloneable")["id"]
    both.folder_dir(ident).rmdir()
    said = run("clone", name, copy)
    assert said.code == FAILED
    assert f"cloning {name} to {copy}" in said.err and "No such file or directory" in said.err


def test_clone_of_what_is_not_cloneable_says_how(both: Embedded, run: CommandLine) -> None:
    name, _ = fresh(both)
    said = run("clone", name, new_name())
    assert said.code == DENIED
    assert f"vfsmount options {name} --cloneable" in said.err


def test_clone_to_a_taken_name_is_a_conflict(both: Embedded, run: CommandLine) -> None:
    name, (taken, _) = new_name(), fresh(both)
    run.ok("create", name, "--cloneable")
    said = run("clone", name, taken)
    assert said.code == CONFLICT
    assert taken in said.err


# --- the end -----------------------------------------------------------------------------------


def test_delete_without_terminal_and_yes_deletes_nothing(both: Embedded, run: CommandLine) -> None:
    name, ident = fresh(both)
    said = run("delete", name)
    assert said.code == USAGE
    assert "--yes" in said.err
    assert name in run.names()
    assert both.folder_dir(ident).is_dir()


@pytest.mark.parametrize("words", [["delete", "--yes"], ["vfolder", "delete", "-y"]])
def test_delete_says_whether_it_is_final(both: Embedded, run: CommandLine, words: list[str]) -> None:
    name, ident = fresh(both)
    row = run.json(*words, name)
    final = both.dialect == "23.09"
    assert row == {"name": name, "id": ident, "outcome": "deleted" if final else "trash"}
    assert name not in run.names()
    if final:
        eventually(lambda: not both.folder_dir(ident).exists())
    else:
        assert both.folder_dir(ident).is_dir()


def test_storage_chapter_line_deletes_on_a_terminal(both: Embedded, run: CommandLine) -> None:
    name, ident = fresh(both)
    said = run.on_terminal("delete", name, typed="n\n")
    assert said.code == FAILED
    assert f"Delete {name} with all it holds?" in said.err and "nothing was deleted" in said.err
    assert name in run.names() and both.folder_dir(ident).is_dir()
    said = run.on_terminal("delete", name, typed="y\n")
    assert said.code == 0, said.err
    final = both.dialect == "23.09"
    assert ("This is final" if final else "It goes to the trash") in said.err
    assert (f"{name} is deleted" if final else f"vfsmount trash restore {name}") in said.err
    assert name not in run.names()


def test_delete_of_somebody_elses_folder(both: Embedded, as_user: As) -> None:
    name, ident = fresh(both)
    both.share_folder("owner", name, "friend", "rw")
    if both.dialect == "23.09":
        said = as_user("friend")("delete", "--yes", name)
        assert said.code == DENIED
        assert "vfsmount leave" in said.err
    else:
        # That server lets them: whoever is asked is told whose it is.
        said = as_user("friend").on_terminal("delete", name, typed="n\n")
        assert said.code == FAILED
        assert "It belongs to" in said.err and "vfsmount leave" in said.err
    assert name in as_user("owner").names() and both.folder_dir(ident).is_dir()


def test_old_server_has_no_trash(
    old_server: Embedded,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run = CommandLine(old_server.env("owner"), monkeypatch, capsys, tmp_path)
    for words in (["list"], ["restore", "x"], ["purge", "-y", "x"]):
        said = run("trash", *words)
        assert said.code == FAILED
        assert "no trash" in said.err


@pytest.fixture
def new_run(
    new_server: Embedded,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> CommandLine:
    return CommandLine(new_server.env("owner"), monkeypatch, capsys, tmp_path)


def test_trash_is_listed_restored_and_purged(new_server: Embedded, new_run: CommandLine) -> None:
    name, ident = fresh(new_server)
    (new_server.folder_dir(ident) / "kept").write_text("x")
    new_run.ok("delete", "-y", name)
    (row,) = (row for row in new_run.json("trash", "list") if row["name"] == name)
    assert set(row) == DESCRIBED
    assert row["status"] == "delete-pending"
    assert new_run.json("trash", "restore", name)["status"] == "ready"
    assert name in new_run.names() and (new_server.folder_dir(ident) / "kept").exists()
    assert new_run("trash", "restore", name).code == NOT_FOUND

    new_run.ok("delete", "-y", name)
    said = new_run("trash", "purge", name)
    assert said.code == USAGE and "--yes" in said.err
    assert (new_server.folder_dir(ident) / "kept").exists()
    assert new_run.json("trash", "purge", "--yes", name) == [
        {"name": name, "id": ident, "outcome": "deleted"}
    ]
    assert not new_server.folder_dir(ident).exists()
    assert new_run.json("create", name)["id"] != ident  # its name is free again


def test_name_that_is_taken_in_the_trash_is_said_to_be_there(
    new_server: Embedded, new_run: CommandLine
) -> None:
    (trashed, _), (other, _) = fresh(new_server), fresh(new_server)
    new_run.ok("options", other, "--cloneable")
    new_run.ok("delete", "-y", trashed)
    for words in (["create", trashed], ["clone", other, trashed]):
        said = new_run(*words)
        assert said.code == CONFLICT
        assert f"vfsmount trash restore {trashed}" in said.err
        assert f"vfsmount trash purge {trashed}" in said.err
    said = new_run("create", other)
    assert said.code == CONFLICT and "trash" not in said.err
    said = new_run("info", trashed)
    assert said.code == NOT_FOUND
    assert "delete-pending" in said.err and "vfsmount list --all" in said.err
    assert trashed in new_run.ok("list", "--all")
    new_run.ok("trash", "purge", "-y", trashed)


def test_purge_of_all_asks_and_names_them(new_server: Embedded, new_run: CommandLine) -> None:
    names = sorted(fresh(new_server)[0] for _ in range(2))
    for name in names:
        new_run.ok("delete", "-y", name)
    said = new_run.on_terminal("trash", "purge", "--all", typed="y\n")
    assert said.code == 0, said.err
    assert all(name in said.err for name in names)
    assert new_run.json("trash", "list") == []
    assert new_run.json("trash", "purge", "--all") == []  # nothing to ask about


def test_purge_of_nothing_named_is_wrong_usage(new_run: CommandLine) -> None:
    assert new_run("trash", "purge").code == USAGE
    assert new_run("trash", "purge", "--all", "x").code == USAGE


def test_folder_outside_the_trash_is_not_purged(new_server: Embedded, new_run: CommandLine) -> None:
    name, ident = fresh(new_server)
    for which in (name, ident):
        said = new_run("trash", "purge", "--yes", which)
        assert said.code == NOT_FOUND
        assert which in said.err
    assert new_server.folder_dir(ident).is_dir()
