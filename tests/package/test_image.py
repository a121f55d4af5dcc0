"""The image of the Containerfile: how large it is, who it runs as, how it is watched and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_podman import Podman
from tests.package.test_package import ROOTS, TOP, run
from tests.support.embedded import Embedded, eventually
from tests.support.oci import Machine

LARGEST = 150_000_000
IMAGE, BASE = "localhost/vfsmount", "localhost/base"
# What debian:*-slim leaves out of the same packages.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists")
LEFT_OUT += ("var/cache/apt", "var/log")
OPTIONS = ("--device", "/dev/fuse", "--cap-add", "SYS_ADMIN")


def why_no_image() -> str:
    """What is missing to build one; empty where nothing is."""
    if os.geteuid() != 0:
        return "only root can run these containers"
    missing = [program for program in ("debootstrap", "podman") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(why_no_image()), reason=why_no_image())]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of what the Containerfile begins with; kept, because it is fetched."""
    kept = ROOTS / "slim.tar"
    if not kept.exists():
        root = tmp_path_factory.mktemp("slim") / "root"
        run("debootstrap", "--variant=minbase", "bookworm", root, "http://deb.debian.org/debian")
        for place in LEFT_OUT:
            for path in (root / place).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        ROOTS.mkdir(exist_ok=True)
        run("tar", "-C", root, "-cf", kept.with_suffix(".new"), ".")
        kept.with_suffix(".new").rename(kept)
        shutil.rmtree(root)
    return kept


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def podman(base: Path, server: Embedded) -> Iterator[Podman]:
    """With the image built."""
    directory = Path(tempfile.mkdtemp(prefix="vfsmount-image-", dir="/var/tmp"))
    directory.chmod(0o755)
    with Machine(directory) as machine:
        podman = Podman(machine, server.env("owner"))
        # The usual programs are the image's own here.
        (directory / "containers.conf").write_text(
            (directory / "containers.conf").read_text().replace('volumes = ["/usr:/usr:ro"]', "")
        )
        podman("podman", "import", base, BASE)
        # Where this machine knows more authorities than Debian, the image's building needs them as well.
        known = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
        authorities = ["-v", f"{known}:/tmp/ca.crt:ro", "--env", "PIP_CERT=/tmp/ca.crt"]
        build = ["podman", "build", "--format", "docker", "--build-arg", f"BASE={BASE}", *authorities]
        podman(*build, "-t", IMAGE, "-f", TOP / "Containerfile", TOP, timeout=900)
        yield podman
        podman("podman", "system", "reset", "--force", check=False)
    shutil.rmtree(directory, ignore_errors=True)


def test_image_is_small_and_nobodys_root(podman: Podman) -> None:
    (told,) = json.loads(podman("podman", "image", "inspect", IMAGE).stdout)
    assert told["Size"] <= LARGEST, told["Size"]
    assert told["Config"]["User"] == "1000:1000" and told["Config"]["Entrypoint"] == ["vfsmount"]
    assert told["Healthcheck"]["Test"] == ["CMD", "vfsmount", "health"]


def test_image_mounts_is_well_and_ends_with_everything_sent(podman: Podman, server: Embedded) -> None:
    disk = server.folder_dir(server.create_folder("owner", "data"))
    names = [word for name in server.env("owner") if name.startswith("BACKEND_") for word in ("-e", name)]
    name = podman("podman", "run", "-d", *OPTIONS, *names, IMAGE).stdout.strip()
    try:
        eventually(lambda: "mounted on /vfolders" in podman("podman", "logs", name).stderr)
        assert podman("podman", "healthcheck", "run", name).returncode == 0
        script = "id -u; ls /vfolders; (sleep 0.1 &); echo inside >/vfolders/data/by-image"
        assert podman("podman", "exec", name, "sh", "-c", script).stdout == "1000\ndata\n"
        podman("podman", "stop", "--time", "10", name)
        (told,) = json.loads(podman("podman", "inspect", name).stdout)
        assert told["State"]["ExitCode"] == 0
    finally:
        podman("podman", "rm", "--force", name, check=False)
    assert (disk / "by-image").read_text() == "inside\n"
