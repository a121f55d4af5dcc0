"""Signing, against vectors taken from the official client (contract 2.1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from vfsmount.api.auth import authorization, date_header, signature, string_to_sign

ACCESS = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
VERSION = "v7.20230615"

VECTORS = [
    (
        "GET",
        "/folders/mydata/files?path=dir/a%20b",
        datetime(2024, 3, 27, 2, 42, 18, 123456, UTC),
        "127.0.0.1:8081",
        "text/plain",
        "7399832dfeaa1663ef2ffbbf1a572a69d585ba456c654fc7043594125971aa65",
    ),
    (
        "POST",
        "/folders/mydata/request-download",
        datetime(2024, 3, 27, 2, 42, 18, tzinfo=UTC),
        "api.example.com",
        "application/json",
        "d7e4e395c3f971fa4df7efab4693c7892798cabddb410668b991762e7b2d8602",
    ),
]


@pytest.mark.parametrize(("method", "target", "now", "host", "media_type", "expected"), VECTORS)
def test_vectors(method: str, target: str, now: datetime, host: str, media_type: str, expected: str) -> None:
    header = authorization(
        ACCESS,
        SECRET,
        method=method,
        target=target,
        now=now,
        host=host,
        media_type=media_type,
        version=VERSION,
    )
    assert header == f"BackendAI signMethod=HMAC-SHA256, credential={ACCESS}:{expected}"


def test_string_to_sign_has_seven_lines_and_no_last_line_feed() -> None:
    text = string_to_sign("get", "/x", "d", "h", "Text/Plain", VERSION)
    assert text.split("\n")[:6] == [
        "GET",
        "/x",
        "d",
        "host:h",
        "content-type:text/plain",
        "x-backendai-version:" + VERSION,
    ]
    assert text.count("\n") == 6


def test_day_is_that_of_the_dates_own_zone() -> None:
    # 02:00 in Seoul is still the day before in UTC; the server derives the key from the text.
    seoul = datetime(2024, 3, 28, 2, 0, tzinfo=timezone(timedelta(hours=9)))
    header = authorization(
        ACCESS,
        SECRET,
        method="GET",
        target="/",
        now=seoul,
        host="h",
        media_type="text/plain",
        version=VERSION,
    )
    text = string_to_sign("GET", "/", date_header(seoul), "h", "text/plain", VERSION)
    assert header.endswith(signature(SECRET, text, "20240328", "h"))


def test_date_of_a_whole_second_has_no_fraction() -> None:
    assert date_header(datetime(2024, 3, 27, 2, 42, 18, tzinfo=UTC)) == "2024-03-27T02:42:18+00:00"
