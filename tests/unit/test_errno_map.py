"""Every error has its errno, and nothing but FUSEError leaves a handler."""

from __future__ import annotations

import errno
import inspect
import logging
from functools import partial

import pyfuse3
import pytest
import trio
import trio.testing

from vfsmount import errors
from vfsmount.fuse.errno_map import ERRNO, errno_of, handler
from vfsmount.metrics import counters

# Inherit their parent's on purpose: to a program they are the same refusal.
INHERITED = {errors.ClockSkew, errors.OtpRequired, errors.ProtocolError}


def classes() -> list[type[errors.VfsError]]:
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.VfsError)]
    return [c for c in found if c is not errors.VfsError]


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.__name__)
def test_every_leaf_has_an_entry_or_inherits_one_deliberately(cls: type[errors.VfsError]) -> None:
    is_leaf = not [c for c in classes() if issubclass(c, cls) and c is not cls]
    if is_leaf:
        assert (cls in ERRNO) != (cls in INHERITED)


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.__name__)
def test_errno_is_one_that_has_a_name(cls: type[errors.VfsError]) -> None:
    error = cls("x", size=1) if cls is errors.RangeOutside else cls("x")
    assert errno_of(error) in errno.errorcode
    assert errno_of(error) != errno.ENOSYS  # the kernel would never ask again


def test_child_wins_over_parent() -> None:
    assert errno_of(errors.DeadlineExceeded()) == errno.ETIMEDOUT
    assert errno_of(errors.RemoteUnavailable()) == errno.EIO
    assert errno_of(errors.ClockSkew()) == errno.EACCES


class Handlers:
    """Something with handlers."""

    def __init__(self, raises: BaseException | None = None, deadline_s: float = 5.0) -> None:
        self.raises = raises
        self.deadline_s = deadline_s
        self.watch = None
        self.noted: list[tuple[str, str]] = []

    def failed(self, operation: str, error: errors.VfsError) -> None:
        self.noted.append((operation, str(error)))

    @handler
    async def call(self, answer: int) -> int:
        if self.raises is not None:
            raise self.raises
        return answer

    def _known(self, answer: int) -> int | None:
        if self.raises is not None:
            raise self.raises
        return answer if answer < 10 else None

    @partial(handler, known=_known)
    async def look(self, answer: int) -> int:
        return -answer

    @handler
    async def hang(self) -> None:
        await trio.sleep_forever()


async def code_of(raises: BaseException) -> int:
    with pytest.raises(pyfuse3.FUSEError) as e:
        await Handlers(raises).call(1)
    return int(e.value.errno)


async def test_answers_pass() -> None:
    assert await Handlers().call(7) == 7


async def test_what_is_known_is_answered_without_the_handler_and_counted() -> None:
    before = counters.operation("look").count
    assert await Handlers().look(7) == 7
    assert await Handlers().look(10) == -10
    assert counters.operation("look").count == before + 2
    for raised, code in ((errors.Stale("x"), errno.ESTALE), (errors.NotADirectory("x"), errno.ENOTDIR)):
        with pytest.raises(pyfuse3.FUSEError) as e:
            await Handlers(raised).look(7)
        assert e.value.errno == code


async def test_known_errors_become_their_errno() -> None:
    assert await code_of(errors.NotEmpty("x")) == errno.ENOTEMPTY
    assert await code_of(pyfuse3.FUSEError(errno.ENODATA)) == errno.ENODATA


async def test_errors_that_are_news_are_noted() -> None:
    for error, noted in ((errors.RemoteUnavailable("away"), [("call", "away")]), (errors.NotFound("x"), [])):
        handlers = Handlers(error)
        with pytest.raises(pyfuse3.FUSEError):
            await handlers.call(1)
        assert handlers.noted == noted


async def test_anything_else_becomes_eio_and_is_logged(expect_warnings: list[logging.LogRecord]) -> None:
    for bug in (ValueError("bug"), AssertionError(), KeyError("x"), RecursionError(), OSError(2, "x")):
        assert await code_of(bug) == errno.EIO
    assert [r.levelname for r in expect_warnings] == ["ERROR"] * 5
    assert all(r.exc_info for r in expect_warnings)


async def test_groups_become_eio_too(expect_warnings: list[logging.LogRecord]) -> None:
    assert await code_of(ExceptionGroup("x", [ValueError()])) == errno.EIO
    assert len(expect_warnings) == 1


async def test_cancellation_passes() -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Handlers(deadline_s=1e9).hang)
            await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught


async def test_deadline_becomes_etimedout(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(pyfuse3.FUSEError) as e:
        await Handlers(deadline_s=30.0).hang()
    assert e.value.errno == errno.ETIMEDOUT
    assert trio.current_time() >= 30.0
