"""Which directories may go with all that is in them, and in which order the others have to wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.inodes import InodeTable
from vfsmount.store.staged import Removal
from vfsmount.values import Folder, Kind
from vfsmount.vfs.pending import LATE_S, Pending, inner_first, ready, whole_trees

NOW = 1000.0
FRESH, OLD = NOW - LATE_S / 2, NOW - LATE_S
FOLDER = Folder("0" * 32, "folder", "local:v", "ready", "rw", True)


class Tree:
    """Names on their way out of one folder, by path."""

    def __init__(self) -> None:
        inodes = InodeTable()
        self.top = inodes.add(inodes.root, b"folder", Kind.DIRECTORY, folder=FOLDER, mode=0o755)
        self.at: dict[str, Pending] = {}

    def remove(
        self, path: str, *, seen_at: float | None = None, look_first: bool = False, failures: int = 0
    ) -> Pending:
        """`seen_at` of a directory; it is removed before what is in it, which changes nothing."""
        parent, _, name = path.rpartition("/")
        removal = Removal(FOLDER.id, parent.encode(), name.encode(), None, directory=seen_at is not None)
        p = Pending(self.top, removal, added_at=NOW, look_first=look_first, failures=failures)
        p.seen_at = seen_at if seen_at is not None else -math.inf
        p.within = self.at.get(parent)
        self.at[path] = p
        return p

    def whole(self) -> tuple[set[str], set[str]]:
        """Paths of (tops, everything)."""
        trees = whole_trees(self.at.values(), NOW)
        assert len(set(trees.all)) == len(trees.all)
        tops, everything = set(trees.tops), set(trees.all)
        return {k for k, p in self.at.items() if p in tops}, {
            k for k, p in self.at.items() if p in everything
        }


def test_tree_of_which_all_was_just_seen_goes_as_its_top() -> None:
    tree = Tree()
    tree.remove("a", seen_at=FRESH)
    tree.remove("a/b", seen_at=FRESH + 0.1)
    for name in ("a/x", "a/b/y", "beside", "other/z"):
        tree.remove(name)
    assert tree.whole() == ({"a"}, {"a", "a/b", "a/x", "a/b/y"})
    assert whole_trees(tree.at.values(), NOW).not_after == FRESH + LATE_S


@pytest.mark.parametrize("why", ["old", "look_first", "failed"])
def test_what_is_in_doubt_keeps_what_it_lies_in(why: str) -> None:
    tree = Tree()
    tree.remove("a", seen_at=FRESH)
    tree.remove("a/b", seen_at=OLD if why == "old" else FRESH)
    tree.remove("a/b/y", look_first=why == "look_first", failures=int(why == "failed"))
    tree.remove("a/c", seen_at=FRESH)
    tree.remove("a/c/x")
    assert tree.whole() == ({"a/c"}, {"a/c", "a/c/x"})


def test_what_stays_has_what_it_lies_in_looked_at_again() -> None:
    tree = Tree()
    tree.remove("a", seen_at=FRESH)
    tree.remove("a/b", seen_at=FRESH)
    file = tree.remove("a/b/y")
    file.in_doubt()
    assert tree.at["a/b"].seen_at == -math.inf
    assert tree.whole() == (set(), set())


def test_directory_waits_for_what_is_in_it() -> None:
    tree = Tree()
    for path in ("a", "a/b", "a/b/c", "d"):
        tree.remove(path, seen_at=OLD)
    file = tree.remove("d/x")
    assert [p.path for p in ready(tree.at.values())] == ["a/b/c"]
    del tree.at["d/x"]
    assert [p.path for p in ready(tree.at.values())] == ["a/b/c", "d"]
    assert file.top.path == "d"


def test_paths_follow_what_is_moved() -> None:
    inodes = InodeTable()
    top = inodes.add(inodes.root, b"folder", Kind.DIRECTORY, folder=FOLDER, mode=0o755)
    kept = inodes.add(top, b"kept", Kind.DIRECTORY, mode=0o755)
    outer = Pending(kept, Removal(FOLDER.id, b"kept", b"a", None, directory=True), added_at=NOW)
    inner = Pending(kept, Removal(FOLDER.id, b"kept/a", b"x", None), added_at=NOW, within=outer)
    inodes.rename(kept, top, b"moved")
    assert (outer.path, inner.path) == ("moved/a", "moved/a/x")


def test_inner_ones_are_taken_up_first() -> None:
    paths = [b"a", b"a/b", b"z", b"a/b/c", b"z/y"]
    removals = [Removal(FOLDER.id, p.rpartition(b"/")[0], p.rpartition(b"/")[2], None) for p in paths]
    order = [r.path for r in inner_first(removals)]
    assert sorted(order) == sorted(paths)
    for path in paths:
        assert all(order.index(path) < order.index(other) for other in paths if path.startswith(other + b"/"))


Paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(Paths, st.sampled_from(["fresh", "old", "file", "doubt"]), max_size=20))
def test_only_what_is_wholly_known_goes_as_a_whole(names: dict[str, str]) -> None:
    tree = Tree()
    for path in sorted(names):
        parent = path.rpartition("/")[0]
        if names.get(parent) in ("file", "doubt"):
            names[path] = "skip"  # a file holds nothing
        elif names[path] in ("fresh", "old"):
            tree.remove(path, seen_at=FRESH if names[path] == "fresh" else OLD)
        elif names[path] != "skip":
            tree.remove(path, look_first=names[path] == "doubt")

    def sound(path: str) -> bool:
        inside = [p for p in tree.at if p.rpartition("/")[0] == path]
        return names[path] == "file" or (names[path] == "fresh" and all(map(sound, inside)))

    whole = {p for p in tree.at if names[p] == "fresh" and sound(p)}
    tops, everything = tree.whole()
    assert tops == {p for p in whole if p.rpartition("/")[0] not in whole}
    assert everything == whole | {p for p in tree.at if p.rpartition("/")[0] in whole}
