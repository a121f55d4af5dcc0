"""One trio loop in a thread of its own, for callers that know nothing of trio.

There is one for each process. A process that is forked off inherits no threads, so it gets a loop
of its own when it first needs one; what its parent had is left alone, because to tidy it up would
mean to run the parent's tasks.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

import trio

from vfsmount.errors import VfsError

T = TypeVar("T")

_CLOSE_S = 2.0  # that connections may take to close at the end of the process


class Closing(Protocol):
    """Something that lives in the loop and ends with it."""

    async def aclose(self) -> None: ...


class Portal:
    """The loop, and what lives in it.

    Attributes:
        kept: by any key; closed when the process ends. Used in the loop only.
    """

    def __init__(self) -> None:
        self.kept: dict[object, Closing] = {}
        self._pid = os.getpid()
        self._started = threading.Event()
        # A daemon, because the interpreter waits for others before it lets `_stop` end them.
        self._thread = threading.Thread(
            target=trio.run, args=(self._main,), name="vfsmount-loop", daemon=True
        )
        self._thread.start()
        self._started.wait()
        atexit.register(self._stop)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery, self._token = nursery, trio.lowlevel.current_trio_token()
            self._started.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                    for kept in self.kept.values():
                        await kept.aclose()

    def _stop(self) -> None:
        if self._pid == os.getpid() and self._thread.is_alive():
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
            self._thread.join(2 * _CLOSE_S)

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``await function(*args)`` in the loop, and wait for it.

        Ctrl-C ends the request as well, and is raised once that has come to an end: what it works on
        is the caller's again.

        Raises:
            what `function` raises, never in a group.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("called from the loop's own thread, which would wait for itself")
        future: Future[T] = Future()
        scope = trio.CancelScope()
        self._token.run_sync_soon(self._start, function, args, future, scope)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                self._token.run_sync_soon(scope.cancel)
                wait([future])
            raise

    def _start(
        self,
        function: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
        future: Future[T],
        scope: trio.CancelScope,
    ) -> None:
        self._nursery.start_soon(_run, function, args, future, scope)


async def _run(
    function: Callable[..., Awaitable[T]],
    args: tuple[object, ...],
    future: Future[T],
    scope: trio.CancelScope,
) -> None:
    try:
        with scope:
            future.set_result(await function(*args))
    except ExceptionGroup as group:
        future.set_exception(_the_one(group))
    except Exception as e:
        future.set_exception(e)
    finally:
        if not future.done():  # somebody's Ctrl-C, or the process ends
            future.set_exception(RuntimeError("stopped before it was done"))


def _the_one(group: ExceptionGroup[Exception]) -> Exception:
    """What a nursery's failure means: the error of ours in it, or the first of all."""
    leaves: list[Exception] = []
    todo: list[Exception] = [group]
    while todo:
        e = todo.pop(0)
        if isinstance(e, ExceptionGroup):
            todo[:0] = e.exceptions
        else:
            leaves.append(e)
    return next((e for e in leaves if isinstance(e, VfsError)), leaves[0])


_lock = threading.Lock()
_portal: Portal | None = None
_left_behind: list[Portal] = []  # by the process that we were forked from


def portal() -> Portal:
    """The loop of this process."""
    global _portal
    with _lock:
        if _portal is None:
            _portal = Portal()
        return _portal


def _forget() -> None:
    global _lock, _portal
    _lock = threading.Lock()  # one of the parent's other threads may have held it
    if _portal is not None:
        # Kept, so that nothing of it is collected: a coroutine would run its `finally` then.
        _left_behind.append(_portal)
        _portal = None


os.register_at_fork(after_in_child=_forget)
