"""Trees that are removed as `rm -r` does it, while the server may not be there and others use them."""

from __future__ import annotations

import stat

import trio

from tests.support.sending import DELETE
from tests.support.vfs import Driver, until
from vfsmount.vfs import pending, removals

# No deletion gets through, until the faults are cleared.
AWAY = {"rules": [{"action": "status", "path": DELETE, "status": 503, "times": None}]}
REFUSED = {"rules": [{"action": "status", "path": DELETE, "status": 403, "times": None}]}
LISTING = "/folders/{vf}/files"
LAID_OUT: dict[str, bytes | None] = {
    "top/a/x": b"x",
    "top/a/y": b"y",
    "top/a/b/z": b"z",
    "top/c": None,
    "top/w": b"w",
}
# What is left of it where somebody has put a file into one of its directories.
THEIRS: dict[str, bytes | None] = {"top": None, "top/a": None, "top/a/theirs": b"theirs"}


async def remove(d: Driver, path: str, *, at_last: str = "rmdir") -> None:
    """As `rm -r` does; `at_last` keep: what was `path` stays."""
    for n in await d.names(path):
        if stat.S_ISDIR((await d.stat(f"{path}/{n}")).mode):
            await remove(d, f"{path}/{n}")
        else:
            await d.unlink(f"{path}/{n}")
    if at_last == "rmdir":
        await d.rmdir(path)


async def all_done(d: Driver) -> None:
    """Nothing removed is on its way any more, whatever came of it."""
    await until(lambda: not d.fs._removals._pending)
    assert not d.fs._removals._in and not d.fs._removals._directories


async def until_late() -> None:
    """What was seen in a directory until now is too long ago to be believed."""
    await trio.sleep(max(pending.LATE_S, removals.LATE_S) + 0.05)
