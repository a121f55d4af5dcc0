"""`api.sessions`: what a new session is told of its folders, and how replies of a run are read."""

from __future__ import annotations

import uuid

import pytest

from vfsmount.api.dialect import negotiate
from vfsmount.api.sessions import RunStatus, SessionMount, check_name, mount_config, run_piece
from vfsmount.cli.run.cluster import exit_status
from vfsmount.errors import InvalidName, InvalidRequest, NotSupported, ProtocolError
from vfsmount.values import Folder

OLD = negotiate("v7.20230615", "23.09.10")
BETWEEN = negotiate("v8.20240315", "24.03.1")
NEW = negotiate("v9.20250722", "26.9.6")


def folder(name: str, number: int = 1, permission: str = "rw") -> Folder:
    return Folder(
        id=f"{number:032x}",
        name=name,
        host="local:volume1",
        status="ready",
        permission=permission,
        is_owner=True,
        owner="me",
    )


def test_23_09_gets_names_and_paths_and_no_key_it_does_not_know() -> None:
    mounts = [SessionMount(folder("a"), "sub", "/data"), SessionMount(folder("b", 2))]
    assert mount_config(mounts, OLD) == {"mounts": ["a/sub", "b"], "mount_map": {"a/sub": "/data"}}


def test_23_09_takes_the_permission_that_is_there_anyway() -> None:
    assert "mount_options" not in mount_config([SessionMount(folder("a", 1, "ro"), permission="ro")], OLD)
    with pytest.raises(NotSupported, match=r"\(a: rw\); leave :ro out"):
        mount_config([SessionMount(folder("a"), permission="ro")], OLD)


def test_26_gets_ids_and_options() -> None:
    mounts = [SessionMount(folder("a"), "sub", "/data", "ro"), SessionMount(folder("b", 2))]
    a, b = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    assert mount_config(mounts, NEW) == {
        "mounts": [],
        "mount_map": {},
        "mount_ids": [a, b],
        "mount_id_map": {a: "/data"},
        "mount_options": {a: {"type": "bind", "permission": "ro", "subpath": "sub"}},
    }


def test_servers_between_get_names_and_options() -> None:
    config = mount_config([SessionMount(folder("a"), permission="ro")], BETWEEN)
    assert config["mounts"] == ["a"] and "mount_ids" not in config
    assert config["mount_options"] == {"a": {"type": "bind", "permission": "ro"}}


def test_one_folder_twice_is_for_servers_that_name_folders() -> None:
    twice = [SessionMount(folder("a"), "x"), SessionMount(folder("a"), "y")]
    assert mount_config(twice, OLD)["mounts"] == ["a/x", "a/y"]
    with pytest.raises(NotSupported):
        mount_config(twice, NEW)


@pytest.mark.parametrize("info", [OLD, NEW])
def test_namesakes_are_refused(info) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequest, match="two folders called 'a'"):
        mount_config([SessionMount(folder("a", 1)), SessionMount(folder("a", 2))], info)


@pytest.mark.parametrize("name", ["abc", "a" * 25, "-abcd", "ab cd", "abcd-"])
def test_name_that_no_session_can_have(name: str) -> None:
    check_name("train-1.x")
    with pytest.raises(InvalidName):
        check_name(name)


def test_reply_of_a_run_is_read() -> None:
    raw = {
        "status": "finished",
        "runId": "x",
        "exitCode": 3,
        "options": None,
        "files": [{"name": "plot.png", "url": "https://storage/?token=secret"}],
        "console": [["stdout", "a"], ["stderr", "b"], ["media", ["image/png", "data:…"]], "nonsense"],
    }
    piece = run_piece(raw)
    assert piece.status is RunStatus.FINISHED and piece.exit_code == 3
    assert list(piece.console) == [("stdout", "a"), ("stderr", "b"), ("media", "image/png")]
    assert piece.files == ["plot.png"] and "token" not in repr(piece)


def test_reply_that_wants_a_password() -> None:
    assert run_piece({"status": "waiting-input", "options": {"is_password": True}, "console": None}).secret
    assert not run_piece({"status": "waiting-input", "options": {}}).secret


@pytest.mark.parametrize("raw", [None, {}, {"status": "sleeping"}, ["finished"]])
def test_reply_of_unknown_form_is_refused(raw: object) -> None:
    with pytest.raises(ProtocolError):
        run_piece(raw)


@pytest.mark.parametrize(
    ("code", "ours"), [(0, 0), (7, 7), (130, 130), (-9, 137), (-15, 143), (-1, 1), (None, 1), (256, 1)]
)
def test_exit_status(code: int | None, ours: int) -> None:
    assert exit_status(code) == ours
