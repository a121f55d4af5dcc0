"""The crash drill: daemons are killed at work, and the server's disk is compared with what they said.

    python -m tests.crash.drill --kills 10000 --jobs 8 --dialect 23.09
    python -m tests.crash.drill --replay boundary/7/31 --dialect 26       # one round again, with its log

A round is one state directory and one directory on the server. A daemon works there until it is
killed; others come after it, of which some are killed as well, while they recover or while they work
on; the last one drains. Then everything that was acknowledged must be on the server's disk as it was
acknowledged, and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import logging
import multiprocessing
import os
import pickle
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.daemon import FOLDER, Kill, Life, Place, differences, planned, run
from tests.crash.workload import Outcome, Tree, fits
from tests.support.disks import tree_on_disk
from tests.support.embedded import Embedded

LIFETIME_S = 60.0
SEEDS_A_JOB = 1_000_000
MODES = ("boundary", "wire", "random")


class Defect(AssertionError):
    """Something acknowledged is not there, or something else is."""


@dataclass(frozen=True)
class Spec:
    """Names one round: `seed` makes the work, and `n` the instant of the first kill."""

    mode: str
    seed: int
    n: int

    def __str__(self) -> str:
        return f"{self.mode}/{self.seed}/{self.n}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        """The inverse of str()."""
        mode, seed, n = text.split("/")
        return cls(mode, int(seed), int(n))


def lives(spec: Spec) -> Iterator[Life]:
    """The daemons of a round; the last one is not killed."""
    rng = random.Random(f"{spec.mode}/{spec.seed}")
    names = "ab"[: rng.choice((1, 2))]
    yield Life(_lanes(rng, names, 16 // len(names)), _first_kill(spec), look=True, number=1)
    rng = random.Random(str(spec))
    number = itertools.count(2)
    while number_of_kills(rng):
        look = rng.random() < 0.6
        kill = rng.choice(
            (
                Kill("boundary", rng.randint(1, 60)),
                Kill("wire", rng.randint(1, 40)),
                Kill("time", seconds=rng.uniform(0, 0.5)),
            )
        )
        yield Life(_lanes(rng, names, 8 // len(names)), kill, look, next(number))
    yield Life(_lanes(rng, names, 0), Kill(), rng.random() < 0.5, next(number))


def number_of_kills(rng: random.Random) -> bool:
    """Whether one more daemon is killed."""
    return rng.random() < 0.35


def _first_kill(spec: Spec) -> Kill:
    if spec.mode == "random":
        return Kill("time", seconds=random.Random(str(spec)).uniform(0, 1.2))
    return Kill(spec.mode, spec.n)


def _lanes(rng: random.Random, names: str, count: int) -> dict[str, tuple[str, int]]:
    return {name: (f"{rng.random()}", count) for name in names}


# --- one round ----------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a drill has seen."""

    rounds: int = 0
    kills: int = 0
    operations: int = 0
    aside: int = 0
    warnings: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, other: Tally) -> None:
        """Count what another one saw, too."""
        self.rounds += other.rounds
        self.kills += other.kills
        self.operations += other.operations
        self.aside += other.aside
        self.warnings.update(other.warnings)


