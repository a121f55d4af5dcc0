"""Sums of a tree that is walked in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.sums import Sum, Sums

Tree = dict[str, "Tree"]

trees = st.recursive(
    st.just({}), lambda below: st.dictionaries(st.sampled_from(["a", "a-b", "b", "c0"]), below, max_size=3)
)


def test_directory_comes_after_those_in_it() -> None:
    sums = Sums()
    assert sums.enter("", 1, 1) == []
    assert sums.enter("a", 10, 2, partial=True) == []
    assert sums.enter("a/b", 100, 0) == []
    assert sums.enter("a-b", 1000, 1) == [Sum("a/b", 2, 100, 0), Sum("a", 1, 110, 2, True)]
    assert sums.end() == [Sum("a-b", 1, 1000, 1), Sum("", 0, 1111, 4, True)]


@given(trees)
def test_every_sum_is_that_of_the_directory_and_all_below_it(tree: Tree) -> None:
    own: dict[str, int] = {}

    def number(path: str, below: Tree) -> None:
        own[path] = 3 ** len(own)
        for name in sorted(below):
            number(f"{path}/{name}" if path else name, below[name])

    number("", tree)
    sums = Sums()
    found = [done for path, size in own.items() for done in sums.enter(path, size, 1)] + sums.end()
    assert sorted(s.path for s in found) == sorted(own)
    for s in found:
        below = [
            size
            for path, size in own.items()
            if not s.path or path == s.path or path.startswith(f"{s.path}/")
        ]
        assert (s.size, s.files) == (sum(below), len(below))
