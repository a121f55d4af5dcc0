"""`Extents` against a plain set of positions."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.extents import Extents

_AT = st.integers(0, 40)


@given(st.lists(st.tuples(st.sampled_from(["add", "cut", "remove"]), _AT, _AT), max_size=30), _AT, _AT)
def test_extents_are_a_set_of_positions(steps: list[tuple[str, int, int]], start: int, stop: int) -> None:
    real, model = Extents(), set[int]()
    for what, a, b in steps:
        before = len(model)
        if what == "add":
            model |= set(range(a, b))
            assert real.add(a, b) == len(model) - before
        elif what == "remove":
            model -= set(range(a, b))
            assert real.remove(a, b) == before - len(model)
        else:
            model = {x for x in model if x < a}
            assert real.cut(a) == before - len(model)
        runs = list(real)
        assert {x for s, e in runs for x in range(s, e)} == model
        assert real.total == len(model)
        assert all(s < e for s, e in runs)
        assert all(e < s for (_, e), (s, _) in itertools.pairwise(runs))
        assert list(Extents(reversed(runs))) == runs
    gaps = real.missing(start, stop)
    assert {x for s, e in gaps for x in range(s, e)} == set(range(start, stop)) - model
    assert all(s < e for s, e in gaps)
