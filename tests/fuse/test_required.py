"""What runs in CI cannot be skipped there without anybody noticing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REQUIRE_FUSE, REQUIRE_UNPRIVILEGED


@pytest.mark.parametrize("required", [True, False])
def test_row_that_cannot_run_fails_where_it_is_required(tmp_path: Path, required: bool) -> None:
    fusermount3 = shutil.which("fusermount3")
    assert fusermount3 is not None
    (tmp_path / "fusermount3").symlink_to(fusermount3)
    env = {**os.environ, "PATH": str(tmp_path), REQUIRE_FUSE: "1", REQUIRE_UNPRIVILEGED: str(int(required))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/fuse/test_podman.py"],
        env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == int(required), done.stdout
    assert ("podman is not installed" in done.stdout) or os.geteuid()
    assert ("this was skipped" in done.stdout) == required
