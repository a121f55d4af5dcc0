"""A generation's side of the holder (`vfsmount.holder`): what it is told, asks for, and when it serves."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from vfsmount.errors import MountError
from vfsmount.fuse.device import KernelOptions
from vfsmount.holder import wire
from vfsmount.log import event

_log = logging.getLogger("vfsmount.fuse.keeper")

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>


@dataclass(frozen=True, slots=True)
class Turn:
    """What the holder says when a standby is to serve.

    Attributes:
        device: descriptor of /dev/fuse; the receiver's to close.
        takeovers: how many there were, with this one.
        why: what became of the one before.
    """

    device: int
    mountpoint: str
    takeovers: int
    why: str


class Keeper:
    """What one generation knows of its holder; speaks to it while `run` does.

    Attributes:
        number: of this generation, from 1.
        first: it mounts; every other one takes over.
        holder: the holder's process.
        journal: descriptor of the memory that outlives us.
        told: what the holder tells, and what an earlier generation left for us by `ready`.
        log: file where our log goes; "": stderr.
        tell: for `told` of those who come after us.
        stop_within_s: set when another generation is to take over: seconds that what is in hand may take.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self.number: int = told["number"]
        self.first: bool = told["first"]
        self.holder: int = told["holder"]
        self.journal: int = told["journal"]
        self.supervised: bool = told["supervised"]
        self.supervisor_s: float = told["supervisor_s"]
        self.background: bool = told["background"]
        self.takeovers = 0
        self.log = ""
        self.tell: dict[str, Any] = {}
        self.init = bytes.fromhex(told["init"])
        self.told = told
        self.stop_within_s = 0.0
        self.stop_wanted = trio.Event()
        self._beat_s = told["watchdog_s"] / 6
        for fd in (told["control"], told["journal"]):
            os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=told["control"])
        self._send, self._replies = trio.open_memory_channel[tuple[wire.Message, list[int]]](8)
        self._refusals, self._refused = trio.open_memory_channel[str](8)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Keeper | None:
        """The one that the environment tells of, which does so no more afterwards.

        Raises:
            MountError: it began with a version that cannot be followed by this one.
        """
        text = environ.pop(wire.GENERATION, "")
        if not text:
            return None
        told = json.loads(text)
        keeper = cls(told)
        if told["protocol"] != wire.PROTOCOL:
            why = "what is installed now cannot go on with this mount: unmount, and mount again"
            keeper.failed(why)
            raise MountError(why)
        return keeper

    # --- while the loop runs -------------------------------------------------------------------

    async def run(self) -> None:
        """Hear what the holder says, and tell it that we live, until cancelled."""
        self._socket.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    got = wire.receive(self._socket)
                except BlockingIOError:
                    continue
                if got is None:
                    os._exit(1)  # the holder is gone, and the mount with it
                self._hear(*got)

    async def _beat(self) -> None:
        while True:
            wire.send(self._socket, {"op": "alive"})
            await trio.sleep(self._beat_s)

    def _hear(self, message: wire.Message, fds: list[int]) -> None:
        match message["op"]:
            case "stop":
                self.stop_within_s = message["within_s"]
                self.stop_wanted.set()
            case "upgrade-failed":
                event(_log, logging.INFO, "mount.not_handed_over", why=message["why"])
                if self._refusals.statistics().tasks_waiting_receive:
                    self._refusals.send_nowait(message["why"])
            case _:
                self._send.send_nowait((message, fds))

    async def _ask(self, message: wire.Message) -> tuple[wire.Message, list[int]]:
        wire.send(self._socket, message)
        reply, fds = await self._replies.receive()
        if reply["op"] == "refused":
            raise MountError(reply["why"])
        return reply, fds

    # --- what is asked of it -------------------------------------------------------------------

    async def mount(self, mountpoint: str, options: KernelOptions) -> tuple[int, bytes]:
        """Have it mounted; the device, and the kernel's first request.

        Raises:
            MountError
        """
        asked = {"source": options.source, "data": options.data(), "flags": options.flags}
        reply, (fd,) = await self._ask({"op": "mount", "mountpoint": mountpoint, **asked})
        return fd, bytes.fromhex(reply["init"])

    async def mount_afresh(self) -> int:
        """Have it mounted again, because nobody could answer the first request; the device."""
        _, (fd,) = await self._ask({"op": "afresh"})
        return fd

    async def answer_init(self, reply: bytes) -> bool:
        """Have the kernel's first request answered; whether the kernel asks for large pieces.

        Raises:
            MountError
        """
        answered, _ = await self._ask({"op": "answer", "reply": reply.hex()})
        return bool(answered["large_pieces"])

    async def unmount(self) -> None:
        """Have the mount taken out of the tree.

        Raises:
            MountError
        """
        reply, _ = await self._ask({"op": "unmount"})
        if reply["why"]:
            raise MountError(reply["why"])

    async def wait_for_turn(self, reply: bytes) -> Turn:
        """Stand by until it is our turn to serve.

        Args:
            reply: our answer to the kernel's first request.
        """
        told, (fd,) = await self._ask({"op": "standby", "reply": reply.hex()})
        self.told.update(told)
        self.takeovers = told["takeovers"]
        return Turn(fd, told["mountpoint"], told["takeovers"], told["why"])

    async def upgrade(self, command: list[str]) -> str:
        """Have another program take over; returns only where it does not, why."""
        wire.send(self._socket, {"op": "upgrade", "command": command, "protocol": wire.PROTOCOL})
        return await self._refused.receive()

    # --- what it is told -----------------------------------------------------------------------

    def socket_path(self, ours: Path | None) -> Path | None:
        """Where questions are answered: where the first generation did, of whose path clients know."""
        told = self.told.get("socket")
        return ours if told is None else Path(told) if told else None

    def ready(self, tell: dict[str, Any]) -> None:
        """We serve.

        Args:
            tell: for `told` of those who come after us.
        """
        wire.send(self._socket, {"op": "ready", "log": self.log, "tell": {**self.tell, **tell}})

    def draining(self) -> None:
        """The mount is gone; nobody is to come after us."""
        wire.send(self._socket, {"op": "draining"})

    def ended(self, status: int) -> None:
        """We are about to end, as we should."""
        wire.send(self._socket, {"op": "ended", "status": status})

    def failed(self, why: str) -> None:
        """We cannot serve."""
        wire.send(self._socket, {"op": "failed", "why": why})

    def stopped(self) -> None:
        """We read no more requests and have answered all; the holder ends us now."""
        wire.send(self._socket, {"op": "stopped"})

    def busy(self) -> None:
        """We go on: what was in hand took too long."""
        self.stop_wanted = trio.Event()
        wire.send(self._socket, {"op": "busy"})

    def notifier(self) -> Callable[[str], None] | None:
        """What tells the supervisor something; None where there is no supervisor."""
        return self._notify if self.supervised else None

    def _notify(self, text: str) -> None:
        wire.send(self._socket, {"op": "notify", "text": text})


def drop_privileges() -> None:
    """Keep none but the right to our own files, for good: nothing that serves a mount needs more.

    Before there are threads, which would keep theirs.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    number = 0
    while libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:  # refused where we had none to begin with
        number += 1
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        event(_log, logging.WARNING, "mount.privileges_kept", errno=ctypes.get_errno())
