"""The wall around every handler: errors become the numbers that a program gets.

The wall is not decoration: an exception other than `pyfuse3.FUSEError` that leaves a handler ends
pyfuse3's loop and with it the mount.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pyfuse3

from vfsmount import errors
from vfsmount.api.governor import leisurely
from vfsmount.errnos import ERRNO as ERRNO
from vfsmount.errnos import errno_of as errno_of
from vfsmount.fuse.indexers import is_indexer
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.vfs.deadline import within

_log = logging.getLogger("vfsmount.fuse")

# What programs meet every day and is nobody's fault.
_ORDINARY = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.EROFS}
    | {errno.ENOTDIR, errno.EOPNOTSUPP}
)


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Any)


class Watch(Protocol):
    """Is told of every request. Neither of the two raises or waits."""

    def begin(self, op: str, args: tuple[Any, ...]) -> Any: ...

    def end(self, begun: Any, result: Any, code: int, seconds: float, args: tuple[Any, ...]) -> None: ...


def handler(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
    known: Callable[Concatenate[S, P], T | None] | None = None,
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Give a handler its deadline, and let nothing but `FUSEError` (and cancellation) leave it.

    What it did is counted, and told to `self.watch` where there is one.

    Args:
        known: the answer where there is no need to wait for it; None: there is, so ask `method`. A deadline
            and who asks cost as much as an answer from memory, of which some programs want 10,000.
    """
    name = method.__name__
    counted = counters.operation(name)
    now = time.perf_counter

    @functools.wraps(method)
    async def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        began = now()
        counted.running += 1
        watch: Watch | None = self.watch
        line = watch.begin(name, args) if watch is not None else None
        result, code = None, 0
        try:
            if known is not None and (result := known(self, *args, **kwargs)) is not None:
                return result
            with within(self.deadline_s), _manners(args):
                result = await method(self, *args, **kwargs)
                return result
        except pyfuse3.FUSEError as e:
            code = e.errno
            raise
        except errors.VfsError as e:
            code = errno_of(e)
            if code != errno.ENODATA:  # asked for by ls and cp of every file, and never news
                level = logging.DEBUG if code in _ORDINARY else logging.INFO
                event(_log, level, "request.failed", op=name, errno=errno.errorcode[code], error=str(e))
                if level > logging.DEBUG:
                    getattr(self, "failed", _nobody_notes)(name, e)
            raise pyfuse3.FUSEError(code) from e
        except Exception:
            code = errno.EIO
            _log.exception("request.bug op=%s", name)
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            seconds = now() - began
            counted.running -= 1
            counted.took(seconds)
            if code:
                counted.failed(code)
            if watch is not None:
                watch.end(line, result, code, seconds, args)
        raise AssertionError("unreachable")  # `within` either returns or raises

    return cast(Callable[Concatenate[S, P], Coroutine[Any, Any, T]], guarded)


def _manners(args: tuple[Any, ...]) -> AbstractContextManager[None]:
    """How urgent a request is, from its context, which comes last where there is one."""
    if args and isinstance(args[-1], pyfuse3.RequestContext) and is_indexer(args[-1].pid):
        return leisurely()
    return _URGENT


_URGENT: AbstractContextManager[None] = nullcontext()


def _nobody_notes(operation: str, error: errors.VfsError) -> None:
    """For handlers that keep no list of failures."""
