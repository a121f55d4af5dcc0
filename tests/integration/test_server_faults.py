"""Trouble on demand: each order does what the table in docs/embedded-server.md says."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh

DATA = b"0123456789"


def test_status_for_the_next_calls_only(both: Embedded) -> None:
    client = both.client("owner")
    both.faults({"rules": [{"action": "status", "path": "/folders", "status": 502, "times": 2}]})
    statuses = [client.call("GET", "/folders").status_code for _ in range(3)]
    assert statuses == [502, 502, 200]
    assert client.call("GET", "/auth?echo=x").status_code == 200


def test_rule_matches_method_pattern_and_half(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    rule = {"action": "status", "method": "POST", "path": "/folders/*/request-upload", "half": "manager"}
    both.faults({"rules": [{**rule, "times": None}]})
    assert client.call("GET", f"/folders/{name}/files?path=.").status_code == 200
    body = {"path": "x", "size": 1}
    assert client.call("POST", f"/folders/{name}/request-upload", body).status_code == 503
    both.clear_faults()
    assert client.call("POST", f"/folders/{name}/request-upload", body).status_code == 200


def test_reset_connection(both: Embedded) -> None:
    both.faults({"rules": [{"action": "reset", "path": "/folders"}]})
    with pytest.raises(httpx.ReadError):
        both.client("owner").call("GET", "/folders")
    assert both.client("owner").call("GET", "/folders").status_code == 200


def test_stalled_call_goes_on_when_released(both: Embedded) -> None:
    both.faults({"rules": [{"action": "stall", "path": "/folders"}]})
    client = both.client("owner")
    patience = client.http.timeout
    client.http.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        client.call("GET", "/folders")
    client.http.timeout = patience
    both.faults({"rules": [{"action": "stall", "path": "/folders"}]})
    replies: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: replies.append(client.call("GET", "/folders")))
    both.reset_calls()
    waiting.start()
    eventually(lambda: both.count("GET", "/folders") == 1)
    assert not replies
    both.faults({"release": True})
    waiting.join(timeout=30)
    assert [r.status_code for r in replies] == [200]


def test_body_cut_on_the_way_down(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    client.upload(name, "f", DATA * 1000)
    url, token = client.grant(name, ".")
    both.faults({"rules": [{"action": "cut_down", "path": "/download", "after_bytes": 1234}]})
    got = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.http.stream("GET", url, params={"token": token, "dst_dir": "f"}) as reply,
    ):
        assert reply.headers["Content-Length"] == "10000"
        for piece in reply.iter_raw():
            got += piece
    assert got == (DATA * 1000)[:1234]


def test_json_cut_on_the_way_down(both: Embedded) -> None:
    both.faults({"rules": [{"action": "cut_down", "path": "/auth", "after_bytes": 5}]})
    with pytest.raises(httpx.RemoteProtocolError):
        both.client("owner").call("GET", "/auth?echo=x")


def test_lost_reply_has_done_the_work(both: Embedded) -> None:
    name, folder = fresh(both)
    client = both.client("owner")
    url, token = client.grant(name, "f", len(DATA))
    both.faults({"rules": [{"action": "lose_reply", "method": "PATCH", "path": "/upload"}]})
    with pytest.raises(httpx.RemoteProtocolError):
        client.http.patch(url, params={"token": token}, content=DATA, headers={"Upload-Offset": "0"})
    assert (both.folder_dir(folder) / "f").read_bytes() == DATA
    assert client.http.head(url, params={"token": token}).status_code == 404


def test_refused_token(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    client.upload(name, "f", DATA)
    both.faults({"rules": [{"action": "refuse_token", "path": "/download"}]})
    refusal = client.download(name, "f")
    assert (refusal.status_code, list(refusal.json()["data"])) == (400, ["token"])
    assert client.download(name, "f").content == DATA


def test_folder_tokens_can_be_switched_off(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    client.upload(name, "f", DATA)
    both.faults({"switches": {"folder_token": False}})
    assert client.download(name, "f").status_code == 404
    url, token = client.grant(name, "f")
    assert client.http.get(url, params={"token": token}).content == DATA


@pytest.mark.parametrize(
    ("fate", "error", "patience_s"),
    [("cut", httpx.RemoteProtocolError, 30), ("hang", httpx.ReadTimeout, 0.5)],
)
def test_archive_breaks_when_told(
    both: Embedded, fate: str, error: type[Exception], patience_s: float
) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    client.upload(name, "d/f", DATA)
    both.faults({"switches": {"archive": fate}})
    url, token = client.grant(name, "d")
    with pytest.raises(error):
        client.http.get(url, params={"token": token, "archive": "1"}, timeout=patience_s)


def test_latency_is_added_to_one_route(both: Embedded) -> None:
    client = both.client("owner")
    both.faults({"latency_ms": {"/folders": 3600_000}})
    client.ok("GET", "/auth?echo=x")  # not to this one: it would take an hour
    both.faults({"latency_ms": {"/folders": 300}})
    assert client.call("GET", "/folders").elapsed.total_seconds() >= 0.3


def test_calls_are_counted_by_half_method_and_route(both: Embedded) -> None:
    name, _ = fresh(both)
    both.reset_calls()
    client = both.client("owner")
    client.upload(name, "f", DATA)
    client.download(name, "f")
    client.download(name, "none")
    assert both.calls() == {
        ("manager", "POST", "/folders/{vf}/request-upload"): 1,
        ("manager", "POST", "/folders/{vf}/request-download"): 2,
        ("storage", "PATCH", "/upload"): 1,
        ("storage", "GET", "/download"): 2,
    }
    [downloads] = [c for c in both.report()["calls"] if c["route"] == "/download"]
    assert downloads["statuses"] == {"200": 1, "404": 1}
    assert both.report()["uploads"] == {"f": {"bytes": 10, "patches": 1, "sessions": 1}}


def test_mistaken_order_is_refused(both: Embedded) -> None:
    for order in ({"rules": [{"action": "explode"}]}, {"switches": {"no": 1}}, {"wrong": True}):
        with pytest.raises(AssertionError):
            both.faults(order)


def test_rate_limit_refuses_and_counts_the_refused(both: Embedded) -> None:
    both.may_refuse = True
    friend = both.client("friend")
    first = friend.call("GET", "/auth?echo=x")
    used = int(first.headers["X-RateLimit-Limit"]) - int(first.headers["X-RateLimit-Remaining"])
    both.faults({"switches": {"rate_limit": used + 1}})
    last = friend.call("GET", "/auth?echo=x")
    assert (last.status_code, last.headers["X-RateLimit-Remaining"]) == (200, "0")
    refused = friend.call("GET", "/auth?echo=x")
    assert refused.status_code == 429
    assert refused.json()["type"].endswith("rate-limit-exceeded")
    assert "Retry-After" not in refused.headers
    assert ("X-RateLimit-Reset" in refused.headers) == (both.dialect == "26")
    both.faults({"switches": {"rate_limit": used + 2}})
    assert friend.call("GET", "/auth?echo=x").status_code == 429  # the refused one counted


def test_anonymous_calls_are_limited_in_the_new_only(both: Embedded) -> None:
    both.may_refuse = True
    both.faults({"switches": {"anonymous_limit": 0}})
    reply = both.client("owner").http.get(both.url + "/")
    assert reply.status_code == (200 if both.dialect == "23.09" else 429)
    assert both.client("owner").call("GET", "/auth?echo=x").status_code == 200
