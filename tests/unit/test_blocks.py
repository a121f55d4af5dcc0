"""Which blocks are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.blockindex import BlockIndex, BlockKey


def key(no: int, version: int = 0) -> BlockKey:
    return BlockKey(7, version, no)


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 3000))
def test_index_never_exceeds_its_bytes_and_never_lies(puts: list[int], limit: int) -> None:
    index = BlockIndex(limit)
    for no in puts:
        index.put(key(no), bytes([no]) * (no * 19))
        assert index.size <= limit
    for no in puts:
        assert index.get(key(no)) in (None, bytes([no]) * (no * 19))


def test_least_recently_used_goes_first() -> None:
    index = BlockIndex(3 * 400)
    for no in range(3):
        index.put(key(no), b"x" * 100)
    assert index.get(key(0)) is not None
    index.put(key(3), b"x" * 100)
    assert [index.get(key(no)) is not None for no in range(4)] == [True, False, True, True]


def test_versions_do_not_meet() -> None:
    index = BlockIndex(10_000)
    index.put(key(0, version=1), b"old")
    assert index.get(key(0, version=2)) is None


def test_cache_too_small_for_one_block_keeps_none() -> None:
    index = BlockIndex(100)
    index.put(key(0), b"x" * 101)
    assert index.get(key(0)) is None and index.size == 0
