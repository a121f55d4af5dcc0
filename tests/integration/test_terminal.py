"""Colours and bars: on a terminal only, and as its user wants them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.mounting import VFSMOUNT, clean_environment
from tests.support.terminal import COLOUR, on_terminal

COLOURED = ["doctor"]  # has green and red signs


@pytest.fixture
def env(new_server: Embedded, tmp_path: Path) -> dict[str, str]:
    own = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    found = clean_environment({**new_server.env("owner"), **own})
    return {
        k: v for k, v in found.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_COMPATIBLE")
    }


def piped(env: dict[str, str], *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VFSMOUNT, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_colours_on_a_terminal_only(env: dict[str, str]) -> None:
    _, shown = on_terminal([*VFSMOUNT, *COLOURED], env)
    assert COLOUR.search(shown)
    done = piped(env, *COLOURED)
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("words", [COLOURED, ["list"], ["status"], ["list-hosts"]])
def test_no_color_is_honoured(env: dict[str, str], words: list[str]) -> None:
    _, shown = on_terminal([*VFSMOUNT, *words], {**env, "NO_COLOR": "1"})
    assert shown and not COLOUR.search(shown)


def test_empty_no_color_says_nothing(env: dict[str, str]) -> None:
    _, shown = on_terminal([*VFSMOUNT, *COLOURED], {**env, "NO_COLOR": ""})
    assert COLOUR.search(shown)


@pytest.mark.parametrize(
    "words", [["list"], ["list-hosts"], ["--help"], ["config", "show"], ["dotfile", "list"]]
)
def test_pipes_get_text_alone(env: dict[str, str], new_server: Embedded, words: list[str]) -> None:
    fresh(new_server)
    done = piped({**env, "FORCE_COLOR": "1"}, *words)
    assert done.returncode == 0 and done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_bar_shows_on_a_terminal_and_vanishes(
    env: dict[str, str], new_server: Embedded, tmp_path: Path, no_color: str
) -> None:
    name, _ = fresh(new_server)
    (tmp_path / "big").write_bytes(bytes(20 << 20))
    new_server.faults({"latency_ms": {"manager": 300}})
    command = [*VFSMOUNT, "upload", name, "big"]
    status, shown = on_terminal(command, {**env, "NO_COLOR": no_color}, cwd=tmp_path)
    assert status == 0, shown
    assert "files" in shown and "━" in shown, "no bar"
    assert bool(COLOUR.search(shown)) is not bool(no_color)
    last = shown.rstrip().rpartition("\n")[2]
    assert "1 file sent" in last and "━" not in last.rpartition("\r")[2]
    # Colours apart, what stands between two moves of the cursor is a piece of one line. Behind the last one
    # a terminal echoes ^C; on a line of its own that would leave a line of the bar behind.
    pieces = re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-ln-z]", re.sub(r"\x1b\[[0-9;]*m", "", shown))
    assert max(map(len, pieces)) <= 80 - len("^C")


def test_pipe_has_no_bar(env: dict[str, str], new_server: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(new_server)
    (tmp_path / "big").write_bytes(bytes(20 << 20))
    new_server.faults({"latency_ms": {"manager": 300}})
    done = piped({**env, "FORCE_COLOR": "1"}, "upload", name, "big", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 file sent (20.0 MiB)\n", "")
