"""The manager's rolling window."""

from __future__ import annotations

from vfsmount.server.ratelimit import WINDOW_S, RateLimiter


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


def test_only_26_tells_when_the_window_ends() -> None:
    budget = RateLimiter().count("key", 10, 0.0)
    assert budget.headers(with_reset=False) == {
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "9",
        "X-RateLimit-Window": "900",
    }
    assert budget.headers(with_reset=True)["X-RateLimit-Reset"] == "900"
