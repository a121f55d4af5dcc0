"""What our answer to the kernel's INIT is worth: lookups in one directory, and cold reads side by side.

    .venv/bin/python bench/init.py [--names 32] [--readers 64] [--latency-ms 50] [--rounds 5]

Two mounts of the same folder, one with the options as they are by default, its rival with what libfuse
agrees on by itself (`--no-parallel-dirops --max-background 12`). Each round does the same on both, one
after the other, and the first of the two by turns. One JSON line; ratios are the rival's time over ours.

- `cut`: each name is asked for by itself, as in a directory longer than the server's listings.
- `listed`: one listing answers for all names.
- `blocks`: each reader reads some pages at a place of its own in one large file, a block of 1 MiB each;
- `tails`: each reader reads the end of a file of its own, a block of a page: what is left is the waiting.
  All are open before the clock starts, each by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

T = TypeVar("T")
BLOCK = 1 << 20
APART = 4 * BLOCK  # further than anybody reads ahead for a first read
RIVAL = ("--no-parallel-dirops", "--max-background", "12")


def timed(jobs: Sequence[T], work: Callable[[T], object]) -> float:
    """Seconds until as many threads as jobs have done their work."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(lambda _: time.sleep(0.01), jobs))  # the threads are there
        began = time.monotonic()
        list(pool.map(work, jobs))
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", type=int, default=32)
    parser.add_argument("--readers", type=int, default=64)
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
            plant(top / str(n), args.names, args.readers)
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


def plant(top: Path, names: int, readers: int) -> None:
    """What one round looks at: a long directory, a short one, one with files to read, a large file."""
    for directory, count in (("cut", 1000 + names), ("listed", names)):
        (top / directory).mkdir(parents=True)
        for n in range(count):
            (top / directory / f"f{n:04d}").touch()
    (top / "tails").mkdir()
    for n in range(readers):
        with (top / "tails" / f"f{n:04d}").open("wb") as f:
            f.truncate(BLOCK + 4096)
    with (top / "blocks").open("wb") as f:
        f.truncate(readers * APART)


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
    places = [(top / "blocks", n * APART) for n in range(args.readers)]
    tails = [(top / "tails" / f"f{n:04d}", BLOCK) for n in range(args.readers)]
    for what, where in (("blocks", places), ("tails", tails)):
        with ExitStack() as stack:
            jobs = [(stack.enter_context(p.open("rb", buffering=0)).fileno(), at) for p, at in where]
            took[what] = timed(jobs, lambda job: os.pread(job[0], 4096, job[1]))
    return took


if __name__ == "__main__":
    main()
