"""Session mode: password, cookie and the ``/func`` prefix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.embedded import Embedded


@pytest.fixture
def browser(both: Embedded) -> Iterator[httpx.Client]:
    """A client that keeps cookies and signs nothing."""
    with httpx.Client(base_url=both.url, timeout=30) as client:
        yield client


def credentials(server: Embedded, user: str = "owner") -> dict[str, str]:
    """What `user` types in."""
    env = server.env(user)
    return {"username": env["BACKEND_USER"], "password": env["BACKEND_PASSWORD"]}


def test_login_opens_func_and_logout_closes_it(both: Embedded, browser: httpx.Client) -> None:
    assert browser.get("/func/").json()["manager"].startswith(both.dialect)
    assert browser.get("/func/folders").status_code == 401
    login = browser.post("/server/login", json=credentials(both))
    assert login.json()["authenticated"] is True
    assert login.json()["data"]["access_key"] == both.env("owner")["BACKEND_ACCESS_KEY"]
    assert "secret_key" not in login.json()["data"]
    assert "AIOHTTP_SESSION" in login.cookies
    assert browser.get("/func/folders").status_code == 200
    created = browser.post("/func/folders", json={"name": f"s{both.dialect.replace('.', '')}"})
    assert created.status_code == 201
    assert browser.get(f"/func/folders/{created.json()['name']}/files?path=.").json()["items"] == []
    assert browser.post("/server/login-check").json()["authenticated"] is True
    assert browser.post("/server/login", json=credentials(both)).status_code == 400
    old_cookie = dict(browser.cookies)
    assert browser.post("/server/logout").status_code == (201 if both.dialect == "23.09" else 200)
    browser.cookies.update(old_cookie)
    refusal = browser.get("/func/folders")
    assert (refusal.status_code, refusal.json()["type"].rpartition("/")[2]) == (401, "auth-failed")
    assert browser.post("/server/login-check").json()["authenticated"] is False


def test_wrong_password_is_a_200_that_says_no(both: Embedded, browser: httpx.Client) -> None:
    reply = browser.post("/server/login", json={**credentials(both), "password": "wrong"})
    assert (reply.status_code, reply.json()["authenticated"]) == (200, False)
    assert reply.json()["data"]["details"]
    assert browser.post("/server/login", json={"username": "x"}).status_code == 400


def test_cookie_outlives_a_restart(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server, httpx.Client() as client:
        client.post(f"{server.url}/server/login", json=credentials(server))
        cookies = dict(client.cookies)
    with Embedded(tmp_path) as server, httpx.Client(cookies=cookies) as client:
        assert client.get(f"{server.url}/func/folders").status_code == 200


@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_one_time_password_is_demanded_as_the_dialect_does(tmp_path: Path, dialect: str) -> None:
    with Embedded(tmp_path, dialect=dialect, otp="owner=123456") as server, httpx.Client() as client:
        url = f"{server.url}/server/login"
        demand = client.post(url, json=credentials(server)).json()
        assert demand["authenticated"] is False
        if dialect == "23.09":
            assert demand["data"]["details"] == "OTP not provided"
        else:
            assert demand["data"]["type"].endswith("require-totp-authentication")
        wrong = client.post(url, json={**credentials(server), "otp": "000000"}).json()
        assert wrong["authenticated"] is False
        right = client.post(url, json={**credentials(server), "otp": "123456"}).json()
        assert right["authenticated"] is True


def test_ten_failures_block_the_name(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server, httpx.Client() as client:
        url = f"{server.url}/server/login"
        for _ in range(10):
            client.post(url, json={**credentials(server), "password": "wrong"})
        assert client.post(url, json=credentials(server)).status_code == 429
        assert client.post(url, json=credentials(server, "friend")).json()["authenticated"] is True


def test_authorize_gives_the_keys_for_the_password(both: Embedded) -> None:
    body = {"type": "keypair", "domain": "default", **credentials(both)}
    data = httpx.post(f"{both.url}/auth/authorize", json=body).json()["data"]
    assert data["secret_key"] == both.env("owner")["BACKEND_SECRET_KEY"]
    wrong = httpx.post(f"{both.url}/auth/authorize", json={**body, "password": "wrong"})
    assert wrong.status_code == 401
