"""Who walks, and what comes next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.walk import AHEAD, ENDS_AFTER_S, Walk
from vfsmount.values import Folder, Kind


def table_with(shape: dict[str, object]) -> tuple[InodeTable, Node]:
    """A folder with directories in it, as nested dicts; and a file in each."""
    inodes = InodeTable()
    top = inodes.add(
        inodes.root,
        b"folder",
        Kind.DIRECTORY,
        folder=Folder("0" * 32, "folder", "local:v", "ready", "rw", True),
        mode=0o755,
    )
    plant(inodes, top, shape)
    return inodes, top


def plant(inodes: InodeTable, node: Node, shape: dict[str, object]) -> None:
    inodes.add(node, b"a file", Kind.FILE, mode=0o644)
    for name, below in shape.items():
        child = inodes.add(node, name.encode(), Kind.DIRECTORY, mode=0o755)
        assert isinstance(below, dict)
        plant(inodes, child, below)


def depth_first(node: Node) -> list[Node]:
    found = [node]
    for child in node.entries.values():
        if child.is_dir:
            found += depth_first(child)
    return found


def anything(_: Node) -> bool:
    return True


def steps(
    walk: Walk, nodes: list[Node], now: float = 0.0, every_s: float = 0.1, *, waits: bool = True
) -> float:
    for node in nodes:
        walk.read(node, now, waits=waits)
        now += every_s
    return now


FLAT = {f"d{n}": {} for n in range(200)}


def test_one_look_here_and_there_is_no_walk() -> None:
    _, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:3])  # a directory, and two in it
    assert walk.next(now, anything) is None
    walk = Walk()
    now = steps(walk, [top, *order[50:54]], every_s=3.0)  # somebody who thinks in between
    assert walk.next(now, anything) is None


def test_siblings_that_follow_come_next_and_each_once() -> None:
    _, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:5])
    found = [walk.next(now, lambda n: n not in walk.ahead) for _ in range(10)]
    assert found == order[5:15]


def test_no_more_than_so_many_are_fetched_before_they_are_read() -> None:
    _, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:5])
    while walk.next(now, lambda n: n not in walk.ahead) is not None:
        pass
    assert walk.ahead == set(order[5 : 5 + AHEAD])
    walk.read(order[5], now, waits=False)
    assert walk.next(now, lambda n: n not in walk.ahead) is order[5 + AHEAD]


def test_walk_that_stops_costs_nothing_more() -> None:
    _, top = table_with(FLAT)
    walk = Walk()
    now = steps(walk, depth_first(top)[:5])
    assert walk.next(now, anything) is not None
    assert walk.next(now + ENDS_AFTER_S + 1, anything) is None
    assert not walk.ahead


def test_walk_through_what_is_known_looks_at_each_directory_once() -> None:
    _, top = table_with({f"d{n}": {} for n in range(1000)})
    looked = 0

    def known(_: Node) -> bool:
        nonlocal looked
        looked += 1
        return False

    walk = Walk()
    for number, node in enumerate(depth_first(top)):
        walk.read(node, number * 0.001, waits=False)
        assert walk.next(number * 0.001, known) is None
    assert looked == 997  # the first three are no walk yet


def test_what_was_known_when_it_was_passed_and_is_not_any_more_is_found_by_who_waits_for_it() -> None:
    _, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:5])
    assert walk.next(now, lambda n: False) is None
    now = steps(walk, order[5:7], now, waits=False)
    assert walk.next(now, anything) is None
    now = steps(walk, order[7:8], now, waits=True)
    assert walk.next(now, anything) is order[8]


def test_listing_with_directories_in_it_is_gone_into_before_what_follows_it() -> None:
    inodes, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:5])
    assert walk.next(now, anything) is order[5]
    assert walk.next(now, lambda n: n not in walk.ahead) is order[6]
    plant(inodes, inodes.add(order[5], b"below", Kind.DIRECTORY, mode=0o755), {})
    walk.arrived(order[5])
    assert walk.next(now, lambda n: n not in walk.ahead) is order[5].entries[b"below"]
    assert walk.next(now, lambda n: n not in walk.ahead) is order[7]


def test_reading_one_directory_again_and_again_is_no_walk() -> None:
    _, top = table_with(FLAT)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, [top, *[order[1]] * 20])
    assert walk.next(now, anything) is None


shapes = st.recursive(
    st.just({}), lambda below: st.dictionaries(st.sampled_from("abcdefgh"), below, max_size=4), max_leaves=30
)


@given(shape=shapes, at=st.integers(0, 40), waits=st.booleans())
def test_what_comes_next_is_what_a_walk_reads_next(shape: dict[str, object], at: int, waits: bool) -> None:
    _, top = table_with(shape)
    order = depth_first(top)
    at = min(at, len(order) - 1)
    walk = Walk()
    now = steps(walk, order[: at + 1], every_s=0.01, waits=waits)
    found = []
    while (node := walk.next(now, lambda n: n not in walk.ahead)) is not None:
        found.append(node)
    assert found == (order[at + 1 :] if at >= 3 else [])


def test_search_goes_on_where_it_was_after_its_beginning_is_gone() -> None:
    inodes, top = table_with({"a": {"b": {}, "c": {}}, "d": {}, "e": {}})
    _, a, b, _, d, e = depth_first(top)
    walk = Walk()
    now = steps(walk, [top, a, b, d][:3])
    now = steps(walk, [d], now)
    assert walk.next(now, lambda n: n not in walk.ahead) is e
    walk.arrived(top)
    walk.ahead.clear()
    assert walk.next(now, lambda n: n not in walk.ahead) is e
    inodes.unlink(d)
    assert walk.next(now, lambda n: n not in walk.ahead) is None


@given(shape=shapes, changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_tree_may_change_during_a_search(shape: dict[str, object], changes: list[tuple[int, int]]) -> None:
    """Directories are removed and moved between one answer and the next; also those it is among."""
    inodes, top = table_with(shape)
    order = depth_first(top)
    walk = Walk()
    now = steps(walk, order[:4], every_s=0.01)
    for number, (which, to) in enumerate(changes):
        walk.next(now, lambda n: n not in walk.ahead and not n.unlinked)
        left = [n for n in order if not n.unlinked and n is not top]
        if not left:
            return
        node, goal = left[which % len(left)], order[to % len(order)]
        inodes.looked_up(node)  # the kernel knows it, so it stays as a node without a name
        if to % 2 or goal.unlinked or goal is node or inodes.is_below(goal, node):
            inodes.unlink(node)
        else:
            inodes.rename(node, goal, b"moved %d" % number)
