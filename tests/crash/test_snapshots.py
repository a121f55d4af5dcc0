"""What a daemon has left at one instant is taken as its death would leave it, and goes on elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.vfs import serving, stall

DIALECTS = ["23.09", "26"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_fsync_of_a_file_that_was_read_before_keeps_all_of_it(
    dialect: str, tmp_path: Path, expect_warnings: object
) -> None:
    """Somebody replaces the file on the server after the daemon's death: ours is whole all the same."""
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        (disk / "a").write_bytes(b"x" * 9000)
        async with serving(server, tmp_path / "state", sync=False) as d:
            assert await d.read("data/a") == b"x" * 9000
            stall(server, "POST", "request-upload", times=None)
            fh = await d.open("data/a", os.O_RDWR)
            await d.fs.write(fh, 5000, b"new")
            await d.fs.fsync(fh)
            shutil.copytree(tmp_path / "state", tmp_path / "left")
        server.clear_faults()
        (disk / "other").write_bytes(b"theirs")
        (disk / "other").replace(disk / "a")
        async with serving(server, tmp_path / "left", sync=False) as d:
            assert await d.fs.drain() == []
        wanted = b"x" * 5000 + b"new" + b"x" * 3997
        assert sorted(p.read_bytes() for p in disk.iterdir() if p.is_file()) == [b"theirs", wanted]
