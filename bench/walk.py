"""`find -ls` and `du` over a cold tree behind a slow way: as the mount does it, and one call after another.

    .venv/bin/python bench/walk.py [--directories 1000] [--files 10] [--latency-ms 20] [--rounds 3]

The rival is what one call after another would take, from the same server in the same go: the time of as
many listings by a plain client. One JSON line; `ratio` is the rival's time over ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted


def plant(top: Path, directories: int, files: int) -> int:
    """A tree of ten branches, each with as many twigs as it takes; the number of directories in it."""
    paths = [top / f"b{n % 10}" / f"t{n // 10:04d}" for n in range(directories - 10)]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        for n in range(files):
            (path / f"f{n:04d}").touch()
    return len(paths) + 10 + 1


def walk(path: Path, program: list[str]) -> float:
    """Seconds a program took to walk the tree."""
    began = time.monotonic()
    subprocess.run([*program, path], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def one_after_another(server: Embedded, directories: int) -> float:
    """Seconds of so many listings, measured on some of them."""
    client, some = server.client("owner"), min(directories, 50)
    began = time.monotonic()
    for n in range(some):
        client.ok("GET", "/folders/bench/files", params={"path": f"b{n % 10}"})
    return (time.monotonic() - began) / some * directories


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directories", type=int, default=1000)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--latency-ms", type=int, default=20)
    parser.add_argument("--dialect", default="23.09")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", default="find")
    args = parser.parse_args()
    program = {"find": ["find"], "find-ls": ["find", "-ls"], "du": ["du", "-s"]}.get(args.program)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        options = {"rate_limit": 10_000_000, "scandir_limit": 1_000_000}
        with Embedded(work / "data", dialect=args.dialect, **options) as server:
            directories = plant(
                server.folder_dir(server.create_folder("owner", "bench")), args.directories, args.files
            )
            server.faults({"latency_ms": {"manager": args.latency_ms}})
            for n in range(args.rounds):
                rival = one_after_another(server, directories)
                where = work / str(n)
                where.mkdir()
                with Mounted(where, server.env("owner")) as mounted:
                    server.reset_calls()
                    ours = walk(mounted.path / "bench", program or [args.program])
                    calls = server.count("GET", "/folders/{vf}/files")
                rounds.append(
                    {"ours_s": ours, "rival_s": rival, "ratio": rival / ours, "calls": calls / directories}
                )
    median = {k: round(statistics.median(r[k] for r in rounds), 2) for k in rounds[0]}
    print(json.dumps({"bench": "walk", **vars(args), **median}))


if __name__ == "__main__":
    main()
