"""What reading would gain by two other ways of moving bytes, on loopback with the embedded server.

    .venv/bin/python bench/ways.py [--size-mib 512] [--rounds 5]

- `pushed`: fetched blocks are put into the kernel's page cache (notify_store) besides being kept for
  replies, against replies alone: one file, read to its end.
- `two`: two daemons read a file each, side by side, against one daemon that reads both: what more
  processes could bring at most.

By turns; prints a JSON line for each: medians of MB (10^6 bytes) a second and of the daemons' CPU seconds
a GiB. docs/decisions/0015-reads.md has the conclusion.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

MIB = 1 << 20

# Nobody waits for a block when it is pushed: the pages of one that is waited for are locked by the read.
PUSHING = """
import queue, threading
import pyfuse3
import vfsmount.vfs.ranges as ranges

wanted = queue.SimpleQueue()
keep = ranges.Ranges.keep

def push():
    while True:
        ino, start, data = wanted.get()
        try:
            pyfuse3.notify_store(ino, start, data)
        except OSError:
            pass

def keep_and_push(self, rng, start, buffer):
    keep(self, rng, start, buffer)
    if not rng.waiting:
        wanted.put((rng.node.ino, start, buffer))

ranges.Ranges.keep = keep_and_push
threading.Thread(target=push, daemon=True).start()
"""


def read_all(path: Path) -> None:
    """Read a file to its end, a MiB at a time."""
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as f:
        while f.readinto(buffer):
            pass


def cpu_s(pid: int) -> float:
    """Seconds a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def once(
    work: Path, server: Embedded, names: Sequence[str], mounts: int, site: Path | None
) -> dict[str, float]:
    """Read these files at the same time, through so many mounts."""
    env = server.env("owner") | ({"PYTHONPATH": str(site)} if site else {})
    with ExitStack() as stack:
        all_mounts = []
        for n in range(mounts):
            (work / f"m{n}").mkdir(exist_ok=True)
            where = Path(tempfile.mkdtemp(dir=work / f"m{n}"))
            all_mounts.append(stack.enter_context(Mounted(where, env, "--cache-size=0")))
        paths = [all_mounts[n % mounts].path / "bench" / name for n, name in enumerate(names)]
        for path in paths:
            path.stat()
        before = sum(cpu_s(m.pid) for m in all_mounts)
        readers = [threading.Thread(target=read_all, args=(path,)) for path in paths]
        began = time.monotonic()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        took = time.monotonic() - began
        size = sum(path.stat().st_size for path in paths)
        computed = sum(cpu_s(m.pid) for m in all_mounts) - before
    return {"mb_s": size / 1e6 / took, "cpu_s_per_gib": computed / (size / (1 << 30))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        site = work / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(PUSHING)
        with Embedded(work / "data", rate_limit=10_000_000) as server:
            disk = server.folder_dir(server.create_folder("owner", "bench"))
            for file in ("a", "b"):
                (disk / file).write_bytes(os.urandom(args.size_mib * MIB))
            ways = {
                "replies": lambda: once(work, server, ["a"], 1, None),
                "pushed": lambda: once(work, server, ["a"], 1, site),
                "one": lambda: once(work, server, ["a", "b"], 1, None),
                "two": lambda: once(work, server, ["a", "b"], 2, None),
            }
            rounds = [{way: run() for way, run in ways.items()} for _ in range(args.rounds)]
    for way in ways:
        medians = {k: round(statistics.median(r[way][k] for r in rounds), 3) for k in rounds[0][way]}
        print(json.dumps({"bench": "ways", "way": way, **medians}))


if __name__ == "__main__":
    main()
