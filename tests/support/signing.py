"""Request signing for tests: a third writing of the contract's section 2.1.

Neither the client's code nor the server's: a mistake in either shows against this one, and this
one is checked against the contract's vectors (tests/unit/test_server_auth.py).
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

VERSION = "v7.20230615"


def headers(
    method: str,
    target: str,
    host: str,
    access_key: str,
    secret_key: str,
    *,
    content_type: str = "application/json",
    date: datetime | None = None,
    version: str = VERSION,
) -> dict[str, str]:
    """The headers of one signed request; `target` is path and query as sent."""
    moment = date or datetime.now(UTC)
    text = moment.isoformat()
    lines = [method, target, text, f"host:{host}", f"content-type:{content_type.split(';')[0].lower()}"]
    lines += [f"x-backendai-version:{version}", hashlib.sha256(b"").hexdigest()]
    key = _hmac(_hmac(secret_key.encode(), moment.strftime("%Y%m%d")), host)
    signature = _hmac(key, "\n".join(lines)).hex()
    return {
        "Date": text,
        "X-BackendAI-Version": version,
        "Content-Type": content_type,
        "Authorization": f"BackendAI signMethod=HMAC-SHA256, credential={access_key}:{signature}",
    }


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
