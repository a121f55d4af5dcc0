"""mount(8), umount(8) and fstab, with our helpers where they look for them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import clean_environment
from tests.support.namespace import Namespace

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace for it"),
]

BIN = Path(sys.executable).parent
HELPERS = {
    f"{verb}.{kind}": BIN / f"{verb}.vfsmount"
    for verb, kinds in (
        ("mount", ("vfsmount", "fuse.vfsmount")),
        ("umount", ("vfsmount", "fuse.vfsmount", "fuse")),
    )
    for kind in kinds
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        for name in ("data", "other"):
            server.create_folder("owner", name)
        yield server


@pytest.fixture
def env(server: Embedded, tmp_path: Path) -> dict[str, str]:
    """A boot's environment: the settings are in a profile."""
    config = tmp_path / "config"
    (config / "vfsmount").mkdir(parents=True)
    settings = server.env("owner")
    (config / "vfsmount/config.toml").write_text(
        "[profiles.lab]\n"
        f'endpoint = "{settings["BACKEND_ENDPOINT"]}"\n'
        f'access_key = "{settings["BACKEND_ACCESS_KEY"]}"\n'
        f'secret_key = "{settings["BACKEND_SECRET_KEY"]}"\n'
    )
    (config / "vfsmount/config.toml").chmod(0o600)
    own = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    return {**clean_environment(own), "XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace(HELPERS) as namespace:
        yield namespace


def fstab(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "fstab"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_line_of_fstab_is_mounted_and_unmounted(
    server: Embedded, env: dict[str, str], namespace: Namespace, tmp_path: Path
) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    options = "_netdev,nofail,noauto,x-systemd.automount,uid=1234,umask=077,allow_other,profile=lab"
    table = fstab(tmp_path, f"none {mnt} vfsmount {options} 0 0")
    done = namespace.run("mount", "-T", table, mnt, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert namespace.run("ls", mnt).stdout == "data\nother\n"
    assert namespace.run("stat", "-c", "%u %a", mnt / "data").stdout == "1234 700\n"
    assert namespace.run("sh", "-c", f"echo from fstab > {mnt}/data/a").returncode == 0
    # Where the helper is, umount waits until everything is on the server.
    done = namespace.run("umount", mnt, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not namespace.is_mounted(mnt)
    assert server.client("owner").download("data", "a").text == "from fstab\n"


def test_all_of_fstab_leaves_out_what_is_not_automatic(
    server: Embedded, env: dict[str, str], namespace: Namespace, tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for path in (one, two, three):
        path.mkdir()
    table = fstab(
        tmp_path,
        f"data {one} vfsmount ro,profile=lab 0 0",
        f"none {two} fuse.vfsmount defaults,profile=lab 0 0",
        f"none {three} vfsmount noauto,profile=lab 0 0",
    )
    done = namespace.run("mount", "-a", "-T", table, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert namespace.run("ls", one).stdout == "data\n" and namespace.run("ls", two).stdout == "data\nother\n"
    assert not namespace.is_mounted(three)
    assert "Read-only" in namespace.run("touch", one / "data/a").stderr
    for path in (one, two):
        assert namespace.run("umount", path, env=env).returncode == 0


def test_failure_is_one_sentence_and_a_status_of_mount(
    env: dict[str, str], namespace: Namespace, tmp_path: Path
) -> None:
    for options, status, said in [
        ("profile=none", 1, "profile"),
        ("errors=remount-ro", 1, "errors=remount-ro"),
        ("endpoint=http://127.0.0.1:9,profile=lab", 32, "127.0.0.1"),
    ]:
        done = namespace.run("mount", "-t", "vfsmount", "none", tmp_path, "-o", options, env=env)
        assert done.returncode == status and said in done.stderr and len(done.stderr.splitlines()) == 1
        assert not namespace.is_mounted(tmp_path)


def test_umount_by_the_helper_says_what_is_left(
    server: Embedded, env: dict[str, str], namespace: Namespace, tmp_path: Path
) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    options = "profile=lab,drain_timeout=0"
    assert namespace.run("mount", "-t", "vfsmount", "data", mnt, "-o", options, env=env).returncode == 0
    server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
    assert namespace.run("sh", "-c", f"echo unsent > {mnt}/data/b").returncode == 0
    done = namespace.run("umount", mnt, env=env)
    server.clear_faults()
    assert done.returncode == 32 and "not on the server: data/b" in done.stderr


def test_umount_of_other_fuse_mounts_is_left_to_umount(namespace: Namespace, tmp_path: Path) -> None:
    """`umount.fuse` is asked for all of them."""
    options = "fd=0,rootmode=40000,user_id=0,group_id=0"
    script = f"mount -i -t fuse.other -o {options} none {tmp_path} 0<>/dev/fuse; umount.fuse {tmp_path} -n"
    done = namespace.run("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    assert not namespace.is_mounted(tmp_path)


def test_umount_without_a_helper_leaves_the_sending_to_the_daemon(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with Namespace({"mount.vfsmount": BIN / "mount.vfsmount"}) as namespace:
        done = namespace.run("mount", "-t", "vfsmount", "none", mnt, "-o", "profile=lab", env=env)
        assert done.returncode == 0, done.stderr
        assert namespace.run("sh", "-c", f"echo behind > {mnt}/data/c").returncode == 0
        assert namespace.run("umount", mnt, env=env).returncode == 0
    end = time.monotonic() + 30
    while server.client("owner").download("data", "c").text != "behind\n":
        assert time.monotonic() < end
        time.sleep(0.1)
