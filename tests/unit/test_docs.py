"""README and docs show what there is: every command, setting, exit status and marker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vfsmount.cli import COMMANDS, exit_codes
from vfsmount.config_sources import SETTINGS

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
CONFIGURATION = (CHECKOUT / "docs" / "configuration.md").read_text()
EXIT_CODES = (CHECKOUT / "docs" / "exit-codes.md").read_text()
TESTING = (CHECKOUT / "docs" / "testing.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_shows_the_command(command: str) -> None:
    # Mounting is mostly written without its name.
    shown = r"(mount\b|[~/$A-Z])" if command == "mount" else rf"{command}\b"
    assert re.search(rf"\bvfsmount {shown}", README), f"README.md does not show `vfsmount {command}`"


@pytest.mark.parametrize("script", ["setup", "demo", "test", "check"])
def test_readme_shows_the_script(script: str) -> None:
    assert f"scripts/{script}" in README


def test_links_between_our_pages_lead_somewhere() -> None:
    for page in (CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.key)
def test_configuration_page_shows_every_name_of_a_setting(setting) -> None:  # type: ignore[no-untyped-def]
    for name in (setting.name, setting.flag, setting.key):
        assert f"`{name}" in CONFIGURATION, f"docs/configuration.md does not show {name}"


def test_exit_status_page_has_one_line_for_each() -> None:
    documented = {int(n) for n in re.findall(r"^\| (\d+) \|", EXIT_CODES, re.MULTILINE)}
    known = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert documented == known | {130}


def test_testing_page_explains_every_marker() -> None:
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    for line in settings["tool"]["pytest"]["ini_options"]["markers"]:
        assert f"`{line.split(':')[0]}`" in TESTING


def test_every_sentence_of_the_semantics_has_a_test_that_exists() -> None:
    page = (CHECKOUT / "docs" / "semantics.md").read_text()
    rows = [
        line for line in page.splitlines() if line.startswith("|") and not line.startswith(("| what", "|---"))
    ]
    assert rows
    for row in rows:
        named = re.findall(r"((?:fuse|tests)/[\w/]+\.py)(?:::(\w+))?", row.rsplit("|", 2)[1])
        assert named, f"no test named: {row}"
        for file, test in named:
            path = CHECKOUT / (file if file.startswith("tests/") else f"tests/{file}")
            assert path.exists(), f"{path} does not exist"
            assert not test or f"def {test}(" in path.read_text(), f"{file} has no {test}"
