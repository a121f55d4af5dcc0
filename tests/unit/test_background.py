"""Going to the background: the parent's exit status is the work's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vfsmount.cli.exit_codes import AUTH, FAILED, OK, UNSENT

PROGRAM = """
import os, sys, time
from pathlib import Path
from vfsmount.cli.background import run_in_background
from vfsmount.errors import AuthFailed

def work(ready):
    {body}

sys.exit(run_in_background(work))
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body=body)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("ready(); return 0", OK, ""),
        ("ready(); return 6", OK, ""),  # what comes later is not the start's
        ("raise AuthFailed('the key is not accepted')", AUTH, "vfsmount: the key is not accepted"),
        ("return 6", UNSENT, "ended before it was ready"),
        ("os._exit(9)", FAILED, "died before it was ready"),
        ("sys.exit(3)", FAILED, "SystemExit"),
        ("1 / 0", FAILED, "ZeroDivisionError"),
    ],
)
def test_exit_status_and_sentence(body: str, status: int, said: str) -> None:
    done = run(body)
    assert done.returncode == status
    assert said in done.stderr if said else done.stderr == ""
    assert "Traceback" not in done.stderr or "ZeroDivision" in done.stderr or "SystemExit" in done.stderr


def test_child_lives_on_detached_from_the_terminal(tmp_path: Path) -> None:
    out = tmp_path / "out"
    body = (
        "ready(); "
        f"Path({str(out)!r} + '.new').write_text(f'{{os.getcwd()}} {{os.getpid() == os.getsid(0)}} '"
        " + str([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)])); "
        f"os.rename({str(out)!r} + '.new', {str(out)!r}); return 0"
    )
    assert run(body).returncode == OK
    deadline = time.monotonic() + 20
    while not out.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert out.read_text() == f"/ True {[os.devnull] * 3}"
