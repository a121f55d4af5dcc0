"""When a file is sent: at once, later where it keeps changing or fails, and fairly."""

from __future__ import annotations

import pytest

from vfsmount.core.writeback import (
    BUSY_WITHIN_S,
    FIRST_INTERVAL_S,
    MAX_INTERVAL_S,
    MAX_RETRY_S,
    REFUSED_RETRY_S,
    REST_SHARE,
    Schedule,
    urgency,
)


def test_first_content_is_sent_at_once() -> None:
    assert Schedule().recorded(5.0) == 5.0


def test_file_that_keeps_changing_is_sent_at_growing_intervals() -> None:
    schedule, now, waits = Schedule(), 0.0, []
    for _ in range(10):
        due = schedule.recorded(now)
        waits.append(due - now)
        schedule.sent(due, due)
        now = due
    assert waits[:4] == [0.0, FIRST_INTERVAL_S, 2 * FIRST_INTERVAL_S, 4 * FIRST_INTERVAL_S]
    assert waits == sorted(waits) and waits[-1] == MAX_INTERVAL_S


def test_file_that_was_left_alone_is_sent_at_once_again() -> None:
    schedule = Schedule()
    for now in (0.0, 1.0, 3.0):
        schedule.sent(now, now)
    later = 3.0 + BUSY_WITHIN_S
    assert schedule.recorded(later) == later


def test_what_takes_long_to_send_rests_longer() -> None:
    schedule = Schedule()
    schedule.sent(0.0, 100.0)
    assert schedule.recorded(101.0) == 100.0 + REST_SHARE * 100.0


def test_retries_come_ever_later_and_begin_anew_after_a_success() -> None:
    schedule, now, waits = Schedule(), 0.0, []
    for _ in range(10):
        waits.append(schedule.failed(now, retryable=True, first_s=0.5) - now)
        now += waits[-1]
        assert schedule.recorded(now - 0.1) == now
    assert waits[:3] == [0.5, 1.0, 2.0] and waits[-1] == MAX_RETRY_S
    schedule.sent(now, now)
    assert schedule.failed(now, retryable=True, first_s=0.5) == now + 0.5


def test_refused_file_is_tried_rarely_but_soon_when_it_changes() -> None:
    schedule = Schedule()
    assert schedule.failed(0.0, retryable=False) == REFUSED_RETRY_S
    schedule.changed()
    assert schedule.recorded(0.5) == 1.0  # not at once: a log in a full folder changes all the time
    schedule.failed(1.0, retryable=False)
    schedule.changed()
    assert schedule.recorded(1.5) == 3.0


def test_change_does_not_hasten_a_retry_that_waits_for_the_network() -> None:
    schedule = Schedule()
    for _ in range(10):
        retry_at = schedule.failed(0.0, retryable=True)
    schedule.changed()
    assert schedule.recorded(0.0) == retry_at


@pytest.mark.parametrize("retryable", [True, False])
def test_whoever_waits_does_not_wait_for_an_appointment(retryable: bool) -> None:
    schedule = Schedule()
    schedule.sent(0.0, 0.0)
    schedule.failed(0.5, retryable=retryable)
    schedule.hurry()
    assert schedule.recorded(0.6) == 0.6


def test_oldest_first_and_small_ones_among_equals() -> None:
    old_big, new_small, new_big = urgency(1.2, 10**9), urgency(9.1, 5), urgency(9.7, 6)
    assert sorted([new_big, new_small, old_big]) == [old_big, new_small, new_big]
