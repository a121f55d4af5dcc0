"""A directory so long that somebody reads its beginning while the rest is being taken in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import Driver, serving
from vfsmount.errors import PermissionDenied

ENTRIES = 7_001


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("large")
    with Embedded(directory, dialect=request.param, scandir_limit=0) as server:
        yield server


@pytest.fixture
def large(server: Embedded) -> tuple[str, Path]:
    """(name, disk) of a folder with ENTRIES files."""
    name, ident = fresh(server)
    disk = server.folder_dir(ident)
    for n in range(ENTRIES):
        (disk / f"{n:06d}").touch()
    return name, disk


async def pages(d: Driver, fh: int) -> list[list[str]]:
    """An open directory from its beginning, page by page as a kernel reads it."""
    found, offset = [], 0
    while page := [(o, n) for o, n, _ in list(await d.fs.readdir(fh, offset))[:300]]:
        found.append([os.fsdecode(n) for _, n in page])
        offset = page[-1][0]
    return found


def names_of(found: list[list[str]]) -> list[str]:
    return [n for page in found for n in page if n not in (".", "..")]


async def test_beginning_is_there_before_all_is_and_nothing_is_left_out(
    server: Embedded, large: tuple[str, Path], tmp_path: Path
) -> None:
    name, disk = large
    async with serving(server, tmp_path) as d:
        ino = (await d.stat(name)).ino
        fh = await d.fs.opendir(ino)
        first = list(await d.fs.readdir(fh, 0))
        assert 2 < len(first) < ENTRIES
        assert len(d.node(ino).entries) < ENTRIES
        found = await pages(d, fh)
        assert sorted(names_of(found)) == sorted(os.listdir(disk))
        assert len(d.node(ino).entries) == ENTRIES
        # Nobody who looks a name up is told that it is not there because it has not been reached yet.
        assert (await d.stat(f"{name}/{ENTRIES - 1:06d}")).size == 0
        d.fs.releasedir(fh)
        assert len(await d.names(name)) == ENTRIES


async def test_name_is_looked_up_while_its_directory_is_taken_in(
    server: Embedded, large: tuple[str, Path], tmp_path: Path
) -> None:
    name, disk = large
    (disk / "last").write_bytes(b"here")
    async with serving(server, tmp_path) as d:
        fh = await d.fs.opendir((await d.stat(name)).ino)
        await d.fs.readdir(fh, 0)
        assert await d.read(f"{name}/last") == b"here"
        d.fs.releasedir(fh)


async def test_changes_while_it_is_taken_in_hold(
    server: Embedded, large: tuple[str, Path], tmp_path: Path
) -> None:
    """Ours, from other tasks, in the middle of the taking in."""
    name, disk = large
    async with serving(server, tmp_path) as d:
        fh = await d.fs.opendir((await d.stat(name)).ino)
        await d.fs.readdir(fh, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.write, f"{name}/new", b"new")
            nursery.start_soon(d.unlink, f"{name}/{ENTRIES - 1:06d}")
            nursery.start_soon(d.rename, f"{name}/{ENTRIES - 2:06d}", f"{name}/renamed")
        await pages(d, fh)
        d.fs.releasedir(fh)
        expected = set(os.listdir(disk)) - {".upload"}
        assert {"new", "renamed"} <= expected and len(expected) == ENTRIES
        assert set(await d.names(name)) == expected


async def test_who_opens_a_directory_that_cannot_be_listed_is_told(
    server: Embedded, large: tuple[str, Path], tmp_path: Path
) -> None:
    name, _ = large
    async with serving(server, tmp_path) as d:
        ino = (await d.stat(name)).ino
        server.faults(
            {"rules": [{"action": "status", "path": "/folders/*/files", "status": 403, "times": None}]}
        )
        with pytest.raises(PermissionDenied):
            await d.fs.opendir(ino)
        server.clear_faults()
        assert len(await d.names(name)) > 0
