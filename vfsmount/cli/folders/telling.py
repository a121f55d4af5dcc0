"""Mounts on this machine: told at once of what a command has changed, asked what they have not sent."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from vfsmount.errors import MountError

# For all of them together: the change is made, and a mount that is not told sees it within its TTL.
_PATIENCE_S = 2.0


def tell_of_folders(state_dir: Path) -> None:
    """Have every mount of this user, and completion, ask the server anew for what folders there are.
    Never fails.

    All of them, and for all they show: a record does not say whose folders a mount shows, and a folder
    that appears has no place on it yet.
    """
    from vfsmount.cli.completion.kept import forget
    from vfsmount.cli.control import ask, live_mounts

    forget()
    deadline = time.monotonic() + _PATIENCE_S
    for record in live_mounts(state_dir):
        with suppress(MountError, TimeoutError):
            next(ask(record, {"op": "refresh", "paths": []}, deadline), None)


def unsent_files(folder_id: str, state_dir: Path) -> int:
    """Files of a folder that mounts here have not sent, as far as they answer."""
    from vfsmount.cli.control import ask
    from vfsmount.cli.mounted import showing

    files, deadline = 0, time.monotonic() + _PATIENCE_S
    for mount in showing(folder_id, state_dir):
        request = {"op": "wait", "paths": mount.below([""])}  # whose first answer tells what is left
        with suppress(MountError, TimeoutError):
            files += next(ask(mount.record, request, deadline), {}).get("left_files", 0)
    return files
