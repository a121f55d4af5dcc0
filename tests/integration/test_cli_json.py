"""What --json prints has the fields of docs/json.md, of the commands that change or end something."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment
from tests.support.reference import leaves
from vfsmount.config_sources import SETTINGS

DOCS = Path(__file__).parents[2] / "docs"
STATUS = (DOCS / "status.md").read_text().split("## `vfsmount status --json`\n")[1].split("\n## ")[0]
PAGE = (DOCS / "json.md").read_text().replace("## `status`\n", f"## `status`\n{STATUS}")


class Commands:
    """Runs commands with --json, and compares what they print with the page."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = clean_environment(env)

    def __call__(self, *words: str, stdin: str = "", status: int = 0) -> Any:
        done = subprocess.run(
            [*VFSMOUNT, *words, "--json"],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stderr
        found = json.loads(done.stdout)
        name = words[0] if words[0] in leaves() else " ".join(words[:2])
        untold = fields(found) - documented(name) - {s.key for s in SETTINGS}
        assert not untold, f"docs/json.md does not tell of {untold}"
        return found


def fields(found: Any) -> set[str]:
    """Names of all members, also of objects in lists."""
    if isinstance(found, list):
        return set().union(*map(fields, found))
    return set(found).union(*map(fields, found.values())) if isinstance(found, dict) else set()


def documented(name: str) -> set[str]:
    """Names that the chapter of a command has, and those it refers to."""
    chapters = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    found: set[str] = set()
    for chapter in chapters:
        heading, _, text = chapter.partition("\n")
        if f"`{name}`" in heading:
            found |= set(re.findall(r"`(\w+)`", text))
            for other in re.findall(r"(?:as|of|as in|as of) `([\w ]+)`", text):
                if other != name and f"`{other}`" not in heading:
                    found |= documented(other)
    return found


@pytest.fixture
def run(both: Embedded, tmp_path: Path) -> Commands:
    own = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "xdg"), "EDITOR": "sh -c 'echo new >$0'"}
    return Commands({**both.env("owner"), **own})


def test_files(run: Commands, both: Embedded) -> None:
    name, ident = fresh(both)
    (both.folder_dir(ident) / "a").write_text("1")
    assert run("mkdir", name, "new", "deep/er", "-p")["made"] == [
        {"folder": name, "path": "new"},
        {"folder": name, "path": "deep/er"},
    ]
    assert run("mv", name, "a", "b") == {"moved": [{"folder": name, "from": "a", "path": "b"}], "failed": []}
    assert run("rename-file", name, "b", "c")["moved"] == [{"folder": name, "from": "b", "path": "c"}]
    found = run("rm", f"{name}:c", f"{name}:nothing", status=7)
    assert found["removed"] == [{"folder": name, "path": "c"}]
    assert [f["path"] for f in found["failed"]] == [f"{name}:nothing"]
    (failed,) = run("mkdir", name, "new", status=9)["failed"]
    assert failed["path"] == f"{name}:new" and failed["reason"]
    (failed,) = run("mv", name, "nothing", "x", status=7)["failed"]
    assert failed["path"] == f"{name}:nothing"


def test_dotfiles(run: Commands, both: Embedded) -> None:
    path = f".{fresh(both)[0]}"
    assert run("dotfile", "create", path, stdin="text\n") == {"path": path, "permission": "755", "size": 5}
    assert run("dotfile", "update", path, "--permission", "600", stdin="x") == {
        "path": path,
        "permission": "600",
        "size": 1,
    }
    assert run("dotfile", "edit", path) == {"path": path, "changed": True}
    assert run("dotfile", "edit", path) == {"path": path, "changed": False}
    assert run("dotfile", "delete", path, "-y") == {"path": path}


def test_logins(both: Embedded, run: Commands) -> None:
    run.env["BACKEND_ENDPOINT_TYPE"] = "session"
    env = both.env("owner")
    assert run("login") == {"endpoint": env["BACKEND_ENDPOINT"], "user": env["BACKEND_USER"]}
    assert run("logout")["logged_out"] is True
    assert run("logout")["logged_out"] is False


def test_cache_and_settings(run: Commands, tmp_path: Path) -> None:
    where = ("--cache-dir", str(tmp_path / "blocks"))
    assert run("cache", "info", *where)["exists"] is False
    assert run("cache", "clear", *where) == {"freed": 0}
    assert run("cache", "verify", *where) == {"checked": 0, "bad": 0}
    found = run("config", "show")
    assert found["settings"]["endpoint"]["value"] and found["problem"] is None


@pytest.fixture
def mounted(both: Embedded, run: Commands, tmp_path: Path) -> Iterator[tuple[Mounted, str, list[str]]]:
    """A mount, a folder on it, and the options that commands need to find it."""
    name, _ = fresh(both)
    (tmp_path / "m").mkdir()
    with Mounted(tmp_path / "m", both.env("owner"), "--drain-timeout", "1") as mount:
        yield mount, name, ["--state-dir", str(mount.state)]


@pytest.mark.fuse
def test_mounts(run: Commands, both: Embedded, mounted: tuple[Mounted, str, list[str]]) -> None:
    mount, name, where = mounted
    (mount.path / name / "a").write_text("1")
    assert run("wait", *where) == {"everything_sent": True, "unsent": []}
    assert run("status", *where)["everything_sent"] is True
    assert run("unpin", str(mount.path / name / "a"), *where)["files"] == 0
    assert run("log-level", "warning", *where) == {
        "mountpoint": str(mount.path),
        "level": "warning",
        "was": "debug",
    }
    assert run("log-level", "debug", *where)["was"] == "warning"
    # The storage-proxy goes away, and what is written then stays.
    both.faults({"rules": [{"action": "status", "half": "storage", "method": "PATCH", "times": None}]})
    (mount.path / name / "late").write_text("1")
    waited = run("wait", "--timeout", "1", str(mount.path / name / "late"), *where, status=6)
    assert waited["everything_sent"] is False and waited["unsent"][0]["reason"]
    assert run("queue", *where)["queue"][0]["name"] == f"{name}/late"
    assert run("status", *where, status=6)["everything_sent"] is False
    ended = run("umount", str(mount.path), "--timeout", "60", *where, status=6)
    (left,) = ended["unsent"]
    assert left["name"] == f"{name}/late" and os.path.exists(left["kept_at"])
