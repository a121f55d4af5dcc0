"""When the room for statfs is asked for, and what of it is believed."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from vfsmount.api import shapes
from vfsmount.api.client import Client
from vfsmount.api.governor import class_now
from vfsmount.api.shapes import Hosts
from vfsmount.core.governor import Class
from vfsmount.errors import PermissionDenied, RemoteUnavailable, VfsError
from vfsmount.values import Folder, HostUsage, Quota
from vfsmount.vfs.usage import Usage

HOST = HostUsage(used=40, total=100)
LIMITED = HostUsage(used=2, total=10, available=8)
ANYWHERE = HostUsage(used=2, total=1000, available=60)


class Server:
    """Answers as it is told, and writes down what it was asked."""

    def __init__(self, **quotas: Quota | VfsError | None) -> None:
        self.quotas = quotas
        self.asked: list[str] = []
        self.classes: set[Class] = set()
        self.open = trio.Event()
        self.open.set()

    async def list_hosts(self) -> Hosts:
        self.classes.add(class_now())
        return Hosts("host", ("host",), {"host": HOST})

    async def fetch_quota(self, host: str, scope: str) -> Quota | None:
        self.asked.append(scope)
        self.classes.add(class_now())
        await self.open.wait()
        told = self.quotas[scope]
        if isinstance(told, VfsError):
            raise told
        return told


def folder(scope: str, **fields: Any) -> Folder:
    known = {"status": "ready", "permission": "rw", "is_owner": False, **fields}
    return Folder(id=scope, name=scope, host="host", quota_scope=scope, **known)


async def heard(usage: Usage, *folders: Folder) -> HostUsage:
    """What is told once the replies to the first question are there."""
    usage.get(folders)
    await wait_all_tasks_blocked()
    return usage.get(folders)


async def asked_in(usage: Usage, server: Server, minutes: int, *scopes: str) -> list[str]:
    """What the server is asked in so long, by somebody who wants to know each second."""
    del server.asked[:]
    for _ in range(60 * minutes):
        usage.get(map(folder, scopes))
        await wait_all_tasks_blocked()
        await trio.sleep(1)
    return server.asked


async def test_limit_is_asked_for_every_five_minutes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    server = Server(a=Quota(10, 2))
    usage = Usage(cast(Client, server), nursery)
    assert await heard(usage, folder("a"), folder("a")) == LIMITED
    assert await asked_in(usage, server, 21, "a") == ["a"] * 4
    await trio.sleep(3600)
    assert server.asked == ["a"] * 4  # nobody wanted to know
    assert server.classes == {Class.BACKGROUND}


@pytest.mark.parametrize("told", [None, PermissionDenied("somebody else's")])
async def test_what_has_no_limit_or_is_refused_is_asked_for_once_an_hour(
    autojump_clock: MockClock, nursery: trio.Nursery, told: VfsError | None
) -> None:
    server = Server(a=told, b=Quota(10, 2))
    usage = Usage(cast(Client, server), nursery)
    assert await heard(usage, folder("a"), folder("b")) == HOST
    # It decides alone, so nothing is asked about the other.
    assert await asked_in(usage, server, 118, "a", "b") == ["a"]
    server.quotas["a"] = Quota(10, 0)
    assert await asked_in(usage, server, 5, "a", "b") == ["a", "b"]
    assert usage.get([folder("a"), folder("b")]).available == 10


async def test_server_that_cannot_be_reached_is_asked_every_five_minutes_and_the_last_is_believed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    server = Server(a=Quota(10, 2))
    usage = Usage(cast(Client, server), nursery)
    assert await heard(usage, folder("a")) == LIMITED
    server.quotas["a"] = RemoteUnavailable("gone")
    assert await asked_in(usage, server, 21, "a") == ["a"] * 4
    assert usage.get([folder("a")]) == LIMITED


async def test_nobody_waits_and_one_question_is_under_way_at_a_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    server = Server(a=Quota(10, 2))
    server.open = trio.Event()
    usage = Usage(cast(Client, server), nursery)
    for _ in range(5):
        assert await heard(usage, folder("a")) == HOST
    assert server.asked == ["a"]
    server.open.set()
    await wait_all_tasks_blocked()
    assert usage.get([folder("a")]) == LIMITED


async def test_what_never_answers_is_given_up(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    server = Server(a=Quota(10, 2))
    server.open = trio.Event()
    usage = Usage(cast(Client, server), nursery)
    assert await asked_in(usage, server, 11, "a") == ["a"] * 3


async def test_roomiest_place_counts_and_no_more_than_its_host_has(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    usage = Usage(cast(Client, Server(a=Quota(10, 2), b=Quota(1000, 2))), nursery)
    assert await heard(usage, folder("a"), folder("b")) == ANYWHERE
    assert usage.get([folder("a"), folder("b", permission="ro")]) == LIMITED
    assert usage.get([folder("a")]) == LIMITED
    assert usage.get([folder("a"), folder("")]) == HOST
    assert usage.get([]) == HOST
    assert usage.quota_of(folder("b")) == Quota(1000, 2)


async def test_more_stored_than_allowed_is_no_room(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    usage = Usage(cast(Client, Server(a=Quota(10, 12))), nursery)
    assert await heard(usage, folder("a")) == HostUsage(used=12, total=10, available=0)


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        (10, 2, Quota(10, 2)),
        ("10", "2", Quota(10, 2)),
        (10, 0, Quota(10, 0)),
        (None, None, None),
        (0, 2, None),
        (-1, 2, None),
        (None, 2, None),
        (10, None, None),  # a policy's, of a scope that the volume has not met
        (10, -1, None),
    ],
)
def test_reply(limit: object, used: object, expected: Quota | None) -> None:
    details = {"hard_limit_bytes": limit, "usage_bytes": used}
    assert shapes.quota({"data": {"quota_scope": {"details": details}}}) == expected


@pytest.mark.parametrize(
    "reply",
    [
        {"data": {"quota_scope": None}, "errors": [{"message": "Missing or invalid API parameters."}]},
        {"data": None, "errors": []},
        {},
        None,
        [],
    ],
)
def test_reply_that_tells_nothing(reply: object) -> None:
    with pytest.raises(PermissionDenied):
        shapes.quota(reply)
