"""The official 23.9.10 client and ours at one real server: each sees what the other has done."""

from __future__ import annotations

import os
import re
import secrets
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine
from tests.support.embedded import RawClient
from tests.support.live import live_environment
from tests.support.official import CannotInstall, Official, official_client

pytestmark = pytest.mark.live

OWNER, FRIEND = "user1@example.org", "user2@example.org"
TEXT = "export A='한글 é'\n\n\tno end of line"
Ours = Callable[[str], CommandLine]
Theirs = Callable[[str], Official]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        official_client()
    except CannotInstall as e:
        pytest.skip(str(e))


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ours:
    """Our client as a user."""
    return lambda user: CommandLine(live_environment(user), monkeypatch, capsys, tmp_path / "state")


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    """The official client as a user."""

    def client(user: str) -> Official:
        home = tmp_path / f"home-of-{user}"
        home.mkdir(exist_ok=True)
        return Official(live_environment(user), home)

    return client


@pytest.fixture
def raw() -> Iterator[RawClient]:
    """Bare calls of the owner."""
    client = RawClient(dict(live_environment("owner")))
    yield client
    client.close()


@pytest.fixture
def name(raw: RawClient) -> Iterator[str]:
    """A name no other run uses; what is called so, or begins so, is gone at the end."""
    name = f"inter-{secrets.token_hex(4)}"
    yield name
    for folder in raw.ok("GET", "/folders"):
        if folder["name"].startswith(name) and folder["is_owner"]:
            raw.ok("DELETE", f"/folders/{folder['name']}")


# --- folders -----------------------------------------------------------------------------------


def test_folders_of_the_official_client_are_ours(ours: Ours, theirs: Theirs, name: str) -> None:
    us, them = ours("owner"), theirs("owner")
    them("vfolder", "create", name, "local:volume1", "-m", "data", "-p", "ro", "--cloneable")
    info = us.json("info", name)
    assert (info["usage_mode"], info["permission"], info["cloneable"]) == ("data", "ro", True)
    them("vfolder", "update-options", name, "--set-cloneable", "no", "-p", "rw")
    row = us.json("options", name)
    assert (row["permission"], row["cloneable"]) == ("rw", False)
    them("vfolder", "rename", name, f"{name}-2")
    assert {f"{name}-2"} == {n for n in us.names() if n.startswith(name)}
    them("vfolder", "delete", f"{name}-2")
    assert not {n for n in us.names() if n.startswith(name)}


def test_our_folders_are_the_official_clients(ours: Ours, theirs: Theirs, name: str) -> None:
    us, them = ours("owner"), theirs("owner")
    ident = us.json("vfolder", "create", name, "local:volume1", "-m", "model")["id"]
    assert name in them.folders()
    info = them("vfolder", "info", name)
    assert ident in info and "Usage Mode: model" in info
    us.ok("rename", name, f"{name}-2")
    assert {f"{name}-2"} == {n for n in them.folders() if n.startswith(name)}
    us.ok("options", f"{name}-2", "--cloneable")
    assert "Clone Allowed: True" in them("vfolder", "info", f"{name}-2")
    us.ok("delete", "--yes", f"{name}-2")
    assert not {n for n in them.folders() if n.startswith(name)}


def test_same_hosts(ours: Ours, theirs: Theirs) -> None:
    found = ours("owner").json("list-hosts")
    said = theirs("owner")("vfolder", "list-hosts")
    assert f"Default vfolder host: {found['default']}" in said
    assert "Usable hosts: " + ", ".join(host["host"] for host in found["hosts"]) in said


# --- files -------------------------------------------------------------------------------------


def test_files_of_the_official_client_are_ours(
    ours: Ours, theirs: Theirs, raw: RawClient, name: str, tmp_path: Path
) -> None:
    us, them = ours("owner"), theirs("owner")
    us.ok("create", name)
    data = os.urandom(100_000)
    (them.home / "tree/sub").mkdir(parents=True)
    (them.home / "tree/sub/data.bin").write_bytes(data)
    them("vfolder", "upload", "-r", name, "tree")
    assert read(us, name, "tree/sub/data.bin") == data
    them("vfolder", "mv", name, "tree/sub/data.bin", "moved.bin")
    assert read(us, name, "moved.bin") == data
    assert listed(us, name, ".") == {"moved.bin", "tree"}
    them("vfolder", "rm", "-r", name, "tree", typed="y\n")
    assert listed(us, name, ".") == {"moved.bin"}


