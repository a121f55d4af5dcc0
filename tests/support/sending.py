"""What tests of background uploads look at: the server's disk, its counters, and whether all is sent."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import trio

from tests.support.embedded import Embedded
from tests.support.vfs import Driver, serving, stall, until

MIB = 1 << 20
# So long that no upload of it is taken for one that may be completed already.
LONG = os.urandom(12 * MIB)
REQUEST = "/folders/*/request-upload"
REQUESTED = "/folders/{vf}/request-upload"
DELETE = "/folders/*/delete-files"


background = partial(serving, sync=False)


def deletions(server: Embedded) -> int:
    """Calls that remove files, whichever way the dialect has it."""
    route = "/folders/{vf}/delete-files"
    return server.count("DELETE", route) + server.count("POST", route)


def replace(path: Path, data: bytes) -> None:
    """As an upload by somebody else does it: in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.rename(path)


def kept_beside(files: dict[str, bytes], name: str) -> list[bytes]:
    """What is kept of a file under names of conflicts."""
    return sorted(data for n, data in files.items() if n.startswith(f"{name}.conflict-"))


async def all_sent(d: Driver) -> None:
    """Everything acknowledged is on the server, and nobody overwrote it since."""
    with trio.fail_after(30):
        await d.fs.wait()
        await until(lambda: not d.fs._settling._watched and not d.fs._settling._looking)
        await d.fs.wait()


def staging_files(d: Driver) -> list[str]:
    return [p.name for p in d.area.directory.iterdir() if p.name != "lock"]


def patches(server: Embedded) -> int:
    return server.count("PATCH", "/upload")


def uploads_of(server: Embedded, path: str) -> dict[str, int]:
    """Bytes, patches and sessions that came for one path."""
    found: dict[str, int] = server.report()["uploads"].get(path, {"bytes": 0, "patches": 0, "sessions": 0})
    return found


async def rewrite(d: Driver, fh: int, data: bytes, at: int = 0) -> None:
    await d.fs.write(fh, at, data)
    await d.fs.flush(fh)


async def write_and_travel(d: Driver, server: Embedded, path: str, data: bytes = LONG) -> None:
    """The file is closed and its first bytes are under way, unanswered."""
    before = patches(server)
    stall(server, "PATCH", "/upload")
    await d.write(path, data)
    await until(lambda: patches(server) == before + 1)
