"""A `Filesystem` without a kernel, over the embedded server, spoken to in paths.

async with serving(server, tmp_path) as d:
    await d.write("folder/a.txt", b"content")
    assert await d.read("folder/a.txt") == b"content"
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.embedded import Embedded
from tests.support.live import settings_of
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.inodes import Node
from vfsmount.errors import Stale
from vfsmount.store.blockcache import BlockCache
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.values import ROOT_INO
from vfsmount.vfs.deadline import within
from vfsmount.vfs.filesystem import Filesystem
from vfsmount.vfs.handles import Attr, SetAttr
from vfsmount.vfs.policy import MountPolicy

PIECE = 128 << 10  # what a kernel asks for at a time


class Driver:
    """Plays the kernel: looks paths up name by name, and counts the references it took."""

    def __init__(self, fs: Filesystem, area: StagingArea) -> None:
        self.fs = fs
        self.area = area
        self.lookups: Counter[int] = Counter()
        self.dropped: list[int] = []  # inodes whose pages the kernel would have been told to drop

    def node(self, ino: int) -> Node:
        """The node behind a number, for what no call shows."""
        return self.fs._inodes.get(ino)

    async def stat(self, path: str) -> Attr:
        """lookup of every component; attributes of the last."""
        attr = await self.fs.getattr(ROOT_INO)
        for name in filter(None, path.split("/")):
            known = self.fs.get_known(attr.ino, os.fsencode(name))
            attr = await self.fs.lookup(attr.ino, os.fsencode(name))
            self.lookups[attr.ino] += 1
            if known is not None:
                assert known.ino == attr.ino
                self.lookups[attr.ino] += 1
        return attr

    async def parent(self, path: str) -> tuple[int, bytes]:
        """(inode of the directory, last name)."""
        directory, _, name = path.rpartition("/")
        return (await self.stat(directory)).ino, os.fsencode(name)

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A handle of an existing file; what was replaced since it was looked up is looked up again."""
        try:
            return (await self.fs.open((await self.stat(path)).ino, flags)).fh
        except Stale:
            return (await self.fs.open((await self.stat(path)).ino, flags)).fh

    async def create(self, path: str, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
        """A handle of a new (or, without O_EXCL, an existing) file."""
        parent, name = await self.parent(path)
        fh, attr = await self.fs.create(parent, name, mode, flags | os.O_CREAT)
        self.lookups[attr.ino] += 1
        return fh

    async def close(self, fh: int) -> None:
        """close(2): flush, then release whatever flush said."""
        try:
            await self.fs.flush(fh)
        finally:
            await self.fs.release(fh)

    async def read_all(self, fh: int, piece: int = PIECE) -> bytes:
        """Everything from the beginning of an open file."""
        parts: list[bytes] = []
        at = 0
        while part := await self.fs.read(fh, at, piece):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    async def read(self, path: str) -> bytes:
        """A whole file."""
        fh = await self.open(path)
        try:
            return await self.read_all(fh)
        finally:
            await self.fs.release(fh)

    async def write(self, path: str, data: bytes) -> None:
        """A whole file, as ``cat > path`` writes it; on the server when this returns, unless `sync=False`."""
        fh = await self.create(path, os.O_WRONLY | os.O_TRUNC)
        try:
            for at in range(0, len(data), PIECE):
                await self.fs.write(fh, at, data[at : at + PIECE])
        finally:
            await self.close(fh)

    async def look_again(self, path: str) -> None:
        """Have the next look at a directory ask the server, as after its time of belief."""
        dircache.expire(self.node((await self.stat(path)).ino))

    async def names(self, path: str) -> list[str]:
        """Names in a directory, sorted, without the dots."""
        fh = await self.fs.opendir((await self.stat(path)).ino)
        try:
            found = [os.fsdecode(name) for _, name, _ in await self.fs.readdir(fh, 0)]
        finally:
            self.fs.releasedir(fh)
        return sorted(n for n in found if n not in (".", ".."))

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        attr = await self.fs.mkdir(*await self.parent(path), mode)
        self.lookups[attr.ino] += 1

    async def rmdir(self, path: str) -> None:
        await self.fs.rmdir(*await self.parent(path))

    async def unlink(self, path: str) -> None:
        await self.fs.unlink(*await self.parent(path))

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        await self.fs.rename(*await self.parent(old), *await self.parent(new), flags)

    async def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""
        await self.fs.setattr((await self.stat(path)).ino, SetAttr(size=size))

    def forget_all(self) -> None:
        """What the kernel does with its references when memory is short."""
        for ino, count in self.lookups.items():
            self.fs.forget(ino, count)
        self.lookups.clear()

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """One request's time, as every handler has it."""
        with within(self.fs.policy.deadline_s):
            yield


@asynccontextmanager
async def serving(
    server: Embedded,
    state_dir: Path,
    *,
    user: str = "owner",
    read_timeout_s: float = 0.0,
    on_disk: bool = False,
    **policy: Any,
) -> AsyncIterator[Driver]:
    """A `Filesystem` of one user, served while the body runs.

    Args:
        on_disk: with a cache of blocks on disk.
        policy: fields of `MountPolicy`; `sync` unless told otherwise.
    """
    policy = {"sync": True, "retry_first_s": 0.1, "settle_s": 0.2, **policy}
    environment = server.env(user)
    if read_timeout_s:
        environment["BACKEND_READ_TIMEOUT"] = str(read_timeout_s)
    area = StagingArea(state_dir)
    records = Records(state_dir / "records.sqlite")
    dropped: list[int] = []
    cache = BlockCache(state_dir / "cache", 1 << 30, 0) if on_disk else None
    try:
        async with Client(settings_of(environment)) as client:
            await client.connect()
            async with trio.open_nursery() as nursery:
                fs = Filesystem(
                    client,
                    Transfers(client),
                    area,
                    records,
                    MountPolicy(**policy),
                    nursery,
                    dropped.append,
                    cache=cache,
                )
                await fs.warm()
                await fs.recover()
                driver = Driver(fs, area)
                driver.dropped = dropped
                yield driver
                nursery.cancel_scope.cancel()
            await fs.close()
    finally:
        if cache is not None:
            cache.close()
        records.close()
        area.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something has happened."""
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.005)


def stall(server: Embedded, method: str, path: str, times: int | None = 1) -> None:
    """Have the server keep the next such calls unanswered until `release`."""
    server.faults({"rules": [{"action": "stall", "method": method, "path": path, "times": times}]})


def release(server: Embedded) -> None:
    """Let the stalled calls go on."""
    server.faults({"release": True})