class Round:
    """One round on a server; its folder must be there."""

    def __init__(self, server: Embedded, folder: str, base: Path, spec: Spec, level: int) -> None:
        top = str(spec).replace("/", "-")
        self.directory = base / top
        self.directory.mkdir()
        self.spec = spec
        self.level = level
        self.kills = self.operations = 0
        self.first_was_killed = False
        self.story: list[str] = []
        self.log = self.directory / "log"
        self.state = self.directory / "state"
        self.server_directory = server.folder_dir(folder)
        self.server = server
        self.top = top
        self.disk = self.server_directory / top
        self.may_be: dict[str, list[Outcome]] = {}

    def run(self) -> None:
        """Live all lives and compare.

        Raises:
            Defect: what is wrong.
        """
        self._begin()
        for life in lives(self.spec):
            self._live(life)
        self._compare()

    def _begin(self) -> None:
        rng = random.Random(f"{self.spec.mode}/{self.spec.seed}/begin")
        for lane in next(lives(self.spec)).lanes:
            top = self.disk / lane
            top.mkdir(parents=True)
            tree: Tree = {}
            if rng.random() < 0.5:
                tree = {"f0": rng.randbytes(3000), "f1": b"", "d0": None, "d0/f2": rng.randbytes(9000)}
                for path, content in tree.items():
                    if content is None:
                        (top / path).mkdir()
                    else:
                        (top / path).write_bytes(content)
            self.may_be[lane] = [dict(tree)]

    def _live(self, life: Life) -> None:
        journal = self.directory / f"journal.{life.number}"
        place = Place(self.server, self.state, journal, self.log, self.top, self.disk)
        self.state.mkdir(exist_ok=True)
        status = self._be_born_and_die(place, life)
        killed = os.WIFSIGNALED(status)
        self.kills += killed
        self.first_was_killed |= killed and life.number == 1
        notes = list(_notes(journal))
        self.story.append(f"life {life.number}: kill {life.kill}, {'killed' if killed else 'ended'}")
        self._follow(life, notes)
        if killed:
            return
        if status:
            raise Defect(f"the daemon failed: status {os.waitstatus_to_exitcode(status)}")
        drained = [left for what, *left in notes if what == "drained"]
        if drained != [[[]]]:
            raise Defect(f"left after a drain: {drained}")

    def _be_born_and_die(self, place: Place, life: Life) -> int:
        pid = os.fork()
        if not pid:
            run(place, life, self.level)
        fd = os.pidfd_open(pid)
        try:
            kill = life.kill
            lifetime_s = kill.seconds if kill.how == "time" else LIFETIME_S
            if not select.select([fd], [], [], lifetime_s)[0]:
                os.kill(pid, signal.SIGKILL)
                if kill.how != "time":
                    raise Defect(f"life {life.number} did not end within {LIFETIME_S:g} s")
            return os.waitpid(pid, 0)[1]
        finally:
            os.close(fd)

    def _follow(self, life: Life, notes: list[tuple[Any, ...]]) -> None:
        """What may be on the server after a daemon that left these notes."""
        for lane in life.lanes:
            mine = [(what, *rest) for what, of, *rest in (n for n in notes if len(n) > 1) if of == lane]
            if not mine or mine[0][0] != "found":
                continue
            tree: Tree = mine[0][1]
            if not any(fits(tree, outcome) for outcome in self.may_be[lane]):
                raise Defect(f"the mount shows in {lane}: {self._nearest(lane, tree)}")
            ops = planned(life, lane, tree)
            outcomes: list[Outcome] = [dict(tree)]
            synced = False
            for what, *rest in mine[1:]:
                if what == "failed":
                    raise Defect(f"an operation failed in {lane}: {rest[0]}")
                op = ops[rest[0]]
                synced = what == "synced"
                self.story.append(f"  {lane} {what} {op}")
                if what == "end":
                    tree = op.after(tree)
                    self.operations += 1
                    outcomes = [dict(tree)]
                else:
                    outcomes = op.outcomes(tree, synced)
            self.may_be[lane] = outcomes

    def _nearest(self, lane: str, found: Tree) -> str:
        choices = [differences(found, outcome) for outcome in self.may_be[lane]]
        return " | or ".join(choices)

    def _compare(self) -> None:
        for lane, outcomes in self.may_be.items():
            found = tree_on_disk(self.disk / lane)
            if not any(fits(found, outcome) for outcome in outcomes):
                raise Defect(f"on the server's disk in {lane}: {self._nearest(lane, found)}")
        if stray := {p.name for p in self.disk.iterdir()} - self.may_be.keys():
            raise Defect(f"stray names on the server: {stray}")
        with contextlib.closing(sqlite3.connect(self.state / "records.sqlite")) as db:
            for table in ("staged", "removals", "moves"):
                if rows := db.execute(f"select * from {table}").fetchall():
                    raise Defect(f"left in the table {table}: {rows}")
        if left := [str(p) for p in (self.state / "staging").rglob("*")]:
            raise Defect(f"left in staging: {left}")
        for line in self.log.read_text(errors="replace").splitlines():
            if " ERROR " in line or "Traceback" in line or "file.conflict" in line:
                raise Defect(f"in the log: {line}")

    def aside(self) -> int:
        """Files in ``unsent``."""
        return sum(p.is_file() for p in (self.state / "unsent").rglob("*"))

    def warnings(self) -> Iterator[str]:
        """The events that were logged at WARNING."""
        for line in self.log.read_text(errors="replace").splitlines():
            if " WARNING " in line:
                yield line.split()[5]

    def clean(self) -> None:
        """Forget it."""
        shutil.rmtree(self.directory)
        shutil.rmtree(self.disk)


