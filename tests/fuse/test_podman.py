"""podman as root: a mount inside a container, and ``vfsmount run --local-image``.

The image is an empty root file system; its programs are this machine's, bound into every container.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import VFSMOUNT, clean_environment
from tests.support.oci import Machine, vfsmount

IMAGE = "localhost/empty"
PARTS = ("usr", "etc", "proc", "sys", "dev", "tmp", "run", "mnt", "home", "base", "checkout", "packages")
WHY_NOT = "" if shutil.which("podman") else "podman is not installed"
WHY_NOT = WHY_NOT if os.geteuid() == 0 else "only root can run these containers"
pytestmark = [
    pytest.mark.unprivileged,  # skipped, not failed, where podman cannot run
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

# Limits of open files and processes above the machine's own are refused to who may not raise them.
_CONF = """
[containers]
volumes = ["/usr:/usr:ro"]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
_STORAGE = """
[storage]
driver = "vfs"
graphroot = "{0}/storage"
runroot = "{0}/run"
"""


class Podman:
    """podman with a storage and an image of its own."""

    def __init__(self, machine: Machine, env: dict[str, str]) -> None:
        self._machine = machine
        directory = machine.directory
        (directory / "containers.conf").write_text(_CONF)
        (directory / "storage.conf").write_text(_STORAGE.format(directory))
        self._env = clean_environment(
            {
                **env,
                "CONTAINERS_CONF": str(directory / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
                "XDG_STATE_HOME": str(directory / "state"),
                "XDG_RUNTIME_DIR": str(directory / "runtime"),
            }
        )
        root = directory / "root"
        for part in (
            *[
                "usr",
                "etc",
                "proc",
                "sys",
                "dev",
                "tmp",
                "run",
                "mnt",
                "home",
                "base",
                "checkout",
                "packages",
            ],
        ):
            (root / part).mkdir(parents=True)
        for part in ("bin", "sbin", "lib", "lib64"):
            (root / part).symlink_to(f"usr/{part}")
        archive = directory / "root.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self("podman", "import", archive, IMAGE)
        tried = self("podman", "run", "--rm", IMAGE, "true", check=False)
        if tried.returncode:
            pytest.skip(f"podman cannot run a container here: {tried.stderr.strip()[-300:]}")

    def __call__(
        self, *words: str | Path, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._machine.words(*words),
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
        return done


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        for name in ("data", "other"):
            (server.folder_dir(server.create_folder("owner", name)) / "there").write_text(f"in {name}\n")
        dotfile = {"path": ".vimrc", "permission": "640", "data": "set ruler\n"}
        server.client("owner").ok("POST", "/user-config/dotfiles", dotfile)
        yield server


@pytest.fixture
def podman(server: Embedded) -> Iterator[Podman]:
    directory = Path(tempfile.mkdtemp(prefix="vfsmount-podman-", dir="/var/tmp"))
    directory.chmod(0o755)
    with Machine(directory) as machine:
        podman = Podman(machine, server.env("owner"))
        yield podman
        podman("podman", "system", "reset", "--force", check=False)
    shutil.rmtree(directory, ignore_errors=True)


def disk(server: Embedded, name: str) -> Path:
    (found,) = [f["id"] for f in server.client("owner").ok("GET", "/folders") if f["name"] == name]
    return server.folder_dir(found)


def test_command_in_an_image_sees_folders_as_a_session_does(server: Embedded, podman: Podman) -> None:
    run = [*VFSMOUNT, "run", "--rm", "-m", "data", "-m", "other:/put:ro", "-e", "WORD=hello"]
    script = (
        'pwd; echo $HOME; cat .vimrc data/there /put/there; echo "$WORD" >data/new; touch /put/no; exit 4'
    )
    done = podman(*run, "--local-image", IMAGE, "--", "sh", "-c", script, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stdout == "/home/work\n/home/work\nset ruler\nin data\nin other\n"
    assert "Read-only file system" in done.stderr
    assert (disk(server, "data") / "new").read_text() == "hello\n"


def test_mount_inside_a_container(server: Embedded, podman: Podman, tmp_path: Path) -> None:
    top = podman._machine.top
    volumes = [
        word for part in ("base", "checkout", "packages") for word in ("-v", f"{top / part}:/{part}:ro")
    ]
    variables = {**server.env("owner"), "PYTHONPATH": "/checkout:/packages", "LD_LIBRARY_PATH": "/base/lib"}
    place = ("/mnt/v", "--state-dir", "/tmp/state")
    script = (
        f"{' '.join(vfsmount(*place))} && cat /mnt/v/data/there && "
        f"echo inside >/mnt/v/data/inside && {' '.join(vfsmount('umount', *place))}"
    )
    words = ["podman", "run", "--rm", "--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", *volumes]
    for name, value in variables.items():
        words += ["-e", f"{name}={value}"]
    done = podman(*words, IMAGE, "sh", "-c", script)
    assert done.stdout == "in data\n"
    assert (disk(server, "data") / "inside").read_text() == "inside\n"
