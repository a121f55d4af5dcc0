"""The commands about who else may use a folder, on both dialects."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import CommandLine
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from vfsmount.cli.exit_codes import CONFLICT, DENIED, FAILED, NOT_FOUND, USAGE

INVITATION = {
    "id",
    "folder",
    "folder_id",
    "inviter",
    "invitee",
    "permission",
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
def owner(as_user: As) -> CommandLine:
    return as_user("owner")


@pytest.fixture
def friend(as_user: As) -> CommandLine:
    return as_user("friend")


@pytest.fixture
def email(both: Embedded) -> str:
    return both.env("friend")["BACKEND_USER"]


def of(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Those about one folder."""
    return [row for row in rows if row["folder"] == name]


@pytest.mark.parametrize("words", [["invite"], ["vfolder", "invite"]])
def test_invitation_is_listed_by_both_and_accepted_by_name(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str, words: list[str]
) -> None:
    name, ident = fresh(both)
    assert owner.json(*words, "-p", "ro", name, email) == {
        "folder": name,
        "folder_id": ident,
        "permission": "ro",
        "invited": [email],
        "waiting": {},
        "unknown": [],
    }
    (sent,) = of(owner.json("invitations", "sent")["sent"], name)
    (received,) = of(friend.json("vfolder", "invitations")["received"], name)
    assert set(sent) == set(received) == INVITATION
    assert sent["invitee"] == email and received["inviter"] == both.env("owner")["BACKEND_USER"]
    assert sent["id"] == received["id"] and received["permission"] == "ro"
    assert sent["id"] in owner.ok("invitations") and sent["id"] in friend.ok("invitations", "received")

    row = friend.json("accept", name)
    assert set(row) == INVITATION | {"name"}
    assert row["name"] == name and name in friend.names()
    assert of(friend.json("invitations")["received"], name) == []
    assert friend("accept", name).code == NOT_FOUND


