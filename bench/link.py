"""A slow line in user space: TCP relayed with a delay, at a rate, with stalls; and what it carried, counted.

    .venv/bin/python bench/link.py [PORT=]HOST:PORT... [--rtt-ms 20] [--mbit 1000] [--stall-every 4]

Prints one JSON object, from each HOST:PORT to the port that stands for it here, and then another one for
each line on its standard input: bytes and connections so far. It ends with its standard input.

A byte is delivered half a round trip after it has left, and a new connection costs one round trip more. All
connections of a direction share its rate, piece by piece in turn: nobody queues seconds ahead of the others.
During a stall nothing leaves. There is no loss, no slow start, no overhead of packets: a rate is of payload.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PIECE = 256 << 10
# A loop that is woken late must not leave the line idle: so many seconds are taken ahead, and made up for.
AHEAD_S = 0.002
MADE_UP_S = 0.1
LATE_S = 0.003
WINDOW = 4 << 20  # least bytes of one connection that may be on their way
RESET = struct.pack("ii", 1, 0)
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
now = time.monotonic


# --- the relay: one thread, one loop ------------------------------------------------------------


class Line:
    """One direction: its rate, who has bytes for it, and what is on its way."""

    def __init__(self, half_s: float, bytes_per_s: float, stall_every: float, stall_for: float) -> None:
        self.half_s, self.rate = half_s, bytes_per_s
        self.stall_every, self.stall_for = stall_every, stall_for
        # Small enough that a turn takes a millisecond.
        self.piece = min(PIECE, max(4096, int(bytes_per_s / 1000))) if bytes_per_s else PIECE
        self.window = max(WINDOW, int(bytes_per_s * half_s * 4))
        self.ready: deque[Flow] = deque()
        self.flying: deque[tuple[float, Flow, memoryview]] = deque()
        self.free_at = self.born = now()
        self.carried = self.late = 0
        self._buffers: list[bytearray] = []

    def take(self) -> None:
        """Read from those who have something, by turns, while the line is free."""
        for _ in range(32):
            at = now()
            if not self.ready or self.free_at > at + AHEAD_S:
                return
            flow = self.ready.popleft()
            if flow.dead or flow.held >= self.window:
                flow.state = "full"
                continue
            buffer = self._buffers.pop() if self._buffers else bytearray(PIECE)
            try:
                length = flow.source.recv_into(buffer, self.piece)
            except BlockingIOError:
                flow.state = "idle"
                self._buffers.append(buffer)
                continue
            except OSError:
                flow.pair.reset()
                continue
            # Woken late, it makes up for the time in which the line could have carried what was there.
            self.free_at = self._past_stalls(max(flow.since, self.free_at, at - MADE_UP_S))
            flow.since = at
            if self.rate:
                self.free_at += length / self.rate
            self.flying.append((self.free_at + self.half_s, flow, memoryview(buffer)[:length]))
            if length:
                flow.held += length
                flow.counted += length
                self.ready.append(flow)
            else:
                flow.state = "ended"

    def _past_stalls(self, at: float) -> float:
        if not self.stall_for:
            return at
        phase = (at - self.born) % (self.stall_every + self.stall_for)
        return at if phase < self.stall_every else at + self.stall_every + self.stall_for - phase

    def deliver(self) -> None:
        """Hand over what has arrived."""
        while self.flying and self.flying[0][0] <= now():
            due, flow, data = self.flying.popleft()
            self.carried += len(data)
            if now() - due > LATE_S:
                self.late += len(data)
            flow.arrived.append(data)
            flow.push()

    def give_back(self, data: memoryview) -> None:
        """Its buffer may be used again."""
        assert isinstance(data.obj, bytearray)
        self._buffers.append(data.obj)

    def next_s(self) -> float:
        """When there is something to do if nobody says anything."""
        times = [self.flying[0][0]] if self.flying else []
        if self.ready:
            times.append(self.free_at - AHEAD_S / 2)
        return min(times, default=float("inf"))


class Flow:
    """One direction of one connection."""

    def __init__(self, pair: Pair, source: socket.socket, sink: socket.socket, line: Line) -> None:
        self.pair, self.source, self.sink, self.line = pair, source, sink, line
        self.arrived: deque[memoryview] = deque()
        self.state = "idle"  # then ready, full or ended
        self.since = 0.0  # when there was something to read, or was read last
        self.held = self.counted = 0
        self.done = self.dead = False

    def readable(self) -> None:
        """There may be something to read."""
        if self.state == "idle":
            self.state, self.since = "ready", now()
            self.line.ready.append(self)

    def push(self) -> None:
        """Write what has arrived, as far as it goes."""
        while self.arrived and not self.dead:
            data = self.arrived[0]
            if not len(data):
                self.done = True
                self.line.give_back(self.arrived.popleft())
                with suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                self.pair.close_when_done()
                return
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                return
            except OSError:
                self.pair.reset()
                return
            self.held -= sent
            if sent == len(data):
                self.line.give_back(self.arrived.popleft())
            else:
                self.arrived[0] = data[sent:]
            if self.state == "full" and self.held < self.line.window:
                self.state = "idle"
                self.readable()


class Pair:
    """One connection here and the one it stands for."""

    def __init__(self, relay: Relay, route: Route, client: socket.socket, server: socket.socket) -> None:
        self._relay, self._sockets = relay, (client, server)
        for side in self._sockets:
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.up = Flow(self, client, server, relay.up)
        self.down = Flow(self, server, client, relay.down)
        self._route = route

    def open(self) -> None:
        """The handshake is through."""
        client, server = self._sockets
        self._relay.watch(client, self.up, self.down)
        self._relay.watch(server, self.down, self.up)

    def close_when_done(self) -> None:
        """Close both sides where nothing more will come from either."""
        if self.up.done and self.down.done:
            self._close()

    def reset(self) -> None:
        """Break both sides off."""
        for side in self._sockets:
            with suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._close()

    def _close(self) -> None:
        if self.up.dead:
            return
        self.up.dead = self.down.dead = True
        self.count()
        self._relay.pairs.discard(self)
        for side in self._sockets:
            self._relay.unwatch(side)
            side.close()

    def count(self) -> None:
        """Add to the route what has been carried since."""
        self._route.up += self.up.counted
        self._route.down += self.down.counted
        self.up.counted = self.down.counted = 0


class Route:
    """One server behind the line, and what has gone there and back."""

    def __init__(self, spec: str) -> None:
        port, _, self.target = spec.rpartition("=")
        host, _, target_port = self.target.rpartition(":")
        self.address = host, int(target_port)
        self.listening = socket.create_server(("127.0.0.1", int(port or 0)), backlog=512)
        self.listening.setblocking(False)
        self.up = self.down = self.connections = 0


class Relay:
    """All routes over one line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._rtt_s = args.rtt_ms / 1000
        settings = self._rtt_s / 2, args.mbit * 125_000, args.stall_every, args.stall_for
        self.up, self.down = Line(*settings), Line(*settings)
        self.routes = [Route(spec) for spec in args.target]
        self._epoll = select.epoll()
        self._flows: dict[int, tuple[Flow, Flow]] = {}
        self.pairs: set[Pair] = set()
        self._opening: deque[tuple[float, Pair]] = deque()

    def watch(self, side: socket.socket, reading: Flow, writing: Flow) -> None:
        """Be told of `side`."""
        self._flows[side.fileno()] = reading, writing
        self._epoll.register(side, EDGES)

    def unwatch(self, side: socket.socket) -> None:
        """Be told no more; before it is closed."""
        if self._flows.pop(side.fileno(), None):
            self._epoll.unregister(side)

    def run(self) -> None:
        """Carry bytes until standard input ends."""
        listening = {route.listening.fileno(): route for route in self.routes}
        for fd in listening:
            self._epoll.register(fd, select.EPOLLIN)
        with suppress(PermissionError):  # a regular file or /dev/null: nobody there to ask
            self._epoll.register(0, select.EPOLLIN)
        while True:
            opening = [self._opening[0][0]] if self._opening else []
            wait = min(self.up.next_s(), self.down.next_s(), *opening, now() + 3600) - now()
            # epoll's own timeout is in milliseconds, which is too coarse.
            select.select([self._epoll], [], [], max(0, wait))
            for fd, events in self._epoll.poll(0):
                if fd == 0:
                    if not os.read(0, 4096):
                        return
                    print(json.dumps(self.report()), flush=True)
                elif fd in listening:
                    self._accept(listening[fd])
                elif fd in self._flows:
                    reading, writing = self._flows[fd]
                    if events & ~select.EPOLLOUT:
                        reading.readable()
                    if events & select.EPOLLOUT:
                        writing.push()
            while self._opening and self._opening[0][0] <= now():
                self._opening.popleft()[1].open()
            for line in (self.up, self.down):
                line.take()
                line.deliver()

    def _accept(self, route: Route) -> None:
        with suppress(BlockingIOError):
            client, _ = route.listening.accept()
            try:
                server = socket.create_connection(route.address, timeout=5)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                return
            route.connections += 1
            pair = Pair(self, route, client, server)
            self.pairs.add(pair)
            self._opening.append((now() + self._rtt_s, pair))

    def report(self) -> dict[str, object]:
        """What went over the line so far, and how much of it came late because this relay was too slow."""
        for pair in self.pairs:
            pair.count()
        return {
            "routes": {
                r.target: {"up": r.up, "down": r.down, "connections": r.connections} for r in self.routes
            },
            "carried": self.up.carried + self.down.carried,
            "late": self.up.late + self.down.late,
        }


