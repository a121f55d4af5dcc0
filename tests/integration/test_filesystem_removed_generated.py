"""Trees of any form of which any parts are removed, while others use them and the server has its moods.

`VFSMOUNT_SEED=n` repeats a run, `VFSMOUNT_SEED=n-m` runs those.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.removing import AWAY, all_done, remove, until_late
from tests.support.sending import DELETE, background
from tests.support.vfs import Driver, until
from vfsmount.errors import VfsError
from vfsmount.vfs import namespace, removals

LIVES = 2  # mounts, one after the other
STEPS = 3  # of each
PATIENCE_S = 20.0  # for one tree


def seeds() -> range:
    first, _, last = (os.environ.get("VFSMOUNT_SEED") or "0-5").partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, soon_late: None) -> None:
    """Calls are made early, and looks are believed for a shorter time than `until_late` takes."""
    for module, what, value in (
        (namespace, "JUST_S", 0.1),
        (removals, "TREE_IDLE_S", 0.08),
        (removals, "IDLE_S", 0.03),
        (removals, "LONGEST_S", 0.2),
    ):
        monkeypatch.setattr(module, what, value)


class World:
    """One folder: what is on the server's disk, and which of it others have put there."""

    def __init__(self, rng: random.Random, server: Embedded) -> None:
        self.rng, self.server = rng, server
        self.name, folder = fresh(server)
        self.disk = server.folder_dir(folder)
        self.theirs: dict[str, bytes] = {}
        self.mood: dict[str, Any] | None = None
        self.count = 0
        self.story: list[object] = []
        directories = [""]
        for n in range(10):
            directories.append(f"{rng.choice(directories)}/d{n}".lstrip("/"))
            (self.disk / directories[-1]).mkdir()
        for n in range(25):
            (self.disk / rng.choice(directories) / f"f{n}").write_text(f"f{n}")

    def directories(self) -> list[str]:
        """All of them, the folder's root first."""
        return ["", *sorted(path for path, content in tree_on_disk(self.disk).items() if content is None)]

    # --- the server ----------------------------------------------------------------------------

    def change_mood(self) -> None:
        """What becomes of deletions from now on."""
        some = self.rng.randrange(1, 4)
        self.mood = self.rng.choice(
            [
                None,
                AWAY["rules"][0],
                {"action": "lose_reply", "path": DELETE, "times": some},
                {"action": "status", "path": DELETE, "status": 500, "times": some},
                {"action": "status", "path": DELETE, "status": 403, "times": some},
            ]
        )
        self.story.append(self.mood)
        self.in_its_mood()

    def in_its_mood(self) -> None:
        """As it was before others did something."""
        self.server.faults({"clear": True, "rules": [self.mood] if self.mood else []})

    @property
    def is_away(self) -> bool:
        return self.mood is AWAY["rules"][0]

    # --- this mount ----------------------------------------------------------------------------

    async def remove(self, d: Driver) -> None:
        """`rm -r` of some directory, but for what others have put there."""
        if not (found := self.directories()[1:]):
            return
        top = self.rng.choice(found)
        self.story.append(f"rm -r {top}")
        with trio.fail_after(PATIENCE_S):
            await self._remove(d, f"{self.name}/{top}")

    async def _remove(self, d: Driver, path: str) -> None:
        try:
            for n in await d.names(path):
                await self._remove_name(d, f"{path}/{n}")
                if self.rng.random() < 0.1:
                    await trio.sleep(self.rng.random() / 10)
            await d.rmdir(path)
        except VfsError as e:
            self.story.append(f"{path}: {e!r}")

    async def _remove_name(self, d: Driver, path: str) -> None:
        try:
            if stat.S_ISDIR((await d.stat(path)).mode):
                await self._remove(d, path)
            elif not Path(path).name.startswith("theirs"):
                await d.unlink(path)
        except VfsError as e:
            self.story.append(f"{path}: {e!r}")

    # --- others --------------------------------------------------------------------------------

    async def others(self, d: Driver | None = None) -> None:
        """Others do something, and no call gets through that may be made by a look of before: what comes
        between the two is lost with this server."""
        held = {"action": "status", "path": DELETE, "status": self.rng.choice([500, 503]), "times": None}
        self.server.faults({"clear": True, "rules": [held]})
        if d is not None:
            await until(lambda: not d.fs._removals._client.governor.in_flight)  # one that got through before
        await until_late()
        for _ in range(self.rng.randrange(1, 4)):
            self.count += 1
            act = self.rng.choice([self._put, self._put_where_a_file_was, self._move, self._clear])
            act(self.rng.choice(self.directories()))
        await until_late()
        self.in_its_mood()

    def _put(self, at: str) -> None:
        path = f"{at}/theirs{self.count}".lstrip("/")
        (self.disk / path).write_bytes(b"new")
        self.theirs[path] = b"new"
        self.story.append(f"others: put {path}")

    def _put_where_a_file_was(self, at: str) -> None:
        files = sorted(p for p in (self.disk / at).iterdir() if p.is_file() and p.name.startswith("f"))
        if files:
            file = self.rng.choice(files)
            file.unlink()
            file.mkdir()
            self._put(file.relative_to(self.disk).as_posix())

    def _move(self, at: str) -> None:
        if not at:
            return
        new = f"moved{self.count}"
        (self.disk / at).rename(self.disk / new)
        for path in [p for p in self.theirs if p.startswith(f"{at}/")]:
            self.theirs[new + path[len(at) :]] = self.theirs.pop(path)
        self.story.append(f"others: mv {at} {new}")

    def _clear(self, at: str) -> None:
        if at and not any(path.startswith(f"{at}/") for path in self.theirs):
            shutil.rmtree(self.disk / at)
            self.story.append(f"others: rm -r {at}")

    # --- what holds ----------------------------------------------------------------------------

    def check_theirs(self) -> None:
        """What others have put there is there."""
        found = contents(self.disk)
        assert {path: found.get(path) for path in self.theirs} == self.theirs

    async def check_shown(self, d: Driver) -> None:
        """What is there shows, and nothing else."""
        for at in self.directories():
            path = f"{self.name}/{at}".rstrip("/")
            await d.look_again(path)
            there = {p.name for p in (self.disk / at).iterdir()} - {".upload"}
            assert await d.names(path) == sorted(there)


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.usefixtures("expect_warnings", "hurried")
async def test_nothing_of_others_is_lost_and_nothing_stays_hidden(
    both: Embedded, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(rng, both)
    try:
        for _ in range(LIVES):
            async with background(both, tmp_path) as d:
                for _ in range(STEPS):
                    await _step(world, d)
                    if world.is_away and rng.random() < 0.3:
                        break  # the mount ends with all of it
                    both.clear_faults()
                    await all_done(d)
                    world.check_theirs()
            world.mood = None
            both.clear_faults()
            if rng.random() < 0.5:
                await world.others()
        async with background(both, tmp_path) as d:
            await all_done(d)
            world.check_theirs()
            await world.check_shown(d)
    except BaseException:
        print(f"VFSMOUNT_SEED={seed}", *world.story, sep="\n")
        raise


async def _step(world: World, d: Driver) -> None:
    world.change_mood()
    if world.rng.random() < 0.5:
        await d.look_again(world.name)
    for _ in range(world.rng.randrange(1, 3)):
        await world.remove(d)
        if world.rng.random() < 0.5:
            await world.others(d)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.usefixtures("expect_warnings", "always_late")
async def test_whatever_others_put_there_while_no_call_gets_through_stays(
    both: Embedded, tmp_path: Path, seed: int
) -> None:
    """Trees of any form, parts of them removed, and files put anywhere meanwhile."""
    rng = random.Random(seed)
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    directories = [""]
    for n in range(12):
        at = f"{rng.choice(directories)}/d{n}".lstrip("/")
        (disk / at).mkdir()
        directories.append(at)
    # None is empty: one that is removed alone is not removed while no call gets through.
    files = [f"{at}/f".lstrip("/") for at in directories]
    files += [f"{rng.choice(directories)}/f{n}".lstrip("/") for n in range(12)]
    for path in files:
        (disk / path).write_text(path)
    expected = {path: path.encode() for path in files}
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        removed = set()
        for top in rng.sample(directories[1:], 3):
            if (await d.names(name)) and not any(_is_in(top, gone) for gone in removed):
                await remove(d, f"{name}/{top}")
                removed.add(top)
        expected = {p: c for p, c in expected.items() if not any(_is_in(p, top) for top in removed)}
        for n in range(rng.randrange(4)):
            path = f"{rng.choice(directories)}/theirs{n}".lstrip("/")
            (disk / path).write_bytes(b"theirs")
            expected[path] = b"theirs"
        again = rng.random() < 0.5
        if not again:
            both.clear_faults()
            await all_done(d)
    if again:
        both.clear_faults()
        async with background(both, tmp_path) as d:
            await all_done(d)
    left = tree_on_disk(disk)
    assert {p: c for p, c in left.items() if c is not None} == expected
    stay = {p for p in directories[1:] if not any(_is_in(p, top) for top in removed)}
    stay |= {parent.as_posix() for p in expected for parent in Path(p).parents if parent != Path()}
    assert {p for p, c in left.items() if c is None} == stay


def _is_in(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
