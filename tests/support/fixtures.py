"""Fixtures around the embedded server; a folder of tests takes them in its conftest.py.

    from tests.support.fixtures import _shared_new, _shared_old, both, new_server, old_server

`both` runs a test once per dialect on a server shared by the module's tests, so each test makes
folders under names of its own (`fresh`) and clears the faults it ordered (done here).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.support.embedded import Embedded


def _shared(tmp_path_factory: pytest.TempPathFactory, dialect: str) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server"), dialect=dialect) as server:
        yield server


@pytest.fixture(scope="module")
def _shared_old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    yield from _shared(tmp_path_factory, "23.09")


@pytest.fixture(scope="module")
def _shared_new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    yield from _shared(tmp_path_factory, "26")


@pytest.fixture
def old_server(_shared_old: Embedded) -> Iterator[Embedded]:
    """A 23.09 server with clean counters and no faults."""
    _shared_old.reset_calls()
    yield _shared_old
    _shared_old.clear_faults()


@pytest.fixture
def new_server(_shared_new: Embedded) -> Iterator[Embedded]:
    """A 26.x server with clean counters and no faults."""
    _shared_new.reset_calls()
    yield _shared_new
    _shared_new.clear_faults()


@pytest.fixture(params=["23.09", "26"])
def both(request: pytest.FixtureRequest) -> Embedded:
    """Either server; the test runs once with each."""
    server = request.getfixturevalue("old_server" if request.param == "23.09" else "new_server")
    assert isinstance(server, Embedded)
    return server


def fresh(server: Embedded, user: str = "owner") -> tuple[str, str]:
    """(name, id) of a new folder."""
    name = f"f{secrets.token_hex(4)}"
    return name, server.create_folder(user, name)
