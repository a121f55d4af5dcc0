"""The command reference is made from the commands, and is up to date."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.support.reference import leaves
from vfsmount.cli import app, exit_codes
from vfsmount.cli.commands import COMMANDS
from vfsmount.cli.reference.__main__ import CHECKOUT, COMMAND, files
from vfsmount.cli.reference.gather import environment
from vfsmount.config_sources import SETTINGS

MADE = files()
MAN = CHECKOUT / "docs/man/vfsmount.1"
PAGE = CHECKOUT / "docs/commands.md"


@pytest.mark.parametrize("path", MADE, ids=lambda p: p.name)
def test_what_is_made_from_the_commands_is_up_to_date(path: Path) -> None:
    there = path.read_text() if path.exists() else ""
    assert there == MADE[path], f"{path.relative_to(CHECKOUT)} is out of date: run {COMMAND}"


@pytest.mark.parametrize("command", leaves())
def test_page_has_the_command_with_its_options(command: str) -> None:
    chapter = PAGE.read_text().split(f"### `{command}`\n", 1)[1].split("\n##", 1)[0]
    for param in leaves()[command].params:
        if isinstance(param, click.Option) and not param.hidden and f"--{param.name}" not in chapter:
            assert param.opts[-1] in chapter or "which server](" in chapter, param.name


def test_man_page_has_every_exit_status_and_variable() -> None:
    text = MAN.read_text().replace("\\-", "-")
    statuses = text.split(".SH EXIT STATUS")[1].split(".SH")[0]
    known = {str(v) for name, v in vars(exit_codes).items() if name.isupper() and isinstance(v, int)}
    assert set(re.findall(r"^\\fB(\d+)\\fR$", statuses, re.MULTILINE)) == known
    variables = text.split(".SH ENVIRONMENT")[1].split(".SH")[0]
    for name in {s.name for s in SETTINGS} | {name for name, _ in environment()}:
        assert name in variables


@pytest.mark.parametrize(
    "command",
    [["man", "--warnings", "-l", str(MAN)], ["groff", "-ww", "-man", "-Tutf8", "-z", str(MAN)]],
    ids=["man", "groff"],
)
def test_man_page_renders_without_a_warning(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 and "No manual entry" in done.stderr:
        pytest.skip("man has no formatter here")
    assert (done.returncode, done.stderr) == (0, "")
    if command[0] == "man":
        assert "EXIT STATUS" in done.stdout and "vfsmount mount [OPTIONS] MOUNTPOINT" in done.stdout
        assert "NAME:PATH…" in done.stdout, "characters beyond ASCII"


def test_help_fits_80_columns_and_has_one_line_for_each_command() -> None:
    context = click.Context(app, info_name="vfsmount", terminal_width=80, max_content_width=80)
    text = app.get_help(context)
    assert max(map(len, text.splitlines())) <= 80
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE), (
            f"the line of {name} is too long"
        )
