"""Turns: one thread of one process at a time, and none that waits for ever."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST_NAP_S = 0.0001
_LONGEST_NAP_S = 0.005


class Turn:
    """A lock file. The kernel lets go of it when its holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._fd = -1

    @contextmanager
    def taken(self, wait_s: float) -> Iterator[None]:
        """Have the turn while the body runs.

        Raises:
            TimeoutError: somebody else had it for too long.
            OSError: the lock file cannot be made.
        """
        deadline = time.monotonic() + wait_s
        if not self._threads.acquire(timeout=wait_s):
            raise TimeoutError(f"{self._path} is held by another thread")
        try:
            self._lock(deadline)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _lock(self, deadline: float) -> None:
        nap_s = _FIRST_NAP_S
        while True:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Not the call that waits: a holder that is stopped would stop us as well.
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current():
                    return
                self._forget()
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{self._path} is held by another process") from None
                time.sleep(nap_s)
                nap_s = min(2 * nap_s, _LONGEST_NAP_S)

    def _is_current(self) -> bool:
        """Whether others would lock the same file: somebody may have removed ours."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _forget(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def no_thread(self) -> threading.Lock:
        """To hold while no other thread of this process may have the turn."""
        return self._threads

    def close(self) -> None:
        """Let go of the file."""
        with self._threads:
            if self._fd >= 0:
                self._forget()