# --- for who wants one --------------------------------------------------------------------------


class Link:
    """A relay in a process of its own for as long as the ``with`` block lasts.

    Args:
        targets: "host:port" of the servers behind it.

    Attributes:
        ports: by target: where to connect instead, on 127.0.0.1.
    """

    def __init__(
        self,
        *targets: str,
        rtt_ms: float = 0,
        mbit: float = 0,
        stall_every: float = 0,
        stall_for: float = 0,
    ) -> None:
        command = [sys.executable, str(Path(__file__)), *targets]
        command += ["--rtt-ms", str(rtt_ms), "--mbit", str(mbit)]
        command += ["--stall-every", str(stall_every), "--stall-for", str(stall_for)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ports: dict[str, int] = self._line()

    def _line(self) -> dict[str, int]:
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.readline() or "null")
        assert isinstance(found, dict), "the link has ended"
        return found

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def report(self) -> dict[str, object]:
        """As `Relay.report`."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return dict(self._line())

    def down(self, target: str) -> int:
        """Bytes that have come from a server so far."""
        routes = self.report()["routes"]
        assert isinstance(routes, dict)
        return int(routes[target]["down"])


def capacity_mb_s(size: int = 512 << 20) -> float:
    """What a link without delay and rate carries here and now, in one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = f"127.0.0.1:{listening.getsockname()[1]}"

        def send() -> None:
            client, _ = listening.accept()
            piece = memoryview(bytearray(1 << 20))
            with client, suppress(OSError):
                for _ in range(size // len(piece)):
                    client.sendall(piece)

        threading.Thread(target=send, daemon=True).start()
        with Link(target) as link, socket.create_connection(("127.0.0.1", link.ports[target])) as end:
            buffer, got, began = bytearray(1 << 20), 0, now()
            while length := end.recv_into(buffer):
                got += length
            assert got == size
            return got / 1e6 / (now() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="+", metavar="[PORT=]HOST:PORT")
    parser.add_argument("--rtt-ms", type=float, default=20)
    parser.add_argument("--mbit", type=float, default=1000, help="0: no limit")
    parser.add_argument("--stall-every", type=float, default=0, metavar="S")
    parser.add_argument("--stall-for", type=float, default=0, metavar="S")
    relay = Relay(parser.parse_args())
    print(json.dumps({r.target: r.listening.getsockname()[1] for r in relay.routes}), flush=True)
    with suppress(PermissionError):
        os.nice(-15)  # a line does not wait for a processor
    with suppress(KeyboardInterrupt):
        relay.run()


if __name__ == "__main__":
    main()
