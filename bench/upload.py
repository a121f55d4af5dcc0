"""Uploading a directory of many files with ours and with the official client, by turns, over one slow line.

    .venv/bin/python bench/upload.py [--files 1000] [--size 1048576] [--rtt-ms 20] [--mbit 1000] [--rounds 3]

Manager and storage-proxy are both behind the line, for both. Each upload goes to a new folder, is timed from
the command's start to its end and compared with the source on the server's disk, byte by byte. One JSON line;
the ratio is the median of the rounds' ratios. Exit status 1: the target was missed. `--server live` takes the
real server of VFSMOUNT_LIVE_ENV_DIR, else brings it up.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.link import Link
from bench.place import live_stack, write_noise
from tests.support.embedded import Embedded, RawClient, eventually
from tests.support.live import DIRECTORY, live_environment
from tests.support.mounting import VFSMOUNT, clean_environment
from tests.support.official import official_client

TARGET = 5.0


class Place:
    """A server behind a line.

    Attributes:
        env: settings of who takes the line.
        override: the official client's --override-storage-proxy for it.
    """

    def __init__(self, embedded: Embedded | None, link_options: dict[str, float], stack: ExitStack) -> None:
        self._embedded = embedded
        direct = embedded.env("owner") if embedded else dict(live_environment("owner"))
        self.raw = RawClient(direct)
        stack.callback(self.raw.close)
        with self.folder() as (name, _):
            upload, _ = self.raw.grant(name, "x", 1)
        manager, storage = urlsplit(direct["BACKEND_ENDPOINT"]).netloc, urlsplit(upload).netloc
        self.link = stack.enter_context(Link(*dict.fromkeys((manager, storage)), **link_options))
        here = {target: f"127.0.0.1:{port}" for target, port in self.link.ports.items()}
        self.override = f"{upload}={upload.replace(storage, here[storage])}"
        self.env = {
            **direct,
            "BACKEND_ENDPOINT": f"http://{here[manager]}",
            "BACKEND_OVERRIDE_STORAGE_PROXY": f"http://{storage}=http://{here[storage]}",
        }

    @contextmanager
    def folder(self) -> Iterator[tuple[str, Path]]:
        """A new folder, and where it lies on the server's disk; gone afterwards, disk and all."""
        name = f"bench-upload-{time.monotonic_ns()}"
        ident = self.raw.ok("POST", "/folders", {"name": name})["id"].replace("-", "")
        if self._embedded:
            disk = self._embedded.folder_dir(ident)
        else:
            (disk,) = (Path(os.environ[DIRECTORY]) / "vfroot").glob(
                f"*/*/{ident[:2]}/{ident[2:4]}/{ident[4:]}"
            )
        try:
            yield name, disk
        finally:
            self.raw.ok("DELETE", f"/folders/{name}")
            eventually(lambda: not disk.exists(), 120)

    def late(self) -> float:
        """The part of what was carried that the line delivered too late by itself."""
        report = self.link.report()
        carried, late = report["carried"], report["late"]
        assert isinstance(carried, int) and isinstance(late, int)
        return late / carried if carried else 0


def ours(place: Place, folder: str, source: Path) -> list[str]:
    """Our command."""
    return [*VFSMOUNT, "upload", folder, str(source)]


def official(place: Place, folder: str, source: Path) -> list[str]:
    """The official client's."""
    words = ["vfolder", "upload", "-r", "-b", str(source.parent)]
    return [official_client(), *words, "--override-storage-proxy", place.override, folder, source.name]


def seconds(
    place: Place, command: Callable[[Place, str, Path], list[str]], source: Path
) -> tuple[float, float]:
    """How long one upload took, and computed; what arrived is compared with the source."""
    with place.folder() as (name, disk), tempfile.TemporaryDirectory() as home:
        words = command(place, name, source)
        places = {"HOME": home, "XDG_STATE_HOME": f"{home}/state", "XDG_CACHE_HOME": f"{home}/cache"}
        # Its own checkout for our command, whatever the current directory is.
        env = clean_environment({**place.env, **places, "PYTHONPATH": str(Path(__file__).parents[1])})
        if command is official:
            env.pop("BACKEND_OVERRIDE_STORAGE_PROXY")  # reading it never ends in that client
        began, before_s = time.monotonic(), _cpu_s()
        done = subprocess.run(words, env=env, cwd=source.parent, capture_output=True, text=True, check=False)
        took_s, cpu_s = time.monotonic() - began, _cpu_s() - before_s
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        names = sorted(p.name for p in source.iterdir())
        arrived = disk / source.name
        same, differs, missing = filecmp.cmpfiles(source, arrived, names, shallow=False)
        assert (len(same), differs, missing) == (len(names), [], [])
    return took_s, cpu_s


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--rtt-ms", type=float, default=20)
    parser.add_argument("--mbit", type=float, default=1000, help="0: as fast as the relay")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=["embedded", "live"], default="embedded")
    args = parser.parse_args()
    official_client()  # installed before any clock runs
    took: dict[str, list[float]] = {"ours": [], "official": []}
    computed: dict[str, list[float]] = {"ours": [], "official": []}
    commands = {"ours": ours, "official": official}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        embedded = None
        if args.server == "embedded":
            embedded = stack.enter_context(Embedded(work / "server", dialect="23.09", rate_limit=10_000_000))
        else:
            stack.enter_context(live_stack())
        place = Place(embedded, {"rtt_ms": args.rtt_ms, "mbit": args.mbit}, stack)
        source = work / "many"
        source.mkdir()
        for n in range(args.files):
            write_noise(source / f"f{n:04d}", args.size)
        for number in range(args.rounds):
            for who in sorted(commands, reverse=bool(number % 2)):
                took_s, cpu_s = seconds(place, commands[who], source)
                took[who].append(took_s)
                computed[who].append(cpu_s)
                print(f"round {number + 1}: {who} {took[who][-1]:.1f} s", file=sys.stderr, flush=True)
        late = place.late()
        shutil.rmtree(source)
    ratio = statistics.median(o / u for o, u in zip(took["official"], took["ours"], strict=True))
    result = {
        "bench": "upload",
        "server": args.server,
        "files": args.files,
        "size": args.size,
        "rtt_ms": args.rtt_ms,
        "mbit": args.mbit,
        "ours_s": [round(s, 2) for s in took["ours"]],
        "official_s": [round(s, 2) for s in took["official"]],
        "cpu_s": {who: round(statistics.median(all_s), 2) for who, all_s in computed.items()},
        "ratio": round(ratio, 2),
        "target": TARGET,
        "late_part": round(late, 4),
        "load": [round(n, 2) for n in os.getloadavg()],
    }
    print(json.dumps(result))
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
