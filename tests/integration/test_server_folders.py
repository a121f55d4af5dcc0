"""The embedded manager: who sees and may do what, in both dialects."""

from __future__ import annotations

import sqlite3

import httpx
import pytest

from tests.support import signing
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh


def problem(reply: httpx.Response) -> tuple[int, str]:
    """(status, problem type) of a refusal."""
    assert reply.headers["Content-Type"].startswith("application/problem+json"), reply.text
    return reply.status_code, reply.json()["type"].rpartition("/")[2]


def test_wrong_secret_is_refused(both: Embedded) -> None:
    client = both.client("owner")
    right = client.env["BACKEND_SECRET_KEY"]
    try:
        client.env["BACKEND_SECRET_KEY"] = "x" + right
        assert problem(client.call("GET", "/folders")) == (401, "auth-failed")
    finally:
        client.env["BACKEND_SECRET_KEY"] = right


def test_signature_covers_the_query(both: Embedded) -> None:
    client = both.client("owner")
    signed = client.http.build_request("GET", both.url + "/folders")
    signed.headers.update(
        signing.headers(
            "GET",
            "/folders",
            signed.headers["Host"],
            client.env["BACKEND_ACCESS_KEY"],
            client.env["BACKEND_SECRET_KEY"],
        )
    )
    signed.url = signed.url.copy_with(params={"group_id": "x"})
    assert problem(client.http.send(signed)) == (401, "auth-failed")


def test_created_folder_is_a_plain_directory(both: Embedded) -> None:
    name, folder = fresh(both)
    both.client("owner").upload(name, "sub/file.txt", b"content")
    assert (both.folder_dir(folder) / "sub" / "file.txt").read_bytes() == b"content"


