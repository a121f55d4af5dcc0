"""The server's signature checks, and the tests' own signing, against the contract's vectors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support import signing
from vfsmount.server import auth

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

VECTOR_A = auth.Signable(
    "GET",
    "/folders/mydata/files?path=dir/a%20b",
    "2024-03-27T02:42:18.123456+00:00",
    "127.0.0.1:8081",
    "text/plain",
    "v7.20230615",
)
SIGNATURE_A = "7399832dfeaa1663ef2ffbbf1a572a69d585ba456c654fc7043594125971aa65"
VECTOR_B = auth.Signable(
    "POST",
    "/folders/mydata/request-download",
    "2024-03-27T02:42:18+00:00",
    "api.example.com",
    "application/json",
    "v7.20230615",
)
SIGNATURE_B = "d7e4e395c3f971fa4df7efab4693c7892798cabddb410668b991762e7b2d8602"
VECTORS = [(VECTOR_A, SIGNATURE_A), (VECTOR_B, SIGNATURE_B)]


@pytest.mark.parametrize(("part", "expected"), VECTORS)
def test_signature_of_the_real_service_is_reproduced(part: auth.Signable, expected: str) -> None:
    assert auth.signature(part, "HMAC-SHA256", SECRET_KEY) == expected


@pytest.mark.parametrize(("part", "expected"), VECTORS)
def test_tests_sign_as_the_real_client_does(part: auth.Signable, expected: str) -> None:
    made = signing.headers(
        part.method,
        part.target,
        part.host,
        ACCESS_KEY,
        SECRET_KEY,
        content_type=part.content_type,
        date=datetime.fromisoformat(part.date),
    )
    assert made["Date"] == part.date
    assert made["Authorization"].endswith(f"credential={ACCESS_KEY}:{expected}")


def test_method_and_hash_names_ignore_case() -> None:
    assert auth.signature(VECTOR_A, "hmac-sha256", SECRET_KEY) == SIGNATURE_A


@pytest.mark.parametrize("method", ["RSA-SHA256", "HMAC-NONE", "HMAC-SHAKE_128", "HMAC"])
def test_unknown_signing_method_is_refused(method: str) -> None:
    with pytest.raises(auth.BadAuthHeader):
        auth.signature(VECTOR_A, method, SECRET_KEY)


def test_day_of_the_key_is_the_one_in_the_header() -> None:
    # 23:30 in UTC-05:00 is the next day in UTC; the real service uses the header's own day.
    west = auth.Signable("GET", "/", "2024-03-26T23:30:00-05:00", "h", "text/plain", "v7.20230615")
    made = signing.headers(
        "GET", "/", "h", "k", SECRET_KEY, content_type="text/plain", date=datetime.fromisoformat(west.date)
    )
    assert made["Authorization"].endswith(auth.signature(west, "HMAC-SHA256", SECRET_KEY))


def test_dates_in_both_forms_and_without_zone_are_read() -> None:
    moment = datetime(2024, 3, 27, 2, 42, 18, tzinfo=UTC)
    for text in ("2024-03-27T02:42:18+00:00", "Wed, 27 Mar 2024 02:42:18 GMT", "2024-03-27T02:42:18"):
        assert auth.parse_date(text) == moment
    assert auth.parse_date("yesterday") is None


def test_skew_limit_is_fifteen_minutes_both_ways() -> None:
    now = datetime(2024, 3, 27, tzinfo=UTC)
    for sign in (-1, 1):
        assert auth.within_skew(now + sign * timedelta(minutes=14, seconds=59), now)
        assert not auth.within_skew(now + sign * timedelta(minutes=15), now)


@pytest.mark.parametrize(
    "header",
    [
        "BackendAI",
        "Basic eDp5",
        "BackendAI signMethod=HMAC-SHA256",
        "BackendAI signMethod=HMAC-SHA256, credential=nokey",
        "BackendAI credential=a:b",
        "backendai signMethod=HMAC-SHA256, credential=a:b",
    ],
)
def test_malformed_authorization_is_refused(header: str) -> None:
    with pytest.raises(auth.BadAuthHeader):
        auth.parse_authorization(header)


def test_secret_stays_out_of_repr() -> None:
    from vfsmount.server.records import User

    user = User("1", "u", "e", "k", "the-secret", "the-password", "user", "p")
    assert "the-secret" not in repr(user)
    assert "the-password" not in repr(user)
