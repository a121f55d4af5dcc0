"""Threads that work on a mount until they are told to stop, and a watch over their progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

# Far longer than anything a worker does, far shorter than a request's deadline.
STUCK_S = 15.0
# And how much longer than asked for all may go on until enough has happened.
PATIENCE_S = 120.0


class Worker(threading.Thread):
    """Calls `step` with 0, 1, … until told to stop.

    Attributes:
        steps: how many have been done.
        error: what ended it early.
    """

    def __init__(self, name: str, step: Callable[[int], object], allowed: frozenset[int]) -> None:
        super().__init__(name=name, daemon=True)
        self.steps = 0
        self.refused = 0
        self.error: BaseException | None = None
        self._step = step
        self._allowed = allowed
        self._told = threading.Event()

    def run(self) -> None:
        n = 0
        while not self._told.is_set():
            try:
                self._step(n)
                self.steps += 1
            except OSError as e:
                if e.errno not in self._allowed:
                    self.error = e
                    return
                self.refused += 1
            except BaseException as e:
                self.error = e
                return
            n += 1

    def tell(self) -> None:
        """Have it stop after its step."""
        self._told.set()

    @property
    def done(self) -> int:
        return self.steps + self.refused


def work_for(
    seconds: float,
    workers: list[Worker],
    daemons: list[int],
    enough: Callable[[], bool] = lambda: True,
) -> dict[str, tuple[int, int]]:
    """Let all work; (steps, allowed errors) of each.

    Args:
        enough: whether what the caller needs has happened; on a busy machine that takes longer.

    Raises:
        AssertionError: one saw what it must not, or none of its steps ended for `STUCK_S`; then with what
            the daemons' threads are waiting for in the kernel.
    """
    for worker in workers:
        worker.start()
    end = time.monotonic() + seconds
    give_up = end + PATIENCE_S
    seen = {worker: (0, time.monotonic()) for worker in workers}
    try:
        while not any(worker.error for worker in workers):
            now = time.monotonic()
            if now >= give_up or (now >= end and enough()):
                break
            time.sleep(0.25)
            _all_move(seen, daemons)
    finally:
        for worker in workers:
            worker.tell()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        _all_move(seen, daemons)
    for worker in workers:
        if worker.error is not None:
            raise AssertionError(f"{worker.name}, step {worker.done}: {worker.error!r}") from worker.error
    return {worker.name: (worker.steps, worker.refused) for worker in workers}


def _all_move(seen: dict[Worker, tuple[int, float]], daemons: list[int]) -> None:
    now = time.monotonic()
    for worker, (done, since) in seen.items():
        if worker.done != done or not worker.is_alive():
            seen[worker] = worker.done, now
        else:
            told = "\n".join(stacks_of(pid) for pid in daemons) if now - since > STUCK_S else ""
            assert now - since <= STUCK_S, f"{worker.name} hangs after {done} steps\n{told}"


def stacks_of(pid: int) -> str:
    """Where in the kernel each thread of a process is."""
    told = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        name = "?"
        try:
            name = (task / "comm").read_text().strip()
            stack = (task / "stack").read_text().strip() or (task / "wchan").read_text()
        except OSError as e:
            stack = f"({e.strerror})"
        told.append(f"{pid}/{task.name} {name}:\n{stack}")
    return "\n".join(told)