def test_listing_is_cut_without_a_word(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Embedded(tmp_path_factory.mktemp("cut"), scandir_limit=5) as server:
        name, folder = fresh(server)
        for number in range(8):
            (server.folder_dir(folder) / f"{number}").touch()
        assert len(server.client("owner").ok("GET", f"/folders/{name}/files?path=.")["items"]) == 5


def test_old_listing_names_bytes_by_surrogates(old_server: Embedded) -> None:
    name, folder = fresh(old_server)
    (old_server.folder_dir(folder) / "a\udcff").touch()
    items = old_server.client("owner").ok("GET", f"/folders/{name}/files?path=.")["items"]
    assert [i["name"] for i in items] == ["a\udcff"]


def test_new_listing_breaks_on_bytes(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    (new_server.folder_dir(folder) / "a\udcff").touch()
    reply = new_server.client("owner").call("GET", f"/folders/{name}/files?path=.")
    assert problem(reply) == (500, "internal-server-error")


def test_new_dialect_ignores_a_body_on_get(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    (new_server.folder_dir(folder) / "d").mkdir()
    (new_server.folder_dir(folder) / "d" / "inner").touch()
    client = new_server.client("owner")
    by_body = client.ok("GET", f"/folders/{name}/files", {"path": "d"})["items"]
    by_query = client.ok("GET", f"/folders/{name}/files?path=d")["items"]
    assert [i["name"] for i in by_body] == ["d"]
    assert [i["name"] for i in by_query] == ["inner"]


def test_new_dialect_addresses_by_id_in_both_spellings(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    client = new_server.client("owner")
    dashed = client.ok("GET", "/folders/_/id", {"name": name})["id"]
    assert dashed.replace("-", "") == folder
    for spelling in (folder, dashed):
        assert client.ok("GET", f"/folders/{spelling}/files?path=.") == {"items": []}


def test_unknown_keys_are_refused_by_the_old_and_ignored_by_the_new(both: Embedded) -> None:
    name, _ = fresh(both)
    reply = both.client("owner").call("POST", f"/folders/{name}/mkdir", {"path": "d", "x": 1})
    assert reply.status_code == (400 if both.dialect == "23.09" else 200)


def test_names_a_slug_forbids_exist_in_the_new_dialect(both: Embedded) -> None:
    client = both.client("owner")
    reply = client.call("POST", "/folders", {"name": f"日本 {both.dialect}/x"})
    assert reply.status_code == (400 if both.dialect == "23.09" else 201)


def test_trash_keeps_data_and_name_until_emptied(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    client = new_server.client("owner")
    client.upload(name, "a", b"1")
    assert client.call("DELETE", f"/folders/{name}").status_code == 204
    status = {f["id"]: f["status"] for f in client.ok("GET", "/folders")}
    assert status[folder] == "delete-pending"
    assert client.call("POST", "/folders", {"name": name}).status_code == 400
    assert problem(client.call("POST", f"/folders/{name}/mkdir", {"path": "d"})) == (
        400,
        "vfolder-filter-status-failed",
    )
    assert client.call("POST", f"/folders/{folder}/mkdir", {"path": "d"}).status_code == 200
    assert client.download(name, "a").content == b"1"  # readable even by name
    assert client.call("POST", "/folders/restore-from-trash-bin", {"id": folder}).status_code == 204
    assert client.download(name, "a").content == b"1"


def _gone(server: Embedded, folder: str) -> bool:
    return folder not in [f["id"] for f in server.client("owner").ok("GET", "/folders")]


def test_emptied_trash_frees_name_and_disk(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    client = new_server.client("owner")
    client.call("DELETE", "/folders", {"id": folder})
    assert client.call("POST", "/folders/delete-from-trash-bin", {"id": folder}).status_code == 204
    eventually(lambda: _gone(new_server, folder))
    assert not new_server.folder_dir(folder).exists()
    assert client.call("POST", "/folders", {"name": name}).status_code == 201


def test_delete_by_name_takes_no_id_in_the_new_dialect(new_server: Embedded) -> None:
    _, folder = fresh(new_server)
    reply = new_server.client("owner").call("DELETE", f"/folders/{folder}")
    assert problem(reply) == (404, "object-not-found")


def test_old_delete_is_final(old_server: Embedded) -> None:
    name, folder = fresh(old_server)
    assert old_server.client("owner").call("DELETE", f"/folders/{name}").status_code == 204
    eventually(lambda: _gone(old_server, folder))
    assert not old_server.folder_dir(folder).exists()


WRITES = [
    ("POST", "mkdir", {"path": "made"}, "CREATE"),
    ("POST", "request-upload", {"path": "x", "size": 1}, "CREATE"),
    ("POST", "rename-file", {"target_path": "a", "new_name": "a"}, "UPDATE"),
    ("POST", "move-file", {"src": "a", "dst": "a"}, "UPDATE"),
    ("DELETE", "delete-files", {"files": ["a"]}, "UPDATE"),
]


@pytest.mark.parametrize(("method", "call", "body", "right"), WRITES)
def test_read_only_guest_cannot_write(
    both: Embedded, method: str, call: str, body: dict[str, object], right: str
) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "a").touch()
    both.share_folder("owner", name, "friend", "ro")
    reply = both.client("friend").call(method, f"/folders/{name}/{call}", body)
    if both.dialect == "23.09":
        assert problem(reply) == (404, "object-not-found")
    else:
        assert problem(reply) == (403, "not-enough-permission")
        assert right in reply.json()["msg"]
    assert both.client("friend").ok("GET", f"/folders/{name}/files?path=.")["items"]


@pytest.mark.parametrize(("method", "call", "body", "right"), WRITES)
def test_invited_rw_guest_of_the_new_server_cannot_create(
    new_server: Embedded, method: str, call: str, body: dict[str, object], right: str
) -> None:
    name, folder = fresh(new_server)
    (new_server.folder_dir(folder) / "a").touch()
    new_server.share_folder("owner", name, "friend", "rw")
    reply = new_server.client("friend").call(method, f"/folders/{name}/{call}", body)
    assert reply.status_code == (403 if right == "CREATE" else 200)


def test_switch_lets_the_invited_create(new_server: Embedded) -> None:
    name, _ = fresh(new_server)
    new_server.share_folder("owner", name, "friend", "rw")
    new_server.faults({"switches": {"invited_create": True}})
    assert new_server.client("friend").call("POST", f"/folders/{name}/mkdir", {"path": "d"}).is_success


def test_same_name_twice_is_first_match_or_conflict(both: Embedded) -> None:
    name, theirs = fresh(both, "owner")
    if both.dialect == "23.09":
        # One cannot accept what one has: the invited folder comes first, the own one later.
        both.share_folder("owner", name, "friend", "ro")
        other, mine = fresh(both, "friend")
        renamed = both.client("friend").call("POST", f"/folders/{other}/rename", {"new_name": name})
        assert renamed.status_code == 400
        assert both.client("friend").ok("GET", f"/folders/{name}")["id"] == theirs
        return
    both.share_folder("owner", name, "friend", "ro")
    mine = both.create_folder("friend", name)
    reply = both.client("friend").call("GET", f"/folders/{name}/files?path=.")
    assert problem(reply) == (409, "ambiguous-entity-key")
    for folder in (mine, theirs):
        assert both.client("friend").call("GET", f"/folders/{folder}/files?path=.").is_success


def test_guest_with_wd_deletes_in_the_old_and_has_rw_in_the_new(both: Embedded) -> None:
    name, folder = fresh(both)
    both.share_folder("owner", name, "friend", "wd")
    shown = {f["id"]: f["permission"] for f in both.client("friend").ok("GET", "/folders")}
    assert shown[folder] == ("wd" if both.dialect == "23.09" else "rw")
    assert both.client("friend").call("DELETE", f"/folders/{name}").status_code == 204


def test_project_folder_is_shared_by_admins_only(both: Embedded) -> None:
    name = f"team-{both.dialect.replace('.', '')}"
    admin = both.client("admin")
    groups = admin.ok("GET", "/folders/_/hosts")
    assert groups["default"] == "local:volume1"
    project = _project_id(both)
    admin.ok("POST", "/folders", {"name": name, "group": project, "permission": "ro"})
    seen = {f["name"]: f for f in both.client("owner").ok("GET", "/folders")}
    assert (seen[name]["ownership_type"], seen[name]["permission"]) == ("group", "ro")
    email = both.env("owner")["BACKEND_USER"]
    body = {"permission": "rw", "emails": [email]}
    refusal = both.client("owner").call("POST", f"/folders/{name}/share", body)
    assert refusal.status_code == (401 if both.dialect == "23.09" else 403)
    assert admin.ok("POST", f"/folders/{name}/share", body) == {"shared_emails": [email]}
    seen = {f["name"]: f for f in both.client("owner").ok("GET", "/folders")}
    assert seen[name]["permission"] == "rw"
    shared = [s for s in admin.ok("GET", "/folders/_/shared")["shared"] if s["vfolder_name"] == name]
    assert [s["type"] for s in shared] == ["project"]
    assert both.client("owner").call("POST", f"/folders/{name}/leave", {}).status_code == 400


def _project_id(server: Embedded) -> str:
    with sqlite3.connect(server.data / "server.sqlite") as db:
        return str(db.execute("SELECT id FROM projects").fetchone()[0])


def test_invitation_of_nobody(both: Embedded) -> None:
    name, _ = fresh(both)
    body = {"emails": ["nobody@nowhere.example"], "perm": "ro"}
    reply = both.client("owner").call("POST", f"/folders/{name}/invite", body)
    assert reply.status_code == (404 if both.dialect == "23.09" else 201)


def test_rejected_invitation_is_gone(both: Embedded) -> None:
    name, _ = fresh(both)
    email = both.env("friend")["BACKEND_USER"]
    both.client("owner").ok("POST", f"/folders/{name}/invite", {"emails": [email], "perm": "ro"})
    friend = both.client("friend")
    [mine] = [
        i for i in friend.ok("GET", "/folders/invitations/list")["invitations"] if i["vfolder_name"] == name
    ]
    assert mine["state"] == ("pending" if both.dialect == "23.09" else "")
    admin = both.client("admin").call("DELETE", "/folders/invitations/delete", {"inv_id": mine["id"]})
    assert admin.status_code == (500 if both.dialect == "23.09" else 403)
    friend.ok("DELETE", "/folders/invitations/delete", {"inv_id": mine["id"]})
    reply = friend.call("POST", "/folders/invitations/accept", {"inv_id": mine["id"]})
    assert problem(reply) == (404, "object-not-found")


def test_clone_copies_in_the_background(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    client.upload(name, "d/file", b"content")
    body = {"target_name": f"{name}-copy", "target_host": "local:volume1", "cloneable": False}
    assert client.call("POST", f"/folders/{name}/clone", body).status_code == 403
    client.ok("POST", f"/folders/{name}/update-options", {"cloneable": True})
    cloned = client.ok("POST", f"/folders/{name}/clone", body)
    events = client.call("GET", "/events/background-task", params={"task_id": cloned["bgtask_id"]}).text
    kinds = [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event: ")]
    assert kinds == ["bgtask_updated", "bgtask_done", "server_close"]
    assert (both.folder_dir(cloned["id"]) / "d" / "file").read_bytes() == b"content"
    assert client.ok("GET", f"/folders/{name}")["status"] == "ready"


def test_frozen_manager_refuses_changes(both: Embedded) -> None:
    name, _ = fresh(both)
    client = both.client("owner")
    both.faults({"switches": {"frozen": True}})
    assert problem(client.call("POST", "/folders", {"name": "x"})) == (503, "server-frozen")
    made = client.call("POST", f"/folders/{name}/mkdir", {"path": "d"})
    assert made.status_code == (201 if both.dialect == "23.09" else 503)
    assert client.call("GET", f"/folders/{name}/files?path=.").is_success
    assert client.call("POST", f"/folders/{name}/request-download", {"path": "."}).is_success


def test_dotfiles_of_a_project(both: Embedded) -> None:
    admin, owner = both.client("admin"), both.client("owner")
    scope = {"group": "default", "domain": "default"}
    body = {"path": f".tool{both.dialect}", "data": "x", "permission": "644", **scope}
    assert owner.call("POST", "/group-config/dotfiles", body).status_code in (401, 403)
    admin.ok("POST", "/group-config/dotfiles", body)
    read = owner.call("GET", "/group-config/dotfiles", params={"path": body["path"], **scope}).json()
    assert read == {"path": body["path"], "perm": "644", "data": "x"}
    gone = admin.call("DELETE", "/group-config/dotfiles", params={"path": body["path"], **scope})
    assert gone.json() == {"success": True}
    assert owner.ok("GET", "/group-config/dotfiles", params=scope) == []


def test_dotfiles_share_one_budget(both: Embedded) -> None:
    client = both.client("friend")
    body = {"path": ".big", "data": "x" * 60000, "permission": "600"}
    client.ok("POST", "/user-config/dotfiles", body)
    refusal = client.call("POST", "/user-config/dotfiles", {**body, "path": ".big2"})
    assert problem(refusal) == (400, "generic-bad-request")
    assert refusal.json()["title"] == "Dotfile creation has failed."
    client.ok("DELETE", "/user-config/dotfiles", params={"path": ".big"})


def test_bootstrap_script_is_kept(both: Embedded) -> None:
    client = both.client("friend")
    client.ok("POST", "/user-config/bootstrap-script", {"script": "echo hello\n"})
    assert client.ok("GET", "/user-config/bootstrap-script") == "echo hello"


def test_graphql_lists_folders(both: Embedded) -> None:
    name, folder = fresh(both)
    query = (
        "query($limit: Int!) { vfolder_own_list(limit: $limit, offset: 0) { items { id name } total_count } }"
    )
    body = {"query": query, "variables": {"limit": 1000}}
    listed = both.client("owner").ok("POST", "/admin/gql", body)["data"]["vfolder_own_list"]
    assert folder in [i["id"].replace("-", "") for i in listed["items"] if i["name"] == name]
    assert listed["total_count"] == len(listed["items"])


def test_several_directories_at_once_report_each(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    (new_server.folder_dir(folder) / "there").mkdir()
    client = new_server.client("owner")
    results = client.ok("POST", f"/folders/{name}/mkdir", {"path": ["there", "new"]})["results"]
    assert [r["item"] for r in results["success"]] == ["new"]
    assert [(r["item"], "FileExistsError" in r["msg"]) for r in results["failed"]] == [("there", True)]
    refusal = client.call("POST", f"/folders/{name}/mkdir", {"path": "there"})
    assert problem(refusal) == (400, "vfolder-operation-failed")


def test_new_delete_ignores_its_mistakes(new_server: Embedded) -> None:
    name, folder = fresh(new_server)
    root = new_server.folder_dir(folder)
    (root / "d").mkdir()
    (root / "target").touch()
    (root / "link").symlink_to("target")
    client = new_server.client("owner")
    client.ok("DELETE", f"/folders/{name}/delete-files", {"files": ["none", "d", "link"]})
    assert sorted(p.name for p in root.iterdir()) == ["d", "link"]  # the target went, the link stays
    client.ok("POST", f"/folders/{name}/delete-files", {"files": ["d"], "recursive": True})
    assert not (root / "d").exists()
    refusal = client.call("POST", f"/folders/{name}/delete-files", {"files": ["../x"]})
    assert problem(refusal) == (400, "vfolder-operation-failed")
