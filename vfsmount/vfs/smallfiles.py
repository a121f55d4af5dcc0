"""Small files that will be read next are fetched before somebody opens them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from cachetools import LRUCache

from vfsmount.api.governor import class_now
from vfsmount.core.blockindex import BLOCK_SIZE, BlockIndex, BlockKey
from vfsmount.core.governor import Class
from vfsmount.core.inodes import Node
from vfsmount.core.siblings import PROVEN, Siblings
from vfsmount.errors import VfsError
from vfsmount.values import Kind
from vfsmount.vfs.archives import Archives
from vfsmount.vfs.disktier import DiskTier
from vfsmount.vfs.ranges import Ranges

_log = logging.getLogger("vfsmount.vfs.smallfiles")

IN_FLIGHT = 32  # a real storage-proxy gives out some 300 files/s however many are asked for
MOST_BYTES = 16 << 20  # ahead of one reader
_DIRECTORIES = 64  # in which somebody reads


class SmallFiles:
    """Watches what is opened, and fetches what comes next."""

    def __init__(
        self,
        ranges: Ranges,
        blocks: BlockIndex,
        nursery: trio.Nursery,
        disk: DiskTier,
        archives: Archives,
        confirm: Callable[[Node], Awaitable[None]],
    ) -> None:
        """Args:
        disk: what is there is not fetched;
        archives: bring all files of a directory at once, where that is worth it;
        confirm: only asked about.
        """
        self._archives = archives
        self._disk = disk
        self._confirm = confirm
        self._ranges = ranges
        self._blocks = blocks
        self._nursery = nursery
        self._rows: LRUCache[int, Siblings] = LRUCache(_DIRECTORIES)
        self._wanted: deque[Node] = deque()
        self._later: LRUCache[int, list[Node]] = LRUCache(_DIRECTORIES)
        self._busy = 0

    def opened(self, node: Node) -> None:
        """A program is about to read a file."""
        directory = node.parent
        if directory is None or node.size > BLOCK_SIZE or class_now() is not Class.FOREGROUND:
            return
        row = self._rows.get(directory.serial)
        if row is None:
            row = self._rows[directory.serial] = Siblings()
        size = 0
        all_come = self._archives.is_coming(directory)
        names = row.read(node.name, lambda: _orders(directory), all_come=all_come)
        if row.row >= PROVEN:
            self._archives.read(node, row.row)
        if self._archives.is_coming(directory):
            self._put_off(directory)
            return
        self._wanted.extend(self._later.pop(directory.serial, ()))
        for name in names:
            sibling = directory.entries.get(name)
            if sibling is not None and self._is_worth_it(sibling):
                size += sibling.size
                if size > MOST_BYTES:
                    break
                self._wanted.append(sibling)
        self._go_on()

    def waited(self, node: Node, seconds: float) -> None:
        """A program waited for a file that was not here."""
        self._archives.waited(node, seconds)

    def _put_off(self, directory: Node) -> None:
        """What was not asked for yet is only if the archive does not bring it."""
        later = self._later.setdefault(directory.serial, [])
        later += [n for n in self._wanted if n.parent is directory]
        self._wanted = deque(n for n in self._wanted if n.parent is not directory)

    def _is_worth_it(self, node: Node) -> bool:
        return (
            node.kind is Kind.FILE
            and node.staged is None
            and not node.unlinked
            and 0 < node.size <= BLOCK_SIZE
            and BlockKey(node.serial, node.version, 0) not in self._blocks
            and self._ranges.covering(node, 0) is None
        )

    def _go_on(self) -> None:
        while self._wanted and self._busy < IN_FLIGHT:
            node = self._wanted.popleft()
            if self._is_worth_it(node) and self._blocks.has_room(node.size):
                self._busy += 1
                self._nursery.start_soon(self._fetch, node)

    async def _fetch(self, node: Node) -> None:
        try:
            # An error is told to whoever opens the file, and asks again.
            with suppress(VfsError):
                await self._disk.look(node, 0, node.size)
                if self._disk.has(node, 0):
                    await self._confirm(node)
                elif self._is_worth_it(node):  # still: somebody may have come for it meanwhile
                    await self._ranges.start(node, 0, node.size).over_with()
        except Exception:
            # A bug here must not end the mount.
            _log.exception("smallfiles.bug ino=%d", node.ino)
        finally:
            self._busy -= 1
            self._go_on()


def _orders(directory: Node) -> tuple[list[bytes], ...]:
    files = [n for n in directory.entries.values() if n.kind is Kind.FILE]
    by_number = sorted(files, key=lambda n: n.ino)
    return [n.name for n in files], sorted(n.name for n in files), [n.name for n in by_number]
