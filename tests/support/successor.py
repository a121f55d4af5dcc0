"""A process that serves a `Filesystem` without a kernel, to be killed: calls come over a socket.

It is what `tests.support.succession` starts. Nothing of it decides anything: it unpacks, calls, and packs.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.support.live import settings_of
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.store import syscalls
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.values import Ino
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.deadline import within
from vfsmount.vfs.filesystem import Filesystem
from vfsmount.vfs.policy import MountPolicy

LENGTH = struct.Struct("<I")
PAGE = 600  # entries that the kernel takes at a time, about


class Server:
    """Answers the calls of one connection, each in a task of its own."""

    def __init__(self, fs: Filesystem, told: list[tuple[int, bytes]]) -> None:
        self.fs = fs
        self.told = told

    async def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """One call, as a handler makes it."""
        own: Callable[..., Any] | None = getattr(self, f"do_{name}", None)
        if own is not None:
            return await own(*args)
        with within(self.fs.policy.deadline_s):
            found = getattr(self.fs, name)(*args)
            return await found if hasattr(found, "__await__") else found

    async def do_readdir(self, fh: int, offset: int) -> list[tuple[int, bytes, int]]:
        """One page, of which the kernel knows every entry afterwards: (offset, name, ino)."""
        page, known = [], []
        for at, name, attr in await self.fs.readdir(fh, offset):
            page.append((at, name, int(attr.ino)))
            if name not in (b".", b".."):
                known.append(attr.ino)
            if len(page) == PAGE:
                break
        self.fs.all_looked_up(known)
        return page

    async def do_read(self, fh: int, offset: int, length: int) -> bytes:
        return bytes(await self.fs.read(fh, offset, length))

    async def do_replaying(self, yes: bool) -> None:
        self.fs.replaying = yes

    async def do_die_at(self, boundary: int) -> None:
        """Be killed before the n-th change of the disk or the journal from now on."""
        syscalls._boundaries = itertools.count(1)
        syscalls._crash_at = boundary

    async def do_idle(self) -> None:
        """Everything acknowledged is on the server, and was looked at again."""
        await self.fs.wait()
        while self.fs._settling._watched or self.fs._settling._looking:
            await trio.sleep(0.01)
        await self.fs.wait()

    async def do_compact(self) -> int:
        """Have the journal as short as can be; its length then."""
        notes = self.fs._notes
        assert notes is not None
        notes.prepare()
        await notes.journal.compact()
        return notes.journal._end - notes.journal._start

    async def do_told(self) -> list[tuple[int, bytes]]:
        """What the kernel would have been told to drop: (ino, name or nothing)."""
        return self.told

    async def do_drain(self) -> list[Any]:
        return await self.fs.drain()

    async def do_knows(self, ino: int) -> bool:
        return Ino(ino) in self.fs._inodes._nodes


async def _serve(connection: socket.socket, spec: dict[str, Any]) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    state_dir, journal = Path(spec["state_dir"]), Journal(spec["journal"])
    area = StagingArea(state_dir)
    records = Records(state_dir / "records.sqlite")
    told: list[tuple[int, bytes]] = []
    sending = trio.Lock()

    async def send(message: Any) -> None:
        data = pickle.dumps(message)
        async with sending:
            await stream.send_all(LENGTH.pack(len(data)) + data)

    async with Client(settings_of(spec["environment"])) as client:
        await client.connect()
        async with trio.open_nursery() as nursery:
            fs = Filesystem(
                client,
                Transfers(client),
                area,
                records,
                MountPolicy(**spec["policy"]),
                nursery,
                lambda ino: told.append((ino, b"")),
                lambda ino, name: told.append((ino, name)),
                journal=journal,
            )
            server = Server(fs, told)
            await send(("standby", True, None))
            assert (await _receive(stream))[1] == "go"
            if journal.is_empty:
                await fs.warm()
                await fs.recover()
            else:
                await fs.resume()
            await send(("ready", True, None))

            async def answer(number: int, name: str, args: tuple[Any, ...]) -> None:
                try:
                    result = (number, True, await server.call(name, args))
                except Exception as e:
                    result = (number, False, e)
                await send(result)

            while True:
                number, name, args = await _receive(stream)
                if name == "end":
                    break
                nursery.start_soon(answer, number, name, args)
            nursery.cancel_scope.cancel()
        await fs.close()
    records.close()
    area.close()
    await send((number, True, None))


async def _receive(stream: trio.SocketStream) -> Any:
    (length,) = LENGTH.unpack(await _exactly(stream, LENGTH.size))
    return pickle.loads(await _exactly(stream, length))


async def _exactly(stream: trio.SocketStream, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = await stream.receive_some(length - len(data))
        if not piece:
            os._exit(0)  # the tests are over
        data += piece
    return bytes(data)


if __name__ == "__main__":
    given = json.loads(os.environ["SUCCESSOR"])
    logging.basicConfig(
        filename=given["log"], level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s"
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    trio.run(_serve, socket.socket(fileno=given["socket"]), given)
    sys.exit(0)
