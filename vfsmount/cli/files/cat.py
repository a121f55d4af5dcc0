"""``vfsmount cat``: files to standard output."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import READER_GONE
from vfsmount.cli.files.tree import Failures, Trees, with_trees
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.target import Target, parse, state_dir_option
from vfsmount.errors import LocalIOError, NoSpace, VfsError


@click.command("cat")
@click.argument("words", metavar="NAME PATH…", nargs=-1, required=True, type=kinds.PLACES)
@click.option("--offset", type=int, default=0, help="Begin at this byte; -N: N bytes before the end.")
@click.option("--length", type=click.IntRange(min=0), help="At most so many bytes of each file.")
@state_dir_option
@api_options
def command(words: tuple[str, ...], offset: int, length: int | None, state_dir: Path, flags: Flags) -> int:
    """Write files of the folder NAME to standard output, one after the other.

    NAME:PATH and paths on a running mount are understood as well. What is written of a file is of one
    version: a file that is replaced meanwhile ends the command with status 9.
    """
    targets = parse(words, state_dir)
    try:
        code = with_trees(flags, targets, state_dir, lambda trees: _run(trees, targets, offset, length))
        _stdout_flush()
    except _ReaderGone:
        # As cat does, which dies of SIGPIPE. Python flushes once more at its end, to where it can.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


class _ReaderGone(Exception):
    """Whoever read our output has ended."""


async def _run(trees: Trees, targets: Sequence[Target], offset: int, length: int | None) -> int:
    failures = Failures()
    for target in targets:
        try:
            tree = await trees.of(target)
            await tree.settle([target.path])
            await tree.read(target.path, offset, length, _write)
        except VfsError as e:
            failures.add(target.shown, e)
    return failures.code


def _write(piece: memoryview) -> None:
    try:
        sys.stdout.buffer.write(piece)
    except OSError as e:
        raise _explained(e) from e


def _stdout_flush() -> None:
    try:
        sys.stdout.buffer.flush()
    except OSError as e:
        raise _explained(e) from e


def _explained(e: OSError) -> Exception:
    """Not an OSError, which would be taken for the network's where the bytes come from."""
    if e.errno == errno.EPIPE:
        return _ReaderGone()
    kind = NoSpace if e.errno in (errno.ENOSPC, errno.EDQUOT) else LocalIOError
    return kind(f"standard output: {e.strerror}")
