"""``vfsmount dotfile`` at the real 23.09: what we refuse it refuses, what we send it keeps."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.embedded import RawClient
from tests.support.live import live_environment
from vfsmount.api import dotfilerules as rules
from vfsmount.cli import main

pytestmark = pytest.mark.live

PREFIX = ".vfsmount-live-"
CONTENT = "CRLF\r\n\tünïcode \u2028 no newline at the end".encode()
Run = Callable[..., bytes]


@pytest.fixture
def raw() -> Iterator[RawClient]:
    """The owner without our client; dotfiles of these tests are removed."""
    client = RawClient(dict(live_environment("owner")))
    yield client
    for found in client.ok("GET", "/user-config/dotfiles"):
        if found["path"].startswith(PREFIX):
            client.ok("DELETE", "/user-config/dotfiles", params={"path": found["path"]})
    client.close()


@pytest.fixture
def dotfile(
    raw: RawClient, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Runs ``vfsmount dotfile …`` as the owner; what it printed."""
    for name, value in raw.env.items():
        monkeypatch.setenv(name, value)

    def run(*words: str, stdin: bytes = b"", status: int = 0) -> bytes:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        found = main(["dotfile", *words])
        out, err = capsysbinary.readouterr()
        assert found == status, err.decode()
        return out + err if status else out

    return run


def test_life_of_a_dotfile(dotfile: Run) -> None:
    path = f"{PREFIX}a/config"
    dotfile("create", path, "--perm", "600", stdin=CONTENT)
    assert dotfile("get", path) == CONTENT
    dotfile("create", path, stdin=b"x", status=9)
    dotfile("update", path, stdin=CONTENT * 2)
    (found,) = [d for d in json.loads(dotfile("list", "--json")) if d["path"] == path]
    assert found == {"path": path, "permission": "600", "size": 2 * len(CONTENT)}
    dotfile("delete", path, "--yes")
    dotfile("get", path, status=7)
    dotfile("update", path, stdin=b"x", status=7)
    dotfile("delete", path, "--yes", status=7)


def test_what_we_refuse_the_server_refuses(raw: RawClient) -> None:
    def create(**changed: str) -> int:
        body = {"path": f"{PREFIX}r", "permission": "755", "data": "x", **changed}
        return raw.call("POST", "/user-config/dotfiles", body).status_code

    for path in rules.RESERVED:
        assert create(path=path) == 400
    assert create(permission="0755") == 400
    assert create(data="x" * (rules.DATA_MAX + 1)) == 400
    assert create(data="") == 400


def test_room_ends_at_the_same_byte(raw: RawClient, dotfile: Run) -> None:
    dotfile("create", f"{PREFIX}a", stdin=b"x" * 40_000)
    known = [
        rules.Packed(d["path"], d["permission"], d["data"]) for d in raw.ok("GET", "/user-config/dotfiles")
    ]
    frame = rules.packed_size([*known, rules.Packed(f"{PREFIX}b", "755", "x" * 1000)]) - 1000
    body = {"path": f"{PREFIX}b", "permission": "755", "data": "x" * (rules.PACKED_MAX - frame)}
    assert raw.call("POST", "/user-config/dotfiles", {**body, "data": body["data"] + "x"}).status_code == 400
    assert raw.call("POST", "/user-config/dotfiles", body).status_code == 200


def test_listing_for_somebody_else_tells_ones_own(raw: RawClient, dotfile: Run) -> None:
    """Why ``list --owner`` is refused by us."""
    dotfile("create", f"{PREFIX}mine", stdin=b"x")
    admin = RawClient(dict(live_environment("admin")))
    key = raw.env["BACKEND_ACCESS_KEY"]
    listed = admin.ok("GET", "/user-config/dotfiles", params={"owner_access_key": key})
    one = admin.ok("GET", "/user-config/dotfiles", params={"owner_access_key": key, "path": f"{PREFIX}mine"})
    admin.close()
    assert one["data"] == "x" and f"{PREFIX}mine" not in [d["path"] for d in listed]