def test_accepting_what_one_has_a_namesake_of(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    name, _ = fresh(both)
    owner.ok("invite", name, email)
    both.create_folder("friend", name)
    said = friend("accept", name)
    assert said.code == CONFLICT
    assert f"vfsmount rename {name}" in said.err
    assert of(friend.json("invitations")["received"], name)


def test_rejected_and_cancelled_invitations_are_gone(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    name, _ = fresh(both)
    owner.ok("invite", name, email)
    (waiting,) = of(friend.json("invitations")["received"], name)
    assert friend.json("reject", waiting["id"])["folder"] == name
    assert of(owner.json("invitations")["sent"], name) == []

    owner.ok("invite", name, email)
    assert owner.json("cancel", name)["invitee"] == email
    assert of(friend.json("invitations")["received"], name) == []
    assert name not in friend.names()


def test_several_invitations_to_one_name_want_an_id(
    both: Embedded, owner: CommandLine, as_user: As, email: str
) -> None:
    name, _ = fresh(both)
    others = [email, both.env("admin")["BACKEND_USER"]]
    owner.ok("invite", name, *others)
    said = owner("cancel", name)
    assert said.code == CONFLICT
    ids = {row["id"]: row["invitee"] for row in of(owner.json("invitations")["sent"], name)}
    assert all(ident in said.err and who in said.err for ident, who in ids.items())
    assert owner.json("cancel", name, "--to", others[0])["invitee"] == others[0]
    (left,) = of(owner.json("invitations")["sent"], name)
    assert owner.json("cancel", left["id"])["invitee"] == others[1]


def test_who_is_passed_over_is_told(both: Embedded, owner: CommandLine, email: str) -> None:
    name, _ = fresh(both)
    nobody = "nobody@nowhere.example"
    owner.ok("invite", "-p", "ro", name, email)
    result = owner.json("invite", name, email)
    assert (result["invited"], result["waiting"], result["unknown"]) == ([], {email: "ro"}, [])
    said = owner("invite", name, both.env("owner")["BACKEND_USER"])
    assert said.code == NOT_FOUND
    assert "nobody has the address" in said.err
    said = owner("invite", name, email, nobody)
    if both.dialect == "23.09":
        assert said.code == NOT_FOUND
        assert f"nobody has the address {nobody}" in said.err
    else:  # keeps it until somebody has the address
        assert said.code == 0
        assert f"{nobody} is invited to {name}" in said.err


def test_who_has_it_already_is_not_invited(both: Embedded, owner: CommandLine, email: str) -> None:
    name, _ = fresh(both)
    both.share_folder("owner", name, "friend")
    said = owner("invite", name, email)
    assert said.code == CONFLICT
    assert name in said.err


def test_guest_invites_nobody(both: Embedded, friend: CommandLine) -> None:
    name, _ = fresh(both)
    both.share_folder("owner", name, "friend")
    said = friend("invite", name, both.env("admin")["BACKEND_USER"])
    assert said.code == DENIED
    assert name in said.err


def test_permission_changes_for_who_is_invited_and_for_who_has_it(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    name, ident = fresh(both)
    owner.ok("invite", "-p", "ro", name, email)
    changed = {"folder": name, "folder_id": ident, "email": email, "permission": "rw"}
    assert owner.json("permission", name, email, "rw") == changed | {"state": "invited"}
    friend.ok("accept", name)
    assert friend.json("options", name)["permission"] == "rw"
    assert owner.json("permission", name, email, "ro")["state"] == "accepted"
    assert friend.json("options", name)["permission"] == "ro"
    said = owner("permission", name, "nobody@nowhere.example", "ro")
    assert said.code == NOT_FOUND
    assert "nobody@nowhere.example" in said.err and name in said.err
    assert owner("permission", name, email, "all").code == USAGE


def test_guest_changes_nobodys_permission(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    # 23.09 lets anybody change any grant.
    name, _ = fresh(both)
    both.share_folder("owner", name, "friend", "ro")
    assert friend("permission", name, email, "rw").code == DENIED
    assert friend("unshare", name, email).code == DENIED
    (row,) = owner.json("shared", name)
    assert (row["email"], row["permission"]) == (email, "ro")


def test_shared_tells_of_ours_only_and_of_who_is_invited(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    name, ident = fresh(both)
    theirs, _ = fresh(both, "friend")
    both.share_folder("friend", theirs, "owner")
    both.share_folder("owner", name, "friend", "ro")
    admin = both.env("admin")["BACKEND_USER"]
    owner.ok("invite", name, admin)
    rows = [
        {"folder": name, "folder_id": ident, "email": admin, "permission": "rw", "state": "invited"},
        {"folder": name, "folder_id": ident, "email": email, "permission": "ro", "state": "accepted"},
    ]
    assert sorted(owner.json("shared", name), key=lambda row: str(row["state"])) == rows[::-1]
    everything = owner.json("shared")
    assert of(everything, name) and not of(everything, theirs)
    assert of(friend.json("shared"), theirs) and not of(friend.json("shared"), name)
    assert email in owner.ok("shared", name)


def test_unshare_takes_a_users_folder_back(
    both: Embedded, owner: CommandLine, friend: CommandLine, email: str
) -> None:
    name, ident = fresh(both)
    both.share_folder("owner", name, "friend")
    assert owner.json("unshare", name, email) == {"folder": name, "folder_id": ident, "unshared": [email]}
    assert name not in friend.names()
    said = owner("vfolder", "unshare", name, email)
    assert said.code == NOT_FOUND
    assert email in said.err


@pytest.mark.parametrize("words", [["leave"], ["vfolder", "leave"]])
def test_leave(both: Embedded, owner: CommandLine, friend: CommandLine, words: list[str]) -> None:
    name, ident = fresh(both)
    both.share_folder("owner", name, "friend")
    assert friend.json(*words, name)["id"] == ident
    assert name not in friend.names() and name in owner.names()
    said = owner(*words, name)
    assert said.code == FAILED
    assert f"vfsmount delete {name}" in said.err
    assert name in owner.names()


def test_shares_of_a_project_folder(both: Embedded, as_user: As, email: str) -> None:
    admin, owner = as_user("admin"), as_user("owner")
    name = f"p{fresh(both)[0]}"
    with sqlite3.connect(both.data / "server.sqlite") as db:
        (project,) = db.execute("SELECT id FROM projects").fetchone()
    ident = admin.json("create", "--group", project, name)["id"]
    result = {"folder": name, "folder_id": ident, "permission": "ro", "shared": [email]}
    assert admin.json("share", "-p", "ro", name, email) == result
    assert admin.json("permission", name, email, "rw")["state"] == "accepted"
    assert [(row["email"], row["permission"]) for row in admin.json("shared", name)] == [(email, "rw")]
    assert owner("share", name, email).code == DENIED
    assert admin.json("vfolder", "unshare", name, email)["unshared"] == [email]
    assert admin.json("shared", name) == []
    for words in (["invite", name, email], ["leave", name]):
        said = admin(*words)
        assert said.code == FAILED
        assert "project" in said.err


def test_share_of_a_users_folder_says_invite(both: Embedded, owner: CommandLine, email: str) -> None:
    name, _ = fresh(both)
    said = owner("share", name, email)
    assert said.code == FAILED
    assert f"vfsmount invite {name}" in said.err
