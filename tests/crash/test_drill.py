"""The crash drill in short; `python -m tests.crash.drill --kills 10000 --jobs 8` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
KILLS, JOBS = 500, 4


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_nothing_acknowledged_is_lost_at_any_kill(dialect: str) -> None:
    """At every change of the disk, at every request, and at random instants."""
    command = [sys.executable, "-m", "tests.crash.drill", "--dialect", dialect]
    command += ["--kills", str(KILLS), "--jobs", str(JOBS)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    match = re.search(r"(\d+) kills in .* 0 defects", done.stdout)
    assert match and int(match[1]) >= KILLS, done.stdout
