"""The units for systemd say what we mean, as far as systemd itself can tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SERVICES = sorted(UNITS.glob("*/*.service"))
VFSMOUNT = Path(sys.executable).parent / "vfsmount"
# Each gives a service a mount namespace of its own, or keeps fusermount3 from being root.
HARMFUL = (
    "Private",
    "Protect",
    "ReadWrite",
    "ReadOnly",
    "Inaccessible",
    "TemporaryFile",
    "Bind",
    "MountFlags",
)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "unit", sorted(UNITS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    for path in unit.parent.iterdir():
        # It looks for the program, which is not installed here.
        text = path.read_text().replace("/usr/bin/vfsmount", str(VFSMOUNT))
        (tmp_path / path.name.replace("@.", "@srv-vfolders.")).write_text(text)
    side = ["--user"] if unit.parent.name == "user" else []
    done = subprocess.run(
        ["systemd-analyze", *side, "verify", tmp_path / unit.name.replace("@.", "@srv-vfolders.")],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_mount_of_a_service_is_seen_by_others(unit: Path) -> None:
    settings = [line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    assert not [line for line in settings if line.startswith((*HARMFUL, "NoNewPrivileges"))]
    assert "Type=notify" in settings and any(line.startswith("WatchdogSec=") for line in settings)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_daemon_that_is_out_of_memory_does_not_take_its_holder_along(unit: Path) -> None:
    assert {"OOMPolicy=continue", "LimitCORE=0"} <= set(unit.read_text().splitlines())


def test_automount_and_mount_are_of_one_directory() -> None:
    found = {
        line
        for path in (UNITS / "examples").iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("Where=")
    }
    assert found == {"Where=/srv/vfolders"}
