"""`core.mountspec`: what -m says."""

from __future__ import annotations

import pytest

from vfsmount.core.mountspec import MountSpec, check_places, parse_mount, parse_mounts
from vfsmount.errors import ConfigError

UNDERSTOOD = {
    "mydata": MountSpec("mydata"),
    "mydata/sub/dir/": MountSpec("mydata", "sub/dir"),
    "mydata:/data": MountSpec("mydata", target="/data"),
    "mydata=/data": MountSpec("mydata", target="/data"),
    "mydata:data": MountSpec("mydata", target="/home/work/data"),
    "mydata:./a//b/": MountSpec("mydata", target="/home/work/a/b"),
    "mydata:/data:ro": MountSpec("mydata", target="/data", permission="ro"),
    "mydata=/data:rw": MountSpec("mydata", target="/data", permission="rw"),
    "mydata::ro": MountSpec("mydata", permission="ro"),
    "mydata:": MountSpec("mydata"),
    "mydata@friend@example.org:/x": MountSpec("mydata@friend@example.org", target="/x"),
    r"my\:data:/a\:b": MountSpec("my:data", target="/a:b"),
    r"a\=b=/x": MountSpec("a=b", target="/x"),
    "type=/data": MountSpec("type", target="/data"),
    "type=bind,source=mydata": MountSpec("mydata"),
    "type=bind,source=mydata/sub,target=/path,perm=ro": MountSpec("mydata", "sub", "/path", "ro"),
    "source=mydata, target=path, permission=wd": MountSpec("mydata", "", "/home/work/path", "wd"),
    r"src=my\,data,dst='/a b'": MountSpec("my,data", target="/a b"),
}

REFUSED = {
    "": "names no folder",
    ":/data": "names no folder",
    "/data": "names no folder",
    "mydata/..": "leads upwards",
    "mydata:../x": "leads upwards",
    "mydata:/": "cannot stand at /",
    "mydata:/home/work": "cannot stand at /home/work",
    "mydata:.": "cannot stand at /home/work",
    "mydata:/data:rx": "'rx' is no permission",
    "mydata:/data:ro:x": "more than NAME:PATH:PERMISSION",
    "mydata:a\nb": "control characters",
    "type=tmpfs,source=mydata": "'tmpfs' is unknown",
    "source=mydata,target=/a,target=/b": "target is given twice",
    "source=mydata,colour=red": "'colour' is no field",
    "source=mydata,target": "'target' is no field",
    "source=mydata,perm=all": "'all' is no permission",
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_spelling_is_understood(text: str) -> None:
    assert parse_mount(text) == UNDERSTOOD[text]


@pytest.mark.parametrize("text", REFUSED)
def test_nonsense_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]) as caught:
        parse_mount(text)
    assert str(caught.value).startswith(f"-m {text}")


def test_default_path_is_by_the_plain_name() -> None:
    assert parse_mount("mydata@friend").path("mydata") == "/home/work/mydata"
    assert parse_mount("mydata:/x").path("mydata") == "/x"


def test_one_source_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'mydata' is mounted twice"):
        parse_mounts(["mydata", "other", "mydata:/x"])


def test_two_directories_of_one_folder_are_two_sources() -> None:
    assert len(parse_mounts(["mydata/a:/a", "mydata/b:/b"])) == 2


def test_one_path_for_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="two folders at /home/work/x"):
        parse_mounts(["a:x", "b=/home/work/x/"])


def test_places_beside_each_other_are_fine() -> None:
    check_places(
        [("a/x", "/home/work/a"), ("a/y", "/home/work/ab"), ("ab", "/data"), (".cfg", "/home/work/.cfg")]
    )


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ([("a", "/usr")], "a cannot stand at /usr"),
        ([("a", "/home/work/.ssh")], "cannot stand at"),
        ([("a", "/home/work/.bashrc")], "cannot stand at"),
        ([("a", "/x"), ("a/sub", "/y")], "a/sub and a overlap"),
        ([("a", "/x/y"), ("b", "/x")], "b at /x and a at /x/y overlap"),
        ([("a", "/home/work/b"), ("b", "/home/work/b")], "overlap"),
    ],
)
def test_places_that_sessions_refuse(places: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_places(places)
