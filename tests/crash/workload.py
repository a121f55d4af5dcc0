"""What programs do in a crash drill, and what may be left of it when the daemon dies in between.

A tree is what an obviously right file system would hold: path → content, None for a directory. Each
operation says how the tree looks after it, and `Op.outcomes` what may be found when it was begun and
not acknowledged: as before, as after, and for few operations something in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

Tree = dict[str, bytes | None]
Pieces = tuple[tuple[int, bytes], ...]

BIG = 3 << 20  # goes up in several requests: the last one, which completes the file, is kept small


Outcome = dict[str, bytes | None]


@dataclass(frozen=True)
class Op:
    """One thing a program does.

    Attributes:
        pieces: (offset, bytes) written before the close, or before the fsync where there is one.
        later: written in place after the fsync.
        size: for truncate.
        pause_s: for sleep.
    """

    kind: str
    path: str = ""
    other: str = ""
    pieces: Pieces = field(default=(), repr=False)
    later: Pieces = field(default=(), repr=False)
    size: int = 0
    pause_s: float = 0.0

    def __str__(self) -> str:
        parts = [self.kind, self.path, self.other and f"-> {self.other}"]
        parts += [f"{at}+{len(data)}" for at, data in self.pieces]
        parts += [f"later {at}+{len(data)}" for at, data in self.later]
        parts += [f"to {self.size}" if self.kind == "truncate" else ""]
        return " ".join(filter(None, parts))

    def after(self, tree: Tree) -> Tree:
        """The tree once it is acknowledged."""
        return _AFTER[self.kind](tree, self)

    def outcomes(self, tree: Tree, synced: bool) -> list[Outcome]:
        """What may be found where it was begun and never acknowledged; `synced`: its fsync was."""
        after = self.after(tree)
        found: list[Outcome] = [dict(tree), dict(after)]
        if self.kind == "sync":
            # Written in place after the fsync, one write after the other; the daemon may have died
            # before it could say that the fsync was done.
            before = patched(tree.get(self.path) or b"", self.pieces)
            steps = [patched(before, self.later[:k]) for k in range(len(self.later) + 1)]
            mixed: list[Outcome] = [{**after, self.path: content} for content in steps]
            return mixed if synced else found + mixed
        if self.kind == "rename-open" and self.path in tree:
            found.append(dict(moved(tree, self.path, self.other)))  # renamed, not yet closed
        return found


def fits(found: Tree, outcome: Outcome) -> bool:
    """Whether a tree that was found is one that may be left."""
    return found == outcome


def patched(content: bytes, pieces: Pieces) -> bytes:
    """Content after writes in place."""
    new = bytearray(content)
    for at, data in pieces:
        new.extend(bytes(max(0, at - len(new))))
        new[at : at + len(data)] = data
    return bytes(new)


def moved(tree: Tree, old: str, new: str) -> Tree:
    """The tree after a rename, over whatever was there."""
    kept = {p: c for p, c in tree.items() if not _in(p, old) and not _in(p, new)}
    return kept | {new + p[len(old) :]: c for p, c in tree.items() if _in(p, old)}


def _in(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def _without(tree: Tree, path: str) -> Tree:
    return {p: c for p, c in tree.items() if p != path}


def _content(tree: Tree, op: Op) -> bytes:
    return tree.get(op.path) or b""


_AFTER: dict[str, Callable[[Tree, Op], Tree]] = {
    "write": lambda t, o: t | {o.path: patched(b"", o.pieces)},
    "patch": lambda t, o: t | {o.path: patched(_content(t, o), o.pieces)},
    "sync": lambda t, o: t | {o.path: patched(_content(t, o), o.pieces + o.later)},
    "truncate": lambda t, o: t | {o.path: _content(t, o)[: o.size].ljust(o.size, b"\0")},
    "rename": lambda t, o: moved(t, o.path, o.other),
    "rename-open": lambda t, o: (
        _without(moved(t, o.path, o.other), o.path) | {o.other: patched(_content(t, o), o.pieces)}
    ),
    "unlink": lambda t, o: _without(t, o.path),
    "mkdir": lambda t, o: t | {o.path: None},
    "rmdir": lambda t, o: _without(t, o.path),
    "sleep": lambda t, o: t,
    "wait": lambda t, o: t,
}


# --- making one up ------------------------------------------------------------------------------

FILES = ("f0", "f1", "f2", "f3", "f4")
DIRECTORIES = ("d0", "d1", "d2")


def operations(rng: random.Random, tree: Tree, count: int) -> list[Op]:
    """A list of operations that all succeed, one after the other."""

    def endless() -> Iterator[Op]:
        now = dict(tree)
        while True:
            op = _make(rng, now)
            if op is not None:
                yield op
                now = op.after(now)

    return list(islice(endless(), count))


_WEIGHTS = {
    "write": 28, "patch": 8, "append": 7, "sync": 7, "truncate": 4, "rename": 10, "replace": 8,
    "rename-open": 3, "unlink": 9, "mkdir": 4, "rmdir": 2, "rename-directory": 4, "sleep": 9, "wait": 2,
}  # fmt: skip


def _make(rng: random.Random, tree: Tree) -> Op | None:
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    directories = [p for p, c in tree.items() if c is None]
    files = [p for p, c in tree.items() if c is not None]
    free = [
        name
        for top in ("", *directories)
        for leaf in FILES
        if (name := f"{top}/{leaf}".lstrip("/")) not in tree
    ]
    new_directories = [d for d in DIRECTORIES if d not in tree]
    if kind == "sleep":
        return Op(kind, pause_s=rng.choice((0.0, 0.01, 0.03, 0.1, 0.2)))
    if kind == "wait":
        return Op(kind)
    if kind == "write":
        return Op(
            kind,
            rng.choice(files if files and (not free or rng.random() < 0.5) else free),
            pieces=_whole(rng),
        )
    if kind == "mkdir":
        return Op(kind, rng.choice(new_directories)) if new_directories else None
    if kind == "rmdir":
        empty = [d for d in directories if not any(p.startswith(d + "/") for p in tree)]
        return Op(kind, rng.choice(empty)) if empty else None
    if kind == "rename-directory":
        if not directories or not new_directories:
            return None
        return Op("rename", rng.choice(directories), rng.choice(new_directories))
    if not files:
        return None
    path = rng.choice(files)
    content = tree[path] or b""
    if kind == "append":
        return Op("patch", path, pieces=((len(content), _bytes(rng, 5000)),))
    if kind == "patch":
        return Op(kind, path, pieces=_some(rng, content))
    if kind == "sync":
        return Op(kind, path, pieces=_some(rng, content), later=_some(rng, content))
    if kind == "truncate":
        return Op(kind, path, size=rng.choice((0, len(content) // 2, len(content) + 100)))
    if kind == "rename":
        return Op(kind, path, rng.choice(free)) if free else None
    if kind == "replace":
        others = [f for f in files if f != path]
        return Op("rename", path, rng.choice(others)) if others else None
    if kind == "rename-open":
        return Op(kind, path, rng.choice(free), pieces=_some(rng, content)) if free else None
    assert kind == "unlink"
    return Op(kind, path)


def _bytes(rng: random.Random, most: int) -> bytes:
    return rng.randbytes(rng.randint(1, most))


def _whole(rng: random.Random) -> Pieces:
    luck = rng.random()
    if luck < 0.06:
        return ()
    if luck < 0.1:
        return ((0, rng.randbytes(BIG)),)
    data = _bytes(rng, 20_000)
    half = rng.randint(0, len(data))
    return ((0, data[:half]), (half, data[half:]))


def _some(rng: random.Random, content: bytes) -> Pieces:
    return tuple((rng.randint(0, len(content)), _bytes(rng, 6000)) for _ in range(rng.randint(1, 3)))
