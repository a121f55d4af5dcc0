"""What readers of all kinds cost: a reader in a loop, every plan fetched at once and kept."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.core.extents import Extents
from vfsmount.core.readahead import MAX_STREAMS, MAX_WINDOW, PAGE, Plan, Readahead

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CAP = 128 * MIB
PIECE = 128 * KIB  # of the kernel, by default

Read = tuple[int, int]


class Simulation:
    """Plays reads against the plans and counts what they cost.

    Attributes:
        fetched: bytes.
        ranges: requests for them.
        waits: reads that found a byte missing.
        ahead: from a read to the end of what was planned ahead of it, at most.
        twice: bytes that were planned ahead more than once.
    """

    def __init__(self, size: int, cap: int = CAP) -> None:
        self.size, self.cap = size, cap
        self.policy = Readahead()
        self.here, self.asked, self.planned_ahead = Extents(), Extents(), Extents()
        self.blocks = Extents()  # of these, what came in one go: pages do not make a block
        self.fetched = self.ranges = self.waits = self.ahead = self.twice = 0
        self.plans: list[Plan] = []

    def read(self, offset: int, length: int) -> Plan:
        plan = self.policy.on_read(offset, length, self.size, self.cap)
        check(plan, offset, length, self.size, self.cap)
        stop = min(offset + length, self.size)
        self.asked.add(offset - offset % PAGE, min(stop + -stop % PAGE, self.size))
        self.waits += bool(self.here.missing(offset, stop))
        for start, end in ((plan.start, plan.stop), *plan.ahead):
            if start == plan.start and not self.here.missing(offset, stop):
                continue
            whole = start % BLOCK_SIZE == 0 if start != plan.start else plan.streaming
            missing = (self.blocks if whole else self.here).missing(start, end)
            self.ranges += len(missing)
            self.fetched += sum(b - a for a, b in missing)
            self.here.add(start, end)
            first = start + -start % BLOCK_SIZE
            self.blocks.add(first, end if end == self.size else end - end % BLOCK_SIZE)
        for start, end in plan.ahead:
            self.twice += end - start - self.planned_ahead.add(start, end)
            self.ahead = max(self.ahead, end - offset, stop - start)
        self.plans.append(plan)
        return plan

    def run(self, reads: Iterable[Read]) -> Simulation:
        for offset, length in reads:
            self.read(offset, length)
        return self

    @property
    def amplification(self) -> float:
        return self.fetched / self.asked.total


def check(plan: Plan, offset: int, length: int, size: int, cap: int) -> None:
    """What holds for every plan."""
    stop = min(offset + length, size)
    if offset >= stop:
        assert plan.start == plan.stop and not plan.ahead
        return
    assert 0 <= plan.start <= offset and stop <= plan.stop <= size
    unit = BLOCK_SIZE if plan.streaming else PAGE
    assert plan.start % unit == 0 and (plan.stop % unit == 0 or plan.stop == size)
    assert sum(b - a for a, b in plan.ahead) <= cap
    for a, b in plan.ahead:
        assert 0 <= a < b <= size
        assert a % unit == 0 and (b % unit == 0 or b == size)
    ranges = sorted([(plan.start, plan.stop), *plan.ahead])
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(ranges))


def pieces(start: int, stop: int, piece: int = PIECE) -> list[Read]:
    return [(at, min(piece, stop - at)) for at in range(start, stop, piece)]


def kernel_like(start: int, stop: int, rng: random.Random, piece: int = PIECE) -> list[Read]:
    """A sequential program's reads as the kernel sends them: growing, and some before the one before."""
    at, now, reads = start, min(16 * KIB, piece), []
    while at < stop:
        reads.append((at, min(now, stop - at)))
        at, now = at + now, min(2 * now, piece)
    for n in range(1, len(reads) - 1):
        if rng.random() < 0.3:
            reads[n], reads[n + 1] = reads[n + 1], reads[n]
    return reads


def interleaved(threads: list[list[Read]], rng: random.Random) -> Iterator[Read]:
    queues = [iter(reads) for reads in threads]
    while queues:
        queue = rng.choice(queues)
        read = next(queue, None)
        if read is None:
            queues.remove(queue)
        else:
            yield read


# As good as random, and small to try again.
_RNGS = st.integers(0, 1 << 32).map(random.Random)

# Anything

