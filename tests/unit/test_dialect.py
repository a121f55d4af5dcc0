"""Both shapes of every reply, and shapes nobody should send."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.api import shapes
from vfsmount.api.decode import loads
from vfsmount.api.dialect import Dialect, folder_segment, negotiate
from vfsmount.api.folders import shadowed
from vfsmount.errors import ProtocolError
from vfsmount.values import Folder, Kind, Validator

HEX = "8cabe28de06940b7835ad4adffd19f37"


@pytest.mark.parametrize(
    ("version", "manager", "dialect", "sent"),
    [
        ("v7.20230615", "23.09.10", Dialect.V23, "v7.20230615"),
        ("v6.20220615", "22.09.1", Dialect.V23, "v6.20220615"),
        ("v8.20240315", "24.03.1", Dialect.V26, "v8.20240315"),
        ("v9.20250722", "26.9.6", Dialect.V26, "v9.20250722"),
        ("v9.20991231", "31.1.0", Dialect.V26, "v9.20250722"),
        ("v10.20270101", "27.1.0", Dialect.V26, "v9.20250722"),
        ("v8.20240315", "", Dialect.V26, "v8.20240315"),
    ],
)
def test_negotiation(version: str, manager: str, dialect: Dialect, sent: str) -> None:
    info = negotiate(version, manager)
    assert (info.dialect, info.api_version) == (dialect, sent)


def test_unknown_version_form_is_no_server_of_ours() -> None:
    with pytest.raises(ProtocolError):
        negotiate("2.1", "")


def folder(**changes: object) -> Folder:
    fields: dict[str, object] = {
        "id": HEX,
        "name": "my data",
        "host": "local:volume1",
        "status": "ready",
        "permission": "rw",
        "is_owner": True,
    }
    return Folder(**{**fields, **changes})  # type: ignore[arg-type]


def test_addressing() -> None:
    assert folder_segment(folder(), Dialect.V23) == "my%20data"
    assert folder_segment(folder(), Dialect.V26) == HEX


ITEM_23 = {
    "name": "b.txt",
    "type": "FILE",
    "size": 10,
    "mode": "644",
    "created": "2026-11-23T03:46:09.093118+00:00",
    "modified": "2026-11-23T03:46:09+00:00",
}
ITEM_26 = {**ITEM_23, "mode": 33188}


@pytest.mark.parametrize("item", [ITEM_23, ITEM_26])
def test_entry_of_both_generations(item: dict[str, object]) -> None:
    listing = shapes.listing({"items": [item], "files": "[]"})
    (entry,) = listing.entries
    assert (entry.name, entry.kind, entry.size, entry.mode) == (b"b.txt", Kind.FILE, 10, 0o644)
    assert entry.mtime_ns == 1795405569 * 10**9
    assert entry.ctime_ns == 1795405569093118000
    assert not listing.unfit and not listing.cut


def test_name_that_is_not_utf8_keeps_its_bytes() -> None:
    reply = loads(json.dumps({"items": [{**ITEM_23, "name": "a\udcff"}]}).encode())
    assert shapes.listing(reply).entries[0].name == b"a\xff"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "nul\0", "x" * 256, "\ud800"])
def test_name_that_cannot_stand_in_a_directory_is_dropped(name: str) -> None:
    listing = shapes.listing({"items": [{**ITEM_23, "name": name}, ITEM_23]})
    assert [e.name for e in listing.entries] == [b"b.txt"]
    assert listing.unfit == 1


def test_second_entry_of_a_name_is_dropped() -> None:
    listing = shapes.listing({"items": [ITEM_23, {**ITEM_23, "size": 99}]})
    assert [e.size for e in listing.entries] == [10]
    assert listing.unfit == 1


@pytest.mark.parametrize("size", [-1, 1 << 63, None, "many", 1e30, float("nan"), float("inf")])
def test_impossible_size_is_dropped(size: object) -> None:
    assert shapes.listing({"items": [{**ITEM_23, "size": size}]}).unfit == 1


@pytest.mark.parametrize("reply", [None, [], {}, {"items": {}}, "x", 3])
def test_listing_without_items_breaks_the_protocol(reply: object) -> None:
    with pytest.raises(ProtocolError):
        shapes.listing(reply)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
item_like = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("name", "type", "size", "mode", "created", "modified"), anything)
)


@given(st.lists(item_like | anything, max_size=8))
def test_any_items_give_a_sane_listing(items: list[object]) -> None:
    listing = shapes.listing({"items": items})
    assert len(listing.entries) + listing.unfit == len(items)
    names = [e.name for e in listing.entries]
    assert len(set(names)) == len(names)
    for e in listing.entries:
        assert 0 < len(e.name) <= 255 and b"/" not in e.name and b"\0" not in e.name
        assert e.name not in (b".", b"..")
        assert 0 <= e.size < 1 << 63
        assert 0 <= e.mode <= 0o7777


@given(anything)
def test_any_folder_reply_is_a_folder_or_nothing(raw: object) -> None:
    found = shapes.folder(raw)
    assert found is None or len(found.id) == 32


@given(anything)
def test_any_scalar_is_read_without_a_crash(value: object) -> None:
    shapes.time_ns(value)
    shapes.number(value)
    shapes.mode_bits(value, Kind.FILE)
    shapes.folder_id(value)
    shapes.text(value)


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)),
    st.sampled_from(["+00:00", "Z", ""]),
    st.sampled_from(["T", " "]),
)
def test_times_are_exact_to_the_microsecond(moment: datetime, zone: str, separator: str) -> None:
    text = moment.isoformat(sep=separator) + zone
    exact = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert shapes.time_ns(text) == exact * 1000


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_etag_round_trip_and_rounded_listing_time(mtime_ns: int, size: int) -> None:
    validator = Validator(mtime_ns, size)
    assert Validator.from_etag(validator.etag) == validator
    assert validator.matches_listing(size, round(mtime_ns / 1000) * 1000) or mtime_ns > 2**61


LISTED_23 = {
    "name": "mydata",
    "id": HEX,
    "host": "local:volume1",
    "status": "ready",
    "usage_mode": "general",
    "created_at": "2024-03-27 02:42:18.123456+00:00",
    "is_owner": True,
    "permission": "rw",
    "user": "7fd35a93",
    "group": None,
    "creator": "me@x",
    "user_email": "me@x",
    "group_name": None,
    "ownership_type": "user",
    "type": "user",
    "cloneable": False,
    "max_files": 1000,
    "max_size": None,
    "cur_size": 0,
}
DASHED = "8cabe28d-e069-40b7-835a-d4adffd19f37"
LISTED_26 = {
    **LISTED_23,
    "id": DASHED,
    "group": DASHED,
    "user_email": "",
    "group_name": "",
    "type": "",
    "max_size": 0,
}


@pytest.mark.parametrize("raw", [LISTED_23, LISTED_26])
def test_folder_of_both_generations(raw: dict[str, object]) -> None:
    found = shapes.folder(raw)
    assert found == folder(
        name="mydata", owner="me@x", mtime_ns=1711507338123456000, ownership="user", usage_mode="general"
    )


def test_folder_without_host_is_unmanaged() -> None:
    found = shapes.folder({**LISTED_23, "host": ""})
    assert found is not None and found.unmanaged


def test_hosts_with_and_without_usage() -> None:
    hosts = shapes.hosts(
        {
            "default": None,
            "allowed": ["a:1", "b:2"],
            "volume_info": {"a:1": {"usage": {"percentage": 12.3, "total": 100}}, "b:2": {}},
        }
    )
    assert hosts.default is None and hosts.allowed == ("a:1", "b:2")
    assert (hosts.usage["a:1"].percentage, hosts.usage["a:1"].total, hosts.usage["a:1"].used) == (
        12.3,
        100,
        None,
    )
    assert hosts.usage["b:2"].percentage is None


def test_shadowed_folders_of_a_by_name_server() -> None:
    own = folder(id="1" * 32)
    invited = folder(id="2" * 32, is_owner=False)
    invited_too = folder(id="3" * 32, is_owner=False)
    project = folder(id="4" * 32, ownership="group")
    assert shadowed([own, folder(id="5" * 32, name="other")]) == frozenset()
    assert shadowed([project, invited, own]) == {invited.id, project.id}
    # Two of a kind: the server's order is unknown, neither is safe to address.
    assert shadowed([invited, invited_too, project]) == {invited.id, invited_too.id, project.id}
