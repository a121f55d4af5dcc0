"""The inode tree against a dict of paths: numbers, names, lookup counts, shedding."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import Stale
from vfsmount.values import NO_ATTRS, ROOT_INO, Folder, Kind, LocalAttrs

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
INDEX = st.integers(0, 1000)


def a_folder(name: str) -> Folder:
    return Folder(name * 32, name, "local:v", "ready", "rw", True)


class Tree(RuleBasedStateMachine):
    """Model: path (tuple of names) → inode number, plus what pins each number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable()
        self.paths: dict[tuple[bytes, ...], int] = {(): ROOT_INO}
        self.dirs: set[int] = {ROOT_INO}
        self.lookups: dict[int, int] = {}
        self.opens: dict[int, int] = {}
        self.held: set[int] = set()  # unlinked, but still pinned
        self.ever: set[int] = {ROOT_INO}
        self.nodes: dict[int, Node] = {ROOT_INO: self.table.root}
        self.usual: dict[tuple[int, bytes], int] = {}  # (number of the directory, name) → first number

    # --- helpers -------------------------------------------------------------------------------

    def pick(self, index: int, *, directories: bool = False, root: bool = True) -> tuple[bytes, ...]:
        paths = sorted(
            p for p, i in self.paths.items() if (not directories or i in self.dirs) and (root or p)
        )
        return paths[index % len(paths)]

    def node(self, path: tuple[bytes, ...]) -> Node:
        return self.nodes[self.paths[path]]

    def pinned(self, ino: int) -> bool:
        return self.lookups.get(ino, 0) > 0 or self.opens.get(ino, 0) > 0

    def take_away(self, path: tuple[bytes, ...]) -> None:
        for p in [p for p in self.paths if p[: len(path)] == path]:
            ino = self.paths.pop(p)
            if self.pinned(ino):
                self.held.add(ino)

    # --- rules ---------------------------------------------------------------------------------

    @initialize()
    def make_folders(self) -> None:
        for name in "ab":
            node = self.table.add(
                self.table.root, name.encode(), Kind.DIRECTORY, folder=a_folder(name), mode=0o755
            )
            self.remember((name.encode(),), node)

    def remember(self, path: tuple[bytes, ...], node: Node) -> None:
        assert node.ino not in self.held and node.ino not in self.paths.values(), "two have one number"
        # Whoever had the place before had the same number, unless that is still in use.
        first = self.usual.setdefault((self.paths.get(path[:-1], 0), path[-1]), node.ino)
        if node.ino != first:
            assert first in self.held or first in self.paths.values()
        self.ever.add(node.ino)
        self.nodes[node.ino] = node
        self.paths[path] = node.ino
        self.dirs.discard(node.ino)  # a directory may have had the number
        if node.is_dir:
            self.dirs.add(node.ino)

    @rule(index=INDEX, name=NAMES, kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY]))
    def add(self, index: int, name: bytes, kind: Kind) -> None:
        parent = self.pick(index, directories=True)
        path = (*parent, name)
        if not parent or path in self.paths:
            return
        self.remember(path, self.table.add(self.node(parent), name, kind, mode=0o644))

    @rule(index=INDEX)
    @precondition(lambda self: len(self.paths) > 1)
    def unlink(self, index: int) -> None:
        path = self.pick(index, root=False)
        self.table.unlink(self.node(path))
        self.take_away(path)

    @rule(index=INDEX, to=INDEX, name=NAMES)
    @precondition(lambda self: len(self.paths) > 3)
    def rename(self, index: int, to: int, name: bytes) -> None:
        path, parent = self.pick(index, root=False), self.pick(to, directories=True)
        new = (*parent, name)
        inside = parent[: len(path)] == path
        if len(path) < 2 or not parent or inside or new in self.paths or path[0] != parent[0]:
            return
        assert not self.table.is_below(self.node(parent), self.node(path))
        self.table.rename(self.node(path), self.node(parent), name)
        for p in [p for p in self.paths if p[: len(path)] == path]:
            self.paths[new + p[len(path) :]] = self.paths.pop(p)

    @rule(index=INDEX, other=INDEX, wanted=INDEX)
    @precondition(lambda self: len(self.paths) > 1)
    def renumber(self, index: int, other: int, wanted: int) -> None:
        """As records say: a number some node had once, for one, and its number for another."""
        paths = [self.pick(index, root=False), self.pick(other, root=False)]
        numbers = sorted(self.ever)
        before = self.paths[paths[0]]
        pairs = list(zip(paths, (numbers[wanted % len(numbers)], before), strict=True))[
            : 1 + (paths[0] != paths[1])
        ]
        stay = {p for p in paths if self.pinned(self.paths[p]) or self.node(p).entries}
        nodes = {p: self.node(p) for p, _ in pairs}
        others = (set(self.paths.values()) | self.held) - {self.paths[p] for p, _ in pairs if p not in stay}
        self.table.renumber([(nodes[p], ino) for p, ino in pairs])
        for path, ino in pairs:
            node = nodes[path]
            if path in stay or ino == ROOT_INO:
                assert node.ino == self.paths[path]
                continue
            if ino not in others:
                assert node.ino == ino or ino in [n.ino for n in nodes.values()]
            old = self.paths[path]
            self.dirs.discard(old) if node.is_dir else None
        for path in nodes:
            self.paths[path] = nodes[path].ino
        for node in nodes.values():
            self.nodes[node.ino] = node
            self.ever.add(node.ino)
            self.dirs.discard(node.ino)
            if node.is_dir:
                self.dirs.add(node.ino)

    @rule(index=INDEX)
    def look_up(self, index: int) -> None:
        node = self.node(self.pick(index))
        self.table.looked_up(node)
        if node.ino != ROOT_INO:
            self.lookups[node.ino] = self.lookups.get(node.ino, 0) + 1

    @rule(index=INDEX, count=st.integers(1, 4))
    def forget(self, index: int, count: int) -> None:
        """Also of numbers nobody knows, and of more references than there are."""
        numbers = [*sorted(self.ever), 10**6]
        ino = numbers[index % len(numbers)]
        self.table.forget(ino, count)
        self.lookups[ino] = max(0, self.lookups.get(ino, 0) - count)
        if not self.pinned(ino):
            self.held.discard(ino)

    @rule(index=INDEX)
    def open(self, index: int) -> None:
        node = self.node(self.pick(index))
        node.opens += 1
        self.opens[node.ino] = self.opens.get(node.ino, 0) + 1

    @rule(index=INDEX)
    @precondition(lambda self: any(self.opens.values()))
    def close(self, index: int) -> None:
        numbers = sorted(i for i, n in self.opens.items() if n)
        ino = numbers[index % len(numbers)]
        node = self.nodes[ino]
        node.opens -= 1
        self.opens[ino] -= 1
        self.table.released(node)
        if not self.pinned(ino):
            self.held.discard(ino)

    @rule(index=INDEX, carries_mode=st.booleans())
    def shed(self, index: int, carries_mode: bool) -> None:
        path = self.pick(index, directories=True)
        if not path:
            return
        directory = self.node(path)
        below = [p for p in self.paths if p[:-1] == path]
        if carries_mode and below:
            self.node(below[0]).local = LocalAttrs(mode=0o600)
        goes = [
            p
            for p in below
            if not self.pinned(self.paths[p])
            and not any(q[: len(p)] == p and q != p for q in self.paths)
            and self.node(p).local is NO_ATTRS
        ]
        assert self.table.shed(directory) == len(goes)
        for p in goes:
            del self.paths[p]

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def tree_is_as_the_model(self) -> None:
        for path, ino in self.paths.items():
            node = self.table.get(ino)
            assert node is self.nodes[ino] and not node.unlinked
            if path:
                assert node.name == path[-1] and node.parent is self.node(path[:-1])
                assert node.parent.entries[node.name] is node
                assert self.table.path(node) == b"/".join(path[1:])
            names = {p[-1] for p in self.paths if p and p[:-1] == path}
            assert set(node.entries) == names
            below = {self.paths[p] for p in self.paths if p[: len(path)] == path}
            assert {n.ino for n in self.table.subtree(node)} == below

    @invariant()
    def unlinked_nodes_stay_only_while_pinned(self) -> None:
        assert {n.ino for n in self.table} == set(self.paths.values()) | self.held
        for ino in self.held:
            node = self.table.get(ino)
            assert node.unlinked and node.parent is None and node.pinned

    @invariant()
    def whoever_is_gone_is_stale(self) -> None:
        for ino in self.ever - set(self.paths.values()) - self.held:
            try:
                self.table.get(ino)
            except Stale:
                continue
            raise AssertionError(f"{ino} is still known")


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
