"""Mounts on this machine hear at once of what a command has changed on the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from vfsmount import places
from vfsmount.errors import MountError

# For all of them together: the change is made, and a mount that is not told sees it within its TTL.
_PATIENCE_S = 2.0


def state_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--state-dir``, as parameter `state_dir`."""
    return click.option(
        "--state-dir", type=click.Path(path_type=Path), help="As given to the mount that is to hear of it."
    )(function)


def tell_mounts(state_dir: Path | None) -> None:
    """Have every mount of this user ask the server anew for what folders there are. Never fails.

    All of them, and for all they show: a record does not say whose folders a mount shows, and a folder
    that appears has no place on it yet.
    """
    from vfsmount.cli.control import ask, live_mounts

    deadline = time.monotonic() + _PATIENCE_S
    for record in live_mounts((state_dir or places.state_dir()).absolute()):
        with suppress(MountError, TimeoutError):
            next(ask(record, {"op": "refresh", "paths": []}, deadline), None)
