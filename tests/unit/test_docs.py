"""README and docs show what there is: every command, setting, exit status and marker."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from vfsmount.cli import COMMANDS, exit_codes
from vfsmount.cli.doctor import server_checks
from vfsmount.config_sources import SETTINGS
from vfsmount.vfs import control

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
CONFIGURATION = (CHECKOUT / "docs" / "configuration.md").read_text()
EXIT_CODES = (CHECKOUT / "docs" / "exit-codes.md").read_text()
CONTROL = (CHECKOUT / "docs" / "control.md").read_text()
DOCTOR = (CHECKOUT / "docs" / "doctor.md").read_text()
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


def requests_of_the_control_socket() -> list[str]:
    """The names that `vfs.control` answers to."""
    tree = ast.parse((CHECKOUT / "vfsmount" / "vfs" / "control.py").read_text())
    (match,) = [
        n for n in ast.walk(tree) if isinstance(n, ast.Match) and ast.unparse(n.subject) == "request.op"
    ]
    patterns = [case.pattern for case in match.cases if isinstance(case.pattern, ast.MatchValue)]
    return [str(ast.literal_eval(pattern.value)) for pattern in patterns]


def test_there_are_requests() -> None:
    assert {"hello", "status", "wait"} < set(requests_of_the_control_socket())


@pytest.mark.parametrize("op", requests_of_the_control_socket())
def test_control_page_has_every_request(op: str) -> None:
    assert f"## `{op}`\n" in CONTROL and f'{{"op": "{op}"' in CONTROL


def test_control_page_has_the_protocols_number_and_limits() -> None:
    assert f"`protocol` is {control.PROTOCOL}." in CONTROL
    assert f"more than {control.MAX_CLIENTS} clients" in CONTROL
    assert f"at most {control.MAX_LISTED}" in CONTROL and control.MAX_REQUEST == 1 << 20


def causes_of_doctor() -> set[str]:
    """What the two modules of checks call what they find."""
    found: set[str] = set()
    for module in ("machine_checks", "server_checks", "command"):
        tree = ast.parse((CHECKOUT / "vfsmount" / "cli" / "doctor" / f"{module}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("bad", "warn"):
                found |= {c.value for c in ast.walk(node.args[1]) if isinstance(c, ast.Constant)}
    found |= {entry[0] for entry in server_checks._FAILURES.values()}
    endings = {cause for cause in found if str(cause).startswith("-")}
    places = ("state-dir", "cache-dir", "runtime-dir")
    whole = {f"{place}{ending}" for place in places for ending in endings}
    return {str(c) for c in found - endings | whole}


def test_doctor_page_has_every_cause_and_no_other() -> None:
    first_cells = (line.split("|")[1] for line in DOCTOR.splitlines() if line.startswith("| `"))
    assert {cause for cell in first_cells for cause in re.findall(r"`([\w-]+)`", cell)} == causes_of_doctor()


def semantics_rows() -> list[str]:
    lines = (CHECKOUT / "docs" / "semantics.md").read_text().splitlines()
    return [line for line in lines if line.startswith("|") and not line.startswith(("| what", "|---"))]


def names_of_tests(file: Path) -> set[str]:
    """Names of the test functions in a module, as pytest would collect them."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, functions)}
    return {name for name in found if name.startswith("test_")}


def test_semantics_page_is_tables_of_sentences() -> None:
    assert len(semantics_rows()) > 80


@pytest.mark.parametrize("row", semantics_rows())
def test_every_sentence_of_the_semantics_has_a_test_that_exists(row: str) -> None:
    _, sentence, ids, rest = row.split("|")
    assert sentence.strip() and not rest.strip()
    for named in ids.split(","):
        parts = re.fullmatch(r"((?:fuse|tests)/[\w/]+\.py)(?:::(\w+))?", named.strip())
        assert parts, f"not the id of a test: {named}"
        file, test = parts[1], parts[2]
        path = CHECKOUT / (file if file.startswith("tests/") else f"tests/{file}")
        assert path.exists(), f"{file} does not exist"
        if path.name.endswith("_model.py") and not test:
            continue  # a state machine: its one test has no name of its own
        there = names_of_tests(path)
        assert test in there if test else there, f"{file} has no {test or 'test'}"
