"""A TCP line to a server that counts what goes up, stops at a chosen byte, and can be cut.

with CutProxy("http://127.0.0.1:6021") as line:
    line.hold_at(100 << 20)
    ...  # somebody uploads through line.url
    line.wait_held()  # the server was sent so many bytes, and not one more
    line.cut()
    line.restore()
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

BUFFER = 256 << 10
# A cut line ends connections with a reset, and drops what it has not delivered.
RESET = struct.pack("ii", 1, 0)


class CutProxy:
    """The line; open from the start until the ``with`` block ends.

    Attributes:
        url: what to connect to in place of the server's address.
        sent_up: bytes handed on to the server, of all connections.
    """

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None and parts.port is not None
        self._server = parts.hostname, parts.port
        self._state = threading.Condition()
        self._limit: int | None = None
        self._held = False
        self._lines: set[_Line] = set()
        self.sent_up = 0
        self._listening = self._listen(0)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> CutProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()

    # --- trouble -------------------------------------------------------------------------------

    def hold_at(self, sent_up: int | None) -> None:
        """Hand no byte on beyond this many; what is held now goes on up to there. None: all of them."""
        with self._state:
            self._limit, self._held = sent_up, False
            self._state.notify_all()

    def wait_held(self, deadline_s: float = 120) -> None:
        """Return when so many have been handed on and there are more."""
        with self._state:
            assert self._state.wait_for(lambda: self._held, deadline_s), f"{self.sent_up} bytes came"

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `restore`."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts; close alone would not
        self._listening.close()
        with self._state:
            lines = list(self._lines)
        for line in lines:
            line.end(reset=True)

    def restore(self) -> None:
        """Take connections again, at the same address."""
        self._listening = self._listen(urlsplit(self.url).port or 0)

    # --- bytes ---------------------------------------------------------------------------------

    def _listen(self, port: int) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            line = _Line(client, self)
            with self._state:
                self._lines.add(line)
            threading.Thread(target=self._run, args=(line,), daemon=True).start()

    def _run(self, line: _Line) -> None:
        line.run(self._server)
        with self._state:
            self._lines.discard(line)

    def wake(self) -> None:
        """A line has ended: whoever holds its bytes may drop them."""
        with self._state:
            self._state.notify_all()

    def take(self, line: _Line, length: int) -> int:
        """Wait until some bytes may go on; how many of `length`, 0 when the line has ended."""
        with self._state:
            while self._limit is not None and self.sent_up >= self._limit and not line.ended:
                self._held = True
                self._state.notify_all()
                self._state.wait()
            if line.ended:
                return 0
            taken = length if self._limit is None else min(length, self._limit - self.sent_up)
            self.sent_up += taken
            return taken


class _Line:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, proxy: CutProxy) -> None:
        self.ended = False
        self._client = client
        self._server: socket.socket | None = None
        self._proxy = proxy

    def run(self, server: tuple[str, int]) -> None:
        """Connect, and carry bytes until either side or `end` ends it."""
        try:
            self._server = socket.create_connection(server)
            if not self.ended:  # the line may have been cut meanwhile
                down = threading.Thread(
                    target=self._carry, args=(self._server, self._client, False), daemon=True
                )
                down.start()
                self._carry(self._client, self._server, True)
                down.join()
        except OSError:
            self.end(reset=True)
        finally:
            for side in (self._client, self._server):
                if side is not None:
                    side.close()

    def end(self, *, reset: bool) -> None:
        """Close both connections; the thread that runs the line does the rest."""
        self.ended = True
        for side in (self._client, self._server):
            if side is None:
                continue
            with suppress(OSError):
                if reset:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                side.shutdown(socket.SHUT_RDWR)
        self._proxy.wake()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            while length := source.recv_into(buffer):
                rest = buffer[:length]
                while rest:
                    taken = self._proxy.take(self, len(rest)) if up else len(rest)
                    if not taken:
                        return
                    sink.sendall(rest[:taken])
                    rest = rest[taken:]
            self.end(reset=False)
        except OSError:
            self.end(reset=True)
