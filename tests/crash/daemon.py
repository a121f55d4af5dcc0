"""The process that is killed: a `Filesystem` without a kernel, working through operations.

It is forked from a warm parent, so that hundreds of them live and die in a minute. What it did it
tells through a journal, a line before each operation and one after it was acknowledged; the parent
reads that when it is dead.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import random
import signal
import stat
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from tests.crash.workload import Op, Tree, operations
from tests.support.disks import tree_on_disk
from tests.support.embedded import Embedded
from tests.support.vfs import Driver, serving
from vfsmount.store import syscalls

FOLDER = "drill"
DONE = b"done"
OPEN_FLAGS = os.O_RDWR


@dataclass(frozen=True)
class Kill:
    """When a daemon dies.

    Attributes:
        how: "boundary": before its n-th change of the disk; "wire": at its n-th request, before it
            for even numbers and when the reply's head is there for odd ones; "time": after `seconds`;
            "": never.
    """

    how: str = ""
    n: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return {"": "-", "time": f"time:{self.seconds:.3f}"}.get(self.how, f"{self.how}:{self.n}")


@dataclass(frozen=True)
class Life:
    """What one daemon is to do before it drains, or dies.

    Attributes:
        lanes: directory → seed and number of the operations of one program, which works there alone.
        look: compare what the mount shows with the journal first; without it there are no operations.
    """

    lanes: dict[str, tuple[str, int]]
    kill: Kill
    look: bool
    number: int


@dataclass(frozen=True)
class Place:
    """Where a round happens.

    Attributes:
        top: directory inside the folder.
        disk: the same on the server's disk.
    """

    server: Embedded
    state: Path
    journal: Path
    log: Path
    top: str
    disk: Path


def planned(life: Life, lane: str, tree: Tree) -> list[Op]:
    """The operations of one lane, which begin with what was found there."""
    seed, count = life.lanes[lane]
    return operations(random.Random(seed), tree, count)


def run(place: Place, life: Life, level: int) -> None:
    """Be the daemon; does not return."""
    status = 70
    try:
        _log_to(place.log, level, life.number)
        _arm(life.kill)
        trio.run(_live, place, life)
        status = 0
    except BaseException:
        with place.log.open("a") as log:
            log.write(traceback.format_exc())
    finally:
        os._exit(status)


def _log_to(path: Path, level: int, number: int) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(f"{number} %(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("vfsmount")
    ours.handlers = [handler]
    ours.setLevel(level)
    ours.propagate = False


def _arm(kill: Kill) -> None:
    syscalls._crash_at = kill.n if kill.how == "boundary" else 0
    syscalls._boundaries = itertools.count(1)
    if kill.how == "wire":
        _die_at_request(kill.n)


def _die_at_request(n: int) -> None:
    send = httpx.AsyncHTTPTransport.handle_async_request
    number = itertools.count(1)

    def count() -> None:
        if next(number) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    async def counted(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        count()
        response = await send(self, request)
        count()
        return response

    httpx.AsyncHTTPTransport.handle_async_request = counted  # type: ignore[method-assign]


async def _live(place: Place, life: Life) -> None:
    journal = os.open(place.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(*words: object) -> None:
        os.write(journal, pickle.dumps(words))

    async with serving(
        place.server, place.state, sync=False, settle_s=0.05, retry_first_s=0.05, host="drill"
    ) as d:
        if life.look:
            async with trio.open_nursery() as nursery:
                for lane in life.lanes:
                    nursery.start_soon(_work, d, place, life, lane, note)
        note("drain")
        left = await d.fs.drain()
        note("drained", [str(f) for f in left])
    note("done")


async def _work(d: Driver, place: Place, life: Life, lane: str, note: Callable[..., None]) -> None:
    top = f"{FOLDER}/{place.top}/{lane}"
    tree = await read_tree(d, top)
    note("found", lane, tree)
    for i, op in enumerate(planned(life, lane, tree)):
        note("begin", lane, i)
        try:
            await perform(d, top, op, lambda i=i: note("synced", lane, i))
        except Exception as e:
            note("failed", lane, f"{op}: {type(e).__name__}: {e}")
            raise
        tree = op.after(tree)
        if op.kind == "wait" and (there := tree_on_disk(place.disk / lane)) != tree:
            note("failed", lane, f"not on the server after a wait: {differences(there, tree)}")
            raise AssertionError("wait")
        note("end", lane, i)


def differences(found: Tree, wanted: Tree) -> str:
    """For people: which names differ, and how."""

    def size(tree: Tree, path: str) -> str:
        content = tree.get(path, b"") if path in tree else None
        return "absent" if path not in tree else "directory" if content is None else f"{len(content)} bytes"

    def where(a: bytes | None, b: bytes | None) -> str:
        if a is None or b is None or len(a) != len(b):
            return ""
        at = [n for n in range(len(a)) if a[n] != b[n]]
        return f", different in [{at[0]}, {at[-1] + 1})"

    names = sorted(p for p in found.keys() | wanted.keys() if found.get(p, b"-") != wanted.get(p, b"-"))
    return (
        "; ".join(
            f"{p}: found {size(found, p)}, wanted {size(wanted, p)}{where(found.get(p), wanted.get(p))}"
            for p in names
        )
        or "nothing"
    )


async def read_tree(d: Driver, top: str) -> Tree:
    """What the mount shows below a directory."""
    tree: Tree = {}

    async def walk(path: str) -> None:
        for name in await d.names(f"{top}/{path}".rstrip("/")):
            at = f"{path}/{name}".lstrip("/")
            attr = await d.stat(f"{top}/{at}")
            if stat.S_ISDIR(attr.mode):
                tree[at] = None
                await walk(at)
            else:
                tree[at] = await d.read(f"{top}/{at}")

    await walk("")
    return tree


async def perform(d: Driver, top: str, op: Op, synced: Callable[[], None]) -> None:
    """Do one operation; it is acknowledged when this returns."""
    path, other = f"{top}/{op.path}", f"{top}/{op.other}"
    match op.kind:
        case "write":
            fh = await d.create(path, os.O_WRONLY | os.O_TRUNC)
            await _close_after(d, fh, lambda: _write(d, fh, op.pieces))
        case "patch":
            fh = await d.open(path, OPEN_FLAGS)
            await _close_after(d, fh, lambda: _write(d, fh, op.pieces))
        case "sync":
            fh = await d.open(path, OPEN_FLAGS)

            async def write_and_sync() -> None:
                await _write(d, fh, op.pieces)
                await d.fs.fsync(fh)
                synced()
                await _write(d, fh, op.later)

            await _close_after(d, fh, write_and_sync)
        case "rename-open":
            fh = await d.open(path, OPEN_FLAGS)

            async def write_and_rename() -> None:
                await _write(d, fh, op.pieces[:1])
                await d.rename(path, other)
                await _write(d, fh, op.pieces[1:])

            await _close_after(d, fh, write_and_rename)
        case "truncate":
            await d.truncate(path, op.size)
        case "rename":
            await d.rename(path, other)
        case "unlink":
            await d.unlink(path)
        case "mkdir":
            await d.mkdir(path)
        case "rmdir":
            await d.rmdir(path)
        case "sleep":
            await trio.sleep(op.pause_s)
        case "wait":
            await d.fs.wait()
        case _:
            raise AssertionError(op.kind)


async def _write(d: Driver, fh: int, pieces: tuple[tuple[int, bytes], ...]) -> None:
    for at, data in pieces:
        await d.fs.write(fh, at, data)


async def _close_after(d: Driver, fh: int, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    finally:
        await d.close(fh)
