"""Every command that prints has --json, and its fields stand in docs/json.md."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.support.reference import leaves

JSON = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
CHAPTERS = {
    word for line in re.findall(r"^## (.*)$", JSON, re.MULTILINE) for word in re.findall(r"`([^`]+)`", line)
}
LEAVES = leaves()

# Commands with nothing to tell.
WITHOUT = {
    "mount": "says nothing; its exit status tells whether the mount answers, and `status --json` the rest",
    "refresh": "says nothing; it is done, or fails",
    "health": "says nothing on stdout; its exit status is the answer",
    "cat": "its output is the bytes of files",
    "run": "its output is that of the command it runs",
    "serve": "stays in the foreground; where it answers stands on its one line and in DIR/env",
    "completion": "its output is a script",
}


def has_json(command: click.Command) -> bool:
    return any("--json" in param.opts for param in command.params)


@pytest.mark.parametrize("path", LEAVES)
def test_command_has_json_and_its_fields_are_written_down(path: str) -> None:
    if path in WITHOUT:
        assert not has_json(LEAVES[path]), f"{path} has --json: take it from the list of those without"
        return
    assert has_json(LEAVES[path]), f"vfsmount {path} prints and has no --json"
    # `top --once` and the like: what --json goes with.
    chapters = {re.sub(r" --.*", "", chapter) for chapter in CHAPTERS}
    assert path in chapters or path.split()[0] in chapters, f"docs/json.md has no chapter for {path}"


def test_list_of_those_without_names_commands() -> None:
    assert set(WITHOUT) <= set(LEAVES)


def test_chapters_are_of_commands() -> None:
    known = set(LEAVES) | {path.split()[0] for path in LEAVES}
    assert {re.sub(r" --.*", "", chapter) for chapter in CHAPTERS} <= known
