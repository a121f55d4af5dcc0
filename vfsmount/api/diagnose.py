"""Which error a failed file operation means, judged from what stands on the server.

26.x drops the errno on the way (contract 3.6), so after a failure the directories involved are
listed and this module, which is pure, tells what must have been the matter.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

from vfsmount.errors import (
    AlreadyExists,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotFound,
    PermissionDenied,
    VfsError,
)
from vfsmount.values import Kind, Listing


class State(enum.Enum):
    """What a fresh listing says of a path."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    MISSING = "missing"
    UNKNOWN = "unknown"  # its directory could not be listed, or the listing may be cut


States = Mapping[str, State]
Judge = Callable[[States, Sequence[str]], VfsError | None]

_STATE_OF = {Kind.FILE: State.FILE, Kind.DIRECTORY: State.DIRECTORY, Kind.SYMLINK: State.SYMLINK}


def state_in(listing: Listing | None, name: str) -> State:
    """What a directory's listing says of one of its names; None is a listing that failed."""
    if listing is None:
        return State.UNKNOWN
    wanted = name.encode()
    for entry in listing.entries:
        if entry.name == wanted:
            return _STATE_OF[entry.kind]
    return State.UNKNOWN if listing.cut else State.MISSING


def for_listing(states: States, rels: Sequence[str]) -> VfsError | None:
    """Why a directory could not be listed."""
    (rel,) = rels
    if not rel:
        return NotFound("the folder is gone from the storage host")
    blocked = _ancestors(states, rel)
    if blocked is not None:
        return blocked
    return {
        State.MISSING: NotFound("no such directory on the server"),
        State.FILE: NotADirectory("this is a file"),
        State.SYMLINK: PermissionDenied("a symlink that leads out of the folder or nowhere"),
    }.get(states[rel])


def for_mkdir(states: States, rels: Sequence[str]) -> VfsError | None:
    """Why a directory could not be made."""
    (rel,) = rels
    blocked = _ancestors(states, rel)
    if blocked is not None:
        return blocked
    if states[rel] in (State.FILE, State.DIRECTORY, State.SYMLINK):
        return AlreadyExists("the name is taken")
    return None


def for_delete(states: States, rels: Sequence[str]) -> VfsError | None:
    """Why something could not be deleted: the first path that is not there."""
    for rel in rels:
        blocked = _ancestors(states, rel)
        if blocked is not None:
            return blocked
        if states[rel] is State.MISSING:
            return NotFound("no such file on the server")
    return None


def for_upload(states: States, rel: str) -> VfsError | None:
    """Why a file could not be put in place."""
    blocked = _ancestors(states, rel)
    if blocked is not None:
        return blocked
    return IsADirectory("a directory has the file's name") if states[rel] is State.DIRECTORY else None


def for_move(states: States, rels: Sequence[str]) -> VfsError | None:
    """Why src could not be moved to dst."""
    src, dst = rels
    blocked = _ancestors(states, src)
    if blocked is not None:
        return blocked
    if states[src] is State.MISSING:
        return NotFound("no such file on the server")
    if states[src] is State.DIRECTORY and f"{dst}/".startswith(f"{src}/"):
        return InvalidRequest("a directory cannot be moved into itself")
    blocked = _ancestors(states, dst)
    if blocked is not None:
        return blocked
    if states[dst] is State.DIRECTORY:
        # It would have gone inside, so its name must be taken there.
        return AlreadyExists("the name is taken inside that directory")
    if states[src] is State.DIRECTORY and states[dst] is State.FILE:
        return AlreadyExists("a file stands in the directory's way")
    return None


def _ancestors(states: States, rel: str) -> VfsError | None:
    """What is wrong above a path: the first ancestor that is no directory."""
    parts = rel.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        state = states["/".join(parts[:depth])]
        if state is State.MISSING:
            return NotFound("a directory above it does not exist")
        if state is State.FILE:
            return NotADirectory("a file stands where a directory is needed")
    return None
