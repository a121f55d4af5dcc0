"""Connections are kept in small pools, and used again; those of a rush are let go of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import trio

from tests.unit.test_client_wire import Wire, wire
from vfsmount.api import http as module
from vfsmount.api.http import POOLED, Http, read_body
from vfsmount.config import ApiSettings

__all__ = ["wire"]
MANY = 3 * POOLED + 1


@pytest.fixture
async def http(wire: Wire) -> AsyncIterator[Http]:
    http = Http(ApiSettings(endpoints=(wire.url,)))
    yield http
    await http.aclose()


async def get(http: Http, wire: Wire) -> bytes:
    async with http.exchange("GET", httpx.URL(f"{wire.url}/x"), headers={}) as response:
        return await read_body(response, 1000)


async def rush(http: Http, wire: Wire) -> None:
    async with AsyncExitStack() as stack:
        url = httpx.URL(f"{wire.url}/x")
        begun = [await stack.enter_async_context(http.exchange("GET", url, headers={})) for _ in range(MANY)]
        for response in begun:
            assert await read_body(response, 1000) == b"1"


async def test_many_at_once_have_a_connection_each_which_the_next_ones_use_again(
    wire: Wire, http: Http
) -> None:
    wire.json("/x", 1)
    for _ in range(2):
        await rush(http, wire)
        assert await get(http, wire) == b"1"
        assert wire.connections == MANY


async def test_connections_of_a_rush_are_closed_when_they_were_idle_for_long(
    wire: Wire, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.json("/x", 1)
    await rush(http, wire)
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    assert await get(http, wire) == b"1"
    with trio.fail_after(60):
        while wire.open > POOLED:
            await trio.sleep(0.01)
    assert wire.connections == MANY


async def test_servers_cookies_are_not_sent_back(wire: Wire, http: Http) -> None:
    wire.json("/x", 1, headers="Set-Cookie: AIOHTTP_SESSION=theirs; Path=/\r\n")
    for _ in range(2):
        await get(http, wire)
    assert [headers.get("cookie") for _, _, headers in wire.requests] == [None, None]
