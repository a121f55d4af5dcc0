"""What a server would refuse of a dotfile, told before anything is sent, with what to do instead.

Source: contract 3.9; Backend.AI manager ``api/userconfig.py``, ``models/dotfile.py``, ``defs.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from vfsmount.errors import AlreadyExists, InvalidName, InvalidRequest, QuotaExceeded

DATA_MAX = 64 << 10  # characters of one
PACKED_MAX = 64 << 10  # bytes of all of a scope together, as the server packs them
COUNT_MAX = 100
DEFAULT_PERMISSION = "755"

# Sessions make these themselves, most of them as directories, and a file in their place would break them.
RESERVED = {
    ".ssh": "put single files below it, as .ssh/config",
    ".ssh/authorized_keys": "sessions write the SSH key of your key pair there",
    ".config": "put single files below it, as .config/git/config",
    ".local": "put single files below it, as .local/bin/tool",
    ".jupyter": "put single files below it, as .jupyter/jupyter_notebook_config.py",
    ".terminfo": "put single files below it",
}

_PERMISSION = re.compile(r"[0-7]{3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Packed:
    """One dotfile as the server keeps it."""

    path: str
    perm: str
    data: str


def check_path(path: str, home: str = "") -> None:
    """Refuse a path that a dotfile cannot have.

    Args:
        home: the user's home directory here, which a shell may have put in the place of ``~``.

    Raises:
        InvalidName: says why and what to write instead.
    """
    if not path:
        raise InvalidName("a dotfile needs a path, as .aws/config")
    below = path.removeprefix(home.rstrip("/") + "/") if home else path
    if path.startswith("/"):
        instead = f"; write {below} instead" if below != path and below else ""
        raise InvalidName(f"{path}: a dotfile's path is relative to the home directory of sessions{instead}")
    if path.startswith("~"):
        raise InvalidName(f"{path}: leave the ~ out; the path is relative to the home directory of sessions")
    parts = path.split("/")
    if ".." in parts:
        raise InvalidName(f"{path}: it leads out of the home directory")
    if "" in parts or "." in parts:
        tidy = str(PurePosixPath(path))
        raise InvalidName(f"{path}: empty parts in the path; write {tidy}")
    if any(not c.isprintable() for c in path):
        raise InvalidName("a dotfile's path cannot hold control characters")
    if path in RESERVED:
        raise InvalidName(f"{path} is reserved: {RESERVED[path]}")


def check_permission(permission: str) -> None:
    """Refuse what is not three octal digits.

    Raises:
        InvalidRequest: says what it must look like.
    """
    if not _PERMISSION.fullmatch(permission):
        raise InvalidRequest(f"permission {permission!r}: it must be three octal digits, as 755 or 600")


def decode(content: bytes, name: str) -> str:
    """The content as the text that the API carries, every byte kept.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise InvalidRequest(
            f"{name} is not UTF-8 text (byte {e.start}): the server keeps dotfiles as text. "
            "Put binary files into a vfolder"
        ) from None


def check_data(data: str, *, may_be_empty: bool) -> None:
    """Refuse content that no server takes, or not one of 23.09.

    Raises:
        QuotaExceeded: too large.
        InvalidRequest: empty.
    """
    if len(data) > DATA_MAX:
        raise QuotaExceeded(f"{len(data)} characters: a dotfile holds at most {DATA_MAX}; use a vfolder")
    if not data and not may_be_empty:
        raise InvalidRequest("servers of 23.09 take no empty dotfile; a single newline will do")


def check_room(new: Packed, known: Iterable[Packed]) -> None:
    """Refuse what the dotfiles of its scope leave no room for; `new` replaces one of its path.

    Raises:
        QuotaExceeded: too many, or too large together.
    """
    others = [d for d in known if d.path != new.path]
    if len(others) >= COUNT_MAX:
        raise QuotaExceeded(f"there are {len(others)} dotfiles already, and there can be {COUNT_MAX}")
    before, after = packed_size(others), packed_size([*others, new])
    if after > PACKED_MAX:
        raise QuotaExceeded(
            f"all dotfiles together would be {after} bytes, and {PACKED_MAX} is the most: "
            f"there is room for {max(0, PACKED_MAX - before)} bytes with path and permission"
        )


def packed_size(dotfiles: Collection[Packed]) -> int:
    """Bytes that these take on the server."""
    return len(msgspec.msgpack.encode(list(dotfiles)))


def check_free(path: str, known: Iterable[str], folder_names: Collection[str] = ()) -> None:
    """Refuse a path that another dotfile or a folder has.

    Args:
        folder_names: of the folders the user may access; for a user's own dotfiles only.

    Raises:
        AlreadyExists: says what has it.
    """
    if path in set(known):
        raise AlreadyExists(f"there is a dotfile {path}; 'vfsmount dotfile update' replaces it")
    if path in folder_names:
        raise AlreadyExists(f"there is a folder called {path}, which sessions mount in its place")
