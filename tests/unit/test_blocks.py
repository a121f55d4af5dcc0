"""Which blocks are kept, and how many are fetched at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.blockindex import BLOCK_SIZE, BlockIndex, BlockKey
from vfsmount.core.readahead import MAX_WINDOW, Readahead


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
    index = BlockIndex(3 * 300)
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


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 8 << 20)), max_size=40))
def test_window_covers_the_read_and_stays_bounded(reads: list[tuple[int, int]]) -> None:
    ahead = Readahead()
    for offset, length in reads:
        blocks = ahead.on_read(offset, length)
        touched = (offset + length - 1) // BLOCK_SIZE - offset // BLOCK_SIZE + 1
        assert touched <= blocks <= max(touched, MAX_WINDOW)
        assert 1 <= ahead.window <= MAX_WINDOW


def test_sequential_reader_gets_a_growing_window() -> None:
    ahead, piece = Readahead(), 128 << 10
    windows = [ahead.on_read(at, piece) for at in range(0, 8 * BLOCK_SIZE, piece)]
    assert windows == sorted(windows) and windows[0] == 1 and windows[-1] == MAX_WINDOW


def test_random_reader_pays_for_what_it_touches() -> None:
    ahead = Readahead()
    assert [ahead.on_read(no * 50 * BLOCK_SIZE, 4096) for no in (3, 1, 4, 1, 5, 9)] == [1] * 6


def test_jump_ends_a_window() -> None:
    ahead = Readahead()
    for at in range(0, 4 * BLOCK_SIZE, BLOCK_SIZE):
        ahead.on_read(at, BLOCK_SIZE)
    assert ahead.window > 1
    assert ahead.on_read(100 * BLOCK_SIZE, 4096) == 1
