"""The embedded storage-proxy: the rows of the contract's tables that hurt, in both dialects."""

from __future__ import annotations

import http.client
import io
import os
import socket
import urllib.parse
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh

DATA = b"0123456789"


def put(server: Embedded, url: str, token: str, data: bytes, offset: int | None = None) -> httpx.Response:
    """One PATCH."""
    headers = {} if offset is None else {"Upload-Offset": str(offset)}
    return server.client("owner").http.patch(url, params={"token": token}, content=data, headers=headers)


def held(server: Embedded, url: str, token: str) -> httpx.Response:
    """One HEAD."""
    return server.client("owner").http.head(url, params={"token": token})


# --- uploads -----------------------------------------------------------------------------------


def test_old_upload_appends_whatever_the_offset_says(old_server: Embedded) -> None:
    name, folder = fresh(old_server)
    url, token = old_server.client("owner").grant(name, "f", 15)
    put(old_server, url, token, DATA, offset=0)
    assert put(old_server, url, token, DATA, offset=0).headers["Upload-Offset"] == "20"
    assert (old_server.folder_dir(folder) / "f").read_bytes() == DATA * 2


def test_new_upload_refuses_a_wrong_offset(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    url, token = new_server.client("owner").grant(name, "f", 20)
    assert put(new_server, url, token, DATA, offset=0).status_code == 204
    refusal = put(new_server, url, token, DATA, offset=0)
    assert (refusal.status_code, refusal.json()["type"].rpartition("/")[2]) == (409, "upload-offset-mismatch")
    assert put(new_server, url, token, DATA).status_code == 400  # none at all
    assert held(new_server, url, token).headers["Upload-Offset"] == "10"
    assert put(new_server, url, token, DATA, offset=10).status_code == 204
    assert (new_server.folder_dir(folder) / "f").read_bytes() == DATA * 2


def test_broken_patch_counts_in_the_old_and_not_in_the_new(both: Embedded) -> None:
    name, folder = fresh(both)
    url, token = both.client("owner").grant(name, "f", 10)
    both.faults({"rules": [{"action": "cut_up", "path": "/upload", "method": "PATCH", "after_bytes": 4}]})
    with pytest.raises(httpx.TransportError):
        put(both, url, token, DATA, offset=0)
    offset = int(held(both, url, token).headers["Upload-Offset"])
    assert offset == (4 if both.dialect == "23.09" else 0)
    assert put(both, url, token, DATA[offset:], offset=offset).status_code == 204
    assert (both.folder_dir(folder) / "f").read_bytes() == DATA
    assert both.report()["uploads"]["f"]["bytes"] == 4 + 10 - offset


def test_client_that_hangs_up_in_the_middle_leaves_a_usable_session(both: Embedded) -> None:
    name, folder = fresh(both)
    url, token = both.client("owner").grant(name, "f", 10)
    target = httpx.URL(url)
    path = f"/upload?token={urllib.parse.quote(token)}"
    broken = http.client.HTTPConnection(target.host, target.port or 80, timeout=30)
    broken.putrequest("PATCH", path)
    broken.putheader("Upload-Offset", "0")
    broken.putheader("Content-Length", "10")
    broken.endheaders(DATA[:4])
    eventually(lambda: both.report()["uploads"]["f"]["bytes"] == 4)
    broken.close()
    expected = 4 if both.dialect == "23.09" else 0
    assert int(held(both, url, token).headers["Upload-Offset"]) == expected
    # In 26.x the lease of the broken PATCH ends a moment after its connection.
    eventually(lambda: put(both, url, token, DATA[expected:], offset=expected).status_code == 204)
    assert (both.folder_dir(folder) / "f").read_bytes() == DATA


def test_second_patch_at_once_is_refused_by_the_new(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    url, token = new_server.client("owner").grant(name, "f", 10)
    target = httpx.URL(url)
    first = http.client.HTTPConnection(target.host, target.port or 80, timeout=30)
    path = f"/upload?token={urllib.parse.quote(token)}"
    first.putrequest("PATCH", path)
    first.putheader("Upload-Offset", "0")
    first.putheader("Content-Length", "10")
    first.putheader("Expect", "100-continue")
    first.endheaders()
    # The interim reply says that the first PATCH is inside, with the lease.
    assert first.sock.recv(1024).startswith(b"HTTP/1.1 100")
    refusal = put(new_server, url, token, DATA, offset=0)
    assert (refusal.status_code, refusal.json()["type"].rpartition("/")[2]) == (409, "tus-lease-held")
    first.send(DATA)
    assert first.getresponse().status == 204
    first.close()
    assert (new_server.folder_dir(folder) / "f").read_bytes() == DATA


def test_empty_file_needs_one_empty_patch(both: Embedded) -> None:
    name, folder = fresh(both)
    url, token = both.client("owner").grant(name, "f", 0)
    assert not (both.folder_dir(folder) / "f").exists()
    assert (both.folder_dir(folder) / ".upload").is_dir()
    assert put(both, url, token, b"", offset=0).status_code == 204
    assert (both.folder_dir(folder) / "f").read_bytes() == b""
    assert not (both.folder_dir(folder) / ".upload").exists()


def test_finished_session_is_unknown(both: Embedded) -> None:
    name, _ = fresh(both)
    url, token = both.client("owner").grant(name, "f", 10)
    put(both, url, token, DATA, offset=0)
    assert held(both, url, token).status_code == 404
    gone = put(both, url, token, DATA, offset=10)
    kind = "no-such-upload-session" if both.dialect == "23.09" else "tus-session-not-found"
    assert (gone.status_code, gone.json()["type"].rpartition("/")[2]) == (404, kind)


def test_staging_shows_in_the_root_and_can_be_deleted(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    url, token = client.grant(name, "f", 10)
    assert [i["name"] for i in client.ok("GET", f"/folders/{name}/files?path=.")["items"]] == [".upload"]
    client.ok("DELETE", f"/folders/{name}/delete-files", {"files": [".upload"], "recursive": True})
    assert held(both, url, token).status_code == 404


def test_upload_replaces_a_link_and_leaves_its_target(both: Embedded) -> None:
    name, folder = fresh(both)
    root = both.folder_dir(folder)
    (root / "target").write_bytes(b"old")
    (root / "link").symlink_to("target")
    both.client("owner").upload(name, "link", b"new")
    assert not (root / "link").is_symlink()
    assert (root / "target").read_bytes() == b"old"


def test_upload_onto_a_directory_crashes_and_leaves_its_staging(both: Embedded) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "d").mkdir()
    url, token = both.client("owner").grant(name, "d", 10)
    reply = put(both, url, token, DATA, offset=0)
    assert (reply.status_code, reply.headers["Content-Type"].partition(";")[0]) == (500, "text/plain")
    assert len(list((both.folder_dir(folder) / ".upload").iterdir())) == 1


def test_big_upload_comes_back_the_same(both: Embedded) -> None:
    name, folder = fresh(both)
    data = os.urandom(1 << 20) * 9 + b"tail"
    both.client("owner").upload(name, "big", data)
    assert (both.folder_dir(folder) / "big").read_bytes() == data
    assert both.client("owner").download(name, "big").content == data


# --- downloads ---------------------------------------------------------------------------------


@pytest.fixture
def shelf(both: Embedded) -> tuple[Embedded, str, Path]:
    """(server, folder name, its directory) with ``a.txt`` in it."""
    name, folder = fresh(both)
    root = both.folder_dir(folder)
    (root / "a.txt").write_bytes(DATA)
    os.utime(root / "a.txt", ns=(0, 1_700_000_000_500_000_000))
    return both, name, root


Shelf = tuple[Embedded, str, Path]


def test_etag_is_time_and_size_and_last_modified_is_rounded_up(shelf: Shelf) -> None:
    server, name, _ = shelf
    reply = server.client("owner").download(name, "a.txt", {"Range": "bytes=0-0"})
    assert reply.status_code == 206
    assert reply.headers["ETag"] == f'"{1_700_000_000_500_000_000:x}-a"'
    assert reply.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:21 GMT"


RANGES = [
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
    ("bytes=8-20", 206, b"89", "bytes 8-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"),
    ("bytes=3-", 206, b"3456789", "bytes 3-9/10"),
    ("bytes=10-12", 416, b"", "bytes */10"),
    ("bytes=5-2", 416, b"", "bytes */10"),
    ("bytes=0-1,3-4", 416, b"", "bytes */10"),
]


@pytest.mark.parametrize(("wanted", "status", "body", "content_range"), RANGES)
def test_range(shelf: Shelf, wanted: str, status: int, body: bytes, content_range: str) -> None:
    server, name, _ = shelf
    reply = server.client("owner").download(name, "a.txt", {"Range": wanted})
    assert (reply.status_code, reply.headers["Content-Range"]) == (status, content_range)
    if status == 206:
        assert reply.content == body
    else:
        assert "ETag" not in reply.headers


def test_weak_etag_revalidates_only_in_the_new(shelf: Shelf) -> None:
    server, name, _ = shelf
    client = server.client("owner")
    etag = client.download(name, "a.txt").headers["ETag"]
    assert client.download(name, "a.txt", {"If-None-Match": etag}).status_code == 304
    weak = client.download(name, "a.txt", {"If-None-Match": f"W/{etag}"}).status_code
    assert weak == (200 if server.dialect == "23.09" else 304)


def test_changed_file_fails_if_match(shelf: Shelf) -> None:
    server, name, root = shelf
    client = server.client("owner")
    etag = client.download(name, "a.txt").headers["ETag"]
    headers = {"If-Match": etag, "Range": "bytes=0-3"}
    assert client.download(name, "a.txt", headers).status_code == 206
    os.utime(root / "a.txt", ns=(0, 1_700_000_001_000_000_000))
    assert client.download(name, "a.txt", headers).status_code == 412


def test_head_is_not_routed(shelf: Shelf) -> None:
    server, name, _ = shelf
    client = server.client("owner")
    url, token = client.grant(name, ".")
    assert client.http.head(url, params={"token": token, "dst_dir": "a.txt"}).status_code == 405


@pytest.mark.parametrize(
    ("accept", "old", "new"),
    [
        ("gzip", b"GZ", b"GZ"),
        ("gzip;q=0", b"GZ", b"GZ"),
        ("br", DATA, b"BR"),
        ("gzip, br", b"GZ", b"BR"),
        ("identity", DATA, DATA),
        ("*", DATA, DATA),
    ],
)
def test_compressed_sibling_trap(shelf: Shelf, accept: str, old: bytes, new: bytes) -> None:
    server, name, root = shelf
    (root / "a.txt.gz").write_bytes(b"GZ")
    (root / "a.txt.br").write_bytes(b"BR")
    expected = old if server.dialect == "23.09" else new
    assert raw_get(server, name, "a.txt", accept) == expected
    server.faults({"switches": {"gz_sibling": False}})
    assert raw_get(server, name, "a.txt", accept) == DATA


def raw_get(server: Embedded, name: str, path: str, accept: str) -> bytes:
    """A body as it is on the wire: httpx would unpack it."""
    url, token = server.client("owner").grant(name, ".")
    target = httpx.URL(url, params={"token": token, "dst_dir": path})
    connection = http.client.HTTPConnection(target.host, target.port or 80, timeout=30)
    connection.request("GET", target.raw_path.decode(), headers={"Accept-Encoding": accept})
    body = connection.getresponse().read()
    connection.close()
    return body


def test_outward_paths_lead_out_of_the_old_only(shelf: Shelf) -> None:
    server, name, root = shelf
    (root.parent / "outside.txt").write_bytes(b"secret")
    (root / "link").symlink_to(root.parent / "outside.txt")
    client = server.client("owner")
    expected = 200 if server.dialect == "23.09" else 404
    assert client.download(name, "../outside.txt").status_code == expected
    assert client.download(name, "link").status_code == expected
    assert client.download(name, "/etc/hostname").status_code == 404


def test_name_with_newline_cannot_be_downloaded(shelf: Shelf) -> None:
    server, name, root = shelf
    client = server.client("owner")
    client.upload(name, "a\nb", DATA)
    assert "a\nb" in os.listdir(root)
    with pytest.raises(httpx.RemoteProtocolError):
        client.download(name, "a\nb")
    assert client.download(name, "a.txt").content == DATA


def test_request_line_is_limited(shelf: Shelf) -> None:
    server, name, _ = shelf
    client = server.client("owner")
    assert client.download(name, "/".join(["한" * 60] * 13)).status_code == 404
    assert client.download(name, "/".join(["한" * 60] * 16)).status_code == 400


def test_fifo_is_no_regular_file(shelf: Shelf) -> None:
    server, name, root = shelf
    os.mkfifo(root / "fifo")
    assert server.client("owner").download(name, "fifo").status_code == 400


def test_truncation_during_a_download_stalls(shelf: Shelf) -> None:
    server, name, root = shelf
    with open(root / "big", "wb") as big:
        big.truncate(64 << 20)
    client = server.client("owner")
    url, token = client.grant(name, ".")
    patience = httpx.Timeout(30, read=3)
    params = {"token": token, "dst_dir": "big"}
    with client.http.stream("GET", url, params=params, timeout=patience) as reply:
        pieces = reply.iter_raw(65536)
        next(pieces)
        os.truncate(root / "big", 0)
        with pytest.raises(httpx.ReadTimeout):
            for _ in pieces:
                pass


def test_expired_token_is_a_400_that_names_it(tmp_path: Path) -> None:
    with Embedded(tmp_path, token_life=-1) as server:
        name, _ = fresh(server)
        reply = server.client("owner").download(name, "a.txt")
        assert reply.status_code == 400
        assert "Signature has expired" in reply.json()["data"]["token"]


def test_foreign_token_is_refused(shelf: Shelf) -> None:
    server, name, _ = shelf
    client = server.client("owner")
    url, _ = client.grant(name, ".")
    _, upload_token = client.grant(name, "x", 1)
    for token in ("nonsense", upload_token, None):
        params = {"dst_dir": "a.txt"} | ({"token": token} if token else {})
        reply = client.http.get(url, params=params)
        assert (reply.status_code, list(reply.json()["data"])) == (400, ["token"])


# --- archives ----------------------------------------------------------------------------------


def archive(server: Embedded, name: str, path: str) -> httpx.Response:
    """The ZIP stream of a directory."""
    client = server.client("owner")
    url, token = client.grant(name, ".")
    return client.http.get(url, params={"token": token, "dst_dir": path, "archive": "true"})


def test_directory_archive_has_files_and_empty_directories(shelf: Shelf) -> None:
    server, name, root = shelf
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "empty").mkdir()
    (root / "d" / "sub" / "한글").write_bytes(DATA)
    (root / "d" / "link").symlink_to("sub")
    reply = archive(server, name, "d")
    assert reply.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archived:
        assert sorted(archived.namelist()) == ["empty/", "sub/한글"]
        assert archived.read("sub/한글") == DATA


def test_dangling_link_poisons_an_archive(shelf: Shelf) -> None:
    server, name, root = shelf
    (root / "d").mkdir()
    (root / "d" / "a").write_bytes(os.urandom(1 << 20))
    (root / "d" / "dangling").symlink_to("nowhere")
    client = server.client("owner")
    expected: type[Exception] = httpx.RemoteProtocolError
    if server.dialect == "23.09":
        expected, client.http.timeout = httpx.ReadTimeout, httpx.Timeout(30, read=1)
    try:
        with pytest.raises(expected):
            archive(server, name, "d")
    finally:
        client.http.timeout = httpx.Timeout(30)


def test_several_paths_in_one_archive(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    root = new_server.folder_dir(folder)
    (root / "d").mkdir()
    for path in ("a", "d/b"):
        (root / path).write_bytes(DATA)
    client = new_server.client("owner")
    grant = client.ok("POST", f"/folders/{name}/request-download-archive", {"files": ["a", "d"]})
    body = client.http.get(grant["url"], params={"token": grant["token"]}).content
    with zipfile.ZipFile(io.BytesIO(body)) as archived:
        assert sorted(archived.namelist()) == ["a", "d/b"]


# --- connections -------------------------------------------------------------------------------


def test_refusals_keep_the_connection(shelf: Shelf) -> None:
    server, name, _ = shelf
    url, token = server.client("owner").grant(name, ".")
    target = httpx.URL(url)
    connection = http.client.HTTPConnection(target.host, target.port or 80, timeout=30)
    local: set[socket.socket] = set()
    for method, path in (("GET", "none"), ("HEAD", "a.txt"), ("GET", "."), ("GET", "a.txt")):
        query = urllib.parse.urlencode({"token": token, "dst_dir": path})
        connection.request(method, f"/download?{query}")
        connection.getresponse().read()
        local.add(connection.sock)
    assert len(local) == 1
    connection.close()
