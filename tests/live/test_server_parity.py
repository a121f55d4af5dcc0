"""The embedded server in its 23.09 dialect answers as the real 23.09 does, request by request."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, RawClient
from tests.support.live import live_environment
from tests.support.parity import Actors, Answer, Step, answer, labels, run

pytestmark = pytest.mark.live

DATA = b"0123456789"
GZ = gzip.compress(b"the sibling", mtime=0)


def _upload(a: Actors, path: str, size: int, *pieces: bytes, **headers: str) -> Answer:
    url, token = a.owner.grant(a.folder, path, size)
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    for piece in pieces:
        reply = a.owner.http.patch(url, params={"token": token}, content=piece, headers=names)
    return answer(reply, headers=True)


def _head_upload(a: Actors, size: int, *pieces: bytes) -> Answer:
    url, token = a.owner.grant(a.folder, "half", size)
    for piece in pieces:
        a.owner.http.patch(url, params={"token": token}, content=piece)
    return answer(a.owner.http.head(url, params={"token": token}), headers=True)


def _raw_download(a: Actors, method: str = "GET", **params: str) -> Answer:
    url, token = a.owner.grant(a.folder, ".")
    return answer(a.owner.http.request(method, url, params={"token": token, **params}), headers=True)


def _etag(a: Actors, path: str = "a.txt") -> str:
    return a.owner.download(a.folder, path).headers["Etag"]


def _dated(a: Actors, **skew: float) -> Answer:
    return answer(a.owner.call("GET", "/auth?echo=x", date=datetime.now(UTC) + timedelta(**skew)))


def _unsigned(a: Actors, method: str, path: str, **headers: str) -> Answer:
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    return answer(a.owner.http.request(method, a.owner.env["BACKEND_ENDPOINT"] + path, headers=names))


def _friend(a: Actors, call: str, method: str = "POST", **body: object) -> Answer:
    return answer(a.friend.call(method, f"/folders/{a.folder}/{call}", body or None))


def _quota(a: Actors) -> Answer:
    folder = next(f for f in a.owner.ok("GET", "/folders") if f["name"] == a.folder)
    text = (
        "query($storage_host_name: String!, $quota_scope_id: String!) {"
        " quota_scope(storage_host_name: $storage_host_name, quota_scope_id: $quota_scope_id) {"
        " details { usage_bytes usage_count hard_limit_bytes } } }"
    )
    asked = {"storage_host_name": folder["host"], "quota_scope_id": folder["quota_scope_id"]}
    return answer(a.owner.call("POST", "/admin/gql", {"query": text, "variables": asked}))


def _accept(a: Actors) -> Answer:
    pending = a.friend.ok("GET", "/folders/invitations/list")["invitations"]
    mine = next(i for i in pending if i["vfolder_name"] == a.folder)
    return answer(a.friend.call("POST", "/folders/invitations/accept", {"inv_id": mine["id"]}))


def _own(a: Actors) -> Answer:
    reply = a.owner.call("GET", "/folders")
    mine = next(f for f in reply.json() if f["name"] == a.folder)
    return Answer(reply.status_code, {}, sorted(mine))


def _one(a: Actors, key: str, value: str, method: str, path: str) -> Answer:
    """The keys of one item of a list reply."""
    items = a.owner.ok(method, path)[key]
    return Answer(200, {}, [sorted(i) for i in items if i[value] == a.folder])


def _friend_email(a: Actors) -> str:
    return str(a.friend.env["PARITY_EMAIL"])


STEPS: list[Step] = [
    # --- who are you
    ("version", lambda a: _unsigned(a, "GET", "/")),
    ("auth get", lambda a: answer(a.owner.call("GET", "/auth?echo=hi"))),
    ("auth without echo", lambda a: answer(a.owner.call("GET", "/auth"))),
    ("auth blank echo", lambda a: answer(a.owner.call("POST", "/auth", {"echo": ""}))),
    ("auth post", lambda a: answer(a.owner.call("POST", "/auth", {"echo": "hi"}))),
    ("role", lambda a: answer(a.owner.call("GET", "/auth/role"))),
    ("skew 840", lambda a: _dated(a, seconds=-840)),
    ("skew 1000", lambda a: _dated(a, seconds=-1000)),
    ("skew ahead", lambda a: _dated(a, seconds=1000)),
    ("no credentials", lambda a: _unsigned(a, "GET", "/folders")),
    ("only a date", lambda a: _unsigned(a, "GET", "/folders", Date=datetime.now(UTC).isoformat())),
    (
        "strange scheme",
        lambda a: _unsigned(
            a, "GET", "/folders", Date=datetime.now(UTC).isoformat(), Authorization="Basic eDp5"
        ),
    ),
    ("unknown version", lambda a: answer(a.owner.call("GET", "/auth?echo=x", version="v99.20990101"))),
    ("unknown url", lambda a: answer(a.owner.call("GET", "/nothing-here"))),
    ("wrong method", lambda a: answer(a.owner.call("PUT", "/folders"))),
    ("announcement", lambda a: _unsigned(a, "GET", "/manager/announcement")),
    # --- folders
    ("create", lambda a: answer(a.owner.call("POST", "/folders", {"name": a.folder}))),
    ("create again", lambda a: answer(a.owner.call("POST", "/folders", {"name": a.folder}))),
    ("create bad name", lambda a: answer(a.owner.call("POST", "/folders", {"name": "has space"}))),
    ("create no name", lambda a: answer(a.owner.call("POST", "/folders", {}))),
    ("create reserved", lambda a: answer(a.owner.call("POST", "/folders", {"name": ".bashrc"}))),
    ("create unknown key", lambda a: answer(a.owner.call("POST", "/folders", {"name": "q", "x": 1}))),
    (
        "create for project",
        lambda a: answer(a.owner.call("POST", "/folders", {"name": "q", "group": "default"})),
    ),
    (
        "create unmanaged",
        lambda a: answer(a.owner.call("POST", "/folders", {"name": "q", "unmanaged_path": "/x"})),
    ),
    ("list", _own),
    ("list all", lambda a: answer(a.owner.call("GET", "/folders?all=true"))),
    ("info", lambda a: answer(a.owner.call("GET", f"/folders/{a.folder}"))),
    ("info missing", lambda a: answer(a.owner.call("GET", "/folders/no-such-folder"))),
    ("allowed types", lambda a: answer(a.owner.call("GET", "/folders/_/allowed-types"))),
    ("quota of a plain filesystem", _quota),
    ("all hosts as user", lambda a: answer(a.owner.call("GET", "/folders/_/all-hosts"))),
    # --- files
    ("list empty", lambda a: answer(a.owner.call("GET", f"/folders/{a.folder}/files?path="))),
    ("mkdir", lambda a: a.file("mkdir", path="d", parents=False)),
    ("mkdir again", lambda a: a.file("mkdir", path="d", parents=False)),
    ("mkdir exist_ok", lambda a: a.file("mkdir", path="d", exist_ok=True)),
    ("mkdir no parent", lambda a: a.file("mkdir", path="x/y", parents=False)),
    ("mkdir list", lambda a: a.file("mkdir", path=["x", "y"])),
    ("mkdir absolute", lambda a: a.file("mkdir", path="/x")),
    ("mkdir outside", lambda a: a.file("mkdir", path="../x")),
    ("mkdir long", lambda a: a.file("mkdir", path="n" * 256)),
    ("mkdir nul", lambda a: a.file("mkdir", path="a\0b")),
    ("mkdir blank", lambda a: a.file("mkdir", path="")),
    ("upload", lambda a: _upload(a, "a.txt", 10, DATA)),
    ("mkdir below file", lambda a: a.file("mkdir", path="a.txt/x")),
    ("upload in pieces", lambda a: _upload(a, "d/b.txt", 10, DATA[:4], DATA[4:])),
    ("upload too much", lambda a: _upload(a, "d/c.txt", 4, DATA)),
    ("upload empty", lambda a: _upload(a, "d/empty", 0, b"")),
    ("upload new parents", lambda a: _upload(a, "d/new/er/f", 10, DATA)),
    ("upload onto directory", lambda a: _upload(a, "d/new", 10, DATA)),
    ("upload below file", lambda a: _upload(a, "a.txt/x", 10, DATA)),
    ("upload long name", lambda a: _upload(a, "n" * 256, 10, DATA)),
    ("upload after the end", lambda a: _upload(a, "twice", 10, DATA, DATA)),
    ("upload head new", lambda a: _head_upload(a, 10)),
    ("upload head half", lambda a: _head_upload(a, 10, DATA[:3])),
    ("upload head done", lambda a: _head_upload(a, 10, DATA)),
    ("upload wrong offset", lambda a: _upload(a, "offset", 20, DATA, Upload_Offset="7")),
    ("request-upload text size", lambda a: a.file("request-upload", path="x", size="many")),
    ("request-upload absolute", lambda a: a.file("request-upload", path="/x", size=1)),
    ("request-download blank", lambda a: a.file("request-download", path="")),
    ("request-download missing", lambda a: a.file("request-download", path="nothing")),
    ("request-download alias", lambda a: a.file("request-download", file="a.txt")),
    ("list d", lambda a: answer(a.owner.call("GET", f"/folders/{a.folder}/files?path=d"))),
    ("list by body", lambda a: a.file("files", "GET", path="d")),
    ("list file", lambda a: a.file("files", "GET", path="a.txt")),
    ("list missing", lambda a: a.file("files", "GET", path="missing/x")),
    ("list outside", lambda a: a.file("files", "GET", path="..")),
    ("list absolute", lambda a: a.file("files", "GET", path="/etc")),
    # --- moves, after which everybody looks
    ("rename", lambda a: a.file("rename-file", target_path="d/c.txt", new_name="c2.txt")),
    ("rename slash", lambda a: a.file("rename-file", target_path="d/c2.txt", new_name="x/y")),
    ("rename missing", lambda a: a.file("rename-file", target_path="d/none", new_name="y")),
    ("rename root", lambda a: a.file("rename-file", target_path=".", new_name="y")),
    ("move file", lambda a: a.file("move-file", src="d/c2.txt", dst="d/c3.txt")),
    ("move onto file", lambda a: a.file("move-file", src="d/c3.txt", dst="d/b.txt")),
    ("move into directory", lambda a: a.file("move-file", src="d/b.txt", dst="d/new")),
    ("move into same name", lambda a: a.file("move-file", src="a.txt", dst="d/new/b.txt/x")),
    ("move missing parent", lambda a: a.file("move-file", src="a.txt", dst="no/where")),
    ("move dir missing parent", lambda a: a.file("move-file", src="d/new", dst="made/up/new")),
    ("move dir onto file", lambda a: a.file("move-file", src="made", dst="a.txt")),
    ("move into itself", lambda a: a.file("move-file", src="made", dst="made/up/made")),
    ("move missing", lambda a: a.file("move-file", src="none", dst="x")),
    ("move onto itself", lambda a: a.file("move-file", src="a.txt", dst="a.txt")),
    ("list after moves", lambda a: a.file("files", "GET", path="made/up/new")),
    # --- deletes
    ("delete missing", lambda a: a.file("delete-files", "DELETE", files=["none"])),
    ("delete directory", lambda a: a.file("delete-files", "DELETE", files=["d"])),
    ("delete none", lambda a: a.file("delete-files", "DELETE", files=[])),
    ("delete outside", lambda a: a.file("delete-files", "DELETE", files=["../x"])),
    ("delete by post", lambda a: a.file("delete-files", "POST", files=["made"], recursive=True)),
    ("delete tree", lambda a: a.file("delete-files", "DELETE", files=["made"], recursive=True)),
    ("delete not a list", lambda a: a.file("delete-files", "DELETE", files="made")),
    # --- downloads
    ("get", lambda a: a.get()),
    ("get range", lambda a: a.get(Range="bytes=2-4")),
    ("get clipped", lambda a: a.get(Range="bytes=8-20")),
    ("get suffix", lambda a: a.get(Range="bytes=-3")),
    ("get big suffix", lambda a: a.get(Range="bytes=-30")),
    ("get past end", lambda a: a.get(Range="bytes=10-11")),
    ("get reversed", lambda a: a.get(Range="bytes=5-2")),
    ("get two ranges", lambda a: a.get(Range="bytes=0-1,3-4")),
    ("get range of empty", lambda a: a.get("d/empty", Range="bytes=0-0")),
    ("get empty", lambda a: a.get("d/empty")),
    ("if-match right", lambda a: a.get(If_Match=_etag(a), Range="bytes=0-1")),
    ("if-match wrong", lambda a: a.get(If_Match='"1-2"', Range="bytes=0-1")),
    ("if-match past end", lambda a: a.get(If_Match=_etag(a), Range="bytes=99-")),
    ("if-none-match", lambda a: a.get(If_None_Match=_etag(a))),
    ("if-none-match range", lambda a: a.get(If_None_Match=_etag(a), Range="bytes=0-1")),
    ("if-none-match list", lambda a: a.get(If_None_Match=f'"9-9", {_etag(a)}')),
    ("if-none-match star", lambda a: a.get(If_None_Match="*")),
    ("if-none-match weak", lambda a: a.get(If_None_Match=f"W/{_etag(a)}")),
    ("if-none-match other", lambda a: a.get(If_None_Match='"1-2"')),
    ("if-range etag", lambda a: a.get(If_Range='"1-2"', Range="bytes=0-1")),
    ("if-range old", lambda a: a.get(If_Range="Mon, 01 Jan 2001 00:00:00 GMT", Range="bytes=0-1")),
    ("if-range new", lambda a: a.get(If_Range="Fri, 01 Jan 2100 00:00:00 GMT", Range="bytes=0-1")),
    ("if-unmodified-since", lambda a: a.get(If_Unmodified_Since="Mon, 01 Jan 2001 00:00:00 GMT")),
    ("if-modified-since", lambda a: a.get(If_Modified_Since="Fri, 01 Jan 2100 00:00:00 GMT")),
    ("get missing", lambda a: a.get("missing")),
    ("get below file", lambda a: a.get("a.txt/x")),
    ("get slash", lambda a: a.get("a.txt/")),
    ("get directory", lambda a: a.get("d")),
    ("get long", lambda a: a.get("n" * 256)),
    ("get absolute", lambda a: a.get("/etc/passwd")),
    ("get without dst_dir", lambda a: _raw_download(a)),
    ("get blank dst_dir", lambda a: _raw_download(a, dst_dir="")),
    ("get unknown key", lambda a: _raw_download(a, dst_dir="a.txt", x="1")),
    ("get no_cache", lambda a: _raw_download(a, dst_dir="a.txt", no_cache="true")),
    ("get file archive", lambda a: _raw_download(a, dst_dir="a.txt", archive="true")),
    ("head", lambda a: _raw_download(a, "HEAD", dst_dir="a.txt")),
    (
        "get token for file",
        lambda a: answer(
            a.owner.http.get((grant := a.owner.grant(a.folder, "a.txt"))[0], params={"token": grant[1]}),
            headers=True,
        ),
    ),
    ("get token directory", lambda a: a.get("a.txt", token_path="d")),
    ("get gz sibling", lambda a: (_upload(a, "a.txt.gz", 1, GZ), a.get(Accept_Encoding="gzip"))[1]),
    ("get br sibling", lambda a: (_upload(a, "a.txt.br", 2, b"br"), a.get(Accept_Encoding="br"))[1]),
    ("get q=0", lambda a: a.get(Accept_Encoding="gzip;q=0")),
    ("get identity", lambda a: a.get(Accept_Encoding="identity")),
    ("get utf-8 name", lambda a: (_upload(a, "한글 é.txt", 2, b"ok"), a.get("한글 é.txt"))[1]),
    ("get quoted name", lambda a: (_upload(a, 'q"%#?.txt', 2, b"ok"), a.get('q"%#?.txt'))[1]),
    # --- sharing
    ("invite nobody", lambda a: a.file("invite", emails=["nobody@nowhere.example"], perm="ro")),
    ("invite", lambda a: a.file("invite", emails=[_friend_email(a)], permission="ro")),
    ("invite again", lambda a: a.file("invite", emails=[_friend_email(a)], perm="ro")),
    ("sent", lambda a: _one(a, "invitations", "vfolder_name", "GET", "/folders/invitations/list-sent")),
    ("accept", _accept),
    (
        "accept unknown",
        lambda a: answer(
            a.friend.call(
                "POST", "/folders/invitations/accept", {"inv_id": "00000000-0000-0000-0000-000000000000"}
            )
        ),
    ),
    (
        "cancel unknown",
        lambda a: answer(
            a.friend.call(
                "DELETE", "/folders/invitations/delete", {"inv_id": "00000000-0000-0000-0000-000000000000"}
            )
        ),
    ),
    ("invite shared", lambda a: a.file("invite", emails=[_friend_email(a)], perm="ro")),
    ("friend info", lambda a: answer(a.friend.call("GET", f"/folders/{a.folder}"))),
    ("friend lists", lambda a: answer(a.friend.call("GET", f"/folders/{a.folder}/files?path=d/new"))),
    ("friend mkdir", lambda a: _friend(a, "mkdir", path="f")),
    ("friend upload", lambda a: _friend(a, "request-upload", path="f", size=1)),
    ("friend delete-files", lambda a: _friend(a, "delete-files", "DELETE", files=["a.txt"])),
    ("friend download", lambda a: _friend(a, "request-download", path="a.txt")),
    ("friend deletes folder", lambda a: answer(a.friend.call("DELETE", f"/folders/{a.folder}"))),
    ("friend renames folder", lambda a: _friend(a, "rename", new_name="other")),
    ("friend invites", lambda a: _friend(a, "invite", emails=["x@y.example"], perm="ro")),
    ("friend shares", lambda a: _friend(a, "share", emails=["x@y.example"])),
    ("shared", lambda a: _one(a, "shared", "vfolder_name", "GET", "/folders/_/shared")),
    ("owner leaves", lambda a: a.file("leave")),
    ("friend leaves", lambda a: _friend(a, "leave", shared_user_uuid=None)),
    ("friend sees nothing", lambda a: answer(a.friend.call("GET", f"/folders/{a.folder}"))),
    # --- dotfiles
    (
        "dotfile create",
        lambda a: answer(
            a.owner.call("POST", "/user-config/dotfiles", {"path": ".p-rc", "data": "x", "permission": "644"})
        ),
    ),
    (
        "dotfile again",
        lambda a: answer(
            a.owner.call("POST", "/user-config/dotfiles", {"path": ".p-rc", "data": "x", "permission": "644"})
        ),
    ),
    (
        "dotfile reserved",
        lambda a: answer(
            a.owner.call("POST", "/user-config/dotfiles", {"path": ".ssh", "data": "x", "permission": "644"})
        ),
    ),
    (
        "dotfile empty",
        lambda a: answer(
            a.owner.call("POST", "/user-config/dotfiles", {"path": ".e", "data": "", "permission": "644"})
        ),
    ),
    ("dotfile get", lambda a: answer(a.owner.call("GET", "/user-config/dotfiles?path=.p-rc"))),
    ("dotfile list", lambda a: answer(a.owner.call("GET", "/user-config/dotfiles"))),
    (
        "dotfile change",
        lambda a: answer(
            a.owner.call(
                "PATCH", "/user-config/dotfiles", {"path": ".p-rc", "data": "y", "permission": "600"}
            )
        ),
    ),
    ("dotfile missing", lambda a: answer(a.owner.call("GET", "/user-config/dotfiles?path=.none"))),
    ("dotfile delete", lambda a: answer(a.owner.call("DELETE", "/user-config/dotfiles?path=.p-rc"))),
    ("dotfile delete again", lambda a: answer(a.owner.call("DELETE", "/user-config/dotfiles?path=.p-rc"))),
    (
        "group dotfile as user",
        lambda a: answer(
            a.owner.call(
                "POST",
                "/group-config/dotfiles",
                {"path": ".x", "data": "x", "permission": "644", "group": "default", "domain": "default"},
            )
        ),
    ),
    # --- the end of the folder
    ("options", lambda a: a.file("update-options", cloneable=True, permission="ro")),
    ("rename folder taken", lambda a: a.file("rename", new_name=a.folder)),
    ("delete root", lambda a: a.file("delete-files", "DELETE", files=["."], recursive=True)),
    ("list rootless", lambda a: a.file("files", "GET", path="")),
    ("delete folder", lambda a: answer(a.owner.call("DELETE", f"/folders/{a.folder}"))),
    ("delete folder by id", lambda a: answer(a.owner.call("DELETE", "/folders", {"id": "0" * 32}))),
]


@pytest.fixture(scope="module")
def folder() -> str:
    """A name that no other run uses."""
    return f"parity-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def real(folder: str) -> Iterator[dict[str, Answer]]:
    clients = {user: RawClient(dict(live_environment(user))) for user in ("owner", "friend")}
    for client in clients.values():
        created = client.ok("POST", "/folders", {"name": f"{folder}-who"})
        client.env["PARITY_EMAIL"] = created["creator"]
        client.call("DELETE", f"/folders/{folder}-who")
    try:
        yield run(STEPS, Actors(clients["owner"], clients["friend"], folder))
    finally:
        clients["owner"].call("DELETE", f"/folders/{folder}")
        clients["owner"].call("DELETE", "/user-config/dotfiles?path=.p-rc")
        for client in clients.values():
            client.close()


@pytest.fixture(scope="module")
def embedded(folder: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    with Embedded(Path(tmp_path_factory.mktemp("parity"))) as server:
        friend = server.client("friend")
        friend.env["PARITY_EMAIL"] = friend.env["BACKEND_USER"]
        return run(STEPS, Actors(server.client("owner"), friend, folder))


@pytest.mark.parametrize("label", labels(STEPS))
def test_embedded_answers_as_the_real_server(
    label: str, real: dict[str, Answer], embedded: dict[str, Answer]
) -> None:
    assert embedded[label] == real[label]
