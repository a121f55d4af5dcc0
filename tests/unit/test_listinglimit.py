"""When a listing may be cut, and what a storage-proxy shows of its limit."""

from __future__ import annotations

import pytest

from vfsmount.core.listinglimit import ListingLimit


@pytest.mark.parametrize(
    ("count", "cut", "likely"),
    [
        (0, False, False),
        (9, False, False),
        (10, True, False),
        (50, True, False),
        (99, False, False),
        (100, True, True),
        (101, False, False),
        (500, True, True),
        (999, False, False),
        (1000, True, True),
        (1001, True, True),
    ],
)
def test_round_numbers_and_long_listings_are_suspect(count: int, cut: bool, likely: bool) -> None:
    limit = ListingLimit()
    limit.saw(count, 0.0)
    assert (limit.may_be_cut(count), limit.is_likely(count)) == (cut, likely)


def test_longer_listing_ends_suspicion_of_shorter_ones() -> None:
    limit = ListingLimit()
    limit.saw(1000, 0.0)
    limit.saw(1200, 1.0)
    assert not limit.may_be_cut(1000) and not limit.may_be_cut(10)
    assert limit.may_be_cut(1200)  # this may be where it ends
    limit.saw(10, 2.0)
    assert not limit.may_be_cut(10)


def test_listing_is_whole_where_longer_ones_come() -> None:
    limit = ListingLimit()
    limit.saw(7, 0.0)
    assert limit.is_surely_whole(6) and not limit.is_surely_whole(7) and not limit.is_surely_whole(8)
    limit.missed(7)
    limit.saw(3, 601.0)
    assert limit.is_surely_whole(6) and not limit.is_surely_whole(7)


def test_what_was_seen_long_ago_proves_nothing() -> None:
    limit = ListingLimit()
    limit.saw(5000, 0.0)
    limit.saw(1000, 599.0)
    assert not limit.may_be_cut(1000)
    limit.saw(1000, 601.0)
    assert limit.may_be_cut(1000)


def test_name_that_a_listing_did_not_show_proves_the_limit() -> None:
    limit = ListingLimit()
    limit.saw(7, 0.0)
    assert not limit.may_be_cut(7)
    limit.missed(7)
    assert limit.proved == 7 and limit.may_be_cut(7) and limit.is_likely(7)
    assert not limit.may_be_cut(6)


def test_longer_listing_disproves_it() -> None:
    """Somebody had made the name after the listing, or the limit was raised."""
    limit = ListingLimit()
    limit.saw(10, 0.0)
    limit.missed(10)
    limit.saw(11, 1.0)
    assert limit.proved is None and not limit.may_be_cut(10)
    limit.missed(10)  # longer ones have been seen: it was made since
    assert limit.proved is None


def test_empty_directory_is_never_cut() -> None:
    limit = ListingLimit()
    limit.saw(0, 0.0)
    limit.missed(0)
    assert limit.proved is None and not limit.may_be_cut(0)
