"""What holds for every test: which may run here, and that none logs an unexpected warning."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from tests.support.live import why_no_live
from tests.support.skips import NotMeant

# Set by .ci/run where there is a /dev/fuse: a skipped mount test is then a failure.
REQUIRE_FUSE = "VFSMOUNT_REQUIRE_FUSE"
# Set there where that is root: so is one that becomes an ordinary user, or runs a container.
REQUIRE_UNPRIVILEGED = "VFSMOUNT_REQUIRE_UNPRIVILEGED"


# A busy machine is slow in whatever it does; that says nothing of what is tested.
hypothesis.settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--long", action="store_true", help="also run those that are too long for CI")


def pytest_configure() -> None:
    # A shell that runs us in the background has us ignore Ctrl-C, and with us all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, saying what was missing."""
    reasons = {
        "fuse": why_no_fuse(),
        "live": why_no_live(),
        "slow": "" if config.getoption("--slow") else "takes minutes: run with --slow",
        "long": "" if config.getoption("--long") else "too long for CI: run with --long",
    }
    if os.environ.get(REQUIRE_FUSE) == "1" and reasons["fuse"]:
        raise pytest.UsageError(f"{REQUIRE_FUSE} is set, and {reasons['fuse']}")
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests read is not to lie in the cache of whoever runs them, nor to be found there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where mounting is required, make a failure of a mount test that skips itself while running."""
    report = yield
    required = os.environ.get(REQUIRE_FUSE) == "1" and item.get_closest_marker("fuse")
    skipped = report.skipped and call.excinfo is not None and not isinstance(call.excinfo.value, NotMeant)
    if required and skipped and not needs_more_than_a_mount(item):
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_FUSE} is set, and this was skipped: {call.excinfo.value}"
    return report


def needs_more_than_a_mount(item: pytest.Item) -> bool:
    """Whether something else may have been missing: the real server, time, or other users to be."""
    names = ["live", "xfail", *(name for name in ("slow", "long") if not item.config.getoption(f"--{name}"))]
    names += [] if os.environ.get(REQUIRE_UNPRIVILEGED) == "1" else ["unprivileged"]
    return any(item.get_closest_marker(name) for name in names)


def why_no_fuse() -> str:
    """What is missing for a mount; empty where nothing is."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        return f"/dev/fuse cannot be opened: {e.strerror}"
    return "" if shutil.which("fusermount3") else "fusermount3 is not installed: run scripts/setup"


class Collector(logging.Handler):
    """Keeps records of WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def warning_records(request: pytest.FixtureRequest) -> Iterator[list[logging.LogRecord]]:
    """Fail the test on a warning of ours, unless it asked for `expect_warnings`."""
    collector = Collector()
    ours = logging.getLogger("vfsmount")
    for logger in (ours, logging.getLogger("vfsmount.api")):
        logger.setLevel(logging.NOTSET)  # a command that ran in an earlier test may have made it quieter
    ours.addHandler(collector)
    try:
        yield collector.records
    finally:
        ours.removeHandler(collector)
    if collector.records and "expect_warnings" not in request.fixturenames:
        lines = "\n".join(f"{r.levelname} {r.name} {r.getMessage()}" for r in collector.records)
        pytest.fail(f"unexpected in the log (expect_warnings would allow it):\n{lines}", pytrace=False)


@pytest.fixture
def expect_warnings(warning_records: list[logging.LogRecord]) -> list[logging.LogRecord]:
    """Allow warnings in this test; the list holds those logged so far."""
    return warning_records
