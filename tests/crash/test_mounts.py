"""A program works on a real mount while the daemon, the server or the line between them dies."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.crash.daemon import differences
from tests.crash.workload import Op, Outcome, Pieces, Tree, fits, operations
from tests.support.cutproxy import CutProxy
from tests.support.disks import tree_on_disk
from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

pytestmark = pytest.mark.fuse

DIALECTS = ["23.09", "26"]


def work_on(tree: Tree, seed: str, count: int) -> list[Op]:
    """Operations whose acknowledgement is a close or the call itself."""
    ops = operations(random.Random(seed), tree, count)
    # What is written in place after an fsync reaches the daemon in the kernel's order, not in ours.
    return [dataclasses.replace(op, kind="patch") if op.kind == "sync" else op for op in ops]


def perform(op: Op, top: Path) -> None:
    """Do one operation with plain system calls; it is acknowledged when this returns."""
    path, other = top / op.path, top / op.other
    match op.kind:
        case "write":
            with path.open("wb", buffering=0) as f:
                _write(f.fileno(), op.pieces)
        case "patch":
            with path.open("r+b", buffering=0) as f:
                _write(f.fileno(), op.pieces)
        case "rename-open":
            # An earlier try may have renamed it, and not heard of that.
            now = path if path.exists() else other
            with now.open("r+b", buffering=0) as f:
                _write(f.fileno(), op.pieces[:1])
                if now is path:
                    path.rename(other)
                _write(f.fileno(), op.pieces[1:])
        case "truncate":
            os.truncate(path, op.size)
        case "rename":
            path.rename(other)
        case "unlink":
            path.unlink()
        case "mkdir":
            path.mkdir()
        case "rmdir":
            path.rmdir()
        case "sleep":
            time.sleep(op.pause_s)


def _write(fd: int, pieces: Pieces) -> None:
    for at, data in pieces:
        os.pwrite(fd, data, at)


def forgotten(op: Op, error: OSError, tries: int) -> bool:
    """Whether a repeated call fails because the first one, whose answer was lost, had been executed."""
    done = {"mkdir": errno.EEXIST, "rmdir": errno.ENOENT, "rename": errno.ENOENT, "unlink": errno.ENOENT}
    return tries > 0 and error.errno == done.get(op.kind)


def tree_of(top: Path) -> Tree:
    """What a mount shows."""
    return {str(p.relative_to(top)): None if p.is_dir() else p.read_bytes() for p in sorted(top.rglob("*"))}


def is_one_of(found: Tree, outcomes: list[Outcome]) -> None:
    said = " | or ".join(differences(found, outcome) for outcome in outcomes)
    assert any(fits(found, outcome) for outcome in outcomes), said


@pytest.fixture(autouse=True)
def no_dead_mount_stays(tmp_path: Path) -> Iterator[None]:
    """A test that fails between a kill and the next mount must not leave a directory nobody can remove."""
    yield
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


def nothing_is_left(mounted: Mounted, disk: Path, tree: Tree) -> None:
    """Drained, the server has exactly what was acknowledged, and this machine nothing."""
    done = mounted.stop("--timeout", "200")
    assert (done.returncode, done.stderr) == (0, "")
    found = tree_on_disk(disk)
    is_one_of(found, [dict(tree)])
    assert list((mounted.state / "staging").iterdir()) == []
    said = mounted.warnings()
    assert not [line for line in said if " ERROR " in line or "conflict" in line]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_daemon_that_is_killed_again_and_again(dialect: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        disk = server.folder_dir(server.create_folder("owner", "drill"))
        mounted = Mounted(tmp_path, server.env("owner"), "--drain-timeout", "120")
        tree: Tree = {}
        for life in range(12):
            mounted.start()
            top = mounted.path / "drill"
            assert tree_of(top) == tree
            outcomes: list[Outcome] = [dict(tree)]
            killer = threading.Timer(rng.uniform(0.05, 1.0), mounted.kill)
            killer.start()
            for op in work_on(tree, f"{dialect}/{life}", 40):
                outcomes = op.outcomes(tree, synced=False)
                try:
                    perform(op, top)
                except OSError as e:
                    assert e.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), op
                    break
                tree = op.after(tree)
                outcomes = [dict(tree)]
            killer.join()
            mounted.start()
            found = tree_of(top)
            is_one_of(found, outcomes)
            tree = found
            mounted.kill()
        mounted.start()
        nothing_is_left(mounted, disk, tree)


@contextmanager
def dying(cut: Callable[[int], None], every_s: float) -> Iterator[list[int]]:
    """Call `cut` again and again while the body runs; yields the numbers of the calls."""
    stop, done = threading.Event(), list[int]()

    def run() -> None:
        while not stop.wait(every_s):
            cut(len(done))
            done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def work_through(top: Path, seed: str, enough: Callable[[], bool]) -> Tree:
    """Do everything, however often it takes, until it is enough; the tree that has been acknowledged then."""
    tree: Tree = {}
    for n in itertools.count():
        if enough():
            break
        for op in work_on(tree, f"{seed}/{n}", 50):
            end, tries = time.monotonic() + 60, 0
            while True:
                try:
                    perform(op, top)
                    break
                except OSError as e:
                    if forgotten(op, e, tries):
                        break
                    assert time.monotonic() < end, f"{op}: {e}"
                    tries += 1
                    time.sleep(0.1)
            tree = op.after(tree)
    return tree


@pytest.mark.parametrize("dialect", DIALECTS)
def test_server_that_is_killed_and_started_again(dialect: str, tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect=dialect) as first:
        servers = [first]
        env = first.env("owner")
        disk = first.folder_dir(first.create_folder("owner", "drill"))
        ports = {"port": urlsplit(first.url).port, "storage_port": urlsplit(storage_of(first)).port}

        def kill(_: int) -> None:
            servers[-1].kill()
            servers[-1].stop()
            servers.append(Embedded(tmp_path / "data", dialect=dialect, **ports))

        try:
            with Mounted(tmp_path, env, "--deadline", "10") as mounted:
                with dying(kill, 1.5) as kills:
                    tree = work_through(mounted.path / "drill", f"server/{dialect}", lambda: len(kills) >= 4)
                nothing_is_left(mounted, disk, tree)
        finally:
            for server in servers[1:]:
                server.stop()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_line_that_is_cut_every_second(dialect: str, tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        disk = server.folder_dir(server.create_folder("owner", "drill"))
        env = server.env("owner")
        storage = storage_of(server)
        with CutProxy(storage) as line:
            override = f"{storage}={line.url}"
            env = {**env, "BACKEND_OVERRIDE_STORAGE_PROXY": override}

            def cut(_: int) -> None:
                line.cut()
                time.sleep(0.1)
                line.restore()

            with Mounted(tmp_path, env, "--deadline", "10") as mounted:
                with dying(cut, 0.7) as cuts:
                    tree = work_through(mounted.path / "drill", f"line/{dialect}", lambda: len(cuts) >= 10)
                nothing_is_left(mounted, disk, tree)


def storage_of(server: Embedded) -> str:
    """Origin of the storage-proxy's addresses."""
    client = server.client("owner")
    url, _ = client.grant(client.ok("GET", "/folders")[0]["name"], ".")
    client.close()
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
