"""Asking the user, with and without a terminal."""

from __future__ import annotations

import os
import sys

import click

from vfsmount import log
from vfsmount.errors import ConfigError


def ask(label: str, variable: str = "", *, hidden: bool = False) -> str:
    """The answer from `variable`, else from the terminal, else from the next line of stdin.

    A hidden answer is not shown while it is typed, and struck out of all later log lines.

    Raises:
        ConfigError: there is nobody to ask; names the variable to set.
    """
    answer = os.environ.get(variable) or (
        from_terminal(label, hidden) if sys.stdin.isatty() else from_stdin()
    )
    if not answer:
        name = variable or label
        raise ConfigError(f"{name} is not set and there is no terminal to ask for it")
    if hidden:
        log.add_secret(answer)
    return answer


def from_terminal(label: str, hidden: bool) -> str:
    """The user's answer; asked again while it is empty."""
    answer = click.prompt(label, hide_input=hidden, err=True)
    return str(answer)


def from_stdin() -> str:
    """The next line of a pipe or file, without its end; empty at the end of input."""
    return sys.stdin.readline().rstrip("\r\n")


def may_go_on(question: str) -> bool:
    """Whether the user agrees; asked on the terminal, where "no" is the answer to Enter.

    Raises:
        ConfigError: there is no terminal, so nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigError("this asks before it removes anything, and there is no terminal: give --yes")
    return click.confirm(question, err=True)
