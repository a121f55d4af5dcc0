"""Parameters of manager calls: where they are looked for, and what is refused.

23.09 takes the body when there is one and the query otherwise, on every method, and refuses keys
it does not know. 26.x has one fixed place per call (GET: the query) and ignores the rest, which is
why a JSON body on GET files lists the root there.
Source: contract 3.1; Backend.AI manager ``api/utils.py``.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from vfsmount.server.dialect import Dialect
from vfsmount.server.problems import Problem

Place = Literal["auto", "query", "body"]
Check = Callable[[Any, Dialect], Any]

REQUIRED: Any = object()

_TRUE = frozenset({"t", "true", "y", "yes", "on", "1"})
_FALSE = frozenset({"f", "false", "n", "no", "off", "0", "none", ""})
_SLUG = re.compile(r"\.?[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?")


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a call.

    Attributes:
        check: turns the raw value into the wanted one or raises ValueError with the reason.
        aliases: other keys it may come under.
    """

    name: str
    check: Check
    default: Any = REQUIRED
    aliases: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key it may come under."""
        return (self.name, *self.aliases)


def text(value: Any, dialect: Dialect) -> str:
    """A string; blank only in 26.x."""
    if not isinstance(value, str):
        raise ValueError("value is not a string")
    if dialect.strict and not value:
        raise ValueError("blank value is not allowed")
    return value


def any_text(value: Any, dialect: Dialect) -> str:
    """A string, blank allowed."""
    if not isinstance(value, str):
        raise ValueError("value is not a string")
    return value


def integer(value: Any, dialect: Dialect) -> int:
    """An integer or its decimal text."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError("value can't be converted to int") from None


def boolean(value: Any, dialect: Dialect) -> bool:
    """True, false or one of their usual spellings."""
    word = str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("value can't be converted to Bool")


def hex_id(value: Any, dialect: Dialect) -> str:
    """A UUID in either spelling, as 32 hex digits."""
    try:
        return uuid.UUID(str(value)).hex
    except ValueError:
        raise ValueError("value is not a UUID") from None


def slug(value: Any, dialect: Dialect) -> str:
    """A folder name: a slug with an optional leading dot in 23.09, up to 64 characters in 26.x."""
    if not isinstance(value, str):
        raise ValueError("value must be a string")
    if dialect.strict and not _SLUG.fullmatch(value):
        raise ValueError("value must be a valid slug.")
    if not dialect.strict and not 1 <= len(value) <= 64:
        raise ValueError("String should have between 1 and 64 characters")
    return value


def texts(value: Any, dialect: Dialect) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list):
        raise ValueError("value is not a list")
    return [text(item, dialect) for item in value]


def text_or_texts(value: Any, dialect: Dialect) -> list[str]:
    """One string, or in 26.x up to 50 of them, as a list."""
    if isinstance(value, list) and dialect.many_mkdir:
        if len(value) > 50:
            raise ValueError("List should have at most 50 items")
        return texts(value, dialect)
    return [text(value, dialect)]


def one_of(*values: str) -> Check:
    """One of a few words."""

    def check(value: Any, dialect: Dialect) -> str:
        if value not in values:
            raise ValueError(f"value is not one of {', '.join(values)}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """`check`, or null."""
    return lambda value, dialect: None if value is None else check(value, dialect)


def mapping(value: Any, dialect: Dialect) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError("value is not a dict")
    return value


def mappings(value: Any, dialect: Dialect) -> list[dict[str, Any]]:
    """A list of JSON objects."""
    if not isinstance(value, list):
        raise ValueError("value is not a list")
    return [mapping(item, dialect) for item in value]


permission = one_of("ro", "rw", "wd")
usage_mode = one_of("general", "model", "data")


async def read_params(
    request: web.Request, dialect: Dialect, fields: Sequence[Field], place: Place
) -> dict[str, Any]:
    """The call's parameters by the names of `fields`.

    Raises:
        Problem: 400 ``invalid-api-params``; ``data`` says per key what is wrong in 23.09.
    """
    raw = await _raw(request, dialect, place)
    errors: dict[str, str] = {}
    found = {f.name: _read(f, raw, dialect, errors) for f in fields}
    if dialect.strict:
        known = {key for f in fields for key in f.keys}
        errors |= {key: f"{key} is not allowed key" for key in raw if key not in known}
    if errors:
        raise Problem("invalid-api-params", "Input validation error", errors)
    return found


def _read(field: Field, raw: Mapping[str, Any], dialect: Dialect, errors: dict[str, str]) -> Any:
    key = next((k for k in field.keys if k in raw), None)
    if key is None:
        if field.default is REQUIRED:
            errors[field.name] = "is required"
            return None
        return field.default
    try:
        return field.check(raw[key], dialect)
    except ValueError as e:
        errors[key] = str(e)
        return None


async def _raw(request: web.Request, dialect: Dialect, place: Place) -> Mapping[str, Any]:
    if dialect.strict:
        use_body = request.can_read_body
    else:
        use_body = place == "body" or (place == "auto" and request.method != "GET")
    if not use_body:
        return dict(request.query)
    body = await request.read()
    if not body and not dialect.strict and place == "auto":
        return {}
    try:
        parsed = json.loads(body)
    except ValueError:
        message = "Malformed body" if dialect.strict else "Malformed request body."
        raise Problem("invalid-api-params", message) from None
    if not isinstance(parsed, dict):
        raise Problem("invalid-api-params", "Malformed body")
    return parsed
