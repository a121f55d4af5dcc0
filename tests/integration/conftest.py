"""The embedded servers, for every test in this folder."""

from tests.support.fixtures import _shared_new, _shared_old, both, new_server, old_server

__all__ = ["_shared_new", "_shared_old", "both", "new_server", "old_server"]
