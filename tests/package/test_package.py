"""What scripts/package builds, installed where nothing of ours is: a clean environment, and a bare Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.embedded import Embedded
from tests.support.mounting import clean_environment
from vfsmount import __version__

TOP = Path(__file__).parents[2]
ROOTS = Path(
    "/var/tmp/vfsmount-debootstrap"
)  # kept, because it is fetched; root's home may be closed to others


def run(*command: str | Path, timeout: float = 900, **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout)


def test_pins_are_what_the_project_asks_for() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    lines = (TOP / "packaging/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(name == canonicalize_name(name) for name in pins)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheel, sdist and .deb."""
    out = tmp_path_factory.mktemp("dist")
    run(TOP / "scripts/package", "--out", out)
    return out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_wheel_and_sdist_install_with_all_they_need(built: Path, tmp_path: Path, kind: str) -> None:
    (package,) = built.glob(kind)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv/bin/python", "-m", "pip", "install", "-q", f"{package}[fsspec]", cwd=tmp_path)
    said = run(tmp_path / "venv/bin/vfsmount", "--version", cwd=tmp_path)
    assert said == f"vfsmount, version {__version__}\n"
    finds = (
        "import fsspec, vfsmount; print(fsspec.get_filesystem_class('vfolder').protocol, vfsmount.__file__)"
    )
    protocol, place = run(tmp_path / "venv/bin/python", "-c", finds, cwd=tmp_path).split()
    assert protocol == "vfolder" and place.startswith(str(tmp_path))
    assert (tmp_path / "venv/bin/mount.vfsmount").exists()
    # A module of ours must not land among everybody's.
    site = next((tmp_path / "venv/lib").glob("python3*/site-packages"))
    assert not {"cli.py", "bench", "tests", "packaging"} & {path.name for path in site.iterdir()}


@pytest.mark.long
@pytest.mark.skipif(shutil.which("pipx") is None, reason="pipx is not installed")
def test_pipx_installs_the_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    env = {**os.environ, "PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    run("pipx", "install", wheel, env=env)
    assert __version__ in run(tmp_path / "bin/vfsmount", "--version")


# --- a bare Debian -----------------------------------------------------------------------------


def why_no_debian() -> str:
    """What is missing to make one; empty where nothing is."""
    if os.geteuid() != 0:
        return "only root can make and enter a root file system"
    missing = [program for program in ("debootstrap", "dpkg-deb") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


@pytest.fixture(scope="module")
def debian(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root file system of this machine's release with the .deb installed."""
    if why := why_no_debian():
        pytest.skip(why)
    (deb,) = built.glob("*.deb")
    codename = run("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME").strip()
    depends = run("dpkg-deb", "-f", deb, "Depends")
    names = sorted(re.sub(r" *\(.*\)", "", part).strip() for part in depends.split(","))
    base = ROOTS / codename
    if not (base / "made").exists():
        shutil.rmtree(base, ignore_errors=True)
        sources = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
        mirror = next(site for site, release in map(str.split, sources.splitlines()) if release == codename)
        include = ",".join([*names, "ca-certificates"])
        run("debootstrap", "--variant=minbase", f"--include={include}", codename, base / "root", mirror)
        (base / "made").touch()
    root = tmp_path_factory.mktemp("debian") / "root"
    run("cp", "-a", base / "root", root)
    shutil.copy(deb, root / "tmp/vfsmount.deb")
    run("chroot", root, "dpkg", "-i", "/tmp/vfsmount.deb")
    yield root
    shutil.rmtree(root)


BARE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def inside(root: Path, script: str, env: dict[str, str] | None = None) -> str:
    """What a script says in there, with devices and processes."""
    mounts = f"mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev"
    enter = f"{mounts}; exec chroot {root} bash -ec '{script}'"
    return run(
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--propagation",
        "private",
        "sh",
        "-ec",
        enter,
        env={**BARE, **(env or {})},
    )


@pytest.mark.long
def test_package_runs_in_a_bare_debian(debian: Path, tmp_path: Path) -> None:
    assert run("chroot", debian, "vfsmount", "--version") == f"vfsmount, version {__version__}\n"
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "data")
        env = {k: v for k, v in clean_environment(server.env("owner")).items() if k.startswith("BACKEND_")}
        assert "data" in run("chroot", debian, "vfsmount", "list", env={**env, **BARE})
        said = inside(
            debian,
            "mkdir -p /srv/vfolders; mount -t vfsmount none /srv/vfolders -o uid=7;"
            "ls /srv/vfolders; echo from a package > /srv/vfolders/data/a; stat -c %u /srv/vfolders/data;"
            "vfsmount umount /srv/vfolders; vfsmount mount /srv/vfolders --embedded; ls -d /srv/vfolders;"
            "vfsmount umount /srv/vfolders",
            env,
        )
        assert said == "data\n7\n/srv/vfolders\n"
        assert server.client("owner").download("data", "a").text == "from a package\n"


@pytest.mark.long
def test_package_leaves_nothing_behind(debian: Path) -> None:
    inside(debian, "vfsmount --version; vfsmount list --help >/dev/null")
    run("chroot", debian, "dpkg", "-r", "vfsmount")
    assert not (debian / "usr/lib/vfsmount").exists() and not (debian / "usr/bin/vfsmount").exists()
