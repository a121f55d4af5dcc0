"""Options that several commands have, spelt as the official client does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

PERMISSIONS = click.Choice(["ro", "rw", "wd"])
_USAGE_MODES = click.Choice(["general", "data", "model"])


def permission_option(
    text: str, default: str | None = "rw"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--permission``, as parameter `permission`."""
    return click.option(
        "-p",
        "--permission",
        "--perm",
        "permission",
        type=PERMISSIONS,
        default=default,
        show_default=default is not None,
        help=f"{text}: read, read and write, or that and delete the folder.",
    )


def folder_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add those of a new folder, as parameters `usage_mode`, `permission` and `cloneable`."""
    for option in (
        click.option(
            "--cloneable", "--allow-clone", "cloneable", is_flag=True, help="Who can read it may clone it."
        ),
        permission_option("What members of a project may do"),
        click.option(
            "-m",
            "--usage-mode",
            type=_USAGE_MODES,
            default="general",
            show_default=True,
            help="What it is for: a label, and what the server needs to serve models.",
        ),
    ):
        function = option(function)
    return function


def yes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--yes``, as parameter `yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)
