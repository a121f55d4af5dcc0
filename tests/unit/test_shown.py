"""`Shown` against the content it is of: what it remembers is always what stands there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.shown import HEAD, TAIL, Shown

PLACES = st.sampled_from([0, 1, 5, HEAD - 1, HEAD, HEAD + 1, TAIL - 1, TAIL, TAIL + 7, 9000])
STEPS = st.lists(st.tuples(st.booleans(), PLACES, PLACES), max_size=12)


def agrees(shown: Shown, content: bytes) -> None:
    offset, tail = shown.tail
    assert content[offset : offset + len(tail)] == tail
    assert content.startswith(shown.head)
    assert offset + len(tail) == shown.end or shown.lost


@given(STEPS)
def test_both_ends_are_what_was_shown_or_written_last(steps: list[tuple[bool, int, int]]) -> None:
    content = bytearray(i * 31 % 251 for i in range(20_000))
    shown = Shown()
    for n, (writes, offset, length) in enumerate(steps):
        data = bytes([n]) * length
        if writes and not shown.lost:
            content[offset : offset + length] = data
            shown.written(offset, data)
        else:
            shown.read(offset, bytes(content[offset : offset + length]))
        agrees(shown, bytes(content))
        assert len(shown.head) <= HEAD and len(shown.tail[1]) <= TAIL


def test_pieces_that_follow_one_another_make_one_tail() -> None:
    shown = Shown()
    for n in range(100):
        shown.read(n * 100, b"%03d" % n + b"x" * 97)
    offset, tail = shown.tail
    assert (offset + len(tail), len(tail)) == (10_000, TAIL)
    assert tail.endswith(b"099" + b"x" * 97) and shown.head.startswith(b"000x")


def test_nothing_is_known_of_what_was_written_over_a_gap() -> None:
    shown = Shown()
    shown.read(0, b"begin")
    shown.written(100, b"far")
    assert shown.lost
    shown.read(3, b"anew")
    assert not shown.lost and shown.tail == (3, b"anew") and shown.head == b""
