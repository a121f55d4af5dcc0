"""The only place that knows errno: one table by class, one wall around every handler.

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
from vfsmount.fuse.indexers import is_indexer
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.vfs.deadline import within

_log = logging.getLogger("vfsmount.fuse")

# Looked up along the class's ancestors, so every leaf has an entry or inherits one on purpose.
ERRNO: dict[type[errors.VfsError], int] = {
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.CrossFolder: errno.EXDEV,  # mv and rename callers fall back to copying
    errors.InvalidName: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.InvalidRequest: errno.EINVAL,
    errors.Ambiguous: errno.EACCES,  # a permission the name cannot carry; the log says which folders
    errors.ReadOnly: errno.EROFS,
    errors.PermissionDenied: errno.EACCES,
    errors.NotSupported: errno.EPERM,  # as link(2), symlink(2) and mknod(2) say it for such filesystems
    errors.AuthFailed: errno.EACCES,
    errors.Stale: errno.ESTALE,
    errors.Conflict: errno.ESTALE,
    errors.NoAttribute: errno.ENODATA,
    errors.AttributeUnsupported: errno.EOPNOTSUPP,  # as tmpfs says it; EPERM would make cp -a complain
    errors.BadHandle: errno.EBADF,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.NoSpace: errno.ENOSPC,
    errors.FileTooLarge: errno.EFBIG,
    errors.RemoteUnavailable: errno.EIO,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.RateLimited: errno.EBUSY,  # EAGAIN would make programs spin
    errors.ServerFrozen: errno.EROFS,  # in maintenance the server is just that
    errors.RemoteError: errno.EIO,
    errors.TokenExpired: errno.EIO,  # api/ renews tokens; one that gets here could not be renewed
    errors.RangeOutside: errno.ESTALE,  # the file shrank under the reader
    errors.UploadFailed: errno.EIO,
    errors.Unsent: errno.EIO,  # only commands raise it
    errors.LocalIOError: errno.EIO,
    errors.RecordsFull: errno.ENOSPC,
    errors.ConfigError: errno.EINVAL,  # never at run time
    errors.MountError: errno.EIO,  # never at run time
}

# What programs meet every day and is nobody's fault.
_ORDINARY = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.EROFS}
    | {errno.ENOTDIR, errno.EOPNOTSUPP}
)


def errno_of(error: errors.VfsError) -> int:
    """The errno a program gets for an error."""
    return next((ERRNO[cls] for cls in type(error).__mro__ if cls in ERRNO), errno.EIO)


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Any)


class Watch(Protocol):
    """Is told of every request. Neither of the two raises or waits."""

    def begin(self, op: str, args: tuple[Any, ...]) -> Any: ...

    def end(self, begun: Any, result: Any, code: int, seconds: float, args: tuple[Any, ...]) -> None: ...


def handler(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Give a handler its deadline, and let nothing but `FUSEError` (and cancellation) leave it.

    What it did is counted, and told to `self.watch` where there is one.
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
