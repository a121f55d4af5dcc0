"""Reads as programs do them, against what others need for the same bytes of the same server in the same go.

    .venv/bin/python bench/reads.py [--server embedded|live|both] [--links plain,0.5ms,20ms,80ms]
        [--cases sequential,...] [--size-mib 1024] [--rounds 3] [--json FILE]

docs/testing.md says what each case does and what it has to reach. Every round of a case has a mount of its
own (with its own cache), and its rival before or after it by turns. Prints a JSON line for each result
(medians, and what each round found) and a table at the end; exit status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import mmap
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from bench import rivals
from bench.link import capacity_mb_s
from bench.place import (
    FIRST,
    FIRST_SIZE,
    KINDS,
    MIB,
    SMALL,
    SMALL_SIZE,
    Kind,
    Mount,
    Server,
    Way,
    live_stack,
    opened,
)

RANDOM_READS = 512
READS_A_THREAD = 32
CHUNK = 64 << 10
PAGE = 4096
now = time.monotonic


@dataclass
class Job:
    """One round of a case.

    Attributes:
        size: bytes of a large file that is read whole.
        whole: of one that is read here and there; as was asked for, over any line.
        local: where this machine keeps what a case needs of its own, on the disk.
        memory: the same, in tmpfs if there is room.
    """

    server: Server
    size: int
    whole: int
    n: int
    local: Path
    memory: Path


@dataclass
class Sample:
    """What one round found.

    Attributes:
        values: by result, in the result's unit.
        rival: of what was measured in the same mount.
        asked: bytes that programs asked for since the mount began to count.
    """

    values: dict[str, float]
    asked: int
    rival: dict[str, float] = field(default_factory=dict)


Ours = Callable[[Mount, Job], Sample]
Rival = Callable[[Way, Job], dict[str, float]]


# --- large files --------------------------------------------------------------------------------


def read_all(path: Path) -> float:
    """MB (10^6 bytes) a second at which a file is opened and read to its end, a MiB at a time."""
    buffer, got, began = bytearray(MIB), 0, now()
    with path.open("rb", buffering=0) as f:
        while length := f.readinto(buffer):
            got += length
    took = now() - began
    assert got == path.stat().st_size, f"{got} bytes"
    return got / 1e6 / took


def sequential(mount: Mount, job: Job) -> Sample:
    """A large file that was never opened before, from its beginning to its end."""
    return Sample({"sequential": read_all(mount.folder / job.server.file(job.size))}, job.size)


def sequential_curl(way: Way, job: Job) -> dict[str, float]:
    return {"sequential": _curl_mb_s(way, job.server.file(job.size), job.size)}


def _curl_mb_s(way: Way, name: str, size: int) -> float:
    took_s, _, got = rivals.curl(way.url(name))
    assert got == size
    return size / 1e6 / took_s


def warm(mount: Mount, job: Job) -> Sample:
    """The same file again, opened anew, by turns with local files that are in memory, too.

    The one of the disk is in large pages where its file system has them, FUSE has none: `warm-small-pages`
    is against a file of tmpfs, which has none either.
    """
    name = job.server.file(job.size)
    path, local, small_pages = mount.folder / name, job.local / name, job.memory / name
    for copy in (local, small_pages):
        if not copy.exists():
            shutil.copyfile(job.server.disk / name, copy)
        read_all(copy)
    read_all(path)
    mount.way.wait_quiet()
    mount.begin()
    rounds = [(read_all(path), read_all(local), read_all(small_pages)) for _ in range(3)]
    ours, theirs, small = map(statistics.median, zip(*rounds, strict=True))
    return Sample(
        {"warm": ours, "warm-small-pages": ours},
        3 * job.size,
        {"warm": theirs, "warm-small-pages": small},
    )


def mapped(mount: Mount, job: Job) -> Sample:
    """A quarter of the size, through a mapping."""
    size = job.size // 4
    began = now()
    with (
        (mount.folder / job.server.file(size)).open("rb") as f,
        mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as pages,
    ):
        for at in range(0, size, MIB):
            pages[at : at + MIB]
    return Sample({"mmap": size / 1e6 / (now() - began)}, size)


def mapped_curl(way: Way, job: Job) -> dict[str, float]:
    return {"mmap": _curl_mb_s(way, job.server.file(job.size // 4), job.size // 4)}


# --- beginnings and ends ------------------------------------------------------------------------


def first_byte(mount: Mount, job: Job) -> Sample:
    """Open and read a page of files that were never opened, in a listed directory: the first, and others."""
    names = sorted(os.listdir(mount.folder / "first"))
    assert len(names) == FIRST
    took = []
    for name in names:
        began = now()
        with (mount.folder / "first" / name).open("rb", buffering=0) as f:
            f.read(PAGE)
            took.append((now() - began) * 1000)
        mount.way.wait_quiet()  # what it has asked for ahead is not the next one's
    values = {"first-byte": statistics.median(took[1:]), "first-byte-mount": took[0]}
    return Sample(values, FIRST * PAGE)


def first_byte_curl(way: Way, job: Job) -> dict[str, float]:
    """curl has a token (not for `first-byte-mount`) and no connection."""
    began = now()
    url = way.url_of_stranger("first/f0000")
    granted_s = now() - began
    took = [rivals.curl(url, span=f"0-{PAGE - 1}")[1] * 1000 for _ in range(FIRST)]
    median = statistics.median(took)
    return {"first-byte": median, "first-byte-mount": granted_s * 1000 + median}


def tail(mount: Mount, job: Job) -> Sample:
    """`tail -c` of large files that were never opened."""
    took = []
    for name in sorted(os.listdir(mount.folder / "first")):
        began = now()
        command = ["tail", "-c", str(CHUNK), str(mount.folder / "first" / name)]
        got = subprocess.run(command, check=True, capture_output=True).stdout
        took.append((now() - began) * 1000)
        assert len(got) == CHUNK
        mount.way.wait_quiet()
    return Sample({"tail": statistics.median(took)}, FIRST * CHUNK)


def tail_curl(way: Way, job: Job) -> dict[str, float]:
    url = way.url("first/f0000")
    return {"tail": statistics.median(rivals.curl(url, span=f"-{CHUNK}")[0] * 1000 for _ in range(FIRST))}


# --- here and there in a file -------------------------------------------------------------------


def places(job: Job, count: int, length: int, seed: str) -> list[int]:
    """Offsets of reads, no two alike, the same for all who take part in a round."""
    return [n * length for n in random.Random(f"{seed}{job.n}").sample(range(job.whole // length), count)]


def pread_all(mount: Mount, job: Job, at: Sequence[int], length: int, threads: int) -> float:
    """Reads a second that so many threads do."""
    name = job.server.file(job.whole)
    fd = os.open(mount.folder / name, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: time.sleep(0.01), range(threads)))  # the threads are there
            began = now()
            got = list(pool.map(lambda offset: os.pread(fd, length, offset), at))
            took = now() - began
    finally:
        os.close(fd)
    with (job.server.disk / name).open("rb") as f:
        assert all(os.pread(f.fileno(), length, o) == data for o, data in zip(at, got, strict=True))
    return len(at) / took


def scattered(length: int) -> tuple[Ours, Rival]:
    """Reads of `length` all over a large file, 16 at a time, and the same by httpx."""
    name = f"random-{length // 1024}k"

    def ours(mount: Mount, job: Job) -> Sample:
        at = places(job, RANDOM_READS, length, name)
        rate = pread_all(mount, job, at, length, rivals.AT_A_TIME)
        return Sample({name: rate}, len(at) * length)

    def theirs(way: Way, job: Job) -> dict[str, float]:
        url, at = way.url(job.server.file(job.whole)), places(job, RANDOM_READS, length, name)
        return {name: len(at) / rivals.fetch([(url, offset) for offset in at], length)}

    return ours, theirs


def threads(mount: Mount, job: Job) -> Sample:
    """Eight threads and one, each with as many reads of 64 KiB all over a file, one after the other."""
    at = places(job, 9 * READS_A_THREAD, CHUNK, "threads")
    one = pread_all(mount, job, at[:READS_A_THREAD], CHUNK, 1)
    mount.way.wait_quiet()
    eight = pread_all(mount, job, at[READS_A_THREAD:], CHUNK, 8)
    return Sample({"threads": eight}, len(at) * CHUNK, {"threads": one})


# --- many files ---------------------------------------------------------------------------------


def small_files(mount: Mount, job: Job) -> Sample:
    """`cp -r` of a directory that was never listed."""
    with tempfile.TemporaryDirectory(dir=job.local) as target:
        began = now()
        subprocess.run(["cp", "-r", mount.folder / "small", target], check=True)
        took = now() - began
        names = os.listdir(job.server.disk / "small")
        same, _, _ = filecmp.cmpfiles(job.server.disk / "small", f"{target}/small", names, shallow=False)
        assert len(same) == SMALL
    return Sample({"small-files": took}, SMALL * SMALL_SIZE)


def small_files_httpx(way: Way, job: Job) -> dict[str, float]:
    """With one token for all of them, as the folder's owner may have."""
    url = way.url("small/f0000")
    urls = [(url.replace("f0000", f"f{n:04d}"), None) for n in range(SMALL)]
    return {"small-files": rivals.fetch(urls, SMALL_SIZE)}


