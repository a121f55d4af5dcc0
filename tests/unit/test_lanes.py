"""Turns to send content: four requests, two of them large, of all processes where the server needs that."""

from __future__ import annotations

import secrets
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from vfsmount.api.lanes import SMALL, Lanes


@pytest.fixture
def server() -> str:
    return f"storage-{secrets.token_hex(4)}:6021"


async def hold(lanes: Lanes, length: int, server: str | None, order: list[str], name: str) -> None:
    async with lanes.of(length, server):
        order.append(f"{name} has it")
        await trio.sleep(1)
    order.append(f"{name} is done")


@pytest.mark.parametrize("shared", [True, False], ids=["old server", "new server"])
async def test_clients_share_where_the_server_has_few_threads(
    autojump_clock: MockClock, server: str, shared: bool
) -> None:
    mine, other = Lanes(), Lanes()
    order: list[str] = []
    place = server if shared else None
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(hold, mine, SMALL + 1, place, order, f"large {n}")
        nursery.start_soon(hold, mine, 10, place, order, "small 0")
        await wait_all_tasks_blocked()
        await trio.sleep(0.1)
        # Small ones get past the large ones, of which there are two at most.
        assert len(order) == 3 and "small 0 has it" in order
        nursery.start_soon(hold, other, 10, place, order, "small 1")
        await trio.sleep(0.1)
        assert "small 1 has it" in order
        nursery.start_soon(hold, other, 10, place, order, "small 2")
        await trio.sleep(0.1)
        assert ("small 2 has it" in order) is not shared
    assert sum(line.endswith("is done") for line in order) == 6


async def test_servers_do_not_share(autojump_clock: MockClock, server: str) -> None:
    order: list[str] = []
    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(hold, Lanes(), 10, f"{server}{n // 4}", order, f"{n}")
        await trio.sleep(0.5)
        assert sorted(order) == [f"{n} has it" for n in range(8)]


async def test_process_that_dies_gives_its_turns_back_and_one_that_is_stopped_is_not_waited_for(
    autojump_clock: MockClock, server: str
) -> None:
    """In another process, because a turn belongs to one."""
    code = f"""
import trio
from vfsmount.api.lanes import Lanes
async def hold(ready):
    async with lanes.of(10, {server!r}):
        ready.set()
        await trio.sleep(600)
async def main():
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            ready = trio.Event()
            nursery.start_soon(hold, ready)
            await ready.wait()
        print("ready", flush=True)
lanes = Lanes()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"ready\n"
            began = trio.current_time()
            async with Lanes().of(10, server):
                assert 19 < trio.current_time() - began < 21
        finally:
            other.kill()
    began = trio.current_time()
    async with Lanes().of(10, server):
        assert trio.current_time() == began
