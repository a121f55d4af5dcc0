"""The commands about folders and sharing, on the real 23.09."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine
from tests.support.embedded import RawClient
from tests.support.live import live_environment
from vfsmount.cli.exit_codes import CONFLICT, DENIED, FAILED, NOT_FOUND, USAGE

pytestmark = pytest.mark.live

EMAIL = "user2@example.org"


@pytest.fixture
def name() -> Iterator[str]:
    """A name no other run uses; it and what is called after it are deleted at the end."""
    name = f"cli-{secrets.token_hex(4)}"
    yield name
    for user in ("owner", "friend", "admin"):
        client = RawClient(dict(live_environment(user)))
        for folder in client.ok("GET", "/folders"):
            if folder["name"].startswith(name) and folder["is_owner"]:
                client.ok("DELETE", f"/folders/{folder['name']}")
        client.close()


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    return CommandLine(live_environment("owner"), monkeypatch, capsys, tmp_path)


@pytest.fixture
def friend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    return CommandLine(live_environment("friend"), monkeypatch, capsys, tmp_path)


def test_life_of_a_folder(owner: CommandLine, name: str) -> None:
    (host,) = owner.json("list-hosts")["hosts"]
    created = owner.json("create", name, host["host"], "-m", "data", "--cloneable")
    assert (created["host"], created["usage_mode"], created["cloneable"]) == (host["host"], "data", True)
    assert name in owner.names()
    assert owner("create", name).code == CONFLICT
    info = owner.json("info", name)
    assert (info["id"], info["is_owner"], info["owner"]) == (created["id"], True, "user1@example.org")
    assert info["num_files"] is not None and info["used_bytes"] is not None

    renamed, copy = f"{name}-renamed", f"{name}-copy"
    assert owner.json("rename", name, renamed)["id"] == created["id"]
    cloned = owner.json("clone", renamed, copy, "--timeout", "60")
    assert cloned["outcome"] == "done"
    status = {row["name"]: row["status"] for row in owner.json("list", "--all")}
    assert (status[renamed], status[copy]) == ("ready", "ready")
    assert owner.json("options", renamed, "--no-cloneable", "-p", "ro")["cloneable"] is False
    assert owner("clone", renamed, f"{name}-more").code == DENIED
    assert owner("rename", renamed, copy).code == CONFLICT

    assert owner("delete", copy).code == USAGE  # no terminal here
    assert copy in owner.names()
    assert owner.json("delete", "--yes", copy)["outcome"] == "deleted"
    said = owner.on_terminal("delete", renamed, typed="y\n")
    assert said.code == 0 and "This is final" in said.err
    assert not [n for n in owner.names() if n.startswith(name)]
    assert owner("info", renamed).code == NOT_FOUND
    assert owner("trash", "list").code == FAILED


def test_life_of_a_share(owner: CommandLine, friend: CommandLine, name: str) -> None:
    owner.ok("create", name)
    assert owner.json("invite", "-p", "ro", name, EMAIL)["invited"] == [EMAIL]
    assert owner.json("invite", name, EMAIL)["waiting"] == {EMAIL: "ro"}
    assert owner("invite", name, "nobody@nowhere.example").code == NOT_FOUND
    (received,) = [i for i in friend.json("invitations")["received"] if i["folder"] == name]
    (sent,) = [i for i in owner.json("invitations", "sent")["sent"] if i["folder"] == name]
    assert received["id"] == sent["id"] and received["inviter"] == "user1@example.org"
    assert friend.json("reject", received["id"])["folder"] == name
    owner.ok("invite", "-p", "ro", name, EMAIL)
    assert owner.json("permission", name, EMAIL, "rw")["state"] == "invited"
    assert friend.json("accept", name)["name"] == name
    assert friend.json("options", name)["permission"] == "rw"
    assert owner("invite", name, EMAIL).code == CONFLICT

    assert owner.json("permission", name, EMAIL, "ro")["state"] == "accepted"
    assert friend.json("options", name)["permission"] == "ro"
    (row,) = owner.json("shared", name)
    assert (row["email"], row["permission"], row["state"]) == (EMAIL, "ro", "accepted")
    assert name not in {row["folder"] for row in friend.json("shared")}
    for words in (
        ["delete", "-y", name],
        ["rename", name, f"{name}-mine"],
        ["options", name, "--cloneable"],
        ["invite", name, "admin@example.org"],
        ["permission", name, EMAIL, "wd"],
    ):
        said = friend(*words)
        assert said.code == DENIED, (words, said.err)
    friend.ok("leave", name)
    assert name not in friend.names()

    owner.ok("invite", name, EMAIL)
    friend.ok("accept", name)
    assert owner.json("unshare", name, EMAIL)["unshared"] == [EMAIL]
    assert name not in friend.names()
    owner.ok("invite", name, EMAIL)
    owner.ok("cancel", name)
    assert name not in {i["folder"] for i in friend.json("invitations")["received"]}


def test_project_folders_are_the_administrators(
    owner: CommandLine,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    admin = CommandLine(live_environment("admin"), monkeypatch, capsys, tmp_path)
    assert owner("create", name, "-g", "default").code == DENIED
    assert admin.json("create", name, "-g", "default", "-p", "ro")["ownership"] == "group"
    assert name in owner.names()
    assert admin.json("share", "-p", "rw", name, "user1@example.org")["shared"] == ["user1@example.org"]
    assert owner.json("options", name)["permission"] == "rw"
    assert owner("share", name, EMAIL).code == DENIED
    assert [(r["email"], r["permission"]) for r in admin.json("shared", name)] == [
        ("user1@example.org", "rw")
    ]
    assert admin.json("unshare", name, "user1@example.org")["unshared"] == ["user1@example.org"]
    assert admin.json("shared", name) == []
