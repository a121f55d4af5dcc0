"""What the journal costs, without a kernel in front: the same calls with and without one, and going on.

    .venv/bin/python bench/journal.py [--entries 100000] [--dialect 26] [--rounds 3]

Prints one JSON line of medians. Seconds of processor time of the `Filesystem` for all entries of a directory:
`readdir_s` in pages as the kernel takes them, `lookup_s` of names that it does not know yet, and
`lookup_again_s` of those it does. `write_us` for each of 4 KiB into a new file, `write_part_us` into a file
of which the rest is on the server, `open_us` for open and release. Each has its `..._journal` beside it, and
there are `bytes_an_entry` of the journal. `resume_s` until all of it is there again, `compact_s` and the
bytes left.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.live import settings_of
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.values import ROOT_INO
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.filesystem import Filesystem
from vfsmount.vfs.policy import MountPolicy

PAGE = 600
WRITES = 2000
now = time.process_time


@asynccontextmanager
async def serving(server: Embedded, state: Path, journal: Journal | None) -> AsyncIterator[Filesystem]:
    """A filesystem that is left without an end where somebody is to go on with it."""
    area, records = StagingArea(state), Records(state / "records.sqlite")
    policy = MountPolicy(dir_ttl_s=600, attr_ttl_s=600)
    async with Client(settings_of(server.env("owner"))) as client:
        await client.connect()
        async with trio.open_nursery() as nursery:
            fs = Filesystem(client, Transfers(client), area, records, policy, nursery, journal=journal)
            yield fs
            nursery.cancel_scope.cancel()
    records.close()
    for lock in area._locks.values():
        os.close(lock)


async def measure(fs: Filesystem, entries: int) -> dict[str, float]:
    took: dict[str, float] = {}
    top = await fs.lookup(ROOT_INO, b"bench")
    large = await fs.lookup(top.ino, b"large")
    fh = await fs.opendir(large.ino)
    began, offset, names = now(), 0, list[bytes]()
    while True:
        page, told = 0, []
        for at, name, attr in await fs.readdir(fh, offset):
            offset, page = at, page + 1
            if len(names) < entries + 2:
                names.append(name)
            if name not in (b".", b".."):
                told.append(attr.ino)
            if page == PAGE:
                break
        fs.all_looked_up(told)
        if not page:
            break
    took["readdir_s"] = now() - began
    fs.releasedir(fh)
    for node in list(fs._inodes):
        if node.parent is not None and node.parent.ino == large.ino:
            fs.forget(node.ino, 1)
    for key in ("lookup_s", "lookup_again_s"):
        began = now()
        for name in names[2:]:
            await fs.lookup(large.ino, name)
        took[key] = now() - began
    fh, _ = await fs.create(top.ino, b"new", 0o644, os.O_CREAT | os.O_RDWR)
    data = bytes(4096)
    began = now()
    for n in range(WRITES):
        await fs.write(fh, n * 4096, data)
    took["write_us"] = (now() - began) / WRITES * 1e6
    part = await fs.lookup(top.ino, b"part")
    fh = (await fs.open(part.ino, os.O_RDWR)).fh
    await fs.write(fh, 0, data)
    began = now()
    for n in range(WRITES):
        await fs.write(fh, n * 8192, data)
    took["write_part_us"] = (now() - began) / WRITES * 1e6
    began = now()
    for _ in range(WRITES):
        await fs.release((await fs.open(part.ino, os.O_RDONLY)).fh)
    took["open_us"] = (now() - began) / WRITES * 1e6
    return took


async def one_round(server: Embedded, work: Path, entries: int) -> dict[str, float]:
    async with serving(server, work / "without", None) as fs:
        await fs.warm()
        await fs.recover()
        took = await measure(fs, entries)
    memory = os.memfd_create("journal")
    async with serving(server, work / "with", Journal(memory)) as fs:
        await fs.warm()
        await fs.recover()
        took |= {f"{k}_journal": v for k, v in (await measure(fs, entries)).items()}
    took["bytes_an_entry"] = os.fstat(memory).st_blocks * 512 / entries
    async with serving(server, work / "with", Journal(memory)) as fs:
        began = time.monotonic()
        await fs.resume()
        took["resume_s"] = time.monotonic() - began
        assert fs._notes is not None
        began = time.monotonic()
        fs._notes.prepare()
        await fs._notes.journal.compact()
        took["compact_s"] = time.monotonic() - began
    took["bytes_compacted"] = os.fstat(memory).st_blocks * 512 / entries
    os.close(memory)
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--dialect", default="26")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with Embedded(work / "data", dialect=args.dialect, rate_limit=10_000_000, scandir_limit=0) as server:
            disk = server.folder_dir(server.create_folder("owner", "bench"))
            (disk / "large").mkdir()
            for n in range(args.entries):
                (disk / "large" / f"checkpoint-{n:07d}.bin").touch()
            (disk / "part").write_bytes(bytes(32 << 20))
            for n in range(args.rounds):
                (work / str(n)).mkdir()
                for key, value in trio.run(one_round, server, work / str(n), args.entries).items():
                    rounds[key].append(value)
    print(json.dumps({k: round(statistics.median(v), 3) for k, v in rounds.items()}))


if __name__ == "__main__":
    main()
