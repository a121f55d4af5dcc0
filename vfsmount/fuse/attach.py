"""From a fresh mount's descriptor to a pyfuse3 that serves it, with INIT answered by us.

pyfuse3 is given one end of a socket pair first; the kernel's INIT request travels through it,
libfuse's reply comes back, is patched (`negotiation`) and written to the device; then the device is
put in the socket's place. From there on pyfuse3 talks to the kernel.

Behind a holder it is the same, in steps: `introduce` with the request that the holder keeps, and, when it is
our turn, `Introduced.take` with the device. A generation that stands by has a session that counts as begun.

Where any of that cannot be done, the mount is made afresh and libfuse is given its device as it is:
a kernel that was told nothing, or half of it, cannot be told again. A mount that is not ours to make
(`passed`) fails then.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable

import pyfuse3
import trio

from vfsmount.errors import MountError
from vfsmount.fuse import device, negotiation
from vfsmount.log import event

_log = logging.getLogger("vfsmount.fuse.attach")

_REPLY_S = 5.0  # libfuse answers within milliseconds, in this process
_REPLY_ROOM = 4096
_NUDGE_S = 0.01  # a worker that was busy when nudged reads once more


async def attach(
    fd: int,
    operations: pyfuse3.Operations,
    wanted: negotiation.InitOptions,
    mount_afresh: Callable[[int], int] | None,
) -> int:
    """Have pyfuse3 serve what was just mounted; `fd` is not the caller's any more.

    Args:
        mount_afresh: closes a descriptor and mounts again; None: that is not ours to do.

    Returns:
        The descriptor that pyfuse3 reads; it stays pyfuse3's.

    Raises:
        MountError: not even libfuse's own way works.
    """
    try:
        request = await trio.to_thread.run_sync(device.read_init, fd)
        introduced = await introduce(request, operations, wanted)
        try:
            os.write(fd, introduced.reply)
            slot = introduced.take(fd)
        except Exception:
            introduced.give_up()
            raise
    except Exception as e:  # whatever it is, the other way does without what has failed
        if mount_afresh is None:
            raise MountError(f"the kernel's first request on descriptor {fd} cannot be answered: {e}") from e
        fd = await trio.to_thread.run_sync(mount_afresh, fd)
        return leave_to_libfuse(fd, operations, e)
    return slot


def leave_to_libfuse(fd: int, operations: pyfuse3.Operations, error: Exception) -> int:
    """Have libfuse negotiate with the kernel as it likes; the descriptor that pyfuse3 reads."""
    # A warning: the mount is slower than it should be, and a background mount logs nothing less.
    event(_log, logging.WARNING, "mount.init_left_to_libfuse", error=error)
    pyfuse3.init(operations, f"/dev/fd/{fd}", set())
    return fd


async def attach_first(
    fd: int,
    request: bytes,
    operations: pyfuse3.Operations,
    wanted: negotiation.InitOptions,
    answer: Callable[[bytes], Awaitable[bool]],
    mount_afresh: Callable[[], Awaitable[int]],
) -> tuple[int, bool]:
    """As `attach`, behind a holder: `answer` writes a reply, `mount_afresh` gives another device.

    Returns:
        The descriptor that pyfuse3 reads, and what `answer` says.
    """
    try:
        introduced = await introduce(request, operations, wanted)
        try:
            large_pieces = await answer(introduced.reply)
            slot = introduced.take(fd)
        except Exception:
            introduced.give_up()
            raise
    except Exception as e:
        os.close(fd)
        return leave_to_libfuse(await mount_afresh(), operations, e), False
    return slot, large_pieces


async def stop_reading(slot: int, timeout_s: float) -> None:
    """Have ``pyfuse3.main`` return when what it has in hand is answered; to be cancelled when it has.

    Not by libfuse's exit flag, which would drop the next request: it may be for another daemon to answer.
    """
    with trio.move_on_after(timeout_s):
        while True:
            trio.lowlevel.notify_closing(slot)
            await trio.sleep(_NUDGE_S)


class Introduced:
    """A session of pyfuse3 that has answered INIT and reads nothing yet.

    Attributes:
        reply: its answer, as the kernel is to get it.
        slot: the descriptor that pyfuse3 will read; it stays pyfuse3's.
    """

    def __init__(
        self,
        far: socket.socket,
        slot: int,
        reply: bytes,
        offer: negotiation.Offer,
        wanted: negotiation.InitOptions,
    ) -> None:
        self._far = far
        self._offer = offer
        self._wanted = wanted
        self.slot = slot
        self.reply = reply

    def take(self, fd: int, *, keep: bool = False) -> int:
        """Put the device in pyfuse3's hands; closes `fd` unless that is to be kept. Returns the slot."""
        os.dup2(fd, self.slot, inheritable=False)
        self._far.close()
        if not keep:
            os.close(fd)
        offer, wanted = self._offer, self._wanted
        event(
            _log,
            logging.INFO,  # an old kernel that cannot do all of it is nothing to warn of
            "mount.init",
            protocol=f"7.{offer.protocol}",
            parallel_dirops="not offered" if not offer.parallel_dirops else wanted.parallel_dirops,
            max_background=wanted.max_background,
            congestion_threshold=wanted.congestion_threshold,
        )
        return self.slot

    def give_up(self) -> None:
        """Pyfuse3 has no session afterwards."""
        pyfuse3.close(unmount=False)
        self._far.close()


async def introduce(
    request: bytes, operations: pyfuse3.Operations, wanted: negotiation.InitOptions
) -> Introduced:
    """Have pyfuse3 begin a session with the kernel's INIT request. After a failure it has none.

    Raises:
        MountError: the request is not as we know it, or libfuse's answer.
    """
    offer = negotiation.read_offer(request)
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far.setblocking(False)
    try:
        with near:
            pyfuse3.init(operations, f"/dev/fd/{near.fileno()}", set())
            slot = near.detach()  # libfuse's, who closes it
        try:
            far.send(request)
            reply = negotiation.patch_reply(offer, await _reply_of_libfuse(far, slot), wanted)
        except Exception:
            pyfuse3.close(unmount=False)
            raise
    except BaseException:
        far.close()
        raise
    return Introduced(far, slot, reply, offer, wanted)


async def _reply_of_libfuse(far: socket.socket, slot: int) -> bytes:
    """What libfuse says to the one request that lies in its socket; it reads no other afterwards."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        stopped = trio.Event()

        async def serve() -> None:
            nonlocal failure
            try:
                await pyfuse3.main(1, 1)  # a second worker would wait behind pyfuse3's read lock
            except Exception as e:
                failure = e
            stopped.set()
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve)
        with trio.move_on_after(_REPLY_S):
            await trio.lowlevel.wait_readable(far)
        # Wakes the reader without libfuse's exit flag, which would drop the next request.
        while not stopped.is_set():
            trio.lowlevel.notify_closing(slot)
            await trio.lowlevel.checkpoint()
    if failure is not None:
        raise failure
    try:
        return far.recv(_REPLY_ROOM)
    except BlockingIOError:
        raise MountError("libfuse did not answer INIT") from None
