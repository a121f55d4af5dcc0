"""The embedded servers, for every test in this folder."""

import pytest

from tests.support.fixtures import _shared_new, _shared_old, both, new_server, old_server
from vfsmount.vfs import pending, removals

__all__ = ["_shared_new", "_shared_old", "both", "new_server", "old_server"]


@pytest.fixture
def always_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen in a directory that went with others is too long ago at once."""
    monkeypatch.setattr(pending, "LATE_S", 0.0)


@pytest.fixture
def soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen in a directory is too long ago after a fifth of a second."""
    for module in (pending, removals):
        monkeypatch.setattr(module, "LATE_S", 0.2)
