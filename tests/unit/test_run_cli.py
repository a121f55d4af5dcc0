"""``vfsmount run``: which words are whose, without a server."""

from __future__ import annotations

import click
import pytest

from vfsmount.cli.run import _LOCAL, RunCommand, command


def parsed(*arguments: str) -> tuple[bool, tuple[str, ...], dict[str, object]]:
    """(local form, image and command, options) of a command line."""
    assert isinstance(command, RunCommand)
    ctx: click.Context = command.make_context("run", list(arguments))
    return ctx.meta[_LOCAL], ctx.params["words"], ctx.params


def test_words_behind_the_image_are_the_command() -> None:
    local, words, options = parsed("--rm", "-m", "a", "python:3.9", "ls", "-l", "--rm", "-m", "b")
    assert not local and words == ("python:3.9", "ls", "-l", "--rm", "-m", "b")
    assert options["remove"] and options["mounts"] == ("a",)


def test_options_directly_behind_the_image_are_ours() -> None:
    local, words, options = parsed("python:3.9", "-m", "a", "--rm", "ls", "-m", "b")
    assert not local and words == ("python:3.9", "ls", "-m", "b")
    assert options["remove"] and options["mounts"] == ("a",)


def test_marked_command_without_image_is_local() -> None:
    local, words, options = parsed("-m", "a", "--rm", "--", "ls", "--", "-l")
    assert local and words == ("ls", "--", "-l") and options["mounts"] == ("a",)


@pytest.mark.parametrize("between", [["--"], ["-m", "a", "--"]])
def test_marked_command_behind_an_image_is_in_a_session(between: list[str]) -> None:
    local, words, _ = parsed("python:3.9", *between, "-odd", "x")
    assert not local and words[0] == "python:3.9" and words[-2:] == ("-odd", "x")


def test_image_alone() -> None:
    assert parsed("python:3.9")[:2] == (False, ("python:3.9",))
    assert parsed("python:3.9", "--rm")[:2] == (False, ("python:3.9",))


def test_unknown_option_is_refused() -> None:
    with pytest.raises(click.NoSuchOption):
        parsed("--no-such", "python:3.9")
