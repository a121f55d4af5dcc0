"""The manager's rolling window."""

from __future__ import annotations

from vfsmount.server.ratelimit import WINDOW_S, Fullest, RateLimiter


def test_calls_within_the_window_use_the_budget_up() -> None:
    limiter = RateLimiter()
    left = [limiter.count("key", 2, now).remaining for now in (0.0, 1.0, 2.0)]
    assert left == [1, 0, -1]
    assert not limiter.count("other", 2, 2.0).exceeded


def test_refused_calls_count_as_well() -> None:
    limiter = RateLimiter()
    for now in (0.0, 500.0):
        limiter.count("key", 1, now)
    # The first call has left the window, the refused one has not.
    assert limiter.count("key", 1, WINDOW_S + 1.0).exceeded
    assert not limiter.count("key", 1, 3 * WINDOW_S).exceeded


def test_fullest_window_is_remembered() -> None:
    limiter = RateLimiter()
    for now, own in ((0.0, True), (1.0, False), (2.0, True), (12.0, False)):
        limiter.count("key", 10, now, window_s=10, own=own)
    assert limiter.fullest("key") == Fullest(limit=10, calls=3, own_limit=10, own=2)
    limiter.count("key", 4, 13.0, window_s=10, own=True)  # two in four are more than three in ten
    assert limiter.fullest("key") == Fullest(limit=4, calls=2, own_limit=4, own=1)
    assert limiter.fullest("nobody").calls == 0


def test_window_can_be_another() -> None:
    limiter = RateLimiter()
    assert limiter.count("key", 1, 0.0, window_s=10).headers(with_reset=True) == {
        "X-RateLimit-Limit": "1",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Window": "10",
        "X-RateLimit-Reset": "10",
    }
    assert not limiter.count("key", 1, 10.0, window_s=10).exceeded


def test_only_26_tells_when_the_window_ends() -> None:
    budget = RateLimiter().count("key", 10, 0.0)
    assert budget.headers(with_reset=False) == {
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "9",
        "X-RateLimit-Window": "900",
    }
    assert budget.headers(with_reset=True)["X-RateLimit-Reset"] == "900"
