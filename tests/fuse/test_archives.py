"""Directories of small files that are copied out of a mount: by one archive where the server has them."""

from __future__ import annotations

import filecmp
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.link import Link
from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

pytestmark = pytest.mark.fuse

FILES, SIZE = 300, 4096
TRIES = 3  # whether it is worth asking for an archive is told by how fast files are opened


def plant(server: Embedded) -> Path:
    """Small files that were not changed for an hour, and do not compress."""
    top = server.folder_dir(server.create_folder("owner", "data")) / "many"
    top.mkdir()
    old = time.time() - 3600
    for n in range(FILES):
        (top / f"f{n:03}").write_bytes(os.urandom(SIZE))
        os.utime(top / f"f{n:03}", (old, old))
    return top


def copied(mounted: Mounted, disk: Path, target: Path) -> float:
    """Seconds that `cp -r` takes; what it makes is right."""
    os.listdir(mounted.path / "data")
    began = time.monotonic()
    subprocess.run(["cp", "-r", mounted.path / "data/many", target], check=True)
    took_s = time.monotonic() - began
    names = os.listdir(disk)
    same, _, _ = filecmp.cmpfiles(disk, target, names, shallow=False)
    assert len(same) == len(names) == FILES
    return took_s


def archives(mounted: Mounted) -> list[str]:
    """What became of each archive."""
    words = mounted.log.read_text().split()
    return [w for w in words if w.startswith("archive.")]


def test_copy_takes_one_archive_and_no_byte_more_than_twice(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect="26") as server:
        disk = plant(server)
        url, _ = server.client("owner").grant("data", ".")
        storage = urlsplit(url).netloc
        with Link(storage, rtt_ms=20, mbit=1000) as link:
            here = f"http://{storage}=http://127.0.0.1:{link.ports[storage]}"
            env = {**server.env("owner"), "BACKEND_OVERRIDE_STORAGE_PROXY": here}
            for n in range(TRIES):
                (way := tmp_path / f"{n}").mkdir()
                with Mounted(way, env) as mounted:
                    server.reset_calls()
                    before = link.down(storage)
                    copied(mounted, disk, way / "copy")
                    became = archives(mounted)
                    assert not mounted.warnings()
                if became == ["archive.asked", "archive.taken"]:
                    break
            assert became == ["archive.asked", "archive.taken"]
            assert server.count("GET", "/download") < FILES / 3
            assert link.down(storage) - before < 2 * FILES * SIZE


def test_old_server_is_never_asked_for_an_archive(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect="23.09") as server:
        disk = plant(server)
        server.faults({"latency_ms": {"storage": 30}})
        with Mounted(tmp_path, server.env("owner")) as mounted:
            copied(mounted, disk, tmp_path / "copy")
            assert archives(mounted) == []


@pytest.mark.parametrize("fate", ["cut", "hang"])
def test_copy_ends_in_time_where_the_archive_does_not(tmp_path: Path, fate: str) -> None:
    with Embedded(tmp_path / "data", dialect="26") as server:
        disk = plant(server)
        server.faults({"switches": {"archive": fate}, "latency_ms": {"storage": 30}})
        for n in range(TRIES):
            (way := tmp_path / f"{n}").mkdir()
            with Mounted(way, server.env("owner")) as mounted:
                assert copied(mounted, disk, way / "copy") < 25
                became = archives(mounted)
                assert "archive.taken" not in became and not mounted.warnings()
            if became:
                break
        assert became[:1] == ["archive.asked"]
        server.clear_faults()
