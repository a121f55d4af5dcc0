"""Where completion keeps which folders there are, and how a command that changes them has it forgotten."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from vfsmount import places


def directory() -> Path:
    """The directory for it, beside the cache of what was read; it need not exist."""
    return places.cache_dir().parent / "completion"


def forget() -> None:
    """Have the next TAB ask the server which folders there are. Never fails."""
    with suppress(OSError):
        for path in directory().glob("folders-*.json"):
            path.unlink(missing_ok=True)
