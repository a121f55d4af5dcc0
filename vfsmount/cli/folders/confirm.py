"""Asking before something is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from vfsmount.cli import show
from vfsmount.errors import ConfigError


def yes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--yes``, as parameter `yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def may_go_on(question: str) -> bool:
    """Whether the user agrees; asked on the terminal, where "no" is the answer to Enter.

    Raises:
        ConfigError: there is no terminal, so nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigError("this asks before it removes anything, and there is no terminal: give --yes")
    return click.confirm(show.printable(question), err=True)
