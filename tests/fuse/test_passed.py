"""``vfsmount /dev/fd/N``: somebody else mounts, and the daemon needs no privilege."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import clean_environment, vfsmount
from tests.support.ordinary import NOBODY, their_place, their_python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        (server.folder_dir(server.create_folder("owner", "data")) / "there").write_text("on the server")
        yield server


class Passing:
    """`tests.support.passing` at work; each `step` is what it said of one."""

    def __init__(self, home: Path, env: dict[str, str], *arguments: str) -> None:
        python, paths = their_python(home)
        own = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": "",
            "XDG_CACHE_HOME": "",
        }
        command = [*their_place(home), python, "-m", "tests.support.passing", str(home), *arguments]
        self._process = subprocess.Popen(
            command,
            env=clean_environment({**env, **own, **paths}),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def step(self) -> dict[str, Any]:
        """What the step said; the next one begins."""
        assert self._process.stdin is not None and self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        assert isinstance(said, dict)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return said


@pytest.mark.unprivileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for a process without any privilege")
@pytest.mark.parametrize(("copy", "end"), [("close", "umount"), ("keep", "umount"), ("close", "SIGTERM")])
def test_daemon_without_privilege_serves_what_root_mounted(
    server: Embedded, home: Path, copy: str, end: str
) -> None:
    (folder,) = [f["id"] for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    disk = server.folder_dir(folder)
    (disk / "unsent").unlink(missing_ok=True)
    with Passing(home, server.env("owner"), copy, end) as passing:
        started = passing.step()
        assert (started["status"], started["stderr"]) == (0, "")
        process = started["process"]
        assert process["Uid"].split() == [str(NOBODY)] * 4
        assert {process[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert process["NoNewPrivs"] == "1"
        worked = passing.step()
        assert (worked["folder"], worked["sub"], worked["size"]) == (["sub", "there"], ["named"], 800_000)
        (line,) = worked["mounts"]
        assert " theirs " in line and "max_read=65536" in line  # theirs, not ours
        (record,) = started["records"]
        assert record["passed"] is True and worked["reported"] == [record["mountpoint"]]
        if "fuse_connection" in fdinfo():
            assert record["mountpoint"] == str(home / "mnt")
        ended = passing.step()
        assert ended["ended"], "the daemon has not ended"
        assert ended["records"] == []  # everything was sent
        if "fuse_connection" in fdinfo():
            assert "was mounted by somebody else" in ended["refused"]
        if end == "umount":
            assert ended["mounts"] == 0
        else:
            assert ended["mounts"] == 1 and ended["shown"] == os.strerror(107)  # ENOTCONN, not a hang
    assert (disk / "unsent").read_text() == "precious"
    log = (home / "daemon.log").read_text()
    assert "WARNING" not in log and " mount.init " in log and "parallel_dirops=True" in log


def fdinfo() -> str:
    """What the kernel tells of a descriptor of /dev/fuse that is mounted nowhere; and of one that is."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        release = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])
        return "fuse_connection" if release >= (6, 17) else Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("what", "options", "status", "says"),
    [
        ("nothing", [], 5, "descriptor 97 is not open"),
        ("a file", [], 5, "not one of /dev/fuse"),
        ("a descriptor nobody mounted", [], 5, "nothing is mounted with it"),
        ("a descriptor nobody mounted", ["--allow-other"], 2, "allow_other"),
        ("a descriptor nobody mounted", ["-o", "noexec"], 2, "allow_other and the like"),
    ],
)
def test_descriptor_that_cannot_be_served_is_one_sentence(
    server: Embedded, tmp_path: Path, what: str, options: list[str], status: int, says: str
) -> None:
    path = {"a file": "/dev/null", "nothing": "/dev/null"}.get(what, "/dev/fuse")
    fd = os.open(path, os.O_RDWR)
    number = 97 if what == "nothing" else fd
    try:
        done = vfsmount(
            f"/dev/fd/{number}",
            "--state-dir",
            tmp_path / "state",
            *options,
            env=server.env("owner"),
            pass_fds=() if what == "nothing" else (fd,),
        )
    finally:
        os.close(fd)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert says in line and "Traceback" not in line
    assert list((tmp_path / "state").glob("mounts/*")) == []
