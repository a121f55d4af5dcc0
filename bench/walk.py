"""Programs that walk over a cold tree behind a slow way: as the mount does it, and one call after another.

    .venv/bin/python bench/walk.py [--directories 1000] [--files 10] [--latency-ms 20] [--rounds 3]
        [--program git]

The rival is what one call after another would take, from the same server in the same go: the time of as
many listings by a plain client. The programs take turns; one JSON line for each, in which `ratio` is the
rival's time over ours. `git status` has an index that was written through a mount, or it would read all
files: the server's disk has other inode numbers.
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

PROGRAMS = {
    "find": ["find"],
    "find-ls": ["find", "-ls"],
    "du": ["du", "-s"],
    "ls": ["ls", "-R"],
    "rsync": ["rsync", "-rn", "./", "/nowhere/"],
    "git": ["git", "-c", "safe.directory=*", "status", "-s"],
}
USUAL = ["find", "du", "ls", "rsync", "git"]


def plant(top: Path, directories: int, files: int) -> int:
    """A tree of ten branches, each with as many twigs as it takes; the number of directories in it."""
    paths = [top / f"b{n % 10}" / f"t{n // 10:04d}" for n in range(directories - 10)]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        for n in range(files):
            (path / f"f{n:04d}").touch()
    return len(paths) + 10 + 1


def commit(top: Path) -> None:
    """Have all of it in a repository."""
    me = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", *me, *command], cwd=top, check=True)


def walk(path: Path, program: str) -> float:
    """Seconds a program took to walk the tree."""
    began = time.monotonic()
    subprocess.run(PROGRAMS[program], cwd=path, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def measure(server: Embedded, where: Path, program: str, directories: int) -> dict[str, float]:
    """One walk over a mount that knows nothing, and its rival."""
    rival = one_after_another(server, directories)
    where.mkdir()
    with Mounted(where, server.env("owner")) as mounted:
        server.reset_calls()
        ours = walk(mounted.path / ("repository" if program == "git" else "bench"), program)
        calls = server.count("GET", "/folders/{vf}/files")
    return {"ours_s": ours, "rival_s": rival, "ratio": rival / ours, "calls": calls / directories}


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
    parser.add_argument("--program", choices=[*PROGRAMS], help="only this one")
    args = parser.parse_args()
    programs = [args.program] if args.program else USUAL
    results: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        options = {"rate_limit": 10_000_000, "scandir_limit": 1_000_000}
        with Embedded(work / "data", dialect=args.dialect, **options) as server:
            tops = [server.folder_dir(server.create_folder("owner", n)) for n in ("bench", "repository")]
            directories, _ = (plant(top, args.directories, args.files) for top in tops)
            if "git" in programs:
                commit(tops[1])
                measure(server, work / "index", "git", directories)
            server.faults({"latency_ms": {"manager": args.latency_ms}})
            for n in range(args.rounds):
                for program in programs:
                    where = work / f"{n}-{program}"
                    results[program].append(measure(server, where, program, directories))
    for program, rounds in results.items():
        median = {k: round(statistics.median(r[k] for r in rounds), 2) for k in rounds[0]}
        print(json.dumps({"bench": "walk", **vars(args), "program": program, **median}))


if __name__ == "__main__":
    main()
