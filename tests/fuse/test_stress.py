"""Eight processes do everything at random in one directory; afterwards all agree on what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.embedded import WORKLOAD, Embedded
from tests.support.mounting import Mounted, vfsmount
from tests.support.versions import check
from tests.support.workers import stacks_of

CHECKOUT = Path(__file__).parents[2]
PROCESSES = 8


def run_all(
    directory: Path, seconds: float, seed: int, daemon: int
) -> tuple[Counter[str], dict[str, object]]:
    """(operations done, merged model of all own names)"""
    command = [sys.executable, "-m", "tests.support.stress", directory, "--seconds", seconds, "--seed", seed]
    running = [
        subprocess.Popen(
            [*map(str, command), "--who", f"p{n}"],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    counts, model, failed = Counter[str](), dict[str, object](), list[str]()
    end = time.monotonic() + seconds + 90  # of which a deadline's 30 s may be one call's
    for process in running:
        try:
            out, err = process.communicate(timeout=max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            failed.append(f"a process hangs\n{stacks_of(process.pid)}\n{stacks_of(daemon)}")
            process.kill()
            continue
        if process.returncode:
            failed.append(err)
        else:
            said = json.loads(out)
            counts.update(said["counts"])
            model |= said["model"]
    assert not failed, "\n".join(failed)
    return counts, model


def tree(top: Path) -> dict[str, object]:
    """What stands under each name: text, byte for byte; None for a directory."""
    return {
        p.name: None if p.is_dir() else p.read_bytes().decode("latin-1")
        for p in top.iterdir()
        if p.name != ".upload"
    }


@pytest.mark.parametrize("seconds", [15, pytest.param(120, marks=pytest.mark.long)])
@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_mount_server_and_model_agree(dialect: str, seconds: int, tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect=dialect, **WORKLOAD) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "1", "--attr-ttl", "0.5") as mounted:
            top = mounted.path / "data"
            counts, model = run_all(top, seconds, seconds, mounted.pid)
            print(dialect, seconds, sum(counts.values()), dict(counts))
            done = vfsmount("wait", "--state-dir", mounted.state, env=server.env("owner"), timeout=300)
            assert (done.returncode, done.stderr) == (0, "")
            time.sleep(1.1)
            shown, there = tree(top), tree(disk)
            assert shown.keys() == there.keys()
            assert shown == there
            shared = {name: data for name, data in there.items() if name.startswith("shared-")}
            assert {name: data for name, data in there.items() if name not in shared} == model
            for data in shared.values():
                check(str(data).encode("latin-1"))
            (tmp_path / "anew").mkdir()
            with Mounted(tmp_path / "anew", server.env("owner")) as anew:
                assert tree(anew.path / "data") == there
        assert not mounted.warnings()
        assert list((mounted.state / "staging").iterdir()) == []
    assert os.listdir(mounted.path) == []
