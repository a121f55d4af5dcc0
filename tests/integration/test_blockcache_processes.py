"""One cache directory, several processes: never above the limit, never a wrong byte, whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import used
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.store.blockcache import BlockCache

CHECKOUT = Path(__file__).parents[2]
LIMIT = 96 * BLOCK_SIZE
READERS = 4
KILLS = 10


def start(root: Path, seed: int, *more: str) -> subprocess.Popen[str]:
    """One that reads, from when it has the cache open."""
    command = [sys.executable, "-m", "tests.support.cached", str(root), f"--limit={LIMIT}", f"--seed={seed}"]
    reader = subprocess.Popen([*command, *more], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    return reader


@contextmanager
def standing_still(readers: list[subprocess.Popen[str]]) -> Iterator[None]:
    """None of them moves while the body looks."""
    for reader in readers:
        reader.send_signal(signal.SIGSTOP)
    for reader in readers:
        # Stopped or at its end, and not reaped.
        os.waitid(os.P_PID, reader.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        for reader in readers:
            reader.send_signal(signal.SIGCONT)


def end(readers: list[subprocess.Popen[str]]) -> None:
    for reader in readers:
        reader.kill()
        reader.wait()
        assert reader.stdout is not None
        reader.stdout.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_four_readers_of_three_times_the_limit_never_exceed_it(root: Path) -> None:
    blocks = 3 * LIMIT // BLOCK_SIZE
    readers = [start(root, seed, "--sweep", f"--blocks={blocks}") for seed in range(READERS)]
    samples = []
    try:
        while any(reader.poll() is None for reader in readers):
            with standing_still([reader for reader in readers if reader.returncode is None]):
                samples.append(used(root))
            time.sleep(0.001)
        assert [reader.returncode for reader in readers] == [0] * READERS
    finally:
        end(readers)
    # One block a reader would be allowed; as room is booked before it is used, not even that is needed.
    assert len(samples) > 10 and max(samples) <= LIMIT
    assert used(root) > LIMIT * 0.7


def nothing(root: Path) -> None:
    pass


def lose_the_catalogue(root: Path) -> None:
    (root / "catalogue.sqlite").unlink(missing_ok=True)


def scribble_on_the_catalogue(root: Path) -> None:
    try:
        with (root / "catalogue.sqlite").open("r+b", buffering=0) as file:
            page = random.randrange(max(1, os.fstat(file.fileno()).st_size // 4096))
            os.pwrite(file.fileno(), random.randbytes(4096), page * 4096)
    except FileNotFoundError:
        pass


@pytest.mark.parametrize("trouble", [nothing, lose_the_catalogue, scribble_on_the_catalogue])
def test_readers_that_are_killed_leave_nothing_wrong(root: Path, trouble: Callable[[Path], None]) -> None:
    chosen = random.Random(5)
    readers = [start(root, seed) for seed in range(READERS)]
    try:
        for kills in range(KILLS):
            time.sleep(chosen.random() * 0.1)
            trouble(root)
            with standing_still(readers):
                # A block booked when the catalogue was lost is found by what it takes, or not yet.
                assert used(root) <= LIMIT + (0 if trouble is nothing else READERS * BLOCK_SIZE)
            which = chosen.randrange(READERS)
            assert [reader.poll() for reader in readers] == [None] * READERS
            end([readers[which]])
            readers[which] = start(root, kills + READERS)
    finally:
        end(readers)
    cache = BlockCache(root, LIMIT, 0)
    try:
        booked = cache.usage().bytes
        assert used(root) - (128 << 10) <= booked <= LIMIT
        checked, bad = cache.verify()
        assert checked > 10 and bad == 0
    finally:
        cache.close()


def test_stopped_process_does_not_stop_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.cached import content, key
    from vfsmount.store import catalogue

    monkeypatch.setattr(catalogue, "_WAIT_S", 0.2)
    code = (
        "import sys, time; from pathlib import Path; from vfsmount.store.turn import Turn\n"
        "with Turn(Path(sys.argv[1])).taken(1.0): print('mine', flush=True); time.sleep(60)"
    )
    of, cache = key("a", 3), BlockCache(root, LIMIT, 0)
    assert cache.write(of, 0, content(of, 0))
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(root / "lock")], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        other = key("b", 3)
        assert not cache.write(other, 0, content(other, 0))
        assert cache.read(of, 0) == content(of, 0)
        end([holder])
        assert cache.write(other, 0, content(other, 0))
    finally:
        end([holder])
        cache.close()
