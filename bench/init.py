"""What our answer to the kernel's INIT is worth: lookups in one directory, and cold reads side by side.

    .venv/bin/python bench/init.py [--names 32] [--readers 64] [--latency-ms 50] [--rounds 5]

Two mounts of the same folder, one with the options as they are by default, its rival with what libfuse
agrees on by itself (`--no-parallel-dirops --max-background 12`). Each round does the same on both, one
after the other, and the first of the two by turns. One JSON line; ratios are the rival's time over ours.

- `cut`: each name is asked for by itself, as in a directory longer than the server's listings.
- `listed`: one listing answers for all names.
- `near`: each reader reads the beginning of a file of its own, a few pages.
- `far`: each reader reads all of a file of its own, several readaheads of the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

RIVAL = ("--no-parallel-dirops", "--max-background", "12")


def timed(paths: list[Path], work: Callable[[Path], object]) -> float:
    """Seconds until as many threads as paths have done their work."""
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(lambda _: time.sleep(0.01), paths))  # the threads are there
        began = time.monotonic()
        list(pool.map(work, paths))
        return time.monotonic() - began


def read(size: int) -> Callable[[Path], int]:
    """Reads the first `size` bytes of a file."""

    def work(path: Path) -> int:
        with path.open("rb", buffering=0) as f:
            left = size
            while left > 0 and (piece := f.read(min(left, 1 << 20))):
                left -= len(piece)
            assert left == 0, path
        return size

    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", type=int, default=32)
    parser.add_argument("--readers", type=int, default=64)
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes of a file that is read")
    parser.add_argument("--latency-ms", type=int, default=50)
    parser.add_argument("--dialect", default="23.09")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-background", default="64")
    args = parser.parse_args()
    took: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        limits = {"rate_limit": 10_000_000, "scandir_limit": 1000}
        server = stack.enter_context(Embedded(work / "data", dialect=args.dialect, **limits))
        top = server.folder_dir(server.create_folder("owner", "bench"))
        for n in range(args.rounds):
            plant(top / str(n), args.names, args.readers, args.size)
        mounts = []
        for which, options in (("ours", ("--max-background", args.max_background)), ("rival", RIVAL)):
            (work / which).mkdir()
            mounts.append((which, Mounted(work / which, server.env("owner"), *options)))
            stack.enter_context(mounts[-1][1])
        server.faults({"latency_ms": {"manager": args.latency_ms, "storage": args.latency_ms}})
        for n in range(args.rounds):
            for which, mounted in mounts if n % 2 else mounts[::-1]:
                for what, seconds in one_round(mounted.path / "bench" / str(n), args).items():
                    took.setdefault(what, {}).setdefault(which, []).append(seconds)
    found: dict[str, float] = {}
    for what, by in took.items():
        median = {which: statistics.median(values) for which, values in by.items()}
        found |= {f"{what}_{which}_s": round(s, 3) for which, s in median.items()}
        found[f"{what}_ratio"] = round(median["rival"] / median["ours"], 2)
    print(json.dumps({"bench": "init", **vars(args), **found}))


def plant(top: Path, names: int, readers: int, size: int) -> None:
    """What one round looks at: a long directory, a short one, and two with files to read."""
    for directory, count in (("cut", 1000 + names), ("listed", names)):
        (top / directory).mkdir(parents=True)
        for n in range(count):
            (top / directory / f"f{n:04d}").touch()
    for directory in ("near", "far"):
        (top / directory).mkdir()
        for n in range(readers):
            (top / directory / f"f{n:04d}").write_bytes(os.urandom(size))


def one_round(top: Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each, on a part of the folder that nobody has looked at yet."""
    unlisted = set(
        os.listdir(top / "cut")
    )  # as many as the server lists; the others are asked for one by one
    names = [top / "cut" / f"f{n:04d}" for n in range(1000 + args.names)]
    unknown = [path for path in names if path.name not in unlisted]
    assert len(unknown) == args.names
    took = {
        "cut": timed(unknown, os.stat),
        "listed": timed([top / "listed" / f"f{n:04d}" for n in range(args.names)], os.stat),
    }
    for directory, size in (("near", 4096), ("far", args.size)):
        names = sorted((top / directory).iterdir())
        took[directory] = timed(names, read(size))
    return took


if __name__ == "__main__":
    main()
