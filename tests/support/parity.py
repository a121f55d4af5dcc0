"""One script of raw requests, and what a server answered to each, made comparable.

The same steps go to the real 23.09 and to the embedded server; ids, times and addresses are
replaced by what they are, everything else has to be equal to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.embedded import RawClient

_PLACEHOLDERS = (
    (re.compile(r"/[\w./-]+/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}"), "<root>"),
    (re.compile(r"/[\w./-]+/folders/[0-9a-f]{32}"), "<root>"),
    (re.compile(r"\b[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?\+00:00"), "<time>"),
    (re.compile(r"[\w.-]+@[\w.-]+\.\w+"), "<email>"),
    (re.compile(r'"[0-9a-f]+-([0-9a-f]+)"'), r'"<mtime>-\1"'),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "<origin>"),
)
_VARYING_KEYS = {"token", "access_key", "ctime", "mtime", "percentage", "used", "total", "service_addr"}
_VARYING_KEYS |= {"last_used", "heartbeat_timeout", "num_proc", "ssl_enabled"}
_HEADERS = ("content-type", "content-range", "content-length", "etag", "accept-ranges", "content-disposition")
_HEADERS += ("upload-offset", "upload-length", "tus-resumable", "cache-control", "content-encoding", "allow")


@dataclass(frozen=True)
class Answer:
    """A reply without what differs from run to run."""

    status: int
    headers: dict[str, str]
    body: Any


def comparable(value: Any) -> Any:
    """`value` with everything that differs from run to run replaced by what it is."""
    if isinstance(value, dict):
        return {
            k: f"<{k}>" if k in _VARYING_KEYS and v is not None else comparable(v) for k, v in value.items()
        }
    if isinstance(value, list):
        items = [comparable(v) for v in value]
        return sorted(items, key=repr)
    if isinstance(value, float):
        return "<float>"
    if not isinstance(value, str):
        return value
    for pattern, text in _PLACEHOLDERS:
        value = pattern.sub(text, value)
    return value


def answer(reply: httpx.Response, *, headers: bool = False) -> Answer:
    """A reply made comparable; transfer replies with their headers."""
    kind = reply.headers.get("Content-Type", "")
    if "json" in kind and reply.content:
        body = comparable(_without_legacy(reply.json()))
    elif reply.headers.get("Content-Type", "").startswith("text/") and reply.status_code >= 400:
        body = "<text>"
    else:
        body = reply.content
    kept = {h: comparable(reply.headers[h]) for h in _HEADERS if h in reply.headers} if headers else {}
    if "content-type" in kept:
        kept["content-type"] = kept["content-type"].partition(";")[0]  # charset: no matter
    if reply.status_code >= 400 or reply.request.method == "HEAD":
        kept.pop("content-length", None)
    if reply.request.method == "HEAD":
        kept.pop("content-type", None)  # of a body that is not there; aiohttp versions differ
    return Answer(reply.status_code, kept, body)


def _without_legacy(body: Any) -> Any:
    # A JSON text inside the JSON: its own test compares it.
    if isinstance(body, dict) and isinstance(body.get("files"), str):
        return {**body, "files": "<text>"}
    return body


@dataclass
class Actors:
    """Who sends the steps' requests, and the folder they work in."""

    owner: RawClient
    friend: RawClient
    folder: str

    def file(self, call: str, method: str = "POST", **body: Any) -> Answer:
        """One signed call below the folder."""
        return answer(self.owner.call(method, f"/folders/{self.folder}/{call}", body))

    def get(self, path: str = "a.txt", token_path: str = ".", **headers: str) -> Answer:
        """One download through a folder token."""
        url, token = self.owner.grant(self.folder, token_path)
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        reply = self.owner.http.get(url, params={"token": token, "dst_dir": path}, headers=names)
        return answer(reply, headers=True)


Step = tuple[str, Callable[[Actors], Answer]]


def run(steps: list[Step], actors: Actors) -> dict[str, Answer]:
    """Every step's answer by its label."""
    return {label: step(actors) for label, step in steps}


def labels(steps: list[Step]) -> list[str]:
    """For parametrization; labels are unique."""
    found = [label for label, _ in steps]
    assert len(found) == len(set(found)), "a label stands twice"
    return found
