"""Listings are asked for ahead of whoever reads directory after directory, and of nobody else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import release, serving, stall, until
from vfsmount.api.governor import leisurely
from vfsmount.core import walk
from vfsmount.core.walk import AHEAD

COUNT = 20
NAMES = [f"d{n:02}" for n in range(COUNT)]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk is none the less one where this machine takes long for a step."""
    monkeypatch.setattr(walk, "ENDS_AFTER_S", 60.0)


def plant(disk: Path) -> None:
    for name in NAMES:
        (disk / name / "sub").mkdir(parents=True)
        (disk / name / "file").touch()


def listings(server: Embedded) -> int:
    return server.count("GET", "/folders/{vf}/files")


@pytest.mark.usefixtures("endless")
async def test_walk_finds_the_next_listings_there(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    plant(both.folder_dir(folder))
    async with serving(both, tmp_path, dir_ttl_s=60.0) as d:
        both.reset_calls()
        for directory in (name, f"{name}/d00", f"{name}/d00/sub", f"{name}/d01"):
            await d.names(directory)
        await until(lambda: listings(both) == 1 + 2 * COUNT)
        for n in NAMES:
            assert await d.names(f"{name}/{n}") == ["file", "sub"]
            assert await d.names(f"{name}/{n}/sub") == []
        assert listings(both) == 1 + 2 * COUNT


@pytest.mark.usefixtures("endless")
async def test_walk_in_order_of_names_finds_the_next_ones_too(both: Embedded, tmp_path: Path) -> None:
    """As `ls -R` and rsync go, whatever the order in which the server's disk has the names."""
    name, folder = fresh(both)
    names = [f"d{n:03}" for n in range(AHEAD + 40)]
    for n in random.Random(1).sample(names, len(names)):
        (both.folder_dir(folder) / n).mkdir()
    async with serving(both, tmp_path, dir_ttl_s=60.0) as d:
        both.reset_calls()
        assert await d.names(name) == names
        for n in names[:4]:
            await d.names(f"{name}/{n}")
        await until(lambda: listings(both) == 1 + 4 + AHEAD)
        stall(both, "GET", "/folders/*/files", times=None)
        with trio.fail_after(20):
            for n in names[4 : AHEAD // 2]:
                assert await d.names(f"{name}/{n}") == []
        release(both)


@pytest.mark.parametrize("who", ["looks here and there", "indexer"])
async def test_nobody_else_is_helped(both: Embedded, tmp_path: Path, who: str) -> None:
    name, folder = fresh(both)
    plant(both.folder_dir(folder))
    async with serving(both, tmp_path, dir_ttl_s=60.0) as d:
        both.reset_calls()
        if who == "indexer":
            with leisurely():
                for directory in (name, *(f"{name}/{n}" for n in NAMES[:5])):
                    await d.names(directory)
        else:
            for directory in (name, f"{name}/d00", f"{name}/d07"):
                await d.names(directory)
        asked = listings(both)
        await trio.sleep(0.3)
        assert listings(both) == asked < COUNT


async def test_what_is_asked_for_ahead_holds_up_no_change(both: Embedded, tmp_path: Path) -> None:
    """All but one place at the manager are taken by listings that do not come."""
    name, folder = fresh(both)
    plant(both.folder_dir(folder))
    async with serving(both, tmp_path, dir_ttl_s=60.0) as d:
        for directory in (name, f"{name}/d00", f"{name}/d00/sub"):
            await d.names(directory)
        both.reset_calls()
        stall(both, "GET", "/folders/*/files", times=None)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(d.names, f"{name}/d01")
                await until(lambda: listings(both) >= 3)
                await d.rename(f"{name}/d05", f"{name}/moved")
                await d.mkdir(f"{name}/made")
                release(both)
                both.clear_faults()
        assert {"moved", "made"} <= set(await d.names(name))
        assert await d.names(f"{name}/moved") == ["file", "sub"]
