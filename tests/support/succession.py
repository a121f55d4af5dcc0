"""A mount without a kernel whose processes are killed, one after the other: this plays kernel and holder.

with Succession(server, tmp_path) as mount:
    fh = mount.create("folder/a.txt")
    mount.call("write", fh, 0, b"content")
    mount.kill()
    mount.succeed()          # what was unanswered is sent again
    assert mount.call("read", fh, 0, 100) == b"content"

Numbers, handles and references are kept here, as the kernel keeps them.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.embedded import Embedded
from tests.support.successor import LENGTH
from vfsmount.errors import NotFound
from vfsmount.values import ROOT_INO
from vfsmount.vfs.handles import Attr, SetAttr

PATIENCE_S = 60.0
PIECE = 128 << 10


class Process:
    """One of them."""

    def __init__(self, spec: dict[str, Any], journal: int) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        os.set_inheritable(theirs.fileno(), True)
        spec = {**spec, "socket": theirs.fileno(), "journal": journal}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.successor"],
            env={**os.environ, "SUCCESSOR": json.dumps(spec)},
            pass_fds=(theirs.fileno(), journal),
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        self.told: dict[Any, tuple[bool, Any]] = {}

    def send(self, number: Any, name: str, args: tuple[Any, ...]) -> None:
        data = pickle.dumps((number, name, args))
        self.socket.sendall(LENGTH.pack(len(data)) + data)

    def wait_for(self, number: Any, patience_s: float = PATIENCE_S) -> tuple[bool, Any]:
        end = time.monotonic() + patience_s
        while number not in self.told:
            self._take(end)
        return self.told.pop(number)

    def _take(self, end: float) -> None:
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, end))
        key, ok, result = pickle.loads(self._exactly(length, end))
        self.told[key] = ok, result

    def _exactly(self, length: int, end: float) -> bytes:
        data = b""
        while len(data) < length:
            if not select.select([self.socket], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("no answer")
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError(f"the process ended with status {self.popen.wait()}")
            data += piece
        return data

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        with suppress(ConnectionError):  # what it has answered is heard, as of a kernel
            while True:
                self._take(time.monotonic())
        self.socket.close()


class Succession:
    """The mount, for as long as the body runs.

    Args:
        policy: fields of `MountPolicy`.
    """

    def __init__(self, server: Embedded, state_dir: Path, **policy: Any) -> None:
        policy = {"retry_first_s": 0.1, "settle_s": 0.2, "deadline_s": 20.0, **policy}
        self.log = state_dir / "log"
        self._spec = {
            "state_dir": str(state_dir),
            "environment": server.env("owner"),
            "policy": policy,
            "log": str(self.log),
        }
        self.journal = os.memfd_create("journal")
        self._numbers = itertools.count()
        self.in_flight: dict[int, tuple[str, tuple[Any, ...]]] = {}
        self.process = Process(self._spec, self.journal)
        self.standby: Process | None = None
        self._go(self.process)
        self.lives = 1

    def __enter__(self) -> Succession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in (self.process, self.standby):
            if process is not None and process.popen.poll() is None:
                process.kill()
        os.close(self.journal)
        if kind is None:
            bugs = [line for line in self.log.read_text().splitlines() if line.startswith("ERROR")]
            assert not bugs, self.log.read_text()[-4000:]

    @staticmethod
    def _go(process: Process) -> None:
        process.wait_for("standby")
        process.send(0, "go", ())
        process.wait_for("ready")

    # --- calls ---------------------------------------------------------------------------------

    def begin(self, name: str, *args: Any) -> int:
        """Ask for something; `result` waits for the answer."""
        number = next(self._numbers)
        self.in_flight[number] = (name, args)
        self.process.send(number, name, args)
        return number

    def result(self, number: int) -> Any:
        """The answer, or raises what was answered."""
        ok, result = self.process.wait_for(number)
        del self.in_flight[number]
        if not ok:
            raise result
        return result

    def call(self, name: str, *args: Any) -> Any:
        """Ask, and wait for the answer."""
        return self.result(self.begin(name, *args))

    # --- lives ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Have the next process ready: it has a connection, and no state."""
        self.standby = Process(self._spec, self.journal)
        self.standby.wait_for("standby")
        self.standby.told["standby"] = True, None

    def kill(self, *, prepare: bool = True) -> None:
        """kill -9."""
        if prepare and self.standby is None:
            self.prepare()
        self.process.kill()

    def succeed(self) -> None:
        """The next process serves; what nobody answered is sent to it again, first."""
        if self.standby is None:
            self.prepare()
        assert self.standby is not None
        answered = {n: told for n, told in self.process.told.items() if n in self.in_flight}
        self.process, self.standby = self.standby, None
        self._go(self.process)
        self.process.told.update(answered)
        self.lives += 1
        again = {n: request for n, request in self.in_flight.items() if n not in answered}
        if again:
            self.call("replaying", True)
            for number, (name, args) in again.items():
                self.process.send(number, name, args)

    def heard(self) -> None:
        """All that was sent again is answered (take the results first)."""
        self.call("replaying", False)

    def die_and_rise(self) -> None:
        """Killed, and succeeded."""
        self.kill()
        self.succeed()

    def end(self) -> None:
        """A clean end, as after an unmount."""
        number = next(self._numbers)
        self.process.send(number, "end", ())
        assert self.process.wait_for(number) == (True, None)
        self.process.popen.wait()
        self.process.socket.close()

    # --- in paths ------------------------------------------------------------------------------

    def stat(self, path: str) -> Attr:
        """lookup of every component; attributes of the last."""
        ino = int(ROOT_INO)
        attr: Attr = self.call("getattr", ino)
        for name in filter(None, path.split("/")):
            attr = self.call("lookup", attr.ino, os.fsencode(name))
        return attr

    def place(self, path: str) -> tuple[int, bytes]:
        """(inode of the directory, last name)."""
        directory, _, name = path.rpartition("/")
        return int(self.stat(directory).ino), os.fsencode(name)

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        return int(self.call("open", self.stat(path).ino, flags).fh)

    def create(self, path: str, flags: int = os.O_RDWR | os.O_EXCL) -> int:
        fh, _attr = self.call("create", *self.place(path), 0o644, flags | os.O_CREAT)
        return int(fh)

    def close(self, fh: int) -> None:
        self.call("flush", fh)
        self.call("release", fh)

    def read_all(self, fh: int, at: int = 0) -> bytes:
        parts = []
        while part := self.call("read", fh, at, PIECE):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def read(self, path: str) -> bytes:
        fh = self.open(path)
        try:
            return self.read_all(fh)
        finally:
            self.call("release", fh)

    def write(self, path: str, data: bytes) -> None:
        """As ``cat > path``; acknowledged, not on the server."""
        fh = self.create(path, os.O_WRONLY | os.O_TRUNC)
        for at in range(0, len(data), PIECE):
            self.call("write", fh, at, data[at : at + PIECE])
        self.close(fh)

    def names(self, path: str) -> list[str]:
        fh = self.call("opendir", self.stat(path).ino)
        try:
            return sorted(os.fsdecode(n) for n in self.rest(fh, 0) if n not in (b".", b".."))
        finally:
            self.call("releasedir", fh)

    def rest(self, fh: int, offset: int) -> list[bytes]:
        """Names of an open directory from an offset on."""
        names: list[bytes] = []
        while page := self.call("readdir", fh, offset):
            names += [name for _, name, _ in page]
            offset = page[-1][0]
        return names

    def truncate(self, path: str, size: int) -> None:
        self.call("setattr", self.stat(path).ino, SetAttr(size=size))
