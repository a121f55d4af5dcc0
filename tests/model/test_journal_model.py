"""The journal against what it obviously means: the last record of each number, of frames that are whole."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core import journal
from vfsmount.core.journal import (
    DirectoryRecord,
    HandleRecord,
    Heard,
    Meta,
    NodeRecord,
    Notice,
    OperationRecord,
    StagedRecord,
    Tag,
)
from vfsmount.values import Folder, Kind, LocalAttrs, Validator

NUMBERS = st.integers(1, 4)
NAMES = st.binary(min_size=1, max_size=8).filter(lambda n: b"\0" not in n)
SIZES = st.integers(0, 1 << 40)
RUNS = st.tuples(SIZES, SIZES)
VERSIONS = st.none() | st.builds(Validator, SIZES, SIZES)
VALUES: dict[Tag, st.SearchStrategy[Any]] = {
    Tag.META: st.builds(Meta, st.text(max_size=5), SIZES, SIZES, SIZES),
    Tag.NODE: st.builds(
        NodeRecord, SIZES, SIZES, NAMES, st.sampled_from(Kind), st.integers(0, 0o7777), SIZES, SIZES, SIZES,
        st.none() | RUNS, st.booleans(), st.booleans(), st.booleans(),
        st.none() | st.builds(LocalAttrs, xattrs=st.just(((b"user.a", b"\xff"),)), target=NAMES),
        st.none() | st.tuples(SIZES, NAMES),
        st.none() | st.just(Folder("0" * 32, "f", "h", "ready", "rw", True)),
    ),
    Tag.STAGED: st.builds(
        StagedRecord, st.text(max_size=5), SIZES, SIZES, st.lists(RUNS, max_size=2).map(tuple), VERSIONS,
        st.booleans(), SIZES, st.integers(-1, 9), st.integers(-1, 9), SIZES,
    ),
    Tag.HANDLE: st.builds(
        HandleRecord, SIZES, SIZES, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(Heard)
    ),
    Tag.DIRECTORY: st.builds(DirectoryRecord, SIZES),
    Tag.OPERATION: st.builds(
        OperationRecord, st.tuples(st.just("rename"), SIZES, NAMES, SIZES, NAMES), SIZES, SIZES, VERSIONS,
        SIZES, st.booleans(),
    ),
    Tag.NOTICE: st.builds(Notice, st.floats(0, 1e9), SIZES, NAMES),
}  # fmt: skip
TYPES = {
    Tag.META: Meta,
    Tag.NODE: NodeRecord,
    Tag.STAGED: StagedRecord,
    Tag.HANDLE: HandleRecord,
    Tag.DIRECTORY: DirectoryRecord,
    Tag.OPERATION: OperationRecord,
    Tag.NOTICE: Notice,
}


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Tag, int, Any]:
    """One record: what it does, to what."""
    tag, number = draw(st.sampled_from(sorted(VALUES))), draw(NUMBERS)
    what = draw(st.sampled_from(["set", "set", "gone", "run", "names"]))
    if what == "run":
        return what, Tag.RUN, number, draw(RUNS)
    if what == "names":
        return what, Tag.NAMES, number, draw(st.lists(NAMES, min_size=1, max_size=4))
    return what, tag, number, draw(VALUES[tag]) if what == "set" else None


FRAMES = st.lists(st.lists(steps(), min_size=1, max_size=3), max_size=12)


def written(step: tuple[str, Tag, int, Any]) -> bytes:
    what, tag, number, value = step
    if what == "set":
        return journal.record(tag, number, value)
    if what == "run":
        return journal.run_record(number, *value)
    if what == "names":
        return journal.names_record(number, value)
    return journal.gone(tag, number)


def state(frames: list[list[tuple[str, Tag, int, Any]]]) -> dict[str, Any]:
    """What the frames say, read the simple way."""
    known: dict[tuple[Tag, int], Any] = {}
    runs: dict[int, list[tuple[int, int]]] = {}
    for frame in frames:
        for key in [k for k, v in known.items() if k[0] is Tag.OPERATION and v.done]:
            del known[key]  # something was written after it, so it is answered
        for what, tag, number, value in frame:
            if tag is Tag.RUN:
                runs.setdefault(number, []).append(value)
                continue
            if tag is Tag.STAGED:
                runs.pop(number, None)
            if what == "gone":
                known.pop((tag, number), None)
                if tag is Tag.DIRECTORY:
                    known.pop((Tag.NAMES, number), None)
            else:
                known[tag, number] = value
    return {"known": known, "runs": runs}


def read(folded: journal.Folded) -> dict[str, Any]:
    known: dict[tuple[Tag, int], Any] = {}
    for tag, kind in TYPES.items():
        known |= {(tag, n): v for n, v in folded.decoded(tag, kind).items()}
    for number in folded.values[Tag.NAMES]:
        known[Tag.NAMES, number] = folded.names(number)
    return {"known": known, "runs": {n: folded.written(n) for n in folded.runs}}


def joined(frames: list[list[tuple[str, Tag, int, Any]]]) -> list[bytes]:
    return [journal.frame(b"".join(map(written, steps))) for steps in frames]


@given(FRAMES, st.data())
def test_torn_frame_is_as_if_it_had_never_begun(
    frames: list[list[tuple[str, Tag, int, Any]]], data: st.DataObject
) -> None:
    raw = joined(frames)
    whole = b"".join(raw)
    cut = data.draw(st.integers(0, len(whole)))
    left, at = 0, 0
    while left < len(raw) and at + len(raw[left]) <= cut:
        at += len(raw[left])
        left += 1
    folded = journal.fold(memoryview(bytearray(whole[:cut])))
    assert folded.size == at
    assert read(folded) == state(frames[:left])
    # Memory that was set aside and not written reads as zeroes, and a page may have come without the next.
    torn = bytearray(whole[:cut]) + bytearray(len(whole) - cut)
    if cut == at:
        assert read(journal.fold(memoryview(torn))) == state(frames[:left])


@given(FRAMES)
def test_compacted_journal_says_the_same(frames: list[list[tuple[str, Tag, int, Any]]]) -> None:
    folded = journal.fold(memoryview(bytearray(b"".join(joined(frames)))))
    expected = state([*frames, [("gone", Tag.META, 99, None)]])
    short = folded.records()
    again = (journal.frame(short) if short else b"") + journal.frame(journal.nothing())
    after = journal.fold(memoryview(bytearray(again)))
    assert read(after) == expected
    assert not after.last


@given(FRAMES)
def test_handles_of_the_last_frame_are_told_apart(frames: list[list[tuple[str, Tag, int, Any]]]) -> None:
    folded = journal.fold(memoryview(bytearray(b"".join(joined(frames)))))
    last = frames[-1] if frames else []
    assert folded.last == {
        (t, n) for what, t, n, _ in last if what == "set" and t in (Tag.HANDLE, Tag.DIRECTORY)
    }


def test_handle_is_unheard_where_nothing_was_written_after_it() -> None:
    told = journal.frame(
        journal.record(Tag.HANDLE, 7, HandleRecord(1, 0, False, False, True, Heard.UNLESS_LAST))
    )
    last = journal.fold(memoryview(bytearray(told)))
    assert last.unheard(Tag.HANDLE, 7, Heard.UNLESS_LAST)
    assert not last.unheard(Tag.HANDLE, 7, Heard.YES)
    later = journal.fold(memoryview(bytearray(told + journal.frame(journal.nothing()))))
    assert not later.unheard(Tag.HANDLE, 7, Heard.UNLESS_LAST)
    assert later.unheard(Tag.HANDLE, 7, Heard.MAYBE_NOT)


@given(st.integers(64, 1 << 60))
def test_header_tells_where_frames_begin(start: int) -> None:
    head = journal.header(start)
    assert journal.start_of(head) == start
    assert journal.start_of(head[:-50]) is None
    assert journal.start_of(bytes(64)) is None
    damaged = bytes([head[0], head[1], *head[2:9], head[9] ^ 1, *head[10:]])
    assert journal.start_of(damaged) is None


def test_records_of_a_newer_version_are_skipped() -> None:
    unknown = journal.raw_record(Tag.META, 5, b"\x01").replace(bytes([Tag.META]), bytes([99]), 1)
    kept = journal.record(Tag.META, 0, Meta("a", 1))
    folded = journal.fold(memoryview(bytearray(journal.frame(unknown + kept))))
    assert folded.decoded(Tag.META, Meta) == {0: Meta("a", 1)}
    assert msgspec.msgpack.decode(folded.values[Tag.META][0]) == ["a", 1, 0, 0]