# --- what there is, and what it has to reach ----------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        unit: "MB/s", "/s", "ms" or "s"; of the last two less is better.
        rival: None where `ours` measures it itself.
        against: who the rival is.
        most_sent: how many bytes the server may send for each that was asked for; None for any number.
    """

    unit: str
    ours: Ours
    rival: Rival | None
    against: str
    most_sent: float | None = None


CASES = {
    "sequential": Case("MB/s", sequential, sequential_curl, "curl", 1.3),
    "warm": Case("MB/s", warm, None, "local file", 1.3),
    "first-byte": Case("ms", first_byte, first_byte_curl, "curl"),
    "threads": Case("/s", threads, None, "one thread", 2),
    "small-files": Case("s", small_files, small_files_httpx, "httpx, 16"),
    "random-4k": Case("/s", *scattered(4 << 10), "httpx, 16", 2),
    "random-64k": Case("/s", *scattered(64 << 10), "httpx, 16", 2),
    "mmap": Case("MB/s", mapped, mapped_curl, "curl", 1.3),
    "tail": Case("ms", tail, tail_curl, "curl"),
}
AT_LEAST_OF_LINE = {"20ms": 0.95, "80ms": 0.9}


@dataclass(frozen=True)
class Target:
    """A bound for our median; `least` says on which side of it."""

    bound: float
    least: bool
    text: str

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


def target_of(result: str, kind: Kind, server: str, ours: float, ratio: float) -> Target | None:
    """What our median has to reach; None where nothing was set.

    Args:
        ratio: ours by the rival's.
    """
    rival = ours / ratio
    if result == "sequential" and kind.name == "plain":
        return Target(min(400, 0.45 * rival), True, ">= 400 MB/s or 0.45 of curl")
    if result == "sequential" and kind.name in AT_LEAST_OF_LINE:
        part = AT_LEAST_OF_LINE[kind.name]
        return Target(part * kind.line_mb_s, True, f">= {part} of {kind.line_mb_s:.1f} MB/s")
    if result == "warm":
        return Target(0.9 * rival, True, ">= 0.9 of a local file")
    if result == "first-byte":
        most = 2 * kind.rtt_ms + 15
        return Target(most, False, f"<= {most:g} ms")
    if result == "threads" and kind.name == "20ms":
        return Target(4 * rival, True, ">= 4 of one thread")
    if result == "small-files" and kind.name == "20ms":
        most = 5 if server == "live" else 3
        return Target(most, False, f"<= {most} s")
    if result == "random-4k":
        return Target(0.8 * rival, True, ">= 0.8 of httpx")
    return None


# --- rounds -------------------------------------------------------------------------------------


class Bench:
    """One server, one way after the other."""

    def __init__(self, args: argparse.Namespace, server: Server, work: Path, memory: Path) -> None:
        self._args, self._server, self._work, self._memory = args, server, work, memory

    def run(self, kind: Kind) -> Iterator[dict[str, object]]:
        """A line for each result over a way of this kind."""
        size = int(self._args.size_mib * kind.part) * MIB
        with contextlib.ExitStack() as stack:
            way = stack.enter_context(opened(self._server, kind))
            # A direct connection is measured as such, and counted in a round of its own.
            counted = way if way.counts else stack.enter_context(opened(self._server, kind, counting=True))
            for name in self._args.cases:
                yield from self._case(name, way, counted, size)
            if (late := way.late()) > 0.02:
                tell(
                    f"{late:.0%} of what came over {kind.name} came late by the link's fault: a busy machine"
                )

    def _case(self, name: str, way: Way, counted: Way, size: int) -> Iterator[dict[str, object]]:
        case, ours, theirs, costs = CASES[name], [], [], []
        whole = self._args.size_mib * MIB
        for each in (size, size // 4, whole):
            self._server.file(each)  # before anybody lists the folder
        for n in range(self._args.rounds):
            job = Job(self._server, size, whole, n, self._work, self._memory)
            found: dict[str, float] = {}
            if case.rival and n % 2:
                found = case.rival(way, job)
            sample, cost = self._mounted(case, way, job)
            if case.rival and not n % 2:
                found = case.rival(way, job)
            ours.append(sample.values)
            theirs.append({**found, **sample.rival})
            costs.append(cost)
            found_here = f"{_short(ours[-1])}, rival {_short(theirs[-1])}"
            tell(f"{self._server.name} {way.kind.name} {name} {n}: {found_here}")
        if counted is not way:
            costs.append(self._mounted(case, counted, replace(job, n=self._args.rounds))[1])
        cost = {k: _median([c[k] for c in costs if k in c]) for k in ("cpu_s_per_gib", "rss_mib", "sent")}
        for result in ours[0]:
            ratio = _median([o[result] / t[result] for o, t in zip(ours, theirs, strict=True)])
            median = _median([o[result] for o in ours])
            goal = target_of(result, way.kind, self._server.name, median, ratio)
            yield {
                "bench": "reads",
                "server": self._server.name,
                "link": way.kind.name,
                "case": result,
                "unit": case.unit,
                "ours": _rounded(median),
                "rival": _rounded(_median([t[result] for t in theirs])),
                "against": case.against,
                "ratio": _rounded(ratio),
                "target": goal.text if goal else None,
                "met": goal.met_by(median) if goal else None,
                "sent_per_byte": _rounded(cost["sent"]),
                "most_sent": case.most_sent,
                "sent_met": cost["sent"] <= case.most_sent if case.most_sent else None,
                "cpu_s_per_gib": _rounded(cost["cpu_s_per_gib"]),
                "rss_mib": round(cost["rss_mib"]),
                "link_late": _rounded(way.late()),
                "load": round(os.getloadavg()[0], 1),
                "size_mib": size // MIB,
                "rounds": [
                    [_rounded(o[result]), _rounded(t[result])] for o, t in zip(ours, theirs, strict=True)
                ],
            }

    def _mounted(self, case: Case, way: Way, job: Job) -> tuple[Sample, dict[str, float]]:
        """One round in a mount of its own; its cost for each byte asked for."""
        with Mount(self._work, way, *self._args.option) as mount:
            sample = case.ours(mount, job)
            cost = mount.cost()
        found = {
            "cpu_s_per_gib": cost["cpu_s"] / sample.asked * (1 << 30),
            "rss_mib": cost["rss_mib"],
        }
        return sample, found | ({"sent": cost["sent"] / sample.asked} if way.counts else {})


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _short(values: dict[str, float]) -> str:
    return " ".join(f"{value:.4g}" for value in values.values())


def tell(text: str) -> None:
    """Say how it goes, to who watches."""
    print(text, file=sys.stderr, flush=True)


def table(lines: Sequence[dict[str, object]]) -> Table:
    """The results for people."""
    grid = Table("server", "link", "case", title="reads: medians")
    for heading in ("ours", "rival", "ratio"):
        grid.add_column(heading, justify="right")
    for heading in ("against", "target", ""):
        grid.add_column(heading)
    for heading in ("sent/byte", "CPU s/GiB", "RSS MiB"):
        grid.add_column(heading, justify="right")
    marks = {None: "", True: "[green]pass[/]", False: "[red]FAIL[/]"}
    last = None
    for line in lines:
        if last not in (None, (line["server"], line["link"])):
            grid.add_section()
        last = line["server"], line["link"]
        sent = f"{line['sent_per_byte']}"
        grid.add_row(
            *(str(line[k]) for k in ("server", "link", "case")),
            f"{line['ours']} {line['unit']}",
            *(str(line[k]) for k in ("rival", "ratio", "against")),
            str(line["target"] or ""),
            marks[_flag(line["met"])],
            f"[red]{sent} > {line['most_sent']}[/]" if line["sent_met"] is False else sent,
            *(str(line[k]) for k in ("cpu_s_per_gib", "rss_mib")),
        )
    return grid


def _flag(value: object) -> bool | None:
    assert value is None or isinstance(value, bool)
    return value


def several(names: Sequence[str]) -> Callable[[str], list[str]]:
    """A comma-separated choice of these."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(names)}")
        return chosen

    return parse


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", choices=("embedded", "live", "both"), default="embedded")
    parser.add_argument("--dialect", default="23.09", help="of the embedded server")
    parser.add_argument("--links", type=several(list(KINDS)), default=list(KINDS))
    parser.add_argument("--cases", type=several(list(CASES)), default=list(CASES))
    parser.add_argument("--size-mib", type=int, default=1024, help="of the large file; less over 80ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the JSON lines to it, too")
    parser.add_argument(
        "--work", type=Path, help="where the embedded server's files lie [/dev/shm if they fit]"
    )
    parser.add_argument(
        "--option", action="append", default=[], help="of the mounts, as --option=--memory=64"
    )
    args = parser.parse_args()
    if args.size_mib < 64:
        parser.error("--size-mib: at least 64, or there is no room for reads all over it")
    return args


