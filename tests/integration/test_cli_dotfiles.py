"""``vfsmount dotfile`` on both dialects."""

from __future__ import annotations

import io
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from vfsmount.cli import main

CONTENT = "[default]\r\nregion = kr\n\tünïcode \u2028 no newline at the end".encode()


class Command:
    """Runs ``vfsmount dotfile …`` as one user of one server."""

    def __init__(
        self, server: Embedded, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]
    ) -> None:
        self.server, self._patch, self._capture = server, patch, capture
        self.err = ""

    def __call__(self, *words: str, stdin: bytes = b"", status: int = 0, user: str = "owner") -> bytes:
        for name, value in self.server.env(user).items():
            self._patch.setenv(name, value)
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        found = main(["dotfile", *words])
        out, err = self._capture.readouterr()
        self.err = err.decode()
        assert found == status, self.err
        return out


@pytest.fixture
def dotfile(
    both: Embedded, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Command]:
    """The command on either server; what a test leaves is removed."""
    yield Command(both, monkeypatch, capsysbinary)
    for found in both.client("owner").ok("GET", "/user-config/dotfiles"):
        both.client("owner").ok("DELETE", "/user-config/dotfiles", params={"path": found["path"]})


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a Python script the editor; the file is its ``path``. Returns where temporary files go."""

    def set_editor(code: str) -> Path:
        script = tmp_path / "editor.py"
        script.write_text(f"import sys, os, pathlib\npath = pathlib.Path(sys.argv[1])\n{code}\n")
        monkeypatch.setenv("VISUAL", f"{sys.executable} -S {script}")
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        return temporary

    return set_editor


def test_bytes_come_back_as_they_went(dotfile: Command) -> None:
    dotfile("create", ".aws/config", stdin=CONTENT)
    assert dotfile("get", ".aws/config") == CONTENT
    (raw,) = dotfile.server.client("owner").ok("GET", "/user-config/dotfiles")
    assert raw == {"path": ".aws/config", "permission": "755", "data": CONTENT.decode()}


def test_from_a_file_with_permission_in_both_spellings(dotfile: Command, tmp_path: Path) -> None:
    (tmp_path / "rc").write_bytes(CONTENT)
    dotfile("create", ".arc", "--perm", "600", "-f", str(tmp_path / "rc"))
    dotfile("create", ".brc", "--permission", "644", "--file", str(tmp_path / "rc"))
    found = json.loads(dotfile("list", "--json"))
    size = len(CONTENT)
    assert found == [
        {"path": ".arc", "permission": "600", "size": size},
        {"path": ".brc", "permission": "644", "size": size},
    ]
    lines = dotfile("list").decode().splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[".arc", "600"], [".brc", "644"]]
    assert json.loads(dotfile("get", ".arc", "--json"))["data"] == CONTENT.decode()


def test_update_keeps_the_permission(dotfile: Command) -> None:
    dotfile("create", ".rc", "--perm", "600", stdin=b"one")
    dotfile("update", ".rc", stdin=b"two")
    assert json.loads(dotfile("get", ".rc", "--json")) == {
        "path": ".rc",
        "permission": "600",
        "size": 3,
        "data": "two",
    }
    dotfile("update", ".rc", "--perm", "640", stdin=b"three")
    assert json.loads(dotfile("list", "--json"))[0]["permission"] == "640"


def test_delete(dotfile: Command) -> None:
    dotfile("create", ".rc", stdin=b"one")
    dotfile("delete", ".rc", status=2)
    assert "--yes" in dotfile.err
    dotfile("delete", ".rc", "--yes")
    assert dotfile("list", "--json") == b"[]\n"


@pytest.mark.parametrize("answer", [True, False])
def test_delete_asks_on_a_terminal(dotfile: Command, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    dotfile("create", ".rc", stdin=b"one")
    asked = []

    def agree(question: str) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("vfsmount.cli.dotfile.look.may_go_on", agree)
    dotfile("delete", ".rc", status=0 if answer else 1)
    assert asked == ["Remove .rc? There is no way back"]
    assert (dotfile("list", "--json") == b"[]\n") is answer


@pytest.mark.parametrize("words", [["get"], ["update"], ["delete", "--yes"], ["edit"]])
def test_missing_one_is_not_found(dotfile: Command, words: list[str], editor: Callable[[str], Path]) -> None:
    editor("raise SystemExit('must not run')")
    dotfile(*words, ".nothere", stdin=b"x", status=7)
    assert ".nothere" in dotfile.err and "dotfile list" in dotfile.err


def test_taken_path_says_what_to_do(dotfile: Command) -> None:
    dotfile("create", ".rc", stdin=b"one")
    dotfile("create", ".rc", stdin=b"two", status=9)
    assert "vfsmount dotfile update" in dotfile.err
    assert dotfile("get", ".rc") == b"one"


def test_path_of_a_folder_is_refused(dotfile: Command) -> None:
    name = f".f{secrets.token_hex(3)}"
    dotfile.server.create_folder("owner", name)
    dotfile("create", name, stdin=b"one", status=9)
    assert "a folder" in dotfile.err


def test_reserved_and_unfit_are_refused_before_anything_is_sent(dotfile: Command) -> None:
    before = dotfile.server.count("POST", "/user-config/dotfiles")
    for words, stdin, status in [
        ([".ssh"], b"x", 1),
        (["/etc/x"], b"x", 1),
        ([".x", "--perm", "999"], b"x", 1),
        ([".x"], b"\xff\xfe", 1),
        ([".x"], b"x" * 65537, 10),
    ]:
        dotfile("create", *words, stdin=stdin, status=status)
    assert dotfile.server.count("POST", "/user-config/dotfiles") == before


def test_empty_one_is_explained_where_it_is_refused(dotfile: Command) -> None:
    if dotfile.server.dialect == "23.09":
        dotfile("create", ".e", status=1)
        assert "23.09" in dotfile.err
        dotfile("create", ".e", stdin=b"x")
        dotfile("update", ".e", status=1)
    else:
        dotfile("create", ".e")
        assert dotfile("get", ".e") == b""


def test_what_does_not_fit_beside_the_others_is_refused_by_us_as_by_the_server(dotfile: Command) -> None:
    dotfile("create", ".a", stdin=b"x" * 40_000)
    dotfile("create", ".b", stdin=b"x" * 30_000, status=10)
    assert "there is room for" in dotfile.err
    # To the byte: what our sum lets through, the server takes.
    room = int(dotfile.err.rpartition("room for ")[2].split()[0])
    overhead = len(b"\x83\xa4path\xa2.b\xa4perm\xa3755\xa4data\xda..")
    dotfile("create", ".b", stdin=b"x" * (room - overhead + 1), status=10)
    dotfile("create", ".b", stdin=b"x" * (room - overhead))


def test_project_and_domain(dotfile: Command) -> None:
    for scope in (["--group", "default"], ["-g", "default", "-d", "default"], ["--domain=default"]):
        dotfile("create", ".team", *scope, stdin=b"team", user="admin")
        assert dotfile("get", ".team", *scope) == b"team"
        assert json.loads(dotfile("list", *scope, "--json"))[0]["path"] == ".team"
        dotfile("update", ".team", *scope, stdin=b"other", status=8)
        dotfile("delete", ".team", *scope, "-f", user="admin")
    dotfile("create", ".team", "--domain=default", stdin=b"domain", user="admin")
    assert dotfile("get", ".team", "--domain") == b"domain"
    dotfile("get", ".team", status=7)
    dotfile("delete", ".team", "-f", "--domain", user="admin")
    dotfile("list", "--group", "nosuch", status=7)


def test_owner_is_for_administrators(dotfile: Command) -> None:
    key = dotfile.server.env("owner")["BACKEND_ACCESS_KEY"]
    dotfile("create", ".theirs", "--owner", key, stdin=b"x", user="admin")
    assert dotfile("get", ".theirs") == b"x"
    assert dotfile("get", ".theirs", "-o", key, user="admin") == b"x"
    dotfile("get", ".theirs", "-o", key, user="friend", status=8)
    dotfile("list", "-o", key, user="admin", status=1 if dotfile.server.dialect == "23.09" else 0)
    dotfile("list", "-o", key, "--domain", user="admin", status=2)


def test_edit_sends_what_changed(dotfile: Command, editor: Callable[[str], Path]) -> None:
    dotfile("create", ".config/app", "--perm", "600", stdin=CONTENT)
    temporary = editor(
        "assert path.name == 'app' and path.stat().st_mode & 0o777 == 0o600\n"
        "assert path.parent.stat().st_mode & 0o777 == 0o700\n"
        "pathlib.Path(str(path) + '~').write_bytes(path.read_bytes())\n"
        "path.write_bytes(path.read_bytes() + b'more')"
    )
    dotfile("edit", ".config/app")
    assert dotfile("get", ".config/app") == CONTENT + b"more"
    assert json.loads(dotfile("list", "--json"))[0]["permission"] == "600"
    assert not list(temporary.iterdir())


def test_edit_sends_nothing_where_nothing_changed(dotfile: Command, editor: Callable[[str], Path]) -> None:
    dotfile("create", ".rc", stdin=b"one")
    temporary = editor("path.read_bytes()")
    before = dotfile.server.count("PATCH", "/user-config/dotfiles")
    dotfile("edit", ".rc")
    assert "unchanged" in dotfile.err
    assert dotfile.server.count("PATCH", "/user-config/dotfiles") == before
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("change", ["update", "delete"])
def test_edit_never_overwrites_somebody_elses_change(
    dotfile: Command, editor: Callable[[str], Path], change: str, tmp_path: Path
) -> None:
    dotfile("create", ".rc", stdin=b"one")
    # Somebody else changes it while the editor is open.
    (tmp_path / "new").write_text("theirs")
    words = ["update", ".rc", "-f", str(tmp_path / "new")] if change == "update" else ["delete", ".rc", "-y"]
    command = [sys.executable, "-m", "vfsmount", "dotfile", *words]
    temporary = editor(f"import subprocess\nsubprocess.run({command!r}, check=True)\npath.write_text('ours')")
    dotfile("edit", ".rc", status=9)
    (kept,) = temporary.glob("*/.rc")
    assert kept.read_text() == "ours" and str(kept) in dotfile.err
    assert kept.stat().st_mode & 0o777 == 0o600
    if change == "update":
        assert dotfile("get", ".rc") == b"theirs"
    else:
        dotfile("get", ".rc", status=7)


def test_edited_nonsense_is_kept(dotfile: Command, editor: Callable[[str], Path]) -> None:
    dotfile("create", ".rc", stdin=b"one")
    temporary = editor("path.write_bytes(b'\\xff')")
    dotfile("edit", ".rc", status=1)
    (kept,) = temporary.glob("*/.rc")
    assert str(kept) in dotfile.err and "not UTF-8" in dotfile.err


def test_editor_that_fails_sends_nothing(dotfile: Command, editor: Callable[[str], Path]) -> None:
    dotfile("create", ".rc", stdin=b"one")
    temporary = editor("raise SystemExit(3)")
    dotfile("edit", ".rc", status=2)
    assert "status 3" in dotfile.err and not list(temporary.iterdir())
    assert dotfile("get", ".rc") == b"one"


def test_no_editor_is_said(dotfile: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    dotfile("edit", ".rc", status=2)
    assert "EDITOR" in dotfile.err
