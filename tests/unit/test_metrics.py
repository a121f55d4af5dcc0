"""Counters, histograms and what may be a label."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio

from vfsmount import errors, metrics
from vfsmount.api.paths import endpoint
from vfsmount.fuse.errno_map import handler
from vfsmount.metrics import BOUNDS, Call, Counters, Timed, quantile


def test_a_time_falls_into_the_first_bucket_that_holds_it() -> None:
    timed = Timed()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.001, 31.0):
        timed.took(seconds)
    assert (timed.buckets[0], timed.buckets[1], timed.buckets[-1], timed.count) == (2, 1, 1, 4)
    assert timed.seconds == pytest.approx(31 + BOUNDS[0] * 2.001)


def test_quantiles_lie_within_the_bucket_of_the_value() -> None:
    timed = Timed()
    assert quantile(timed.buckets, 0.5) is None
    for seconds in [0.002] * 90 + [0.3] * 10:
        timed.took(seconds)
    median, high = quantile(timed.buckets, 0.5), quantile(timed.buckets, 0.99)
    assert median is not None and 0.001 < median <= 0.0025
    assert high is not None and 0.25 < high <= 0.5
    timed.took(100.0)
    assert quantile(timed.buckets, 1.0) == BOUNDS[-1]


def test_statuses_are_counted_by_class_and_tries_without_a_reply_by_themselves() -> None:
    call = Call()
    for status in (200, 206, 404, 429, 503, 0):
        call.ended(status, 0.01)
    assert call.statuses == {"2xx": 2, "4xx": 1, "429": 1, "5xx": 1, "none": 1}
    assert call.count == 6


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/folders", "/folders"),
        ("/folders/my%20data", "/folders/{vf}"),
        ("/folders/0123abcd/files?path=secret", "/folders/{vf}/files"),
        ("/folders/_/hosts", "/folders/_/hosts"),
        ("/folders/invitations/update/0123", "/folders/invitations/update/{name}"),
        ("/folders/x/files/deep/er", "/folders/{vf}/files/{name}"),
        ("/session/my-session", "/session/{name}"),
        ("/user-config/dotfiles?path=.netrc", "/user-config/dotfiles"),
    ],
)
def test_what_is_counted_of_a_path_holds_no_name(target: str, shown: str) -> None:
    assert endpoint(target) == shown


class Handlers:
    deadline_s = 5.0
    watch = None

    @handler
    async def counted_here(self, error: BaseException | None) -> None:
        running.append(metrics.counters.operation("counted_here").running)
        if error is not None:
            raise error


running: list[int] = []


async def test_handlers_count_what_becomes_of_requests(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    await handlers.counted_here(None)
    for error in (errors.NotFound("x"), pyfuse3.FUSEError(errno.EPERM), errors.Stale("x")):
        with pytest.raises(pyfuse3.FUSEError):
            await handlers.counted_here(error)
    with trio.CancelScope() as scope:
        scope.cancel()
        await handlers.counted_here(None)
        await trio.lowlevel.checkpoint()
    found = metrics.counters.snapshot()["operations"]["counted_here"]
    assert found["count"] == 5 and found["running"] == 0 and set(running) == {1}
    assert found["errors"] == {"ENOENT": 1, "EPERM": 1, "ESTALE": 1}


def test_snapshot_is_plain_data_and_leaves_out_what_never_happened() -> None:
    counters = Counters()
    counters.operation("read")
    counters.call("manager", "GET", "/folders").ended(200, 0.004)
    counters.memory.gave(10)
    counters.lagged(0.02)
    found = counters.snapshot()
    assert found["operations"] == {}
    (call,) = found["calls"]
    assert (call["service"], call["endpoint"], call["statuses"]) == ("manager", "/folders", {"2xx": 1})
    assert found["reads"]["memory"] == {"count": 1, "bytes": 10}
    assert found["loop_lag"]["max"] == 0.02 and sum(found["loop_lag"]["buckets"]) == 1
    assert all(len(t["buckets"]) == len(found["bounds"]) + 1 for t in (call, found["loop_lag"]))
