"""`ls -f` of one large directory, on a server without a limit for listings.

    .venv/bin/python bench/large_directory.py [--entries 100000] [--dialect 23.09] [--rounds 3]

Prints one JSON line of medians: seconds until the first entries of a cold directory are there, until all
are, and until all are there again; seconds the server alone takes for the listing; seconds the daemon
computes for the first time; and what its memory has grown by, in bytes per entry.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted


def listed(path: Path, entries: int) -> tuple[float, float]:
    """Seconds until `ls -f` has printed its first entries, and all of them."""
    began = time.monotonic()
    with subprocess.Popen(["ls", "-f", path], stdout=subprocess.PIPE) as ls:
        assert ls.stdout is not None
        seen = os.read(ls.stdout.fileno(), 1 << 16).count(b"\n")
        first_s = time.monotonic() - began
        seen += ls.stdout.read().count(b"\n")
    assert seen == entries + 2, f"{seen} entries"
    return first_s, time.monotonic() - began


def resident(pid: int) -> int:
    """Bytes of memory that belong to a process alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def cpu_s(pid: int) -> float:
    """Seconds a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--dialect", default="23.09")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with Embedded(work / "data", dialect=args.dialect, rate_limit=10_000_000, scandir_limit=0) as server:
            disk = server.folder_dir(server.create_folder("owner", "bench"))
            (disk / "large").mkdir()
            for n in range(args.entries):
                (disk / "large" / f"checkpoint-{n:07d}.bin").touch()
            for n in range(args.rounds):
                began = time.monotonic()
                server.client("owner").ok("GET", "/folders/bench/files", params={"path": "large"})
                server_s = time.monotonic() - began
                where = work / str(n)
                where.mkdir()
                with Mounted(where, server.env("owner"), "--dir-ttl=60") as mounted:
                    os.listdir(mounted.path / "bench")
                    before, computed = resident(mounted.pid), cpu_s(mounted.pid)
                    first_s, all_s = listed(mounted.path / "bench" / "large", args.entries)
                    grown, computed = resident(mounted.pid) - before, cpu_s(mounted.pid) - computed
                    _, again_s = listed(mounted.path / "bench" / "large", args.entries)
                rounds.append(
                    {
                        "first_s": first_s,
                        "all_s": all_s,
                        "again_s": again_s,
                        "server_s": server_s,
                        "daemon_cpu_s": computed,
                        "bytes_an_entry": grown / args.entries,
                    }
                )
    print(json.dumps({k: round(statistics.median(r[k] for r in rounds), 3) for k in rounds[0]}))


if __name__ == "__main__":
    main()
