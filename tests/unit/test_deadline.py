"""A request's time: ends when nothing moves, moves on while something does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from vfsmount.errors import DeadlineExceeded
from vfsmount.vfs.deadline import Pulse, progress, wait_behind, within

Clock = trio.testing.MockClock


async def test_silence_ends_in_time(autojump_clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded), within(30):
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(30)


async def test_progress_starts_the_time_anew(autojump_clock: Clock) -> None:
    with within(30):
        for _ in range(10):
            await trio.sleep(20)
            progress()
    assert trio.current_time() == pytest.approx(200)


async def test_progress_that_stops_is_silence(autojump_clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded), within(30):
        await trio.sleep(20)
        progress()
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(50)


async def test_progress_outside_a_request_is_nothing(autojump_clock: Clock) -> None:
    progress()
    progress(1000)


async def test_inner_deadline_ends_the_inner_only(autojump_clock: Clock) -> None:
    with within(100):
        with pytest.raises(DeadlineExceeded), within(10):
            await trio.sleep_forever()
        progress()
        await trio.sleep(99)
    assert trio.current_time() == pytest.approx(109)


async def test_cancellation_from_outside_is_no_deadline(autojump_clock: Clock) -> None:
    with trio.move_on_after(5) as scope, within(30):
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_waiting_behind_what_moves_may_take_longer(autojump_clock: Clock) -> None:
    pulse, done = Pulse(), trio.Event()

    async def work() -> None:
        for _ in range(20):
            await trio.sleep(9)
            pulse.beat()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with within(10):
            await wait_behind(pulse, done.wait)
    assert trio.current_time() == pytest.approx(180)


async def test_waiting_behind_what_stands_still_ends(autojump_clock: Clock) -> None:
    pulse = Pulse()
    with pytest.raises(DeadlineExceeded), within(10):
        await wait_behind(pulse, trio.Event().wait)
    assert trio.current_time() == pytest.approx(10)


async def test_lock_acquired_behind_somebody_is_held_once(autojump_clock: Clock) -> None:
    pulse, lock = Pulse(), trio.Lock()

    async def hold() -> None:
        async with lock:
            await trio.sleep(3.3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        await wait_behind(pulse, lock.acquire)
        assert lock.statistics().owner is trio.lowlevel.current_task()
        lock.release()
    assert not lock.locked()


@pytest.mark.parametrize("seconds", [1.0, 2.0])
async def test_shortest_deadline_there_is_sees_progress(seconds: float, autojump_clock: Clock) -> None:
    pulse, done = Pulse(), trio.Event()

    async def work() -> None:
        for _ in range(20):
            await trio.sleep(seconds * 0.6)
            pulse.beat()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with within(seconds):
            await wait_behind(pulse, done.wait)


async def test_many_short_waits_in_a_row_see_progress(autojump_clock: Clock) -> None:
    pulse, steps = Pulse(), [trio.Event() for _ in range(100)]

    async def work() -> None:
        for step in steps:
            await trio.sleep(0.1)
            pulse.beat()
            step.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with within(2):
            for step in steps:
                await wait_behind(pulse, step.wait)
    assert trio.current_time() == pytest.approx(10)