def room(size_mib: int) -> Path:
    """A directory in memory where the server's files fit into half of what is free, else on the disk."""
    needed = (size_mib * 2) * MIB + FIRST * FIRST_SIZE
    shm = Path("/dev/shm")
    memory = Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]
    fits = shm.is_dir() and needed < min(shutil.disk_usage(shm).free, int(memory) * 1024 // 2)
    return shm if fits else Path(tempfile.gettempdir())


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts and files go
    carries = capacity_mb_s()
    tell(f"the link carries {carries:.0f} MB/s by itself")
    if carries < 4 * max(kind.line_mb_s for kind in map(KINDS.__getitem__, args.links)):
        tell("WARNING: that is too little for the rates it has to play")
    if (load := os.getloadavg()[0]) > (os.cpu_count() or 1):
        tell(f"WARNING: the load of this machine is {load:.1f} without this: absolute numbers mean little")
    lines = []
    where = args.work or room(args.size_mib)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(args.json.open("a")) if args.json else None
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-reads-", dir=where)))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-reads-")))
        if args.server != "embedded":
            stack.enter_context(live_stack())
        for name in ("embedded", "live") if args.server == "both" else (args.server,):
            server = Server(name, data, args.dialect)
            try:
                for kind in map(KINDS.__getitem__, args.links):
                    for line in Bench(args, server, work, data).run(kind):
                        lines.append(line)
                        print(json.dumps(line), flush=True)
                        if out:
                            print(json.dumps(line), file=out, flush=True)
            finally:
                server.stop()
    Console(width=None if sys.stdout.isatty() else 180).print(table(lines))
    raise SystemExit(any(False in (line["met"], line["sent_met"]) for line in lines))


if __name__ == "__main__":
    main()
