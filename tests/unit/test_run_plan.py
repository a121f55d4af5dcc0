"""`cli.run.plan` and `cli.run.container`: what stands where, and what an engine is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsmount.api.dotfiles import Dotfile as RemoteDotfile
from vfsmount.cli.run.container import Engine, container_command
from vfsmount.cli.run.plan import RESERVED, Dotfile, Placed, Plan, make_plan
from vfsmount.core.mountspec import parse_mounts
from vfsmount.errors import Ambiguous, ConfigError, NotFound
from vfsmount.values import Folder


def folder(number: int, name: str, **fields: object) -> Folder:
    usual = {"host": "local:v", "status": "ready", "permission": "rw", "is_owner": True, **fields}
    return Folder(id=f"{number:032x}", name=name, **usual)  # type: ignore[arg-type]


MINE, SHARED = folder(1, "data"), folder(2, "data", is_owner=False, owner="kim@x")
TORCH, TRASH = folder(3, ".torch"), folder(4, ".old", status="delete-pending")
FOLDERS = [MINE, SHARED, TORCH, TRASH, folder(5, "more")]


def planned(*mounts: str, by_name: bool = False, dotfiles: dict[str, str] | None = None) -> Plan:
    remote = [RemoteDotfile(path, permission, "text") for path, permission in (dotfiles or {}).items()]
    return make_plan(parse_mounts(mounts), FOLDERS, remote, addressed_by_name=by_name)


def test_folders_stand_under_their_plain_names_and_dot_folders_by_themselves() -> None:
    plan = planned("data", "more/sub:x:ro", "data@kim@x:/theirs")
    assert plan.folders == [
        Placed("data", "/home/work/data"),
        Placed("more/sub", "/home/work/x", read_only=True),
        Placed("data@kim@x", "/theirs"),
        Placed(".torch", "/home/work/.torch"),
    ]
    assert plan.shown == [".torch", "data", "data@kim@x", "more"]


def test_folder_may_be_named_by_its_id() -> None:
    assert planned(SHARED.id).folders[0] == Placed("data@kim@x", "/home/work/data")


def test_dot_folder_that_is_asked_for_stands_where_it_is_asked_for() -> None:
    assert planned(".torch:.torch:ro").folders == [Placed(".torch", "/home/work/.torch", read_only=True)]
    assert planned("more:.torch").folders == [Placed("more", "/home/work/.torch")]


@pytest.mark.parametrize(
    ("mounts", "by_name", "error", "says"),
    [
        (["nowhere"], False, NotFound, "nowhere"),
        ([".old"], False, NotFound, "delete-pending"),
        (["data", "data@kim@x"], False, ConfigError, "two folders at /home/work/data"),
        (["more/a", "more/b"], False, ConfigError, "two folders at /home/work/more"),
        (["data@kim@x:/x"], True, Ambiguous, "reaches only one"),
    ],
)
def test_what_cannot_stand_is_refused(mounts: list[str], by_name: bool, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        planned(*mounts, by_name=by_name)


def test_several_of_one_name_are_ambiguous() -> None:
    folders = [folder(1, "x", is_owner=False, owner="a@x"), folder(2, "x", is_owner=False, owner="b@x")]
    with pytest.raises(Ambiguous):
        make_plan(parse_mounts(["x"]), folders, [], addressed_by_name=False)


def test_dotfiles_have_their_permissions() -> None:
    plan = planned(dotfiles={".vimrc": "640", ".config/a/b": "755", "/home/work/.x": "7777", ".y": "abc"})
    assert [(d.path, d.mode) for d in plan.dotfiles] == [
        (".vimrc", 0o640),
        (".config/a/b", 0o755),
        (".x", 0o755),
        (".y", 0o755),
    ]
    assert plan.left_out == []


@pytest.mark.parametrize(
    "path", [*sorted(RESERVED), "/etc/x", "../x", "a/../b", "", ".", "a//b", "a\0b", "n" * 256]
)
def test_dotfile_that_may_not_be_is_left_out_and_told(path: str) -> None:
    plan = planned(dotfiles={path: "644", ".ok": "644"})
    assert [d.path for d in plan.dotfiles] == [".ok"]
    assert len(plan.left_out) == 1 and "left out" in plan.left_out[0]


def test_dotfile_below_another_is_left_out() -> None:
    plan = planned(dotfiles={".a": "644", ".a/b": "644", ".c/d": "644", ".c": "644", ".ab": "644"})
    assert [d.path for d in plan.dotfiles] == [".a", ".c/d", ".ab"]
    assert len(plan.left_out) == 2


def test_plan_survives_the_way_to_another_process() -> None:
    plan = Plan([Placed("n\udcff", "/x", True)], [Dotfile(".a", 0o600, "t\n\0ü")], ["why"])
    assert Plan.from_json(plan.to_json()) == plan


def test_engine_is_told_of_every_folder() -> None:
    plan = Plan([Placed("data/sub", "/home/work/d"), Placed("other", "/data", read_only=True)])
    assert container_command(
        Engine("podman", "/usr/bin/podman"),
        "img",
        ["ls", "-l"],
        plan,
        mountpoint="/run/m",
        home=Path("/run/h"),
        environment={"A": "b"},
        terminal=False,
    ) == [
        *("/usr/bin/podman", "run", "--rm", "--interactive"),
        *("--workdir", "/home/work", "--env", "HOME=/home/work", "--env", "A=b"),
        *("--mount", "type=bind,source=/run/h,target=/home/work"),
        *("--mount", "type=bind,source=/run/m/other,target=/data,bind-propagation=rslave,readonly"),
        *("--mount", "type=bind,source=/run/m/data/sub,target=/home/work/d,bind-propagation=rslave"),
        *("img", "ls", "-l"),
    ]


def test_path_that_an_engine_would_misread_is_refused() -> None:
    plan = Plan([Placed("a,readonly", "/x")])
    with pytest.raises(ConfigError, match="comma"):
        container_command(
            Engine("docker", "docker"), "i", [], plan,
            mountpoint="/m", home=Path("/h"), environment={}, terminal=True,
        )  # fmt: skip
