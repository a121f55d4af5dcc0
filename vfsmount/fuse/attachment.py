"""How a daemon comes to the kernel, and leaves it: by itself, with a descriptor, or behind a holder.

Each of the four is used like this: `prepare` before anything is opened that only one daemon may have,
`begin` when the filesystem is ready to answer, `leave` to have the mount, or our part in it, end.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pyfuse3
import trio

from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect, ServerInfo
from vfsmount.errors import ConfigError, MountError, VfsError
from vfsmount.fuse import device
from vfsmount.fuse.attach import Introduced, attach, attach_first, introduce, stop_reading
from vfsmount.fuse.keeper import Keeper, Turn
from vfsmount.fuse.kernelahead import raise_readahead
from vfsmount.fuse.ops import Operations
from vfsmount.fuse.requests import Taken
from vfsmount.log import event
from vfsmount.vfs.deadline import within
from vfsmount.vfs.filesystem import RESENT, Filesystem

if TYPE_CHECKING:
    from vfsmount.fuse.session import MountSpec

_log = logging.getLogger("vfsmount.fuse.attachment")

_CONNECT_AGAIN_S = 30.0


class Attachment:
    """A mount of our own.

    Attributes:
        operations: what pyfuse3 calls; bound to a filesystem later.
        large_pieces: whether the kernel asks for large pieces.
    """

    def __init__(self, spec: MountSpec) -> None:
        self.spec = spec
        self.operations = Operations()
        self.large_pieces = False

    async def prepare(self, client: Client) -> None:
        """Reach the server: a wrong key is to show as a sentence, and never as a mount that fails.

        Raises:
            VfsError
        """
        with within(self.spec.policy.deadline_s):
            await client.connect()

    @property
    def mountpoint(self) -> str:
        """Where files show."""
        return self.spec.mountpoint

    async def begin(self, fs: Filesystem, nursery: trio.Nursery) -> None:
        """Have requests come to `operations`, which are bound.

        Args:
            nursery: owns what is answered outside of pyfuse3.

        Raises:
            MountError
        """
        fd = device.mount(self.spec.mountpoint, self.spec.kernel)
        try:
            await attach(fd, self.operations, self.spec.init, self._afresh)
        except BaseException:
            with suppress(MountError):  # the first error is the one to tell
                self._unmount()
            raise
        self.large_pieces = raise_readahead(self.mountpoint)

    def _unmount(self) -> None:
        device.unmount(self.spec.mountpoint, lazy=True)

    def _afresh(self, fd: int) -> int:
        # The old connection ends with its descriptor, and with an error for who uses it already.
        os.close(fd)
        self._unmount()
        return device.mount(self.spec.mountpoint, self.spec.kernel)

    async def leave(self) -> None:
        """Have `pyfuse3.main` return when the last program is done.

        Raises:
            MountError
        """
        # From a thread: the kernel may want an answer of ours before it lets go.
        await trio.to_thread.run_sync(self._unmount)


class Passed(Attachment):
    """What somebody else has mounted, and will unmount."""

    def __init__(self, spec: MountSpec, fd: int, linger_s: float) -> None:
        super().__init__(spec)
        self._fd = fd
        self._linger_s = linger_s
        self._slot = -1

    async def begin(self, fs: Filesystem, nursery: trio.Nursery) -> None:
        self._slot = await attach(self._fd, self.operations, self.spec.init, None)
        self.large_pieces = raise_readahead(self.mountpoint)

    async def leave(self) -> None:
        await stop_reading(self._slot, self._linger_s)


class First(Attachment):
    """The first generation behind a holder, which mounts for it."""

    def __init__(self, spec: MountSpec, keeper: Keeper) -> None:
        super().__init__(spec)
        self._keeper = keeper
        self.slot = -1
        self.settled = trio.Event()  # what others had read is answered

    async def begin(self, fs: Filesystem, nursery: trio.Nursery) -> None:
        self.settled.set()
        fd, request = await self._keeper.mount(self.spec.mountpoint, self.spec.kernel)
        self.slot, self.large_pieces = await attach_first(
            fd,
            request,
            self.operations,
            self.spec.init,
            self._keeper.answer_init,
            self._keeper.mount_afresh,
        )
        self._keeper.tell["large_pieces"] = self.large_pieces

    async def leave(self) -> None:
        await self._keeper.unmount()


class Successor(First):
    """A later generation: stands by, then takes over."""

    def __init__(self, spec: MountSpec, keeper: Keeper) -> None:
        super().__init__(spec, keeper)
        self._introduced: Introduced | None = None
        self._turn: Turn | None = None
        self.resent = 0

    @property
    def mountpoint(self) -> str:
        return self._turn.mountpoint if self._turn is not None else self.spec.mountpoint

    async def prepare(self, client: Client) -> None:
        """Stand by. The server need not be there: what it is was found out by the first generation."""
        _assume(client, self._keeper)
        self._introduced = await introduce(self._keeper.init, self.operations, self.spec.init)
        self.slot = self._introduced.slot
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stay_connected, client)
            self._turn = await self._keeper.wait_for_turn(self._introduced.reply)
            nursery.cancel_scope.cancel()

    async def begin(self, fs: Filesystem, nursery: trio.Nursery) -> None:
        assert self._turn is not None and self._introduced is not None
        taken = Taken(self._turn.device, self.operations, fs)
        started = trio.Event()
        nursery.start_soon(self._answer_what_is_left, taken, started)
        await started.wait()
        self.resent = taken.resent
        self.large_pieces = bool(self._keeper.told.get("large_pieces"))
        self._introduced.take(self._turn.device, keep=True)
        # A warning: the daemon before died, and somebody may want to know why.
        level = logging.INFO if self._turn.why == "upgrade" else logging.WARNING
        event(
            _log,
            level,
            "mount.taken_over",
            generation=self._keeper.number,
            why=self._turn.why,
            takeovers=self._turn.takeovers,
            resent=taken.resent,
        )

    async def _answer_what_is_left(self, taken: Taken, started: trio.Event) -> None:
        assert self._turn is not None
        try:
            await taken.run(started)
        finally:
            os.close(self._turn.device)
            self.settled.set()


def _assume(client: Client, keeper: Keeper) -> None:
    server = keeper.told["server"]
    # Settings are read anew, and folders and unsent files of one server are nothing to another.
    if server["endpoint"] != client.endpoint:
        raise ConfigError(
            f"the mount is of {server['endpoint']}, and the settings say {client.endpoint} now: "
            "put them back, or unmount and mount again"
        )
    client.assume(ServerInfo(Dialect(server["dialect"]), server["manager"], server["api_version"]))


def tell_of(client: Client) -> dict[str, str]:
    """What `_assume` will want to know."""
    info = client.info
    return {
        "endpoint": client.endpoint,
        "dialect": info.dialect.value,
        "manager": info.manager,
        "api_version": info.api_version,
    }


async def _stay_connected(client: Client) -> None:
    """Have a connection when it is needed, and the clocks compared; nothing depends on it."""
    while True:
        try:
            await client.connect()
        except VfsError as e:
            event(_log, logging.DEBUG, "standby.not_connected", error=e)
            await trio.sleep(_CONNECT_AGAIN_S)
        else:
            return


async def read_requests(attachment: Attachment, keeper: Keeper | None) -> None:
    """Answer requests until the mount is gone; does not return where another daemon takes over."""
    RESENT.set(False)  # for all that pyfuse3 reads
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as readers:
            readers.start_soon(pyfuse3.main)
            if keeper is not None and isinstance(attachment, First):
                nursery.start_soon(_stop_when_told, attachment, keeper, readers)
        nursery.cancel_scope.cancel()
    if keeper is not None and keeper.stop_wanted.is_set() and isinstance(attachment, First):
        with trio.move_on_after(keeper.stop_within_s):
            await attachment.settled.wait()
        # What is not settled is asked for by the kernel again only after a crash: so this is none.
        if attachment.settled.is_set():
            keeper.stopped()
            await trio.sleep_forever()
        keeper.busy()
        await read_requests(attachment, keeper)


async def _stop_when_told(attachment: First, keeper: Keeper, readers: trio.Nursery) -> None:
    while True:
        await keeper.stop_wanted.wait()
        await stop_reading(attachment.slot, keeper.stop_within_s)
        # Still here, so something is in hand that takes too long. Nobody reads meanwhile.
        keeper.busy()
        readers.start_soon(pyfuse3.main)