def _notes(journal: Path) -> Iterator[tuple[Any, ...]]:
    if not journal.exists():
        return
    # The last note may be cut off: it is then one that nobody had acted on.
    with journal.open("rb") as file, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(file)


# --- many rounds --------------------------------------------------------------------------------


def rounds(modes: list[str], seed: int) -> Iterator[tuple[Spec, list[bool]]]:
    """Rounds without end; the caller puts into the list whether the first daemon was killed."""
    streams = [_instants(mode, seed) for mode in modes]
    for stream in itertools.cycle(streams):
        for _ in range(10):
            yield next(stream)


def _instants(mode: str, seed: int) -> Iterator[tuple[Spec, list[bool]]]:
    for s in itertools.count(seed):
        for n in itertools.count(1):
            answer: list[bool] = []
            yield Spec(mode, s, n), answer
            # Past the last boundary the daemon lives on: the next work. Random instants: 20 of each.
            if not all(answer) if mode != "random" else n >= 20:
                break


def drill(
    server: Embedded, base: Path, kills: int, modes: list[str], seed: int, most_defects: int = 1
) -> tuple[Tally, list[str]]:
    """Rounds until so many daemons were killed; what was seen, and the defects."""
    folder = _folder(server)
    tally, defects = Tally(), []
    for spec, answer in rounds(modes, seed):
        one = Round(server, folder, base, spec, logging.DEBUG)
        try:
            one.run()
        except Defect as e:
            defects.append(f"{spec}: {e}\n  " + "\n  ".join(one.story))
            print(f"DEFECT {server.dialect} {defects[-1]}\n  log: {one.log}", flush=True)
        else:
            tally.aside += one.aside()
            tally.warnings.update(one.warnings())
            one.clean()
        answer.append(one.first_was_killed)
        tally.rounds += 1
        tally.kills += one.kills
        tally.operations += one.operations
        if tally.kills >= kills or len(defects) >= most_defects:
            return tally, defects
    raise AssertionError


def _folder(server: Embedded) -> str:
    # Each daemon begins with an unsigned call, which 26.x counts by address.
    server.faults({"switches": {"anonymous_limit": 100_000_000}})
    return server.create_folder("owner", FOLDER)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--dialect", choices=["23.09", "26"], default="23.09")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time; most of one is waiting")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--defects", type=int, default=1, help="go on until so many")
    parser.add_argument("--replay", type=Spec.parse, help="one round, as MODE/SEED/N")
    parser.add_argument("--times", type=int, default=1, help="replay it so often")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="vfsmount-drill-"))
    if args.replay:
        with _server(base, args.dialect) as server:
            return _replay(server, base, args.replay, args.times)
    began = time.monotonic()
    jobs = [
        (base / str(n), args, args.kills // args.jobs, args.seed + n * SEEDS_A_JOB) for n in range(args.jobs)
    ]
    # Processes of their own before any thread: the daemons are forked from them.
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        done = pool.starmap(_job, jobs)
    took_s = time.monotonic() - began
    tally = Tally()
    for one, _ in done:
        tally.add(one)
    defects = sum(len(found) for _, found in done)
    print(
        f"{args.dialect} seed {args.seed}: {tally.kills} kills in {tally.rounds} rounds, {tally.operations}"
        f" operations acknowledged, {took_s:.0f} s, {tally.kills / took_s:.1f} kills/s,"
        f" {tally.aside} contents set aside, {defects} defects; {dict(tally.warnings)}"
    )
    if not defects:
        shutil.rmtree(base)
    return bool(defects)


def _job(base: Path, args: argparse.Namespace, kills: int, seed: int) -> tuple[Tally, list[str]]:
    base.mkdir()
    with _server(base, args.dialect) as server:
        return drill(server, base, kills, args.modes.split(","), seed, args.defects)


def _server(base: Path, dialect: str) -> Embedded:
    return Embedded(base / "server", dialect=dialect, rate_limit=100_000_000)


def _replay(server: Embedded, base: Path, spec: Spec, times: int) -> int:
    folder = _folder(server)
    for _ in range(times):
        one = Round(server, folder, base, spec, logging.DEBUG)
        try:
            one.run()
        except Defect as e:
            print("\n".join([*one.story, "", f"DEFECT {spec}: {e}", f"log: {one.log}"]))
            return 1
        one.clean()
    print("\n".join([*one.story, f"{spec}: nothing wrong in {times} rounds"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