def test_our_files_are_the_official_clients(
    ours: Ours, theirs: Theirs, raw: RawClient, name: str, tmp_path: Path
) -> None:
    us, them = ours("owner"), theirs("owner")
    us.ok("create", name)
    data = os.urandom(100_000)
    write(us, name, tmp_path, "data.bin", data)
    write(us, name, tmp_path, "empty", b"")
    lines = them("vfolder", "ls", name).splitlines()
    sizes = {line.split()[0]: line.split()[1] for line in lines if line.split()[0] != ".upload"}
    assert (sizes["data.bin"], sizes["empty"]) == ("100000", "0")
    them("vfolder", "download", name, "data.bin")
    assert (them.home / "data.bin").read_bytes() == data


def read(us: CommandLine, folder: str, path: str) -> bytes:
    """A file as we read it."""
    return us.bytes("cat", folder, path)


def write(us: CommandLine, folder: str, work: Path, path: str, data: bytes) -> None:
    """Put a file into a folder's root, as we do it."""
    (work / path).write_bytes(data)
    us.ok("upload", folder, str(work / path))


def listed(us: CommandLine, folder: str, path: str) -> set[str]:
    """Names in a directory, without the server's own."""
    return {line.split()[-1] for line in us.ok("ls", folder, path).splitlines()} - {".upload"}


# --- invitations -------------------------------------------------------------------------------


def test_we_accept_what_the_official_client_offers(ours: Ours, theirs: Theirs, name: str) -> None:
    us, them = ours("friend"), theirs("owner")
    them("vfolder", "create", name, "local:volume1")
    assert FRIEND in them("vfolder", "invite", "-p", "ro", name, FRIEND)
    (invitation,) = [i for i in us.json("invitations")["received"] if i["folder"] == name]
    assert (invitation["inviter"], invitation["permission"]) == (OWNER, "ro")
    us.ok("accept", name)
    assert name in us.names()
    (row,) = ours("owner").json("shared", name)
    assert (row["email"], row["permission"]) == (FRIEND, "ro")
    theirs("friend")("vfolder", "leave", name)
    assert name not in us.names()


def test_the_official_client_accepts_what_we_offer(ours: Ours, theirs: Theirs, name: str) -> None:
    us, them = ours("owner"), theirs("friend")
    ident = us.json("create", name)["id"]
    us.ok("invite", "-p", "ro", name, FRIEND)
    answer(them, ident, "a")
    assert name not in {i["folder"] for i in us.json("invitations", "sent")["sent"]}
    assert name in them.folders("list-invited")
    us.ok("unshare", name, FRIEND)
    assert name not in them.folders("list-invited")


def test_the_official_client_rejects_what_we_offer(ours: Ours, theirs: Theirs, name: str) -> None:
    us, them = ours("owner"), theirs("friend")
    ident = us.json("create", name)["id"]
    us.ok("invite", name, FRIEND)
    answer(them, ident, "r")
    assert name not in {i["folder"] for i in us.json("invitations")["sent"]}
    us.ok("invite", name, FRIEND)
    us.ok("cancel", name)
    assert str(uuid.UUID(ident)) not in them("vfolder", "invitations", typed="x\n")


def answer(them: Official, folder_id: str, choice: str) -> None:
    """Answer an invitation in the official client's dialogue."""
    said = them("vfolder", "invitations", typed="x\n")
    (number,) = re.findall(rf"^\[(\d+)\] .*{uuid.UUID(folder_id)}", said, re.MULTILINE)
    them("vfolder", "invitations", typed=f"{number}\n{choice}\n")


# --- dotfiles ----------------------------------------------------------------------------------


@pytest.fixture
def dotfile(raw: RawClient) -> Iterator[str]:
    """A path no other run uses; gone at the end."""
    path = f".inter{secrets.token_hex(4)}"
    yield path
    raw.call("DELETE", f"/user-config/dotfiles?path={path}")


def test_dotfile_of_the_official_client_is_ours(
    ours: Ours, theirs: Theirs, raw: RawClient, dotfile: str
) -> None:
    us, them = ours("owner"), theirs("owner")
    (them.home / "source").write_text(TEXT)
    them("dotfile", "create", dotfile, "--perm", "640", "-f", "source")
    assert us.bytes("dotfile", "get", dotfile).decode() == TEXT
    (row,) = [row for row in us.json("dotfile", "list") if row["path"] == dotfile]
    assert row["permission"] == "640"
    them("dotfile", "delete", dotfile, typed="y\n")
    assert dotfile not in us.ok("dotfile", "list")


def test_our_dotfile_is_the_official_clients(
    ours: Ours, theirs: Theirs, raw: RawClient, dotfile: str, tmp_path: Path
) -> None:
    us, them = ours("owner"), theirs("owner")
    (tmp_path / "source").write_text(TEXT)
    us.ok("dotfile", "create", dotfile, "--permission", "640", "--file", str(tmp_path / "source"))
    assert dotfile in them("dotfile", "list")
    assert them("dotfile", "get", dotfile).rstrip("\n") == TEXT  # it prints a line's end of its own
