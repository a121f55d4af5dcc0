"""Everyday programs run on a mount as people have it: what is closed is sent behind."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.mounting import Mounted

_numbers = itertools.count()


@pytest.fixture(scope="session")
def background(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A second mount of each server, with no option but to forget soon."""
    options = ["--dir-ttl", "1", "--attr-ttl", "0.5"]
    with Mounted(tmp_path_factory.mktemp("background"), site.env, *options) as mounted:
        yield mounted
    assert not mounted.warnings()


@pytest.fixture
def folder(request: pytest.FixtureRequest, site: Site, background: Mounted) -> Iterator[Path]:
    """A new vfolder of the test's own, as it shows on that mount."""
    if site.embedded is None and "test_archives" not in str(request.node.path):
        # git and pip through a real manager at 30 calls a second take minutes, and time out in places.
        pytest.skip("takes minutes of a real manager's calls")
    path = background.path / f"everyday-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", path], check=False, capture_output=True, timeout=600)
    if site.embedded is None or site.embedded.dialect == "23.09":
        site.owner.call("DELETE", f"/folders/{path.name}")
