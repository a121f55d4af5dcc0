"""Signing of manager requests: pure functions, no clock and no I/O.

The signature covers the request target exactly as it stands on the request line, the ``Host`` and
``Date`` headers verbatim and the bare media type, but neither body nor other headers. So whoever
signs must also decide these texts, and nothing may rewrite them afterwards.

Source: contract 2.1.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime

EMPTY_BODY_DIGEST = hashlib.sha256(b"").hexdigest()  # always of nothing: bodies are not signed


def string_to_sign(method: str, target: str, date: str, host: str, media_type: str, version: str) -> str:
    """The seven lines the server computes as well, without a final line feed.

    Args:
        target: path with query, percent-encoded, as on the request line.
        media_type: of ``Content-Type``, without parameters.
    """
    return "\n".join(
        (
            method.upper(),
            target,
            date,
            f"host:{host}",
            f"content-type:{media_type.lower()}",
            f"x-backendai-version:{version}",
            EMPTY_BODY_DIGEST,
        )
    )


def signature(secret_key: str, text: str, day: str, host: str) -> str:
    """Hex HMAC of ``text`` under the key of that day and host.

    Args:
        day: ``YYYYMMDD`` of the Date header in its own time zone, not converted to UTC.
    """
    day_key = _hmac(secret_key.encode(), day)
    return _hmac(_hmac(day_key, host), text).hex()


def authorization(
    access_key: str,
    secret_key: str,
    *,
    method: str,
    target: str,
    now: datetime,
    host: str,
    media_type: str,
    version: str,
) -> str:
    """Value of the ``Authorization`` header for a request whose ``Date`` is `date_header(now)`."""
    text = string_to_sign(method, target, date_header(now), host, media_type, version)
    signed = signature(secret_key, text, now.strftime("%Y%m%d"), host)
    return f"BackendAI signMethod=HMAC-SHA256, credential={access_key}:{signed}"


def date_header(now: datetime) -> str:
    """ISO 8601 with offset, which the server also accepts and the official client sends."""
    assert now.tzinfo is not None, "a naive time would be read as UTC"
    return now.isoformat()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
