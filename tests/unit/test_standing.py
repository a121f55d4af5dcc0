"""What `rm` and `mv` may do, given what stands there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.core.standing import (
    NOTHING,
    Place,
    Standing,
    batches,
    check_move,
    check_removable,
    goes_to,
    outermost,
)
from vfsmount.errors import (
    AlreadyExists,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotSupported,
    VfsError,
)
from vfsmount.values import Kind

FILE, DIRECTORY, LINK = Standing(Kind.FILE), Standing(Kind.DIRECTORY), Standing(Kind.SYMLINK)
UNLISTED = Standing(Kind.FILE, listed=False)
BELOW_LINK = Standing(Kind.FILE, through_link=True)


@pytest.mark.parametrize(
    ("at", "recursive", "error"),
    [
        (FILE, False, None),
        (DIRECTORY, True, None),
        (DIRECTORY, False, IsADirectory),
        (NOTHING, True, NotFound),
        (LINK, True, NotSupported),
        (UNLISTED, False, NotSupported),
        (BELOW_LINK, True, NotSupported),
    ],
)
def test_what_may_be_removed(at: Standing, recursive: bool, error: type[VfsError] | None) -> None:
    found = check_removable(at, recursive=recursive)
    assert type(found) is (error or type(None))


def test_what_is_unlisted_may_be_removed_on_demand_and_a_link_on_a_mount_only() -> None:
    assert check_removable(UNLISTED, recursive=False, unlisted=True) is None
    assert check_removable(LINK, recursive=False, unlisted=True) is not None
    assert check_removable(LINK, recursive=False, links=True) is None


@pytest.mark.parametrize(
    ("src", "dst", "several", "into", "to"),
    [
        (Place("a", FILE), Place("b", NOTHING), False, None, "b"),
        (Place("a", FILE), Place("b", FILE), False, None, "b"),
        (Place("x/a", FILE), Place("d", DIRECTORY), False, None, "d/a"),
        (Place("x/a", FILE), Place("", DIRECTORY), False, None, "a"),
        (Place("x/a", DIRECTORY), Place("d", DIRECTORY), True, None, "d/a"),
        (Place("a", FILE), Place("d", DIRECTORY), False, False, "d"),
        (Place("a", DIRECTORY), Place("b", NOTHING, slash=True), False, None, "b"),
        (Place("a", FILE), Place("b", NOTHING, slash=True), False, None, NotFound),
        (Place("a", FILE), Place("b", FILE, slash=True), False, None, NotADirectory),
        (Place("a", FILE), Place("b", FILE), True, None, NotADirectory),
        (Place("a", FILE), Place("b", NOTHING), False, True, NotFound),
        (Place("a", FILE), Place("b", LINK), False, None, NotSupported),
    ],
)
def test_where_a_move_goes(
    src: Place, dst: Place, several: bool, into: bool | None, to: str | type[VfsError]
) -> None:
    found = goes_to(src, dst, several=several, into=into)
    assert found == to if isinstance(to, str) else type(found) is to


@pytest.mark.parametrize(
    ("src", "final", "error"),
    [
        (Place("a", FILE), Place("b", NOTHING), None),
        (Place("a", FILE), Place("b", FILE), None),
        (Place("a", DIRECTORY), Place("b/a", NOTHING), None),
        (Place("a", FILE), Place("b", DIRECTORY), AlreadyExists),
        (Place("a", DIRECTORY), Place("b", DIRECTORY), AlreadyExists),
        (Place("a", DIRECTORY), Place("b", FILE), AlreadyExists),
        (Place("a", DIRECTORY), Place("a/b", NOTHING), InvalidRequest),
        (Place("a", DIRECTORY), Place("ab", NOTHING), None),
        (Place("a", FILE), Place("a", FILE), InvalidRequest),
        (Place("", DIRECTORY), Place("a", NOTHING), InvalidRequest),
        (Place("a", FILE), Place("", DIRECTORY), InvalidRequest),
        (Place("a", NOTHING), Place("b", NOTHING), NotFound),
        (Place("a", LINK), Place("b", NOTHING), NotSupported),
        (Place("a", UNLISTED), Place("b", NOTHING), NotSupported),
        (Place("a", FILE), Place("b", UNLISTED), NotSupported),
        (Place("a", FILE, slash=True), Place("b", NOTHING), NotADirectory),
    ],
)
def test_what_may_be_moved(src: Place, final: Place, error: type[VfsError] | None) -> None:
    found = check_move(src, final, replace=True, unlisted=False, links=False)
    assert type(found) is (error or type(None))


def test_no_clobber() -> None:
    options = {"unlisted": False, "links": False}
    assert check_move(Place("a", FILE), Place("b", NOTHING), replace=False, **options) is None
    found = check_move(Place("a", FILE), Place("b", FILE), replace=False, **options)
    assert isinstance(found, AlreadyExists)


names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=300
)


@given(st.lists(names, max_size=50), st.integers(1, 7), st.integers(1, 500))
def test_batches_hold_everything_in_order_and_keep_to_their_bounds(
    paths: list[str], most: int, size: int
) -> None:
    found = list(batches(paths, lambda p: len(json.dumps(p)), names=most, size=size))
    assert [p for batch in found for p in batch] == paths
    for batch in found:
        assert 0 < len(batch) <= most
        assert len(batch) == 1 or sum(len(json.dumps(p)) for p in batch) <= size


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a-b", "a0"]), min_size=1, max_size=4), max_size=12))
def test_outermost_leaves_out_what_lies_below_another(parts: list[list[str]]) -> None:
    paths = ["/".join(p) for p in parts]
    kept = outermost(paths)

    def is_below(path: str, other: str) -> bool:
        return path == other or path.startswith(f"{other}/")

    assert all(sum(is_below(path, top) for top in kept) == 1 for path in paths)
    assert set(kept) <= set(paths)
