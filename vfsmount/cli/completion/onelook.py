"""A client that asks once: completion may cost a listing, and no looking for the reason of an error."""

from __future__ import annotations

from vfsmount.api.client import Client
from vfsmount.errors import RemoteError


class OneLook(Client):
    """As `Client`, but an error is what the server says, in whatever words."""

    def _is_vague(self, e: RemoteError) -> bool:
        return False