_OFFSETS = st.one_of(
    st.integers(0, 64).map(lambda n: n * PIECE),
    st.integers(0, 4 * GIB // PAGE).map(lambda n: n * PAGE),
    st.integers(0, 5 * GIB),
)
_LENGTHS = st.one_of(st.sampled_from([PAGE, 16 * KIB, 64 * KIB, PIECE, MIB]), st.integers(0, 3 * MIB))


@given(
    st.lists(
        st.tuples(_OFFSETS, _LENGTHS, st.integers(1, 30), st.sampled_from([-1, 1, 2, -3, 40])), max_size=25
    ),
    st.integers(0, 4 * GIB),
    st.sampled_from([0, 1, MIB, 10 * MIB, CAP, GIB]),
    _RNGS,
)
@settings(deadline=None)
def test_every_plan_is_sound_and_the_same_again(
    bursts: list[tuple[int, int, int, int]], size: int, cap: int, rng: random.Random
) -> None:
    threads = [
        [(offset + n * step * length, length) for n in range(count) if offset + n * step * length >= 0]
        for offset, length, count, step in bursts
    ]
    reads = list(interleaved(threads, rng))
    first = Simulation(size, cap).run(reads)
    assert first.plans == Simulation(size, cap).run(reads).plans
    if cap == 0:
        assert not any(plan.ahead for plan in first.plans)


@given(st.lists(st.tuples(_OFFSETS, _LENGTHS, st.integers(1, 30), st.booleans()), max_size=30))
def test_what_was_wrong_costs_no_more_than_what_was_right(bursts: list[tuple[int, int, int, bool]]) -> None:
    reads = []
    for offset, length, count, back in bursts:
        # Whole bursts one after another, each broken off anywhere.
        reads += [(offset + n * length * (-1 if back else 1), length) for n in range(count)]
    reads = [(max(0, offset), length) for offset, length in reads if length]
    sim = Simulation(5 * GIB).run(reads)
    begun_at_zero = sum(offset == 0 for offset, _ in reads)
    # What is read again counts again: of what lies behind a reader only its amount is remembered.
    asked = sum(length + 2 * PAGE for _, length in reads)
    assert sim.fetched <= 2 * asked + begun_at_zero * BLOCK_SIZE


# Forward


def test_gibibyte_is_read_in_few_long_ranges() -> None:
    sim = Simulation(GIB).run(pieces(0, GIB))
    assert sim.ranges <= 60 and sim.fetched == GIB and sim.twice == 0
    # Once it is under way, half windows.
    assert [b - a for plan in sim.plans[len(sim.plans) // 2 :] for a, b in plan.ahead][:-1] == [
        MAX_WINDOW // 2
    ] * 14


@given(st.integers(0, 300 * MIB), st.sampled_from([PIECE, 256 * KIB, MIB]), _RNGS)
@settings(max_examples=40, deadline=None)
def test_sequential_reader_in_the_kernels_disorder_fetches_each_byte_once(
    start: int, piece: int, rng: random.Random
) -> None:
    size = start + 100 * MIB
    start -= start % PAGE
    sim = Simulation(size).run(kernel_like(start, size, rng, piece))
    assert sim.twice == 0
    assert sim.amplification <= 1.02
    assert sim.ranges <= 60


def test_window_grows_to_its_most_and_no_further() -> None:
    sim = Simulation(4 * GIB, GIB).run(pieces(0, GIB))
    assert MAX_WINDOW - MIB <= sim.ahead <= MAX_WINDOW + PIECE


@pytest.mark.parametrize("cap", [2 * MIB, 8 * MIB, 30 * MIB])
def test_window_stays_within_the_cap(cap: int) -> None:
    sim = Simulation(GIB, cap).run(pieces(0, 300 * MIB))
    assert cap - 2 * MIB <= sim.ahead <= cap + PIECE


def test_cap_that_shrinks_is_kept_to_and_one_that_grows_is_used() -> None:
    sim = Simulation(4 * GIB, CAP).run(pieces(0, 300 * MIB))
    sim.cap = 4 * MIB
    assert not any(p.ahead for p in sim.plans[len(sim.plans) :])
    before = len(sim.plans)
    sim.run(pieces(300 * MIB, 400 * MIB))
    assert all(sum(b - a for a, b in plan.ahead) <= 4 * MIB for plan in sim.plans[before:])
    sim.cap = CAP
    before = len(sim.plans)
    sim.run(pieces(400 * MIB, 480 * MIB))
    assert max(b - 400 * MIB for plan in sim.plans[before:] for _, b in plan.ahead) >= 64 * MIB
    assert sim.twice == 0


def test_header_costs_a_block_and_no_more() -> None:
    sim = Simulation(GIB).run(pieces(0, 64 * KIB, 16 * KIB))
    assert sim.fetched == BLOCK_SIZE


def test_small_file_is_fetched_whole_when_more_than_a_header_is_read() -> None:
    sim = Simulation(4 * MIB - 77).run(pieces(0, 256 * KIB))
    assert sim.fetched == 4 * MIB - 77 and sim.ranges == 2


@pytest.mark.parametrize("start", [5 * MIB, 7 * MIB + 300 * KIB])
def test_reader_who_begins_anywhere_soon_has_blocks_ahead(start: int) -> None:
    sim = Simulation(GIB).run(pieces(start, start + 32 * MIB))
    first = next(n for n, plan in enumerate(sim.plans) if plan.ahead)
    assert first * PIECE <= 3 * MIB
    assert sim.waits <= 12


@pytest.mark.parametrize("start", [5 * MIB, 7 * MIB + 300 * KIB, 20 * MIB - PAGE])
def test_no_block_is_fetched_as_a_whole_after_its_pages(start: int) -> None:
    sim = Simulation(100 * MIB).run(pieces(start, 100 * MIB))
    assert sim.fetched == sim.asked.total


def test_reader_who_skips_within_its_window_finds_it_and_reads_on() -> None:
    sim = Simulation(4 * GIB).run(pieces(0, 200 * MIB))
    before = sim.waits
    sim.run(pieces(225 * MIB, 500 * MIB))
    assert sim.waits == before and sim.twice == 0


def test_stream_that_jumps_has_to_prove_itself_again() -> None:
    sim = Simulation(4 * GIB).run(pieces(0, 200 * MIB))
    plan = sim.read(3 * GIB + 5 * PAGE, PAGE)
    assert (plan.start, plan.stop, plan.streaming, plan.ahead) == (
        3 * GIB + 5 * PAGE,
        3 * GIB + 6 * PAGE,
        False,
        (),
    )
    plan = sim.read(3 * GIB + 6 * PAGE, PAGE)
    assert plan.stop - plan.start <= 2 * PAGE and not plan.ahead


@given(st.integers(1, 200), st.sampled_from([0, 3 * MIB, 700 * MIB]))
@settings(deadline=None)
def test_reader_who_stops_anywhere_has_cost_twice_at_most(read: int, start: int) -> None:
    sim = Simulation(4 * GIB).run(pieces(start, start + read * PIECE))
    assert sim.fetched <= 2 * sim.asked.total + BLOCK_SIZE * (start == 0)


# Several streams


@given(st.integers(2, MAX_STREAMS), st.sampled_from([0, 77 * MIB]), _RNGS)
@settings(max_examples=20, deadline=None)
def test_threads_with_a_region_each_are_streams(count: int, gap: int, rng: random.Random) -> None:
    each = 48 * MIB
    starts = [n * (each + gap) for n in range(count)]
    size = starts[-1] + each
    sim = Simulation(size).run(interleaved([kernel_like(s, s + each, rng) for s in starts], rng))
    # Regions with gaps between: what lies ahead of the last read of each was in vain.
    assert sim.amplification <= (2 if gap else 1.02)
    assert sim.ranges <= 60 * count
    assert sim.waits <= 20 * count


def test_streams_share_the_cap() -> None:
    sim, at = Simulation(4 * GIB, 64 * MIB), [n * 512 * MIB for n in range(8)]
    edge = list(at)
    for n in range(3000):
        t = n % 8
        plan = sim.read(at[t], PIECE)
        for _, b in plan.ahead if plan.streaming else ():  # eight equal steps look strided for a moment
            edge[t] = b
        at[t] += PIECE
        assert sum(max(0, e - a) for e, a in zip(edge, at, strict=True)) <= 64 * MIB + 8 * PIECE
    share = [e - a for e, a in zip(edge, at, strict=True)]
    assert min(share) >= 3 * MIB and max(share) <= 8 * MIB


def test_stream_that_is_not_read_keeps_its_share_for_a_while_only() -> None:
    sim = Simulation(4 * GIB, 64 * MIB).run(pieces(0, 200 * MIB))
    held = max(b for plan in sim.plans for _, b in plan.ahead) - 200 * MIB
    assert held >= 32 * MIB
    sim.ahead = 0
    sim.run(pieces(GIB, GIB + 56 * MIB))
    assert sim.ahead <= 64 * MIB - held + PIECE
    sim.run(pieces(GIB + 56 * MIB, GIB + 200 * MIB))
    assert sim.ahead >= 60 * MIB


def in_turn(count: int, rng: random.Random) -> list[Read]:
    """Reads of threads of which each takes the next mebibyte when it is done with its last."""
    chunks = iter(range(256))
    threads: list[list[Read]] = [[] for _ in range(count)]
    reads: list[Read] = []
    while True:
        thread = rng.choice(threads)
        if not thread:
            chunk = next(chunks, None)
            if chunk is None:
                break
            thread += pieces(chunk * MIB, chunk * MIB + MIB)
        reads.append(thread.pop(0))
    return reads + [read for thread in threads for read in thread]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_threads_that_take_the_next_mebibyte_in_turn_are_one_stream(count: int) -> None:
    runs = [Simulation(256 * MIB).run(in_turn(count, random.Random(seed))) for seed in range(20)]
    # Blocks that were begun in pages, before it was clear.
    assert max(sim.amplification for sim in runs) <= 1.05
    # Of 256. Unlucky turns hide the stream for a while, one in some hundred times for most of it.
    assert statistics.median(sim.ranges for sim in runs) <= 64
    assert statistics.median(sim.waits for sim in runs) <= 32


def test_stream_that_meets_another_leaves_it_what_is_on_its_way() -> None:
    sim = Simulation(GIB)
    sim.run(pieces(100 * MIB, 140 * MIB))
    sim.run(pieces(0, 300 * MIB))
    # What the other one has read may have been evicted, so that is asked for.
    assert sim.twice <= 40 * MIB
    assert sim.waits <= 25 and sim.amplification <= 1.3


def test_random_reads_beside_a_stream_do_not_make_it_forgotten() -> None:
    rng, sim = random.Random(1), Simulation(4 * GIB)
    for n, (offset, length) in enumerate(pieces(0, 256 * MIB)):
        sim.read(offset, length)
        if n % 2:
            for _ in range(20):
                sim.read(GIB + PAGE * rng.randrange(3 * GIB // PAGE), PAGE)
    assert sim.waits <= 20 * 1024 + 20
    assert sim.amplification <= 1.5


# Random


@pytest.mark.parametrize("length", [PAGE, 64 * KIB, 68 * KIB])
def test_random_reader_pays_for_what_it_asks(length: int) -> None:
    rng, sim = random.Random(7), Simulation(4 * GIB)
    sim.run((PAGE * rng.randrange((4 * GIB - length) // PAGE), length) for _ in range(5000))
    assert sim.amplification <= 1.05
    assert sum(p.streaming for p in sim.plans) <= 2


@given(st.sampled_from([PAGE, 64 * KIB]), _RNGS, st.floats(1.1, 2.5))
@settings(max_examples=20, deadline=None)
def test_random_reader_with_favourites_pays_twice_at_most(
    length: int, rng: random.Random, skew: float
) -> None:
    sim = Simulation(4 * GIB)
    places = 4 * GIB // length
    sim.run((length * (int(rng.paretovariate(skew - 1) * 1000) % places), length) for _ in range(2000))
    assert sim.amplification <= 2


@given(_RNGS, st.integers(0, PAGE - 1))
@settings(max_examples=20, deadline=None)
def test_random_records_of_a_mebibyte_cost_twice_at_most(rng: random.Random, skew: int) -> None:
    sim, threads = Simulation(4 * GIB), []
    for _ in range(8):
        starts = [PAGE * rng.randrange(1, 4 * GIB // PAGE - 512) for _ in range(30)]
        # The kernel goes on a little after the last byte that the program wants.
        threads.append([r for s in starts for r in pieces(s, s + MIB + rng.choice([0, PIECE, 2 * PIECE]))])
    sim.run(interleaved(threads, rng))
    assert sim.fetched <= 2 * 8 * 30 * MIB


def test_footer_first_then_columns() -> None:
    size = 2 * GIB + 12345
    sim = Simulation(size)
    last = size - size % PAGE
    for at, length in [(last, PAGE), (last - 60 * KIB, 60 * KIB)]:
        plan = sim.read(at, length)
        assert (plan.start, plan.stop) == (at, min(at + length, size)) and not plan.streaming
    for start in (200 * MIB, 900 * MIB + 44 * KIB, 40 * MIB + PAGE):
        sim.run(pieces(start, start + 8 * MIB))
    assert sim.amplification <= 2
    assert sim.waits <= 45


def test_mapped_tensors_in_any_order() -> None:
    size, rng = 3 * GIB, random.Random(3)
    sim = Simulation(size)
    sim.run(pieces(0, PIECE))
    starts = list(range(MIB // 2, size - 40 * MIB, 40 * MIB))
    rng.shuffle(starts)
    for start in starts:
        sim.run(pieces(start, start + 40 * MIB))
    assert sim.amplification <= 1.3
    assert sim.ranges <= 20 * len(starts)


# Strided and backward


@pytest.mark.parametrize("step", [40 * KIB, -40 * KIB, 3 * MIB, -3 * MIB, 20 * MIB])
@pytest.mark.parametrize("length", [PAGE, 16 * KIB])
def test_strided_reader_finds_the_next_places_there(step: int, length: int) -> None:
    size = 4 * GIB
    start = 0 if step > 0 else size - PAGE * 16
    reads = [(start + n * step + PAGE, length) for n in range(100)]
    sim = Simulation(size).run(reads)
    assert sim.waits <= 6
    assert sim.fetched <= sim.asked.total + 8 * length
    for stop in range(1, 40):
        assert Simulation(size).run(reads[:stop]).amplification <= 2


def test_strided_threads_are_told_apart() -> None:
    threads = [
        [(base * GIB + n * step, 16 * KIB) for n in range(1, 60)]
        for base, step in ((0, 5 * MIB), (1, 3 * MIB))
    ]
    rng = random.Random(2)
    sim = Simulation(4 * GIB).run(interleaved(threads, rng))
    assert sim.waits <= 12 and sim.amplification <= 1.2


@pytest.mark.parametrize("length", [16 * KIB, PIECE, MIB])
def test_backward_reader_has_blocks_ahead(length: int) -> None:
    size = 200 * MIB
    reads = [(at, length) for at in range(size - length, -1, -length)]
    sim = Simulation(size).run(reads)
    assert sim.fetched == size and sim.twice == 0
    assert sim.waits <= 30 and sim.ranges <= 120
    assert sim.ahead <= 8 * MIB


def test_backward_reader_in_mebibytes_that_come_in_pieces() -> None:
    size = 200 * MIB
    reads = [read for at in range(size - MIB, 0, -MIB) for read in pieces(at, at + MIB)]
    sim = Simulation(size).run(reads)
    assert sim.amplification <= 1.05
    assert sim.waits <= 30


def test_first_two_backward_reads_are_only_themselves() -> None:
    sim = Simulation(GIB)
    sim.run([(500 * MIB, PIECE), (500 * MIB - PIECE, PIECE)])
    assert sim.fetched == 2 * PIECE


# Odd ends


def test_nothing_is_planned_behind_the_end() -> None:
    sim = Simulation(10 * MIB + 5)
    assert sim.read(10 * MIB + 5, PAGE).stop == 10 * MIB + 5
    sim.run(pieces(0, 11 * MIB))
    assert sim.fetched == 10 * MIB + 5
    assert Simulation(0).read(0, PAGE) == Plan(0, 0, False, ())


def test_file_that_grows_is_read_on() -> None:
    sim = Simulation(10 * MIB + 5).run(pieces(0, 10 * MIB + 5))
    sim.size = 30 * MIB
    sim.run(pieces(10 * MIB, 30 * MIB))
    assert sim.fetched == 30 * MIB


def test_second_pass_plans_again() -> None:
    sim = Simulation(300 * MIB).run(pieces(0, 300 * MIB))
    ranges = sum(len(plan.ahead) for plan in sim.plans)
    sim.run(pieces(0, 300 * MIB))
    assert sum(len(plan.ahead) for plan in sim.plans) == 2 * ranges


def test_little_is_remembered() -> None:
    sim = Readahead()
    for n in range(10_000):
        sim.on_read(n * 7919 * PAGE % (4 * GIB), PAGE, 4 * GIB, CAP)
    assert all(len(getattr(sim, name)) <= MAX_STREAMS for name in ("_streams", "_young", "_began"))
