"""Going to the background, but only once the work is up.

The foreground process waits on a pipe for one message of its child: ready, or what went wrong. So
its exit status is the mount's, and whoever runs the next line finds the files there.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable

import click
import msgspec

from vfsmount.cli.exit_codes import FAILED, OK, exit_code


class Message(msgspec.Struct):
    """What the child says: exit status 0 and nothing, or a status and a sentence."""

    status: int
    text: str = ""


def run_in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Fork; the child runs ``work(ready)``, the parent returns when it is ready or has failed.

    Must be called before any thread or event loop exists. In the child this never returns.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(work, write_end)
    os.close(write_end)
    return wait(read_end, pid)


def wait(pipe: int, pid: int) -> int:
    """The exit status that a child says when it is ready or has failed; closes the pipe."""
    with os.fdopen(pipe, "rb") as messages:
        raw = messages.read()
    if not raw:
        os.waitpid(pid, 0)
        click.echo("vfsmount: the background process died before it was ready", err=True)
        return FAILED
    message = msgspec.json.decode(raw, type=Message)
    if message.text:
        click.echo(f"vfsmount: {message.text}", err=True)
    return message.status


def _child(work: Callable[[Callable[[], None]], int], pipe: int) -> None:
    said = False

    def say(message: Message) -> None:
        nonlocal said
        if not said:
            said = True
            os.write(pipe, msgspec.json.encode(message))
            os.close(pipe)

    def ready() -> None:
        detach()
        say(Message(OK))

    status = FAILED
    try:
        os.setsid()
        status = work(ready)
        say(Message(status, "" if status == OK else "ended before it was ready"))
    except BaseException as e:
        status = exit_code(e) or FAILED
        if not said:
            text = str(e) if exit_code(e) is not None else "".join(traceback.format_exception(e))
            say(Message(status, text))
        else:
            logging.getLogger("vfsmount.cli").exception("mount.died")
    finally:
        os._exit(status)  # nothing of the parent's is to be run twice at exit


def detach() -> None:
    """Leave the terminal: its hang-up, its directory and its streams are not ours."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
