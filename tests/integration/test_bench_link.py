"""The slow line that benchmarks measure over: what it delays, shares, counts and hands through."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from bench.link import Link

SIZE = 3_000_001


@contextmanager
def echoing() -> Iterator[tuple[str, list[str]]]:
    """A server that sends back all it got at its end; its address, and how its connections ended."""
    ends: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(client: socket.socket) -> None:
            got = bytearray()
            with client:
                try:
                    while piece := client.recv(1 << 20):
                        got += piece
                    client.sendall(got)
                    ends.append("end")
                except ConnectionResetError:
                    ends.append("reset")

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", ends
        listening.shutdown(socket.SHUT_RDWR)


def back(link: Link, target: str, data: bytes) -> bytes:
    """What comes back over a connection of its own."""
    got = bytearray()
    with closing(socket.create_connection(("127.0.0.1", link.ports[target]))) as end:
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        while piece := end.recv(1 << 20):
            got += piece
    return bytes(got)


@pytest.mark.parametrize("line", [{}, {"rtt_ms": 10, "mbit": 800, "stall_every": 0.03, "stall_for": 0.01}])
def test_all_bytes_pass_and_are_counted(line: dict[str, float]) -> None:
    data = bytes(n % 251 for n in range(SIZE))
    with echoing() as (target, _), Link(target, **line) as link:
        for _ in range(2):
            assert back(link, target, data) == data
        routes = link.report()["routes"]
    assert routes == {target: {"up": 2 * SIZE, "down": 2 * SIZE, "connections": 2}}


def test_connection_and_question_take_two_round_trips() -> None:
    with echoing() as (target, _), Link(target, rtt_ms=50) as link:
        began = time.monotonic()
        assert back(link, target, b"x") == b"x"
        assert time.monotonic() - began >= 0.1


def test_connections_share_the_rate() -> None:
    """Four of them at once, there and back, at 80 Mb/s: no faster than one after the other."""
    data, ends = bytes(500_000), []
    with echoing() as (target, _), Link(target, mbit=80) as link:
        began = time.monotonic()
        work = [threading.Thread(target=lambda: ends.append(back(link, target, data))) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        took = time.monotonic() - began
    assert ends == [data] * 4
    assert took >= 0.19  # two megabytes at ten a second, in either direction


def test_who_hangs_up_ends_the_servers_connection() -> None:
    with echoing() as (target, ends), Link(target, rtt_ms=2) as link:
        end = socket.create_connection(("127.0.0.1", link.ports[target]))
        end.sendall(b"x")
        time.sleep(0.05)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()
        deadline = time.monotonic() + 10
        while not ends and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ends == ["reset"]
