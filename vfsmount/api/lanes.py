"""How many requests that carry content may be open at once: at most four, two of them large.

23.09 blocks a thread for as long as such a request is open, out of a pool of CPU count + 4 that all its
users share, and needs another one of the same pool to hand each piece of content over (janus wakes a
thread that waits by way of the pool), and to begin a download. Six such requests at once stop a
storage-proxy of two cores for good: every thread waits for bytes that are there. So there what is
counted is what all processes of this user on this machine send to one storage-proxy; py-spy of a real
one shows all of its threads in AsyncFileWriter._write.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import trio

SMALL = 1 << 20  # bytes of a request that are read before it is begun, and that get past larger ones
_ALL = 4
_LARGE = 2  # of them; a slow line carries no more with more of them
_NAP_S = 0.01
_PATIENCE_S = 20.0  # with other processes: one of them may be stopped


class Lanes:
    """The turns of one client."""

    def __init__(self) -> None:
        self._all, self._large = trio.Semaphore(_ALL), trio.Semaphore(_LARGE)

    @asynccontextmanager
    async def of(self, length: int, shared_with: str | None) -> AsyncIterator[None]:
        """Wait for a turn to send `length` bytes, and have it while the body runs.

        Args:
            shared_with: the storage-proxy, as host and port, where other processes count as well.
        """
        async with AsyncExitStack() as turns:
            if length > SMALL:
                await turns.enter_async_context(self._large)
                await _share(turns, "large", _LARGE, shared_with)
            await turns.enter_async_context(self._all)
            await _share(turns, "all", _ALL, shared_with)
            yield


async def _share(turns: AsyncExitStack, kind: str, count: int, server: str | None) -> None:
    """Have one of the names that stand for turns, each of which one process at a time can have. The kernel
    gives them free when their holder dies."""
    if server is None:
        return
    digest = hashlib.sha256(server.encode()).hexdigest()[:16]
    holder = turns.enter_context(
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    )
    with trio.move_on_after(_PATIENCE_S):
        while True:
            for number in range(count):
                try:
                    holder.bind(f"\0vfsmount-lane-{os.geteuid()}-{digest}-{kind}-{number}")
                except OSError:
                    continue  # somebody has it
                return
            await trio.sleep(_NAP_S)
