"""A real mount on each server: the embedded one in both dialects, and the real 23.09."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.embedded import WORKLOAD, Embedded, RawClient
from tests.support.live import DIRECTORY, live_environment
from tests.support.mounting import Mounted
from tests.support.ordinary import NOBODY

_numbers = itertools.count()
SERVERS = ["embedded-23.09", "embedded-26", pytest.param("live", marks=pytest.mark.live)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/fuse" in str(item.path):
            item.add_marker(pytest.mark.fuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a test that fails, what its mount refused last: the log is gone by the time somebody asks."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        report.sections.append(("requests that the mount refused", "\n".join(site.mounted.refused())))
    return report


def wait_out_ttl() -> None:
    """Until the mount believes no listing or attribute from before."""
    time.sleep(1.1)


@dataclass
class Site:
    """A server with the owner's mount on it.

    Attributes:
        embedded: the embedded server; None for the real one.
        owner: raw signed requests as the user who mounted.
    """

    mounted: Mounted
    embedded: Embedded | None
    owner: RawClient
    env: dict[str, str]

    def env_of(self, user: str) -> dict[str, str]:
        """Server settings of another user."""
        return self.embedded.env(user) if self.embedded else dict(live_environment(user))

    def client(self, user: str) -> RawClient:
        """Raw signed requests as another user."""
        return RawClient(self.env_of(user))

    def disk(self, name: str) -> Path:
        """Where a folder's files lie on the server's own disk."""
        (folder_id,) = [f["id"] for f in self.owner.ok("GET", "/folders") if f["name"] == name]
        i = folder_id.replace("-", "")
        if self.embedded:
            return self.embedded.folder_dir(i)
        (found,) = (Path(os.environ[DIRECTORY]) / "vfroot").glob(f"*/*/{i[:2]}/{i[2:4]}/{i[4:]}")
        return found


@pytest.fixture(scope="session", params=SERVERS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One mount shared by all tests on a server; each uses a `folder` of its own."""
    with mounted_site(tmp_path_factory.mktemp(request.param), request.param, "--sync") as site:
        yield site


@contextmanager
def mounted_site(directory: Path, server: str, *options: str, **server_options: object) -> Iterator[Site]:
    """A server as named in `SERVERS` with a mount on it.

    Args:
        server_options: of the embedded one, as `Embedded` takes them.
    """
    embedded = None
    if server != "live":
        options_of_it = {**WORKLOAD, **server_options}
        embedded = Embedded(directory / "data", dialect=server.removeprefix("embedded-"), **options_of_it)
    try:
        env = embedded.env("owner") if embedded else dict(live_environment("owner"))
        owner = RawClient(env)
        with Mounted(directory, env, "--dir-ttl", "1", "--attr-ttl", "0.5", *options) as mounted:
            yield Site(mounted, embedded, owner, env)
        owner.close()
        assert not mounted.warnings()
    finally:
        if embedded:
            embedded.stop()


@pytest.fixture(autouse=True)
def no_dead_mount_stays(tmp_path: Path) -> Iterator[None]:
    """A test that fails between a kill and the next mount must not leave a directory nobody can remove."""
    yield
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


@pytest.fixture
def folder(site: Site) -> Iterator[Path]:
    """A new vfolder of the test's own, as it shows on the mount."""
    with new_folder(site) as path:
        yield path


@contextmanager
def new_folder(site: Site) -> Iterator[Path]:
    """A vfolder as it shows on the mount; it goes at the end."""
    path = site.mounted.path / f"fuse-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", path], check=False, capture_output=True, timeout=600)
    if site.embedded is None or site.embedded.dialect == "23.09":
        site.owner.call("DELETE", f"/folders/{path.name}")


@pytest.fixture
def disk(site: Site, folder: Path) -> Path:
    """Where that vfolder's files lie on the server's own disk."""
    return site.disk(folder.name)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory an ordinary user owns; those of pytest lie below one only we may enter."""
    path = Path(tempfile.mkdtemp(prefix="vfsmount-visitor-", dir="/var/tmp"))
    path.chmod(0o755)
    (path / "top").mkdir()
    for name in (".", "mnt", "run"):
        (path / name).mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path / name, NOBODY, NOBODY)
    yield path
    for record in (path / "state" / "mounts").glob("*.json"):  # a test that failed half-way
        with suppress(ProcessLookupError):
            told = json.loads(record.read_bytes())
            os.kill(told["holder"] or told["pid"], signal.SIGKILL)
    shutil.rmtree(path)
