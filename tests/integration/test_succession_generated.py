"""Generated operations on a mount whose processes are killed at any moment, several in a row, and on a dict.

Nobody else changes the folder, so what is on the server in the end is the model, and nothing beside it.
`VFSMOUNT_SEED=n` repeats a run, `VFSMOUNT_SEED=n-m` runs those; odd ones are on a server of the old line.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import below, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.succession import PIECE, Succession
from vfsmount.values import ROOT_INO

NAMES = ["a", "b", "c"]
OPERATIONS = 60
SHORT, LONG = range(1), range(1, 12)


def seeds() -> list[Any]:
    if given := os.environ.get("VFSMOUNT_SEED"):
        first, _, last = given.partition("-")
        return list(range(int(first), int(last or first) + 1))
    return [*SHORT, *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG)]


class Lives:
    """Calls of a program that never hears of the deaths."""

    def __init__(self, mount: Succession, rng: random.Random) -> None:
        self.mount, self.rng = mount, rng
        self.deaths = 0
        self.doomed = False  # the process is going to die at some step
        self.over = False  # no process is killed any more

    def doom(self, most_steps: int) -> None:
        """The process that serves now dies at some change of the disk or of the journal, soon."""
        self.mount.call("die_at", self.rng.randrange(1, most_steps))
        self.doomed = True

    def call(self, *request: Any) -> Any:
        number = None
        try:
            number = self.mount.begin(*request)
            return self.mount.result(number)
        except ConnectionError:
            pass
        if number is None:
            number = max(self.mount.in_flight)
        while True:
            self.deaths += 1
            self.doomed = False
            self.mount.kill()
            self.mount.succeed()
            try:
                return self._result(number)
            except ConnectionError:
                for ours in set(self.mount.in_flight) - {number}:
                    del self.mount.in_flight[ours]  # no program waits for it

    def _result(self, number: int) -> Any:
        """What is answered, unless the next process is killed before it answers."""
        if self.over:
            pass
        elif self.rng.random() < 0.5:
            self.doom(12)
        elif self.rng.random() < 0.4:
            raise ConnectionError("killed at once")
        result = self.mount.result(number)
        try:
            self.mount.heard()
        except ConnectionError:
            self.mount.in_flight.clear()  # the next call meets it
        return result


class World:
    """The model: path → content, None for a directory."""

    def __init__(self, mount: Succession, rng: random.Random, folder: str) -> None:
        self.lives = Lives(mount, rng)
        self.rng, self.folder = rng, folder
        self.tree: dict[str, bytes | None] = {"": None}
        self.story: list[str] = []

    # --- the kernel's part ---------------------------------------------------------------------

    def place(self, path: str) -> tuple[int, bytes]:
        """Inode of the directory, and the last name; the kernel has looked up all of it."""
        *directories, last = f"{self.folder}/{path}".split("/")
        ino = int(ROOT_INO)
        for name in directories:
            ino = self.lives.call("lookup", ino, os.fsencode(name)).ino
        if path in self.tree:
            self.lives.call("lookup", ino, os.fsencode(last))
        return ino, os.fsencode(last)

    def ino(self, path: str) -> int:
        if not path:
            return int(self.lives.call("lookup", int(ROOT_INO), os.fsencode(self.folder)).ino)
        return int(self.lives.call("lookup", *self.place(path)).ino)

    def put(self, fh: int, data: bytes, offset: int) -> None:
        for at in range(0, len(data), PIECE):
            self.lives.call("write", fh, offset + at, data[at : at + PIECE])
        self.lives.call("flush", fh)
        self.lives.call("release", fh)

    # --- choices -------------------------------------------------------------------------------

    def files(self) -> list[str]:
        return [path for path, content in self.tree.items() if content is not None]

    def new_path(self) -> str:
        directory = self.rng.choice([path for path, content in self.tree.items() if content is None])
        return f"{directory}/{self.rng.choice(NAMES)}".lstrip("/")

    def known_path(self) -> str | None:
        known = [path for path in self.tree if path]
        return self.rng.choice(known) if known else None

    def at_or_below(self, top: str) -> list[str]:
        return [path for path in self.tree if path == top or path.startswith(top + "/")]

    # --- operations ----------------------------------------------------------------------------

    def write(self) -> None:
        path = self.rng.choice(self.files()) if self.files() and self.rng.random() < 0.5 else self.new_path()
        if self.tree.get(path, b"") is None:
            return
        data = self.rng.randbytes(self.rng.choice([0, 10, 5000, 300_000]))
        self.story.append(f"write {path} {len(data)}")
        if path in self.tree:
            fh = self.lives.call("open", self.ino(path), os.O_WRONLY | os.O_TRUNC).fh
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            fh, _ = self.lives.call("create", *self.place(path), 0o644, flags)
        self.put(fh, data, 0)
        self.tree[path] = data

    def append(self) -> None:
        if not self.files():
            return
        path, data = self.rng.choice(self.files()), self.rng.randbytes(100)
        self.story.append(f"append {path}")
        content = self.tree[path]
        assert content is not None
        fh = self.lives.call("open", self.ino(path), os.O_WRONLY | os.O_APPEND).fh
        self.put(fh, data, len(content))
        self.tree[path] = content + data

    def mkdir(self) -> None:
        path = self.new_path()
        if path not in self.tree and path.count("/") < 3:
            self.story.append(f"mkdir {path}")
            self.lives.call("mkdir", *self.place(path), 0o755)
            self.tree[path] = None

    def remove(self) -> None:
        if (top := self.known_path()) is None:
            return
        self.story.append(f"rm -r {top}")
        for path in sorted(self.at_or_below(top), key=lambda path: -path.count("/")):
            self.lives.call("rmdir" if self.tree[path] is None else "unlink", *self.place(path))
            del self.tree[path]

    def rename(self) -> None:
        old = self.known_path()
        new = self.known_path() if self.rng.random() < 0.4 else self.new_path()
        if old is None or new is None:
            return
        if f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
            return
        kinds = {self.tree[path] is None for path in (old, new) if path in self.tree}
        if len(kinds) > 1 or (kinds == {True} and len(self.at_or_below(new)) > 1):
            return
        self.story.append(f"rename {old} {new}")
        self.lives.call("rename", *self.place(old), *self.place(new))
        self.tree.pop(new, None)
        for path in self.at_or_below(old):
            self.tree[new + path[len(old) :]] = self.tree.pop(path)

    def look(self) -> None:
        if self.rng.random() < 0.5:
            self.lives.call("refresh")
        path = self.rng.choice([path for path, content in self.tree.items() if content is None])
        self.story.append(f"list {path}")
        fh = self.lives.call("opendir", self.ino(path))
        names: list[str] = []
        offset = 0
        while page := self.lives.call("readdir", fh, offset):
            names += [os.fsdecode(name) for _, name, _ in page]
            offset = page[-1][0]
        self.lives.call("releasedir", fh)
        prefix = f"{path}/" if path else ""
        there = [p[len(prefix) :] for p in self.tree if p and p.startswith(prefix)]
        assert sorted(names) == sorted([".", "..", *(name for name in there if "/" not in name)])

    def read(self) -> None:
        if not self.files():
            return
        path = self.rng.choice(self.files())
        self.story.append(f"read {path}")
        fh = self.lives.call("open", self.ino(path), os.O_RDONLY).fh
        data = b""
        while part := self.lives.call("read", fh, len(data), PIECE):
            data += part
        self.lives.call("release", fh)
        assert data == self.tree[path]

    def send(self) -> None:
        self.story.append("send")
        self.lives.call("wait")

    def step(self) -> None:
        if not self.lives.doomed and self.rng.random() < 0.35:
            self.lives.doom(25)
        operations: list[tuple[int, Callable[[], None]]] = [
            (5, self.write),
            (2, self.append),
            (3, self.mkdir),
            (2, self.remove),
            (5, self.rename),
            (3, self.look),
            (2, self.read),
            (2, self.send),
        ]
        self.rng.choices([o for _, o in operations], [w for w, _ in operations])[0]()


@pytest.mark.parametrize("seed", seeds())
def test_generated_operations_survive_all_deaths(
    new_server: Embedded, old_server: Embedded, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    server = old_server if seed % 2 else new_server
    name, folder = fresh(server)
    disk = server.folder_dir(folder)
    with Succession(server, tmp_path, settle_s=rng.choice([0.2, 1.0]), dir_ttl_s=1.0) as mount:
        world = World(mount, rng, name)
        try:
            for _ in range(OPERATIONS):
                world.step()
            world.lives.over = True
            world.lives.call("die_at", 0)
            world.lives.call("idle")
            assert tree_on_disk(disk) == {path: content for path, content in world.tree.items() if path}
            mount.end()
        except BaseException:
            print(
                f"seed {seed}, {world.lives.deaths} deaths",
                *world.story[-40:],
                mount.log.read_text()[-6000:],
                sep="\n",
            )
            raise
        assert world.lives.deaths > 3
    assert list((tmp_path / "unsent").iterdir()) == []
    assert [p for p in below(tmp_path / "staging") if p.is_file() and p.name != "lock"] == []
