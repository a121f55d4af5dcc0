"""Who may call the manager, and when."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from vfsmount.api.governor import ASKED_FOR, Governor, background
from vfsmount.core.governor import FEWEST, MAX_BACKOFF_S, MOST, Budget, Class, Concurrency
from vfsmount.errors import RateLimited

FOREGROUND, BACKGROUND = Class.FOREGROUND, Class.BACKGROUND


def test_nothing_known_nothing_held_back() -> None:
    assert Budget().wait_s(BACKGROUND, 0.0) == 0


def test_what_may_go_at_once_leaves_the_rest_of_eighty_percent_to_the_trickle() -> None:
    budget = Budget()
    budget.on_reply(1000, 1000, 900.0, 0.0)
    gone = 0
    while budget.wait_s(FOREGROUND, 0.0) == 0:
        budget.take(0.0)
        gone += 1
    assert gone == 760


def test_background_leaves_a_quarter_to_the_foreground() -> None:
    budget = Budget()
    budget.on_reply(1000, 1000, 900.0, 0.0)
    gone = 0
    while budget.wait_s(BACKGROUND, 0.0) == 0:
        budget.take(0.0)
        gone += 1
    assert gone == 570
    assert budget.wait_s(FOREGROUND, 0.0) == 0


def test_other_programs_with_the_same_key_count() -> None:
    budget = Budget()
    budget.on_reply(1000, 250, 900.0, 0.0)
    assert budget.wait_s(FOREGROUND, 0.0) == 0
    budget.on_reply(1000, 239, 900.0, 0.0)
    assert budget.wait_s(FOREGROUND, 0.0) > 0


def test_refusal_keeps_everybody_away_for_long_and_background_for_longer() -> None:
    budget = Budget()
    budget.on_reply(1000, 900, 900.0, 0.0)
    wait_s = budget.on_refused(10.0)
    assert wait_s >= 60
    assert budget.wait_s(FOREGROUND, 10.0) >= wait_s
    assert budget.wait_s(BACKGROUND, 10.0) > budget.wait_s(FOREGROUND, 10.0)
    assert budget.on_refused(100.0) > wait_s
    for _ in range(50):
        assert budget.on_refused(200.0) <= MAX_BACKOFF_S


def test_server_that_tells_the_end_of_its_window_is_believed() -> None:
    assert Budget().on_refused(0.0, 33.0) == 33.0


class Window:
    """The server's rolling window, counted one by one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[float] = []

    def call(self, now: float) -> int:
        self.calls = [t for t in self.calls if t > now - 900] + [now]
        return self.limit - len(self.calls)


@example(10, [(0.0, True, False), *[(0.0, True, True)] * 5])
@example(20, [(0.0, True, False), *[(0.0, True, True)] * 9])
@given(
    st.integers(10, 300),
    st.lists(st.tuples(st.floats(0, 60), st.booleans(), st.booleans()), max_size=400),
)
def test_greedy_caller_never_meets_a_429(limit: int, steps: list[tuple[float, bool, bool]]) -> None:
    budget, window, now = Budget(), Window(limit), 0.0
    budget.on_reply(limit, window.call(now), 900.0, now)
    for pause, foreground, wait in steps:
        now += pause
        cls = FOREGROUND if foreground else BACKGROUND
        if wait:
            now += budget.wait_s(cls, now)
        for _ in range(50):
            if budget.wait_s(cls, now) > 0:
                break
            budget.take(now)
            remaining = window.call(now)
            assert remaining >= 0
            budget.on_reply(limit, remaining, 900.0, now)


