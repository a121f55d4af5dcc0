"""Mounts in containers and next to them. Each row is a container of its own, run by crun or runc."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.oci import FUSE, SYS_ADMIN, USUAL, Container, Machine, vfsmount, why_no_runtime
from tests.support.ordinary import NOBODY

pytestmark = [
    pytest.mark.unprivileged,  # skipped, not failed, where no container can run
    pytest.mark.skipif(bool(why_no_runtime()), reason=why_no_runtime()),
]

HELPER = shutil.which("fusermount3") or "/"
QUIET = ("--state-dir", "/tmp/state", "--cache-size", "0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        (server.folder_dir(server.create_folder("owner", "data")) / "there").write_text("on the server\n")
        yield server
        server.clear_faults()


@pytest.fixture
def env(server: Embedded) -> dict[str, str]:
    server.clear_faults()
    return {k: v for k, v in server.env("owner").items() if k.startswith("BACKEND_")}


@pytest.fixture
def disk(server: Embedded) -> Path:
    (found,) = [f["id"] for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    return server.folder_dir(found)


@pytest.fixture
def machine() -> Iterator[Machine]:
    directory = Path(tempfile.mkdtemp(prefix="vfsmount-machine-", dir="/var/tmp"))
    directory.chmod(0o755)
    with Machine(directory) as machine:
        yield machine
    shutil.rmtree(directory)


def mount(*options: str, **fields: object) -> Container:
    return Container(vfsmount("/mnt/v", "-f", *QUIET, *options), **fields)  # type: ignore[arg-type]


def test_root_with_device_and_capability(machine: Machine, env: dict[str, str], disk: Path) -> None:
    with machine.container(mount(env=env)) as container:
        container.until("mounted on /mnt/v")
        container.inside("echo inside >/mnt/v/data/by-root")
        assert container.inside("cat /mnt/v/data/there").stdout == "on the server\n"
        container.inside("(sleep 0.1 &)")  # an orphan, which only the first process can bury
        eventually(lambda: "(sleep)" not in container.inside("cat /proc/[0-9]*/stat; true").stdout)
        health = " ".join(vfsmount("health", "/mnt/v", "--state-dir", "/tmp/state", "--timeout", "20"))
        assert container.inside(health).returncode == 0
        container.signal("TERM")
        assert container.wait() == 0, container.said
    assert (disk / "by-root").read_text() == "inside\n"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"capabilities": USUAL}, "--cap-add SYS_ADMIN"),
        ({"devices": []}, "--device /dev/fuse"),
    ],
)
def test_what_is_missing_is_named(
    machine: Machine, env: dict[str, str], fields: dict[str, object], says: str
) -> None:
    with machine.container(mount(env=env, **fields)) as container:
        assert container.wait() == 5
    (line,) = container.said
    assert line.startswith("vfsmount: ") and says in line


@pytest.mark.parametrize(
    ("fields", "cause", "fix"),
    [
        ({"devices": []}, "no-dev-fuse", "--device /dev/fuse"),
        ({"capabilities": USUAL}, "no-sys-admin", "--cap-add SYS_ADMIN"),
        ({"capabilities": USUAL, "uid": NOBODY}, "no-sys-admin", "--cap-add SYS_ADMIN"),
        ({"no_new_privileges": True, "uid": NOBODY}, "no-new-privileges", "without --security-opt"),
        ({}, "", ""),
        ({"uid": NOBODY}, "", ""),
    ],
)
def test_doctor_inside_names_the_missing_flag(
    machine: Machine, env: dict[str, str], fields: dict[str, object], cause: str, fix: str
) -> None:
    words = vfsmount("doctor", "--json", *QUIET[:2])
    with machine.container(Container(words, env=env, **fields)) as container:  # type: ignore[arg-type]
        assert container.wait() == (1 if cause else 0)
    found = [v for v in json.loads("\n".join(container.said))["checks"] if v["level"] == "bad"]
    assert [v["cause"] for v in found] == ([cause] if cause else [])
    assert all(fix in v["fix"] for v in found)


def test_root_of_a_user_namespace(machine: Machine, env: dict[str, str], disk: Path) -> None:
    device = (str(machine.top / "fuse"), "/dev/fuse", ["bind", "rw"])  # as rootless podman gives it
    with machine.container(mount(env=env, user_namespace=True, mounts=[device])) as container:
        container.until("mounted on /mnt/v")
        assert container.inside("id -u; cat /mnt/v/data/there").stdout == "0\non the server\n"
        container.inside("echo inside >/mnt/v/data/by-namespace")
        container.signal("TERM")
        assert container.wait() == 0, container.said
    assert (disk / "by-namespace").read_text() == "inside\n"


@pytest.mark.skipif(
    not os.stat(shutil.which("fusermount3") or "/").st_mode & 0o4000, reason="no setuid helper"
)
def test_ordinary_user_with_fusermount3(machine: Machine, env: dict[str, str], disk: Path) -> None:
    with machine.container(mount(env=env, uid=NOBODY)) as container:
        container.until("mounted on /mnt/v")
        assert container.inside("id -u; cat /mnt/v/data/there").stdout == f"{NOBODY}\non the server\n"
        container.inside("echo inside >/mnt/v/data/by-user; grep Cap /proc/1/status")
        container.signal("TERM")
        assert container.wait() == 0, container.said
    assert (disk / "by-user").read_text() == "inside\n"


def test_container_next_door_sees_mounts_that_come_and_go(
    machine: Machine, env: dict[str, str], disk: Path
) -> None:
    ours = (str(machine.shared), "/shared", ["rbind", "rw", "rshared"])
    theirs = (str(machine.shared), "/work", ["rbind", "rw", "rslave"])
    reader = Container(["sleep", "1000"], capabilities=[], devices=[], mounts=[theirs])
    sidecar = Container(vfsmount("/shared/v", "-f", *QUIET), env=env, mounts=[ours])
    with machine.container(reader) as reading:
        eventually(lambda: reading.inside("ls /work", check=False).returncode == 0)
        for turn in ("first", "second"):
            with machine.container(sidecar) as mounting:
                mounting.until("mounted on /shared/v")
                assert reading.inside("cat /work/v/data/there").stdout == "on the server\n"
                reading.inside(f"echo {turn} >/work/v/data/next-door")
                mounting.signal("TERM")
                assert mounting.wait() == 0, mounting.said
            assert (disk / "next-door").read_text() == f"{turn}\n"
            assert reading.inside("ls /work/v").stdout == ""  # gone there as well, not a dead mount


def test_container_that_is_killed_leaves_its_files_to_the_next(
    server: Embedded, machine: Machine, env: dict[str, str], disk: Path
) -> None:
    """With the state directory on a volume; by SIGKILL, as when the grace period is over."""
    volume = machine.directory / "volume"
    volume.mkdir()
    kept = (str(volume), "/volume", ["rbind", "rw"])
    container = Container(
        vfsmount("/mnt/v", "-f", "--state-dir", "/volume/state", "--cache-size", "0"), env=env, mounts=[kept]
    )
    refused = {"action": "status", "path": "/folders/*/request-upload", "status": 503, "times": None}
    server.faults({"rules": [refused]})
    with machine.container(container) as first:
        first.until("mounted on")
        first.inside("echo precious >/mnt/v/data/left")
        first.signal("KILL")
        assert first.wait() == 137
    assert not (disk / "left").exists()
    server.clear_faults()
    with machine.container(container) as second:
        second.until("mounted on")
        assert second.inside("cat /mnt/v/data/left").stdout == "precious\n"
        second.signal("TERM")
        assert second.wait() == 0, second.said
    assert (disk / "left").read_text() == "precious\n"


def test_capability_constants_are_what_engines_give() -> None:
    assert SYS_ADMIN not in USUAL and FUSE["major"] == 10
