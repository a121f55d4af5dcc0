"""Two mounts edit one file at the same moment: both contents exist afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.mounting import Mounted, vfsmount

ROUNDS = 200


def write(path: Path, data: bytes, opened: threading.Barrier, append: bool) -> None:
    with path.open("ab" if append else "wb") as f:
        opened.wait(60)  # who opens the file after the other one has sent it replaces what he has seen
        f.write(data)


def versions(disk: Path, name: str) -> dict[str, bytes]:
    """Contents of a file and of what was kept beside it."""
    found = [p for p in disk.iterdir() if p.name == name or p.name.startswith(f"{name}.conflict-")]
    return {p.name: p.read_bytes() for p in found}


@pytest.mark.parametrize("what", ["create", "replace", "append"])
def test_both_versions_exist_afterwards(
    site: Site, folder: Path, disk: Path, tmp_path: Path, what: str
) -> None:
    rounds = ROUNDS if site.embedded else 20
    if what != "create":
        for n in range(rounds):
            (disk / f"f{n}").write_bytes(b"before")
    a, b = Mounted(tmp_path / "a", site.env), Mounted(tmp_path / "b", site.env)
    for mounted in (a, b):
        mounted.path.parent.mkdir()
        mounted.start()
    try:
        for n in range(rounds):
            opened = threading.Barrier(2)
            # The same size: nothing but the content tells them apart.
            writers = [
                threading.Thread(
                    target=write,
                    args=(m.path / folder.name / f"f{n}", f"{who} {n}".encode(), opened, what == "append"),
                )
                for who, m in (("A", a), ("B", b))
            ]
            for thread in writers:
                thread.start()
            for thread in writers:
                thread.join()
        for m in (a, b):  # which may take longer than a daemon goes on at its end
            done = vfsmount("wait", m.path, "--state-dir", m.state, env=site.env, timeout=600)
            assert done.returncode == 0, done.stderr
    finally:
        ends = [m.stop() for m in (a, b)]
    assert [e.returncode for e in ends] == [0, 0], [e.stderr for e in ends]
    missing = {}
    for n in range(rounds):
        there = versions(disk, f"f{n}")
        if not all(any(f"{who} {n}".encode() in v for v in there.values()) for who in "AB"):
            missing[n] = there
    assert missing == {}
