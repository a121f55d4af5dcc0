"""``vfsmount list`` on both dialects."""

from __future__ import annotations

import json

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from vfsmount.cli import main

Capsys = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, server: Embedded, capsys: Capsys, *arguments: str) -> str:
    for name, value in server.env("owner").items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["list"], ["vfolder", "list"]])
def test_new_folder_is_listed(
    both: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: Capsys, words: list[str]
) -> None:
    name, ident = fresh(both)
    line = next(x for x in run(monkeypatch, both, capsys, *words).splitlines() if x.startswith(name))
    assert line.split()[1:3] == ["local:volume1", "you"]
    found = json.loads(run(monkeypatch, both, capsys, *words, "--json"))
    (folder,) = [f for f in found if f["name"] == name]
    assert folder["id"] == ident and folder["is_owner"] and folder["status"] == "ready"
