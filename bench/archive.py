"""A directory of small files, by a GET for each against one archive stream of a 26.x server.

    .venv/bin/python bench/archive.py [--links 0.5ms,20ms,80ms] [--files 990] [--size 4096] [--rounds 3]

Four ways, by turns, each with a client or a mount that knows nothing:

    gets        the listing, then all files by our own client, 32 in flight
    archive     the listing, one archive of the directory, unpacked, and the listing again: what has to be
                known before its bytes may be shown (docs/decisions/0015-reads.md)
    mount-gets  `cp -r` of a cold mount, of a server that breaks its first archive off
    mount       `cp -r` of a cold mount

Prints a JSON line for each link (medians, and what each round found) and a table at the end. The embedded
server answers single GETs some eight times as fast as a real one, which gives out about 280 files a second
by GETs and 1150 by an archive.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio
from rich.console import Console
from rich.table import Table

from bench.place import KINDS, Mount, Server, Way, opened, write_noise
from tests.support.vfs import settings_of
from vfsmount.api.archive import Unzipper
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.values import Folder

IN_FLIGHT = 32
DIRECTORY = "small"
now = time.monotonic


class Small(Server):
    """A 26.x server with nothing but one directory of small files."""

    def __init__(self, work: Path, files: int, size: int) -> None:
        self.files, self.size = files, size
        super().__init__("embedded", work, "26")

    def _plant(self) -> None:
        (self.disk / DIRECTORY).mkdir()
        old = time.time() - 60  # long before anybody asks for them
        for n in range(self.files):
            path = self.disk / DIRECTORY / f"f{n:05d}"
            write_noise(path, self.size)
            os.utime(path, (old, old))

    @contextmanager
    def without_archives(self) -> Iterator[None]:
        """Archives break off inside the block, and are not asked for again."""
        assert self._embedded
        self._embedded.faults({"switches": {"archive": "cut"}})
        try:
            yield
        finally:
            self._embedded.clear_faults()


Work = Callable[[Client, Transfers, Folder], Awaitable[None]]


async def timed(way: Way, work: Work) -> float:
    """Seconds that some work took, with a client that has just been made."""
    async with Client(settings_of(way.env)) as client:
        await client.connect()
        (folder,) = [f for f in await client.list_folders() if f.name == way.server.folder]
        began = now()
        await work(client, Transfers(client), folder)
        return now() - began


async def by_gets(client: Client, transfers: Transfers, folder: Folder) -> None:
    """The listing, and each file."""
    listing = await client.list_files(folder, DIRECTORY)
    todo = iter(listing.entries)

    async def worker() -> None:
        for entry in todo:
            path = f"{DIRECTORY}/{os.fsdecode(entry.name)}"
            reply = await transfers.read_range(folder, path, 0, entry.size)
            assert len(reply.data) == entry.size

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(worker)


async def by_archive(client: Client, transfers: Transfers, folder: Folder) -> None:
    """The listing, the archive, the listing."""
    before = await client.list_files(folder, DIRECTORY)
    sizes = {e.name: e.size for e in before.entries}
    unzipper = Unzipper(sizes, 2 * sum(sizes.values()) + 1024 * len(sizes))
    await transfers.read_archive(folder, DIRECTORY, unzipper.feed, 10)
    unzipper.end()
    assert {name: len(data) for name, data in unzipper.files.items()} == sizes
    after = await client.list_files(folder, DIRECTORY)
    assert after.entries == before.entries


def gets(way: Way, _work: Path) -> float:
    return trio.run(timed, way, by_gets)


def archive(way: Way, _work: Path) -> float:
    return trio.run(timed, way, by_archive)


def mount(way: Way, work: Path) -> float:
    with Mount(work, way) as mounted, tempfile.TemporaryDirectory(dir=work) as target:
        began = now()
        subprocess.run(["cp", "-r", mounted.folder / DIRECTORY, target], check=True)
        took = now() - began
        command = ["diff", "-r", way.server.disk / DIRECTORY, f"{target}/{DIRECTORY}"]
        subprocess.run(command, check=True)
        return took


def mount_by_gets(way: Way, work: Path) -> float:
    assert isinstance(way.server, Small)
    with way.server.without_archives():
        return mount(way, work)


WAYS = {"gets": gets, "archive": archive, "mount-gets": mount_by_gets, "mount": mount}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--links", default="0.5ms,20ms,80ms")
    parser.add_argument("--files", type=int, default=990)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    grid = Table(
        "link", *(f"{name} s" for name in WAYS), "gets / archive", "of mounts", title="small files: medians"
    )
    with tempfile.TemporaryDirectory(prefix="bench-archive-") as name:
        work = Path(name)
        server = Small(work / "data", args.files, args.size)
        try:
            for kind in map(KINDS.__getitem__, args.links.split(",")):
                found: dict[str, list[float]] = {name: [] for name in WAYS}
                with opened(server, kind) as way:
                    for _ in range(args.rounds):
                        for name, measure in WAYS.items():
                            found[name].append(round(measure(way, work), 3))
                medians = {name: statistics.median(took) for name, took in found.items()}
                mounts = round(medians["mount-gets"] / medians["mount"], 2)
                ratio = round(medians["gets"] / medians["archive"], 2)
                line = {"bench": "archive", "link": kind.name, "files": args.files, "size": args.size}
                load = round(os.getloadavg()[0], 1)
                print(
                    json.dumps(
                        line
                        | medians
                        | {"ratio": ratio, "mount_ratio": mounts, "rounds": found, "load": load}
                    ),
                    flush=True,
                )
                grid.add_row(kind.name, *(str(m) for m in medians.values()), str(ratio), str(mounts))
        finally:
            server.stop()
    Console(width=None if sys.stdout.isatty() else 100).print(grid)


if __name__ == "__main__":
    main()
