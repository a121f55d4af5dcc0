"""After a suspension no connection from before is used: it may be dead without having said so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from tests.unit.test_client_wire import Wire, wire
from vfsmount.api.http import Http, read_body
from vfsmount.config import ApiSettings

__all__ = ["wire"]


class Machine:
    """Tells how long it has slept."""

    def __init__(self) -> None:
        self.slept_s = 100.0

    def slept(self) -> float:
        return self.slept_s


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
async def http(wire: Wire, machine: Machine) -> AsyncIterator[Http]:
    http = Http(ApiSettings(endpoints=(wire.url,)), slept=machine.slept)
    yield http
    await http.aclose()


async def get(http: Http, wire: Wire) -> bytes:
    async with http.exchange("GET", httpx.URL(f"{wire.url}/x"), headers={}) as response:
        return await read_body(response, 1000)


async def test_idle_connections_are_not_used_after_a_suspension(
    wire: Wire, http: Http, machine: Machine
) -> None:
    wire.json("/x", 1)
    for _ in range(3):
        assert await get(http, wire) == b"1"
    assert wire.connections == 1
    machine.slept_s += 3600
    for _ in range(3):
        assert await get(http, wire) == b"1"
    assert wire.connections == 2


async def test_exchange_under_way_may_come_to_its_end(wire: Wire, http: Http, machine: Machine) -> None:
    wire.json("/x", 1)
    url = httpx.URL(f"{wire.url}/x")
    async with http.exchange("GET", url, headers={}) as response:
        machine.slept_s += 30
        assert await get(http, wire) == b"1"
        assert wire.connections == 2
        with trio.fail_after(60):
            assert await read_body(response, 1000) == b"1"
    assert await get(http, wire) == b"1"
    assert wire.connections == 2
