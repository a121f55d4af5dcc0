"""What readers see of the blocks on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from vfsmount.core.blockindex import BlockIndex
from vfsmount.core.inodes import InodeTable
from vfsmount.errors import Stale
from vfsmount.store.blockcache import BlockCache
from vfsmount.values import Folder, Kind, Validator
from vfsmount.vfs.disktier import DiskTier


def test_who_asks_for_blocks_of_a_file_that_lost_its_name_never_waits(tmp_path: Path) -> None:
    inodes = InodeTable()
    folder = Folder("0" * 32, "data", "local:volume1", "ready", "wd", is_owner=True)
    top = inodes.add(inodes.root, b"data", Kind.DIRECTORY, folder=folder, mode=0o755)
    node = inodes.add(top, b"f", Kind.FILE, mode=0o644)
    node.opens, node.validator = 1, Validator(1, 100)
    inodes.unlink(node)
    cache = BlockCache(tmp_path / "blocks", 64 << 20, 0)
    disk = DiskTier(cache, "http://server", BlockIndex(64 << 20))

    async def ask() -> None:
        with trio.fail_after(60):
            await disk.look(node, 0, 100)

    for _ in range(2):
        with pytest.raises(Stale):
            trio.run(ask)
    cache.close()
