"""The disk tier of the read cache alone: blocks written and read back, verified, by one thread and by four.

    .venv/bin/python bench/cache.py [--mib 2048] [--threads 1,4] [--rounds 3] [--dir DIR]

Rivals in the same go: the same bytes written to and read from one plain file a thread, without
checksums. Written: into a fresh cache with room (`write`), and into one whose limit is a third, so
that something goes for everything that comes (`evict`). Reads come from the page cache: what is left is
our own work. One JSON line; medians, MB/s and CPU seconds a GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.values import Validator

MIB = 1 << 20
DATA = os.urandom(MIB)


def key(thread: int, blocks: int) -> FileKey:
    return FileKey("https://manager.example.org", "0" * 32, f"data/{thread}.bin", Validator(1, blocks * MIB))


def timed(threads: int, blocks: int, work: Callable[[int], None]) -> dict[str, float]:
    """MB/s and CPU s/GiB of as many threads, each with its number."""
    began, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    took, spent, total = time.monotonic() - began, time.process_time() - cpu, threads * blocks * MIB
    return {"mb_s": total / took / 1e6, "cpu_s_gib": spent / (total / (1 << 30))}


def cached(root: Path, threads: int, blocks: int, limit: int) -> tuple[dict[str, float], dict[str, float]]:
    """Writing everything, and reading back what is there."""
    cache = BlockCache(root, limit, 0)

    def write(thread: int) -> None:
        for no in range(blocks):
            assert cache.write(key(thread, blocks), no, DATA)

    def read(thread: int) -> None:
        into = memoryview(bytearray(MIB))
        for no in range(blocks):
            assert cache.read(key(thread, blocks), no, into) is not None or limit < blocks * threads * MIB

    try:
        return timed(threads, blocks, write), timed(threads, blocks, read)
    finally:
        cache.close()
        shutil.rmtree(root)


def plain(root: Path, threads: int, blocks: int) -> tuple[dict[str, float], dict[str, float]]:
    """The same with plain files."""

    def write(thread: int) -> None:
        with (root / str(thread)).open("wb", buffering=0) as out:
            for _ in range(blocks):
                out.write(DATA)

    def read(thread: int) -> None:
        into = bytearray(MIB)
        with (root / str(thread)).open("rb", buffering=0) as source:
            while source.readinto(into):
                pass

    root.mkdir()
    try:
        return timed(threads, blocks, write), timed(threads, blocks, read)
    finally:
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--threads", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None)
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        for _ in range(args.rounds):
            for threads in map(int, args.threads.split(",")):
                blocks, root = args.mib // threads, Path(name) / "cache"
                ways = {
                    "plain": lambda n=threads, b=blocks, r=root: plain(r, n, b),
                    "cache": lambda n=threads, b=blocks, r=root: cached(r, n, b, 2 * args.mib * MIB),
                    "evict": lambda n=threads, b=blocks, r=root: cached(r, n, b, args.mib * MIB // 3),
                }
                for way, run in ways.items():
                    os.sync()
                    for what, result in zip(("write", "read"), run(), strict=True):
                        if (way, what) != ("evict", "read"):
                            rounds.setdefault(f"{way}_{what}_{threads}", []).append(result)
    told = {
        name: {unit: round(statistics.median(r[unit] for r in results), 2) for unit in results[0]}
        for name, results in rounds.items()
    }
    print(json.dumps({"bench": "cache", "mib": args.mib, "rounds": args.rounds, **told}))


if __name__ == "__main__":
    main()