@pytest.mark.parametrize("latency_s", [0.03, 3.0])
@pytest.mark.parametrize("limit", [50, 1000])
async def test_no_window_sees_more_than_eighty_percent(
    autojump_clock: trio.testing.MockClock, limit: int, latency_s: float
) -> None:
    """However many callers there are, and though replies overtake each other."""
    governor, window, rng, least = Governor(), Window(limit), random.Random(limit), limit
    while governor.concurrency.limit < MOST:  # as on a distant server that works on many at once
        governor.concurrency.ended(latency_s, MOST)

    async def call_on_and_on() -> None:
        nonlocal least
        while trio.current_time() < 2500:
            async with governor.turn():
                await trio.sleep(latency_s * rng.random())
                remaining = window.call(trio.current_time())
                least = min(least, remaining)
                await trio.sleep(latency_s * rng.random())
                governor.on_reply(limit, remaining, 900.0)

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(call_on_and_on)
    assert 0.2 * limit <= least <= 0.25 * limit


@pytest.mark.parametrize("takes_s", [0.03, 20.0])
async def test_foreground_never_waits_a_second_behind_background_work(
    autojump_clock: trio.testing.MockClock, takes_s: float
) -> None:
    """Hundreds of uploads and removals and a walk, all as greedy as they may be, and a limit that binds."""
    governor, window, waits, done = Governor(), Window(1000), list[float](), 0

    async def call(seconds: float) -> None:
        async with governor.turn():
            await trio.sleep(seconds)
            governor.on_reply(1000, window.call(trio.current_time()), 900.0)

    async def work() -> None:
        nonlocal done
        with background():
            while True:
                await call(takes_s)
                done += 1

    async def look_ahead() -> None:
        while True:
            async with governor.spare_turn():
                await call(takes_s)

    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(work)
        for _ in range(MOST):
            nursery.start_soon(look_ahead)
        for _ in range(180):
            await trio.sleep(10)
            before = trio.current_time()
            await call(0.03)
            waits.append(trio.current_time() - before - 0.03)
        nursery.cancel_scope.cancel()
    assert max(waits) < 1
    assert 100 < done < 2000  # without a limit it would have been tens of thousands of the short ones


async def test_background_work_that_somebody_comes_to_wait_for_is_foreground(
    autojump_clock: trio.testing.MockClock,
) -> None:
    governor, hurry = Governor(), trio.Event()
    governor.on_reply(1000, 300, 900.0)  # inside the background's reserve
    order = []

    async def call(name: str, hurry: trio.Event | None) -> None:
        with background(hurry):
            async with governor.turn():
                order.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "upload", None)
        await trio.testing.wait_all_tasks_blocked(0.1)
        nursery.start_soon(call, "removal", hurry)
        await trio.sleep(1)
        assert not order
        hurry.set()
        governor.look_again()
    (first, at), (second, later) = order
    assert (first, second) == ("removal", "upload") and at < 1.5 < later


@pytest.mark.parametrize("serial", [True, False])
async def test_few_at_a_time_unless_more_are_as_fast(
    autojump_clock: trio.testing.MockClock, serial: bool
) -> None:
    governor, running, most = Governor(), 0, 0

    async def call() -> None:
        nonlocal running, most
        async with governor.turn():
            running += 1
            most = max(most, running)
            await trio.sleep(running if serial else 1)
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(call)
    assert most <= FEWEST + 2 if serial else FEWEST + 2 < most <= MOST


async def test_foreground_overtakes_waiting_background(autojump_clock: trio.testing.MockClock) -> None:
    governor, order = Governor(), []

    async def call(name: str) -> None:
        async with governor.turn():
            order.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        with background():
            for n in range(8):
                nursery.start_soon(call, f"b{n}")
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(call, "f")
    assert order.index("f") == FEWEST - 1  # at once: the last place is kept for it
    assert [name for name in order if name != "f"] == [f"b{n}" for n in range(8)]


async def test_waiting_background_does_not_hold_up_the_foreground(
    autojump_clock: trio.testing.MockClock,
) -> None:
    governor = Governor()
    governor.on_reply(1000, 300, 900.0)  # inside the background's reserve

    async def speculate() -> None:
        with background():
            async with governor.turn():
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speculate)
        await trio.testing.wait_all_tasks_blocked(0.1)
        before = trio.current_time()
        async with governor.turn():
            assert trio.current_time() == before
        assert governor.waiting == 1
        nursery.cancel_scope.cancel()
    assert governor.waiting == 0


