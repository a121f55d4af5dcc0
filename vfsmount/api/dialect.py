"""The two generations of the API: which one a server speaks, and how each is addressed.

23.09 addresses a folder by name, from 24.03 on (API major 8) by id. Everything else that differs is
either a shape, which `shapes` reads in both forms, or stands in the table below.

Source: contract 2.3, 3.2, 8.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from vfsmount.api.paths import encode
from vfsmount.errors import ProtocolError
from vfsmount.values import Folder

OUR_VERSION = "v9.20250722"  # the newest we know; lowered to the server's by `negotiate`


class Dialect(enum.Enum):
    """Which generation of the API the manager speaks."""

    V23 = "23.09"
    V26 = "26"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What ``GET /`` told.

    Attributes:
        manager: version of the manager as it writes it (``23.09.10``).
        api_version: what we send as ``X-BackendAI-Version``: the smaller of ours and the server's.
    """

    dialect: Dialect
    manager: str
    api_version: str

    @property
    def has_archives(self) -> bool:
        """Whether archives of directories are as we know them. The ones between 23.09, where one that is
        given up blocks a thread of the storage-proxy for ever, and 26.x were never tried.

        Source: contract 4.5.
        """
        return self.dialect is Dialect.V26 and _year(self.manager) >= 26

    @property
    def takes_mount_ids(self) -> bool:
        """Whether new sessions may name their folders by id. Those before 26.x were never tried.

        Source: contract 3.10.
        """
        return self.dialect is Dialect.V26 and _year(self.manager) >= 26


@dataclass(frozen=True, slots=True)
class Traits:
    """What our calls must know of a dialect.

    Attributes:
        by_id: folders are addressed by id; names may be ambiguous and are not sent.
        has_errno: failed file operations tell an errno.
        has_trash: deleting a folder is reversible and has further steps.
        delete_by_post: bodies of DELETE, which some proxies strip, can be avoided.
        hides_denial: a write that is not allowed answers 404.
        silent_delete: delete-files answers 200 whatever happened.
        looks_then_opens: a download tells the version that was there before the file was opened; what is
            put in its place in between is sent under that name, and cut at that length.
    """

    by_id: bool
    has_errno: bool
    has_trash: bool
    delete_by_post: bool
    hides_denial: bool
    silent_delete: bool
    looks_then_opens: bool


TRAITS = {
    Dialect.V23: Traits(
        by_id=False,
        has_errno=True,
        has_trash=False,
        delete_by_post=False,
        hides_denial=True,
        silent_delete=False,
        looks_then_opens=True,
    ),
    Dialect.V26: Traits(
        by_id=True,
        has_errno=False,
        has_trash=True,
        delete_by_post=True,
        hides_denial=False,
        silent_delete=True,
        looks_then_opens=False,
    ),
}

_VERSION = re.compile(r"v(\d+)\.(\d{8})$")


def negotiate(version: str, manager: str) -> ServerInfo:
    """Choose dialect and API version from the two fields of ``GET /``.

    Raises:
        ProtocolError: neither field has a form we know.
    """
    theirs, ours = _VERSION.match(version), _VERSION.match(OUR_VERSION)
    assert ours is not None
    if theirs is None:
        raise ProtocolError("the server names an API version of unknown form")
    their_key, our_key = (int(theirs[1]), theirs[2]), (int(ours[1]), ours[2])
    new = their_key[0] >= 8 or _year(manager) >= 24
    return ServerInfo(
        dialect=Dialect.V26 if new else Dialect.V23,
        manager=manager,
        api_version=version if their_key < our_key else OUR_VERSION,
    )


def folder_segment(folder: Folder, dialect: Dialect) -> str:
    """The percent-encoded path segment that addresses a folder."""
    return folder.id if TRAITS[dialect].by_id else encode(folder.name)


def _year(manager: str) -> int:
    # "23.09.10", but "26.9.6": compare numbers, not text.
    m = re.match(r"(\d+)\.", manager)
    return int(m[1]) if m else 0
