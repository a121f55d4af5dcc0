"""Times stay as programs saw them when what was written arrives on the server, and across a remount."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.fuse.conftest import Site
from tests.support.compare import settle
from tests.support.mounting import Mounted


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in sorted(os.listdir(folder))}


def test_written_files_keep_their_times_and_order(site: Site, folder: Path, tmp_path: Path) -> None:
    """make, rsync and git compare times they saw earlier; uploads end in another order."""
    with Mounted(tmp_path, site.env, "--dir-ttl", "0.3", "--attr-ttl", "0.3") as mounted:
        directory = mounted.path / folder.name
        for n, size in enumerate((3_000_000, 10, 500_000)):
            (directory / f"{n}").write_bytes(bytes(size))
            time.sleep(0.02)  # a file system's clock ticks every 4 ms
        before = times(directory)
        assert list(before.values()) == sorted(set(before.values()))
        settle(directory)
        assert times(directory) == before
        time.sleep(0.5)  # until the mount believes nothing it has seen
        assert times(directory) == before
        assert mounted.stop().returncode == 0
        mounted.start()
        assert times(directory) == before
