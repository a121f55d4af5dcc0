"""A mistyped command is told from a mountpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mounting import vfsmount
from vfsmount.cli import main
from vfsmount.cli.commands import COMMANDS
from vfsmount.cli.mistyped import alike

Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lst", "list"),
        ("sl", "ls"),
        ("unmount", "umount"),
        ("statsu", "status"),
        ("uplaod", "upload"),
        ("mr", "rm"),
    ],
)
def test_mistyped_command_is_named(word: str, meant: str) -> None:
    assert alike(word, COMMANDS)[0] == meant


@pytest.mark.parametrize("word", ["work", "backend", "xyzzy", "données", "a"])
def test_nothing_is_meant_by_a_word_like_no_command(word: str) -> None:
    assert alike(word, COMMANDS) == []


@pytest.mark.parametrize("words", [["ps"], ["work"], ["admin", "session", "list"], ["cp", "a", "b"]])
def test_command_that_we_do_not_have_makes_no_directory(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"no command {words[0]!r}" in said and f"./{words[0]}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["lst"], ["lst", "mydata1", "."], ["lst", "--json"]])
def test_mistyped_command_makes_no_directory(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "'lst'" in said and "Did you mean list" in said and "./lst" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["lst", "./lst", "new/lst", "./work"])
def test_directory_is_mounted_on(word: str, tmp_path: Path) -> None:
    if word == "lst":
        (tmp_path / "lst").mkdir()
    # As far as the settings, which are missing: it was understood as a mountpoint.
    done = vfsmount(word, "-f", env={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 2
    assert "BACKEND_ENDPOINT" in done.stderr


def test_mistyped_command_of_a_group_is_named(capsys: Capsys) -> None:
    for words in (["trash", "lst"], ["vfolder", "lst"], ["dotfile", "lst"]):
        assert main(words) == 2
        assert "No such command" in capsys.readouterr().err
