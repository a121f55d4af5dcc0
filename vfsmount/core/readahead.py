"""How much to fetch for a reader: what it asked for, or more when it reads on.

The reads of one handle are sorted into runs, each of which goes on where it was, forward or backward.
What is planned of a run beyond what was asked for is earned: half as much as was read of it, as
much once that is two blocks. So a wrong guess never costs more than what was right before it, and the
window of a reader who reads on doubles. First that is pages behind the very read, up to a block's end
as soon as it is earned. After two blocks the run is a stream: whole blocks from there on, and long
ranges ahead of the reader. No block is planned as a whole of which pages were planned before.

A backward run is a forward one with all positions negated: pages and blocks lie on the same grid there.

Pure: no clock; "lately" is counted in reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vfsmount.core.blockindex import BLOCK_SIZE, PAGE

MAX_STREAMS = 16  # one for each reading thread; as many places again for what may become one
MAX_WINDOW = 64 << 20  # fills 3 GB/s at 20 ms
MAX_WINDOW_BACKWARD = 4 << 20
PROVEN_BY = 2 * BLOCK_SIZE  # read of a run: records of a MiB, and what the kernel adds to them, are no stream
# What a file's first bytes count for: a block is fetched for the header alone. A small file is wanted
# whole as soon as more is read of it than a header.
FIRST_BONUS = BLOCK_SIZE
SMALL_FILE = 4 * BLOCK_SIZE
MORE_THAN_HEADER = 256 << 10
# Threads that take a stream's next MiB in turn are one stream, if they are no further apart.
BEHIND = 16 << 20
JUMP = 8 << 20
LIVE_READS = 512  # of others, 64 MiB by the kernel's pieces: after that a stream has no claim on the cap
STRIDES = 3  # equal ones are a pattern
MAX_STRIDES_AHEAD = 8
MIN_STEP = 2 * PAGE
MAX_ELEMENT = BLOCK_SIZE  # read at one stride's place


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch.

    Attributes:
        start: of what to fetch for this very read as far as it is missing; page-aligned.
        stop: hardly more than was asked for while the reader is random.
        streaming: whether this is part of a stream; then start and stop are block-aligned (stop: or
            the file's size).
        ahead: ranges worth having soon, nearest first, apart from each other and from the read's own;
            block-aligned, page-aligned for a strided reader. The next plans take them for fetched.
    """

    start: int
    stop: int
    streaming: bool
    ahead: tuple[tuple[int, int], ...]


@dataclass(slots=True, eq=False)
class _Run:
    """Reads that follow one another. Positions are negated while it goes backward.

    Attributes:
        begin, front: what was read lies between them, but for `gaps` bytes.
        edge: from `begin` to here all is planned, but for `skipped` bytes,
        solid: and from here on in whole blocks.
        asked: bytes that were read, each once as far as `gaps` can tell.
        planned: bytes that all plans were for.
        bonus: bytes that may be planned and were not earned.
        steps: reads after the first.
        streaming: it is a stream.
        used: number of the last read.
        at: offset of its first read.
        step, strides: from the beginning of an earlier run to this one's, and how often in a row.
        element: bytes read there each time.
        reached: offset of the last stride's place that is planned.
    """

    begin: int
    front: int
    edge: int
    asked: int
    planned: int
    used: int
    at: int
    solid: int
    bonus: int = 0
    gaps: int = 0
    skipped: int = 0
    steps: int = 0
    back: bool = False
    streaming: bool = False
    step: int = 0
    strides: int = 0
    element: int = 0
    reached: int = 0

    def fits(self, a: int, b: int) -> bool:
        """Whether a read goes on here, in the run's own positions."""
        if not self.streaming:
            return self.begin <= a <= self.front + (b - a)  # or the next but one, before the next
        reach = min(max(self.front, self.edge), self.front + JUMP) + min(self.asked, BLOCK_SIZE)
        return max(self.begin, self.front - BEHIND) <= a <= reach

    def turns(self, a: int, b: int) -> bool:
        """Whether a read goes on at the other end, where a young run may turn to."""
        return not self.streaming and a < self.begin <= b + (b - a) and b <= self.front

    def turn(self) -> None:
        self.back = not self.back
        self.begin, self.front = -self.front, -self.begin
        self.edge, self.solid = _ceil(self.front, PAGE), _ceil(self.front, BLOCK_SIZE)
        self.steps, self.gaps, self.skipped = 0, 0, 0

    def follow(self, a: int, b: int) -> None:
        late = min(max(0, min(b, self.front) - a), self.gaps)
        self.asked += late + max(0, b - max(a, self.front))
        self.gaps += max(0, a - self.front) - late
        self.front = max(self.front, b)
        self.steps += 1
        skipped = min(late, self.skipped)
        self.planned += skipped
        self.skipped -= skipped

    def absorb(self, other: _Run) -> None:
        """Take over a run that began where this one has come to."""
        self.front, self.edge = max(self.front, other.front), max(self.edge, other.edge)
        self.asked = min(self.asked + other.asked, self.front - self.begin)
        self.planned += other.planned
        self.gaps += other.gaps
        self.skipped += other.skipped
        self.solid = max(self.solid, other.solid)
        self.steps += other.steps
        self.streaming |= other.streaming

    def window(self, size: int) -> int:
        """Bytes that may be ahead of its reader."""
        earned = self.asked if self.asked >= PROVEN_BY else self.asked // 2
        bonus = self.bonus
        if bonus and size <= SMALL_FILE and self.asked >= MORE_THAN_HEADER:
            bonus = SMALL_FILE
        return min(earned + bonus, MAX_WINDOW_BACKWARD if self.back else MAX_WINDOW)

    @property
    def proven(self) -> bool:
        """Whether it is worth more than what is asked for."""
        return self.gaps <= self.asked and (self.bonus > 0 or self.steps > (1 if self.back else 0))

    @property
    def ahead(self) -> int:
        return max(0, self.edge - self.front)

    def span(self, *, back: bool) -> tuple[int, int, int]:
        """Begin, front and edge in the positions of a run with that direction."""
        if self.back == back:
            return self.begin, self.front, self.edge
        return -self.edge, -self.edge, -self.begin


