"""When a request is repeated, and how long we wait: the one place that decides.

Repeated are requests that never left (any), and idempotent ones after a broken connection or a 502,
503 or 504, and reads once after a 500. Never 4xx, except a 429 for a caller without a deadline (the
governor does that waiting).

Source: contract 7 "Retry".
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from vfsmount.errors import DeadlineExceeded, RateLimited, RemoteError, RemoteUnavailable, VfsError
from vfsmount.log import event

log = logging.getLogger("vfsmount.api")

T = TypeVar("T")

ATTEMPTS = 4
FIRST_WAIT_S = 0.2
MAX_WAIT_S = 5.0


async def retrying(
    attempt: Callable[[bool], Awaitable[T]],
    *,
    what: str,
    idempotent: bool,
    read: bool = False,
) -> T:
    """Run ``attempt(fresh)`` until it succeeds, fails for good, or the caller's deadline is near.

    Args:
        attempt: one try; told whether to use a new connection.
        what: name for the log.
        idempotent: repeating it does no harm even if it was executed.
        read: it only reads, so a 500 may be repeated too.
    """
    for n in range(1, ATTEMPTS + 1):
        try:
            return await attempt(n > 1)
        except VfsError as e:
            if n == ATTEMPTS or not _may_repeat(n, e, idempotent, read):
                raise
            wait_s = _wait_s(n, e)
            # A wait that outlasts the caller would only turn a clear error into a timeout.
            if trio.current_time() + wait_s >= trio.current_effective_deadline():
                raise
            level = logging.WARNING if wait_s else logging.DEBUG
            event(log, level, "request.retry", what=what, attempt=n, wait_s=wait_s, error=type(e).__name__)
            await trio.sleep(wait_s)
    raise AssertionError("unreachable")


def _may_repeat(n: int, e: VfsError, idempotent: bool, read: bool) -> bool:
    if isinstance(e, DeadlineExceeded):
        return False
    if isinstance(e, RemoteUnavailable):
        return idempotent or not e.sent
    if isinstance(e, RateLimited):
        # Not executed, but the governor will hold the next call back for a minute or more: only who
        # has no deadline can want to wait for that.
        return trio.current_effective_deadline() == float("inf")
    # Once: a passing crash is rare, a listing that 26.x cannot encode is a 500 for ever.
    return read and n == 1 and isinstance(e, RemoteError) and e.status == 500


def _wait_s(n: int, e: VfsError) -> float:
    if n == 1 and isinstance(e, RemoteUnavailable) and e.sent and not e.status and e.detail != "timeout":
        return 0.0  # most often a kept-alive connection that was closed under us
    # Jitter, because many mounts lose one server at one moment.
    return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** (n - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