async def test_cancelled_waiter_gives_its_place_up(autojump_clock: trio.testing.MockClock) -> None:
    governor = Governor()
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            async with governor.turn():
                await trio.sleep(10)

        for _ in range(FEWEST):
            nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked(0.1)
        with trio.move_on_after(1):
            async with governor.turn():
                raise AssertionError("no turn is free")
        assert governor.waiting == 0
        async with governor.turn():
            pass


async def test_wait_longer_than_the_deadline_is_refused_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    governor = Governor()
    governor.on_refused(None)
    before = trio.current_time()
    with trio.fail_after(5), pytest.raises(RateLimited):
        async with governor.turn():
            pass
    assert trio.current_time() == before


async def test_wait_within_the_deadline_is_waited(autojump_clock: trio.testing.MockClock) -> None:
    governor = Governor()
    governor.on_refused(10.0)
    with trio.fail_after(60):
        async with governor.turn():
            assert trio.current_time() >= 10


def test_calls_that_hold_each_other_up_are_few() -> None:
    c = Concurrency()
    c.ended(0.03, 1)
    for _ in range(5000):  # one after another in the server: each waits for the others, for hours
        c.ended(0.03 * c.limit, c.limit)
        assert c.limit <= FEWEST + 1


def test_calls_that_only_take_long_are_many() -> None:
    c = Concurrency()
    for _ in range(500):
        c.ended(0.1, c.limit)
    assert c.limit == MOST
    for _ in range(500):  # few of them prove nothing
        c.ended(0.1, 2)
    assert c.limit == MOST


def test_way_that_becomes_longer_is_learnt_from_calls_on_their_own() -> None:
    c = Concurrency()
    c.ended(0.01, 1)
    for _ in range(50):
        c.ended(0.2, 1)
    for _ in range(500):
        c.ended(0.2, c.limit)
    assert c.limit == MOST


async def test_speculation_leaves_a_place_and_waits_for_everybody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    governor = Governor()
    done: list[str] = []

    async def call(name: str, seconds: float) -> None:
        async with governor.turn():
            await trio.sleep(seconds)
        done.append(name)

    async def speculate(name: str) -> None:
        async with governor.spare_turn():
            await call(name, 1.0)

    async with trio.open_nursery() as nursery:
        for n in range(FEWEST):
            nursery.start_soon(speculate, f"s{n}")
        await trio.sleep(0.5)
        nursery.start_soon(call, "asked for", 0.1)  # at once: a place was left
        await trio.sleep(0.3)
        assert done == ["asked for"]
    assert sorted(done[1:]) == [f"s{n}" for n in range(FEWEST)] and done[-1] != "asked for"
    assert governor._in_flight == 0


@pytest.mark.parametrize(
    ("cls", "calls", "before"),
    [(Class.SPECULATION, 380, BACKGROUND), (Class.INDEXING, 152, Class.SPECULATION)],
)
def test_classes_leave_a_part_of_the_budget(cls: Class, calls: int, before: Class) -> None:
    budget = Budget()
    budget.on_reply(1000, 1000, 900.0, 0.0)
    gone = 0
    while budget.wait_s(cls, 0.0) == 0:
        budget.take(0.0)
        gone += 1
    assert gone == calls
    assert budget.wait_s(before, 0.0) == 0


@pytest.mark.parametrize(("places", "ahead"), [(FEWEST, FEWEST // 2), (8, 4), (MOST, MOST - ASKED_FOR)])
async def test_as_many_are_ahead_as_leave_places_for_others(
    places: int, ahead: int, autojump_clock: trio.testing.MockClock
) -> None:
    governor, begun = Governor(), 0
    governor.concurrency._limit = float(places)

    async def speculate() -> None:
        nonlocal begun
        async with governor.spare_turn():
            begun += 1
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(MOST):
            nursery.start_soon(speculate)
        await trio.testing.wait_all_tasks_blocked()
        assert begun == ahead
        nursery.cancel_scope.cancel()
