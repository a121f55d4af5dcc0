"""Generated lists of operations on `Filesystem` and on a plain dict, compared with the server's disk.

Other people change the folder between operations. What we have not looked at since is theirs to
change freely; a file that we hold open is left alone by them, so that the model stays obvious.
`VFSMOUNT_SEED=n` repeats a run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.disks import tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import Driver, serving, until
from vfsmount.errors import VfsError
from vfsmount.fuse.errno_map import errno_of

NAMES = ["a", "b", "c", "ü x"]
STEPS = 200
ROUNDS = 4


class World:
    """The model: path → content, None for a directory; and the handles that are open."""

    def __init__(self, rng: random.Random, driver: Driver, folder: str, disk: Path) -> None:
        self.rng, self.d, self.folder, self.disk = rng, driver, folder, disk
        self.tree: dict[str, bytearray | None] = {"": None}
        self.handles: dict[int, str | None] = {}  # fh → path, None once its name is gone
        self.orphans: dict[int, bytearray] = {}  # content of handles without a name
        self.story: list[str] = []

    def path(self, *, exists: bool | None = None) -> str:
        """Some path, mostly one that exists; never the folder's root."""
        known = [p for p in self.tree if p]
        if known and (exists or (exists is None and self.rng.random() < 0.7)):
            return self.rng.choice(known)
        parent = self.rng.choice([p for p, content in self.tree.items() if content is None])
        return f"{parent}/{self.rng.choice(NAMES)}".lstrip("/")

    def full(self, path: str) -> str:
        return f"{self.folder}/{path}"

    def data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 10, 5000]))

    def children(self, path: str) -> list[str]:
        return [p for p in self.tree if p.startswith(path + "/")]

    def parent_is_directory(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        return parent in self.tree and self.tree[parent] is None

    def forget_name(self, path: str) -> None:
        """A file's name goes; its handles keep the content."""
        content = self.tree.pop(path)
        for fh, at in self.handles.items():
            if at == path:
                assert content is not None
                self.handles[fh] = None
                self.orphans[fh] = content

    def content_of(self, fh: int) -> bytearray:
        path = self.handles[fh]
        if path is None:
            return self.orphans[fh]
        content = self.tree[path]
        assert content is not None
        return content

    async def attempt(self, expected: bool, call: Awaitable[object], what: str) -> bool:
        """Run one call; it must succeed exactly when the model says so."""
        self.story.append(f"{what} {'ok' if expected else 'refused'}")
        try:
            await call
        except VfsError as e:
            assert not expected, f"{type(e).__name__} errno {errno_of(e)}: {e}"
            return False
        assert expected, "should have been refused"
        return True

    # --- what we do ----------------------------------------------------------------------------

    async def write_file(self) -> None:
        path, data = self.path(), self.data()
        fine = self.parent_is_directory(path) and self.tree.get(path, b"") is not None
        if await self.attempt(fine, self.d.write(self.full(path), data), f"write {path!r} {len(data)}"):
            content = self.tree.setdefault(path, bytearray())
            assert content is not None
            content[:] = data

    async def open_file(self) -> None:
        if len(self.handles) > 4:
            await self.close_file()
            return
        path = self.path()
        self.story.append(f"open {path!r}")
        if not self.parent_is_directory(path) or self.tree.get(path, b"") is None:
            return
        fh = await self.d.create(self.full(path), os.O_RDWR)
        self.tree.setdefault(path, bytearray())
        self.handles[fh] = path

    async def change_open_file(self) -> None:
        if not self.handles:
            return
        fh = self.rng.choice(list(self.handles))
        content, data = self.content_of(fh), self.data()
        offset = self.rng.choice([0, len(content), len(content) // 2, len(content) + 3])
        self.story.append(f"pwrite {self.handles[fh]!r} {offset}+{len(data)}")
        if not data:
            return
        await self.d.fs.write(fh, offset, data)
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    async def read_open_file(self) -> None:
        if self.handles:
            fh = self.rng.choice(list(self.handles))
            self.story.append(f"read handle of {self.handles[fh]!r}")
            assert await self.d.read_all(fh) == self.content_of(fh)

    async def close_file(self) -> None:
        if self.handles:
            fh = self.rng.choice(list(self.handles))
            self.story.append(f"close {self.handles[fh]!r}")
            await self.d.close(fh)
            del self.handles[fh]
            self.orphans.pop(fh, None)

    async def read_file(self) -> None:
        path = self.path()
        content = self.tree.get(path)
        self.story.append(f"read {path!r}")
        if content is not None:
            assert await self.d.read(self.full(path)) == content

    async def truncate(self) -> None:
        path, size = self.path(exists=True), self.rng.choice([0, 1, 7, 6000])
        if path not in self.tree:
            return
        content = self.tree[path]
        call = self.d.truncate(self.full(path), size)
        if await self.attempt(content is not None, call, f"truncate {path!r} {size}"):
            assert content is not None
            content[:] = (bytes(content) + bytes(size))[:size]

    async def append(self) -> None:
        path, data = self.path(), self.data()
        content = self.tree.get(path)
        if content is None:
            return
        self.story.append(f"append {path!r} {len(data)}")
        fh = await self.d.open(self.full(path), os.O_WRONLY | os.O_APPEND)
        if data:
            await self.d.fs.write(fh, len(content), data)
        await self.d.close(fh)
        content += data

    async def mkdir(self) -> None:
        path = self.path(exists=False)
        fine = self.parent_is_directory(path) and path not in self.tree
        if path.count("/") < 3 and await self.attempt(fine, self.d.mkdir(self.full(path)), f"mkdir {path!r}"):
            self.tree[path] = None

    async def rmdir(self) -> None:
        path = self.path()
        fine = path in self.tree and self.tree[path] is None and not self.children(path)
        if await self.attempt(fine, self.d.rmdir(self.full(path)), f"rmdir {path!r}"):
            del self.tree[path]

    async def unlink(self) -> None:
        path = self.path()
        fine = self.tree.get(path) is not None
        if await self.attempt(fine, self.d.unlink(self.full(path)), f"unlink {path!r}"):
            self.forget_name(path)

    async def rename(self) -> None:
        old, new = self.path(), self.path()
        fine = self._may_rename(old, new)
        call = self.d.rename(self.full(old), self.full(new))
        if await self.attempt(fine, call, f"rename {old!r} {new!r}") and old != new:
            if self.tree.get(new) is not None:
                self.forget_name(new)
            self.tree.pop(new, None)
            for path in [old, *self.children(old)]:
                self.tree[new + path[len(old) :]] = self.tree.pop(path)
            for fh, at in self.handles.items():
                if at is not None and (at == old or at.startswith(old + "/")):
                    self.handles[fh] = new + at[len(old) :]

    def _may_rename(self, old: str, new: str) -> bool:
        if old not in self.tree or not self.parent_is_directory(new) or new.startswith(old + "/"):
            return False
        if new not in self.tree or new == old:
            return True
        if self.tree[old] is None:
            return self.tree[new] is None and not self.children(new)
        return self.tree[new] is not None

    async def list_directory(self) -> None:
        path = self.rng.choice([p for p, content in self.tree.items() if content is None])
        self.story.append(f"list {path!r}")
        prefix = path + "/" if path else ""
        names = {p[len(prefix) :] for p in self.tree if p and p.startswith(prefix)}
        assert await self.d.names(self.full(path)) == sorted(n for n in names if n and "/" not in n)

    # --- what others do ------------------------------------------------------------------------

    def _in_use(self, path: str) -> bool:
        return any(
            at is not None and (at == path or at.startswith(path + "/")) for at in self.handles.values()
        )

    async def somebody_changes_something(self) -> None:
        """Directly on the server's disk; then time passes, as far as belief goes."""
        path = self.path()
        if self._in_use(path) or not self.parent_is_directory(path):
            return
        # A directory that only we have, because of what is unsent in it, is none of theirs.
        target = self.disk / path
        if not target.parent.is_dir():
            return
        # What comes directly after ours cannot be told from what was sent unknowingly: a conflict.
        await until(lambda: not self.d.fs._settling._watched)
        what = self.rng.choice(["put", "remove", "mkdir"])
        self.story.append(f"somebody: {what} {path!r}")
        if what == "put" and self.tree.get(path, b"") is not None:
            data = self.data()
            temporary = self.disk / ".theirs"
            temporary.write_bytes(data)
            temporary.rename(target)
            self.tree[path] = bytearray(data)
        elif what == "mkdir" and path not in self.tree:
            target.mkdir()
            self.tree[path] = None
        elif what == "remove" and path in self.tree:
            for p in [path, *self.children(path)]:
                del self.tree[p]
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink()

    async def step(self) -> None:
        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (3, self.write_file),
            (3, self.open_file),
            (4, self.change_open_file),
            (2, self.read_open_file),
            (3, self.close_file),
            (3, self.read_file),
            (2, self.truncate),
            (2, self.append),
            (2, self.mkdir),
            (1, self.rmdir),
            (2, self.unlink),
            (4, self.rename),
            (2, self.list_directory),
            (3, self.somebody_changes_something),
        ]
        await self.rng.choices([s for _, s in steps], [w for w, _ in steps])[0]()

    def on_disk(self) -> dict[str, bytes | None]:
        return tree_on_disk(self.disk)


@pytest.mark.parametrize("round_no", range(ROUNDS))
async def test_generated_operations_end_on_the_servers_disk(
    both: Embedded, tmp_path: Path, round_no: int
) -> None:
    seed = int(os.environ.get("VFSMOUNT_SEED") or random.randrange(10**9))
    name, folder = fresh(both)
    # Nothing is believed for longer than an instant: what others do must show at once.
    async with serving(both, tmp_path, dir_ttl_s=0.0, attr_ttl_s=0.0) as d:
        world = World(random.Random(seed), d, name, both.folder_dir(folder))
        try:
            for _ in range(STEPS):
                await world.step()
            while world.handles:
                await world.close_file()
            assert world.on_disk() == {p: None if c is None else bytes(c) for p, c in world.tree.items() if p}
            assert await d.fs.drain() == []
            await until(lambda: [p.name for p in d.area.directory.iterdir()] == ["lock"])
        except BaseException:
            print(f"VFSMOUNT_SEED={seed}", *world.story[-25:], sep="\n")
            raise
