"""What it costs to watch a mount: the counters, the access log, and a scrape each second.

    .venv/bin/python bench/observe.py [--ops 3000] [--rounds 9] [--before CHECKOUT]

Mounts of one folder: one as it is by default, one with `--access-log`, one with `--metrics` that is scraped
each second; with `--before` also one by the vfsmount of another checkout, such as one without counters.
Each round does the same on all, one after the other, and who begins changes. One JSON line, in µs for one
request: the median over the rounds, and the daemon's CPU time over all rounds, `cpu_us`, which says more
where other work disturbs.

- `getxattr`: a request that is answered from memory, and that the kernel never answers by itself;
- `read`: 4 KiB with O_DIRECT, from the daemon's memory.
- `counting_ns`: the statements that count one request, alone, in a loop.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, chdir
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

PAGE = 4096
SIZE = 8 << 20


def getxattrs(path: Path, ops: int) -> float:
    name = str(path)
    began = time.perf_counter()
    for _ in range(ops):
        os.getxattr(name, "user.vfsmount.state")
    return (time.perf_counter() - began) / ops * 1e6


def reads(path: Path, ops: int) -> float:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        room = mmap.mmap(-1, PAGE)
        began = time.perf_counter()
        for n in range(ops):
            assert os.preadv(fd, [room], n * 7919 % (SIZE // PAGE) * PAGE) == PAGE
        return (time.perf_counter() - began) / ops * 1e6
    finally:
        os.close(fd)


def cpu_s(pid: int) -> float:
    """CPU time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def counting_ns(ops: int = 500_000) -> float:
    """As `fuse.errno_map.handler` counts, less the loop."""
    from vfsmount.metrics import Counters

    counters = Counters()
    counted, now = counters.operation("read"), time.perf_counter

    def loop() -> float:
        began = now()
        for _ in range(ops):
            pass
        return now() - began

    def counting() -> float:
        began = now()
        for _ in range(ops):
            at = now()
            counted.running += 1
            seconds = now() - at
            counted.running -= 1
            counted.took(seconds)
            counters.read_bytes += PAGE
        return now() - began

    return min(counting() - loop() for _ in range(5)) / ops * 1e9


def scrape_each_second(mounted: Mounted, over: threading.Event) -> None:
    said = next(line for line in mounted.log.read_text().splitlines() if "metrics.ready" in line)
    port = said.rpartition("port=")[2]
    while not over.wait(1):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ops", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    args = parser.parse_args()
    took: dict[str, dict[str, list[float]]] = {}
    cpu: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="vfsmount-bench-") as tmp, ExitStack() as stack:
        top = Path(tmp)
        server = stack.enter_context(Embedded(top / "data", dialect="26", rate_limit=10_000_000))
        server.create_folder("owner", "bench")
        (folder,) = server.client("owner").ok("GET", "/folders")
        (server.folder_dir(folder["id"]) / "file").write_bytes(os.urandom(SIZE))
        ways: dict[str, tuple[str, ...]] = {
            "default": (),
            "access_log": ("--access-log", str(top / "access.log")),
            "metrics": ("--metrics", "0"),
        }
        if args.before:
            ways["before"] = ()
        mounts = {}
        for name, options in ways.items():
            directory = top / name
            directory.mkdir()
            mount = Mounted(directory, server.env("owner"), "--attr-ttl", "3600", *options)
            with chdir(args.before if name == "before" else "."):
                mounts[name] = stack.enter_context(_Quiet(mount))
            if name == "metrics":
                over = threading.Event()
                stack.callback(over.set)
                threading.Thread(target=scrape_each_second, args=(mount, over), daemon=True).start()
            (mount.path / "bench" / "file").read_bytes()
        cases: dict[str, Callable[[Path, int], float]] = {"getxattr": getxattrs, "read": reads}
        for n in range(args.rounds):
            order = list(mounts)[n % len(mounts) :] + list(mounts)[: n % len(mounts)]
            for case, work in cases.items():
                for name in order:
                    before = cpu_s(mounts[name].pid)
                    us = work(mounts[name].path / "bench" / "file", args.ops)
                    used = (cpu_s(mounts[name].pid) - before) / args.ops / args.rounds * 1e6
                    cpu.setdefault(case, {}).setdefault(name, 0.0)
                    cpu[case][name] += used
                    took.setdefault(case, {}).setdefault(name, []).append(us)
    found = {
        case: {name: round(statistics.median(times), 1) for name, times in of.items()}
        for case, of in took.items()
    }
    spent = {case: {name: round(us, 1) for name, us in of.items()} for case, of in cpu.items()}
    print(json.dumps({"us": found, "cpu_us": spent, "counting_ns": round(counting_ns())}))


class _Quiet:
    """A mount that logs as one does by itself: a line for each request would cost more than what is
    measured."""

    def __init__(self, mounted: Mounted) -> None:
        self.mounted = mounted

    def __enter__(self) -> Mounted:
        from tests.support.mounting import vfsmount

        m = self.mounted
        directories = ("--state-dir", m.state, "--cache-dir", m.cache, "--log-file", m.log)
        done = vfsmount(m.path, *directories, *m._options, env=m._env)
        assert done.returncode == 0, done.stderr
        return m

    def __exit__(self, *_: object) -> None:
        self.mounted.stop()


if __name__ == "__main__":
    main()
