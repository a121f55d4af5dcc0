"""``vfsmount`` with every request answered by `fuse.requests`, which else has those of a takeover only.

python -m tests.support.unaided ARGUMENTS…
"""

from __future__ import annotations

import os
from typing import Any

import pyfuse3
import trio

from vfsmount.__main__ import main
from vfsmount.fuse import attachment
from vfsmount.fuse.requests import REQUEST_ROOM, Taken, parse

_slot = -1
_operations: Any = None
_attach = attachment.attach


async def attach(fd: int, operations: Any, *rest: Any) -> int:
    """As the real one; remembers."""
    global _slot, _operations
    _slot, _operations = await _attach(fd, operations, *rest), operations
    return _slot


class Library:
    """In the place of pyfuse3: reads and answers by itself."""

    close = staticmethod(pyfuse3.close)

    @staticmethod
    async def main() -> None:
        """Until the mount is gone."""
        taken = Taken(_slot, _operations, _operations._fs)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(_slot)
                try:
                    message = os.read(_slot, REQUEST_ROOM)
                except OSError:  # it is
                    return
                nursery.start_soon(taken._answer, parse(message))


if __name__ == "__main__":
    attachment.attach = attach
    attachment.pyfuse3 = Library  # type: ignore[assignment]
    raise SystemExit(main())