class Readahead:
    """The pattern of one open handle, which several threads may read from."""

    __slots__ = ("_began", "_reads", "_streams", "_young")

    def __init__(self) -> None:
        # Least recently read first; two lists, so that no random reader makes us forget a stream.
        self._streams: list[_Run] = []
        self._young: list[_Run] = []
        self._began: list[_Run] = []  # runs in the order they began, for strides
        self._reads = 0

    def on_read(self, offset: int, length: int, size: int, cap: int) -> Plan:
        """Note one read; say what to fetch.

        Args:
            size: of the file.
            cap: bytes that all streams of this handle together may have ahead of their readers now.
        """
        stop = min(offset + length, size)
        if stop <= offset:
            return Plan(offset, offset, False, ())
        self._reads += 1
        run = self._find(offset, stop)
        if run is None:
            return self._begin(offset, stop, size, cap)
        a, b = _turned(offset, stop, run.back)
        run.follow(a, b)
        run.used = self._reads
        return self._go_on(run, a, b, size, cap)

    def _find(self, offset: int, stop: int) -> _Run | None:
        for runs in (self._streams, self._young):
            for run in reversed(runs):
                a, b = _turned(offset, stop, run.back)
                if not run.fits(a, b):
                    if not run.turns(a, b):
                        continue
                    run.turn()
                runs.remove(run)
                runs.append(run)
                return run
        return None

    def _begin(self, offset: int, stop: int, size: int, cap: int) -> Plan:
        start, end = _floor(offset, PAGE), min(_ceil(stop, PAGE), size)
        run = _Run(offset, stop, end, stop - offset, end - start, self._reads, start, _ceil(end, BLOCK_SIZE))
        ahead = self._strides(run, end, size, cap)
        self._began = [*self._began[1 - MAX_STREAMS :], run]
        if run.strides >= STRIDES:
            run.edge = end = max(end, min(start + run.element, size))
            run.planned = end - start
        _keep(self._young, run)
        if offset == 0:
            run.edge, run.planned, run.solid, run.bonus = 0, 0, 0, FIRST_BONUS
            return self._go_on(run, 0, stop, size, cap)
        return Plan(start, end, False, ahead)

    def _go_on(self, run: _Run, a: int, b: int, size: int, cap: int) -> Plan:
        """Plan for a read of a run, in the run's own positions."""
        low, high = (-size, 0) if run.back else (0, size)
        self._join(run)
        if run.bonus or run.asked >= PROVEN_BY:
            self._promote(run)
        start, stop = max(_floor(a, PAGE), low), min(_ceil(b, PAGE), high)
        if stop > run.edge:
            if self._covered(run, *_turned(start, stop, run.back)):
                run.edge = max(run.edge, stop)
                return _plan(start, stop, False, (), run.back)
            start, stop = self._extend(run, start, stop, run.window(size), high, cap)
        ahead: tuple[tuple[int, int], ...] = ()
        if run.streaming and run.front == b and run.edge % BLOCK_SIZE == 0:
            ahead = self._ahead(run, run.window(size), high, cap)
        bottom, top = max(_floor(start, BLOCK_SIZE), low), min(_ceil(b, BLOCK_SIZE), high)
        if run.streaming and run.solid <= bottom and top <= run.edge:
            return _plan(bottom, top, True, ahead, run.back)
        return _plan(start, stop, False, ahead, run.back)

    def _extend(self, run: _Run, start: int, stop: int, window: int, high: int, cap: int) -> tuple[int, int]:
        """Plan for a read beyond what is planned: up to a block's end, less, or just what it asks."""
        left = run.asked + window - run.planned
        top = min(_ceil(stop, BLOCK_SIZE), high)
        if run.streaming and start > run.edge and top - run.edge <= left:
            start = run.edge  # the piece between is late
        begin = max(start, run.edge)
        run.skipped += begin - run.edge
        if run.proven:
            if top - begin <= left and (run.streaming or top - stop <= cap):
                stop = top
            else:
                more = _floor(max(0, min(left - (stop - begin), cap)), PAGE)
                stop = _cut_at_block(stop, min(stop + more, high))
        for x in (begin, stop):
            if x % BLOCK_SIZE and x != high:
                run.solid = max(run.solid, _ceil(x, BLOCK_SIZE))
        run.planned += stop - begin
        run.edge = stop
        return start, stop

    def _ahead(self, run: _Run, window: int, high: int, cap: int) -> tuple[tuple[int, int], ...]:
        """The next long range, once half of the window is read."""
        live = [r for r in self._streams if self._reads - r.used < LIVE_READS]
        taken = sum(r.ahead for r in live if r is not run)
        left = run.asked + window - run.planned
        window = min(window, left + run.ahead, cap // len(live), cap - taken)
        if window <= 0 or run.ahead > window // 2:
            return ()
        start, stop = run.edge, min(_floor(run.front + window, BLOCK_SIZE), _ceil(high, BLOCK_SIZE))
        for begin, front, edge in (r.span(back=run.back) for r in self._streams if r is not run):
            # What another stream has read or asked for is not fetched again before this one is there.
            wall = begin if begin >= run.front else front
            if start < edge and run.front <= wall:
                stop = min(stop, _floor(wall, BLOCK_SIZE))
        stop = min(stop, high)
        if stop <= start:
            return ()
        run.planned += stop - start
        run.edge = stop
        half = MAX_WINDOW // 2
        return tuple((x, min(x + half, stop)) for x in range(start, stop, half))

    def _join(self, run: _Run) -> None:
        for runs in (self._streams, self._young):
            for other in [*runs]:
                if (
                    other is not run
                    and other in runs  # a promotion may have made it forgotten
                    and other.back == run.back
                    and run.begin <= other.begin <= run.front
                    and other.front - run.front <= BEHIND
                ):
                    runs.remove(other)
                    if other.streaming:
                        self._promote(run)
                    run.absorb(other)

    def _covered(self, run: _Run, start: int, stop: int) -> bool:
        """Whether a stream has these bytes on their way; a run that goes on there takes its share of them."""
        for other in self._streams:
            low, high = _turned(other.front, other.edge, other.back)
            if other is not run and low <= start and stop <= high:
                if run.steps and run.back == other.back and run.asked >= BLOCK_SIZE:
                    self._split(other, run)
                return True
        return False

    def _split(self, stream: _Run, run: _Run) -> None:
        begin = max(stream.front, _floor(run.begin, BLOCK_SIZE))
        run.begin, run.edge = begin, stream.edge
        run.planned = stream.edge - begin
        run.solid = stream.solid
        stream.edge = begin
        stream.planned -= run.planned
        self._promote(run)

    def _promote(self, run: _Run) -> None:
        if not run.streaming:
            run.streaming = True
            self._young.remove(run)
            _keep(self._streams, run)

    def _strides(self, run: _Run, end: int, size: int, cap: int) -> tuple[tuple[int, int], ...]:
        """Note whether a new run begins one more stride from an earlier one; the next strides' places."""
        places = {r.at for r in self._began}
        for last in reversed(self._began):
            step = run.at - last.at
            if last.step != step and last.at - step not in places:
                continue
            if abs(step) < max(MIN_STEP, end - run.at):
                continue
            run.step = step
            run.strides = last.strides + 1 if last.step == step else 2
            run.element = min(_ceil(last.asked, PAGE), abs(step), MAX_ELEMENT)
            run.reached = last.reached if run.strides > STRIDES else run.at
            return tuple(self._places(run, size, cap)) if run.strides >= STRIDES else ()
        return ()

    def _places(self, run: _Run, size: int, cap: int) -> Iterator[tuple[int, int]]:
        depth = min(run.strides - STRIDES + 1, MAX_STRIDES_AHEAD, cap // run.element)
        done = max(0, (run.reached - run.at) // run.step)
        if done > depth // 2:
            return
        for n in range(done + 1, depth + 1):
            start = run.at + n * run.step
            if not 0 <= start < size:
                return
            run.reached = start
            yield start, min(start + run.element, size)


def _floor(x: int, unit: int) -> int:
    return x - x % unit


def _ceil(x: int, unit: int) -> int:
    return x + -x % unit


def _turned(start: int, stop: int, back: bool) -> tuple[int, int]:
    return (-stop, -start) if back else (start, stop)


def _cut_at_block(asked: int, stop: int) -> int:
    """The last block's end before `stop`, if there is one beyond what was asked for."""
    cut = _floor(stop, BLOCK_SIZE)
    return cut if cut > asked else stop


def _keep(runs: list[_Run], run: _Run) -> None:
    runs.append(run)
    if len(runs) > MAX_STREAMS:
        del runs[0]


def _plan(start: int, stop: int, streaming: bool, ahead: tuple[tuple[int, int], ...], back: bool) -> Plan:
    if back:
        start, stop, ahead = -stop, -start, tuple((-y, -x) for x, y in ahead)
    return Plan(start, stop, streaming, ahead)
