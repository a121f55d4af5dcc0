"""Request signatures, checked: nothing here knows of requests, users or HTTP replies.

Written from the wire contract alone; the client's own signing code is deliberately not shared,
so that one mistake cannot cancel out on both sides.
Source: contract 2.1; Backend.AI manager ``api/auth.py``.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

MAX_SKEW = timedelta(minutes=15)


class BadAuthHeader(Exception):
    """The header cannot be understood; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What an ``Authorization`` header claims."""

    method: str
    access_key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Signable:
    """The parts of a request that a signature covers, exactly as they came over the wire.

    Attributes:
        target: path with query, undecoded.
        version_header: ``backendai`` or ``sorna``, after which the version line is named.
    """

    method: str
    target: str
    date: str
    host: str
    content_type: str
    version: str
    version_header: str = "backendai"


def parse_authorization(header: str) -> Credential:
    """Read ``BackendAI signMethod=HMAC-SHA256, credential=<key>:<signature>``.

    Raises:
        BadAuthHeader: another scheme, or a part is missing.
    """
    scheme, _, rest = header.partition(" ")
    if not rest:
        raise BadAuthHeader("Malformed authorization header")
    if scheme not in ("BackendAI", "Sorna"):
        raise BadAuthHeader("Invalid authorization type name")
    parts = dict(_pair(part) for part in rest.split(","))
    key, colon, signature = parts.get("credential", "").partition(":")
    if "signMethod" not in parts or not colon:
        raise BadAuthHeader("Missing or malformed authorization parameters")
    return Credential(parts["signMethod"], key, signature)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), value.strip()


def parse_date(text: str) -> datetime | None:
    """A ``Date`` header in ISO 8601 or RFC 7231 form; without a zone it is UTC; None if neither."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text)
        except ValueError:
            continue
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    return None


def within_skew(date: datetime, now: datetime) -> bool:
    """Whether a request of `date` is accepted at `now`: strictly less than 15 minutes apart."""
    return abs(now - date) < MAX_SKEW


def signature(part: Signable, sign_method: str, secret_key: str) -> str:
    """The hex signature the owner of `secret_key` would have sent.

    Raises:
        BadAuthHeader: `sign_method` is not ``HMAC-<hash>`` with a hash every Python has.
    """
    mac, _, hash_name = sign_method.lower().partition("-")
    if mac != "hmac":
        raise BadAuthHeader("Unsupported request signing method (MAC type)")
    if hash_name not in hashlib.algorithms_guaranteed or hash_name.startswith("shake"):
        raise BadAuthHeader("Unsupported request signing method (hash type)")
    date = parse_date(part.date)
    if date is None:
        raise BadAuthHeader("Date/time sync error")
    # Bodies are not signed: the last line is the hash of nothing.
    empty = hashlib.new(hash_name, b"").hexdigest()
    text = "\n".join(
        (
            part.method,
            part.target,
            part.date,
            f"host:{part.host}",
            f"content-type:{part.content_type}",
            f"x-{part.version_header}-version:{part.version}",
            empty,
        )
    )
    # The day is the one of the header's own zone, not of UTC.
    key = hmac.new(secret_key.encode(), date.strftime("%Y%m%d").encode(), hash_name).digest()
    key = hmac.new(key, part.host.encode(), hash_name).digest()
    return hmac.new(key, text.encode(), hash_name).hexdigest()
