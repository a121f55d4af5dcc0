"""``vfsmount run -m NAME -- COMMAND``: on this machine, without a cluster.

Three processes. One mounts the folders where only it sees them, in a mount namespace (and where that
takes it a user namespace) of its own. The command runs in a copy of that namespace, in which the
folders also stand in a home directory. This one stays outside, waits for the command, passes signals
on, and then has the first send what is left.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from vfsmount import places
from vfsmount.cli import show, supervise
from vfsmount.cli.exit_codes import FAILED, MOUNT, OK, UNSENT, exit_code
from vfsmount.cli.options import Flags
from vfsmount.cli.run import namespaces
from vfsmount.cli.run.home import Workshop, build
from vfsmount.cli.run.plan import Plan
from vfsmount.core.mountspec import HOME, MountSpec

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it
_LINGER_S = 60.0  # beyond the drain's own time: the daemon's deadlines end it long before
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Run:
    """One local run.

    Attributes:
        image: of the container in which the command runs; None: in namespaces of its own.
    """

    mounts: Sequence[MountSpec]
    command: Sequence[str]
    environment: Mapping[str, str]
    image: str | None
    flags: Flags
    state: Path
    drain_timeout_s: float
    workshop: Workshop


class DaemonFailed(Exception):
    """The daemon ended before it was ready, and has said why; `status` is to be ours."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run_local(
    mounts: Sequence[MountSpec],
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    image: str | None,
    flags: Flags,
    state_dir: Path | None = None,
    drain_timeout: float = 60.0,
) -> int:
    """Run `command` in namespaces of its own; its exit status.

    Args:
        image: run it in a container of this image instead; no command: the image's own.

    Returns:
        The command's status; 6 where that is 0 and something could not be sent.
    """
    if not command and image is None:
        raise click.UsageError("there is no command behind '--'")
    if image is not None:
        from vfsmount.cli.run.container import find_engine

        find_engine()  # before anything is mounted
    runtime = places.runtime_dir()
    workshop = Workshop(runtime / f"run-{os.getpid()}-{secrets.token_hex(4)}")
    state = (state_dir or places.state_dir()).absolute()
    run = Run(mounts, command, environment, image, flags, state, drain_timeout, workshop)
    workshop.make()
    namespaces.adopt_orphans(True)
    try:
        with supervise.holding_signals() as before:
            return _run(run, before)
    except DaemonFailed as e:
        return e.status
    finally:
        namespaces.adopt_orphans(False)
        workshop.remove()


def _run(run: Run, mask: frozenset[signal.Signals]) -> int:
    ours, theirs = socket.socketpair()
    with ours:
        parent = os.getpid()
        daemon = _fork(lambda: _daemon(run, theirs, ours, parent), mask)
        theirs.close()
        plan, descriptors = _hear(ours, daemon)
        for sentence in plan.left_out:
            show.say(sentence)
        try:
            status = _command(run, plan, descriptors, mask)
            supervise.end_leftovers(daemon)
        finally:
            for fd in descriptors:
                os.close(fd)
            unsent = _drain(run, daemon)
    return status or unsent


def _fork(work: Callable[[], int], mask: frozenset[signal.Signals]) -> int:
    """A child that does the work and ends; what is in buffers is written once."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


# --- the daemon ----------------------------------------------------------------------------------


def _daemon(run: Run, channel: socket.socket, other_end: socket.socket, parent: int) -> int:
    """In a child: mount the folders, tell the parent, serve until told to end; the exit status."""
    other_end.close()
    os.setsid()  # Ctrl-C is for the command
    namespaces.die_with_parent(signal.SIGTERM, parent)
    try:
        if run.image is None:
            namespaces.isolate()
            _require_device()
            descriptors = namespaces.open_own()
            socket.send_fds(channel, [b"\n"], descriptors)
            for fd in descriptors:
                os.close(fd)
        else:
            channel.send(b"\n")
        plan = _ask_the_server(run)

        def ready() -> None:
            channel.sendall(plan.to_json())
            channel.close()

        if not plan.folders:
            ready()
            signal.sigwait({signal.SIGTERM})
            return OK
        return _mount(run, plan, ready)
    except Exception as e:
        status = exit_code(e)
        if status is None:
            raise
        show.say(str(e))
        return status


def _require_device() -> None:
    from vfsmount.errors import MountError

    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError(
            "/dev/fuse is missing: load the fuse module, or give the container --device /dev/fuse"
        ) from None
    except OSError as e:
        raise MountError(
            f"/dev/fuse cannot be opened ({e.strerror}): it has to be open to you, as 'chmod 666' makes it"
        ) from e


def _ask_the_server(run: Run) -> Plan:
    from vfsmount.api.client import Client
    from vfsmount.cli.remote import with_client
    from vfsmount.cli.run.plan import make_plan

    async def ask(client: Client) -> Plan:
        folders, dotfiles = await client.list_folders(), await client.list_dotfiles()
        return make_plan(run.mounts, folders, dotfiles, addressed_by_name=not client.traits.by_id)

    return with_client(run.flags, ask)


def _mount(run: Run, plan: Plan, ready: Callable[[], None]) -> int:
    from vfsmount.cli.mount import serve_here

    options = ["--state-dir", str(run.state), "--drain-timeout", str(run.drain_timeout_s)]
    for name in plan.shown:
        options += ["--folder", name]
    if run.image is not None:
        from vfsmount.cli.run.container import find_engine, needs_allow_other

        options += ["--allow-other"] if needs_allow_other(find_engine()) else []
    return serve_here([run.workshop.mountpoint, *options], run.flags, ready)


def _hear(channel: socket.socket, daemon: int) -> tuple[Plan, list[int]]:
    """What the daemon mounted, and its namespaces (none: it has none of its own).

    Raises:
        DaemonFailed
    """
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    with channel.makefile("rb") as f:
        said = f.read()
    if said:
        return Plan.from_json(said), descriptors
    for fd in descriptors:
        os.close(fd)
    raw = supervise.wait(daemon)
    assert raw is not None
    raise DaemonFailed(supervise.status_of(raw) or FAILED)


def _drain(run: Run, daemon: int) -> int:
    """Have the daemon send what is left; 6 where something stays here, named by somebody."""
    stopped = False

    def stop(number: int) -> None:
        nonlocal stopped
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            stopped = True
            os.kill(daemon, signal.SIGKILL)  # what was acknowledged is recorded

    raw = supervise.buried(daemon)
    died = raw is not None
    if raw is None:
        os.kill(daemon, signal.SIGTERM)
        raw = supervise.wait(daemon, stop, run.drain_timeout_s + _LINGER_S)
    if raw is None:
        os.kill(daemon, signal.SIGKILL)
        raw = supervise.wait(daemon, lambda _: None)
    assert raw is not None
    status = supervise.status_of(raw)
    if status in (OK, UNSENT) and not died:
        return status
    show.say("stopped while sending" if stopped else "the process of the mount has died")
    return _name_leftovers(run.state)


def _name_leftovers(state: Path) -> int:
    from vfsmount.store.leftovers import leftovers

    left = leftovers(state).unsent
    for file in left[:_NAMED]:
        show.say(f"not on the server: {file.name}; kept in {file.kept_at}")
    if len(left) > _NAMED:
        show.say(f"and {len(left) - _NAMED} more; 'vfsmount status' names them")
    if left:
        show.say("the next mount with this state directory goes on with them")
    return UNSENT if left else MOUNT


# --- the command ---------------------------------------------------------------------------------


def _command(run: Run, plan: Plan, descriptors: Sequence[int], mask: frozenset[signal.Signals]) -> int:
    """Run it to its end; its exit status."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = _fork(lambda: _become(run, plan, descriptors, writing, parent), mask)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    raw = supervise.wait(pid)
    assert raw is not None
    if said:
        told = json.loads(said)
        show.say(told["text"])
        return int(told["status"])
    return supervise.status_of(raw)


def _become(run: Run, plan: Plan, descriptors: Sequence[int], complaints: int, parent: int) -> int:
    """In a child: become the command. Returns only where that fails, with the reason told."""
    words, status = list(run.command), MOUNT
    environment = {**os.environ, **run.environment}
    try:
        namespaces.die_with_parent(signal.SIGTERM, parent)
        if run.image is None:
            namespaces.join(*descriptors)
            build(plan, run.workshop)
            environment |= {"HOME": HOME, "PWD": HOME}
        else:
            words = _container(run, plan, run.image)
            environment = dict(os.environ)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would too
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(words[0], words, environment)  # noqa: S606  # it is what we are asked for
    except OSError as e:
        # A directory of PATH that is closed to us gives EACCES, also where the command is nowhere.
        if shutil.which(words[0], os.F_OK, environment.get("PATH")) is None:
            text, status = f"{words[0]}: no such command", NOT_FOUND
        else:
            text, status = f"{words[0]}: {e.strerror}", NOT_EXECUTABLE
    except Exception as e:
        text, status = str(e), exit_code(e) or FAILED
    os.write(complaints, json.dumps({"text": text, "status": status}).encode())
    return status


def _container(run: Run, plan: Plan, image: str) -> list[str]:
    """The container's command line; its home directory is made."""
    from vfsmount.cli.run.container import container_command, find_engine
    from vfsmount.cli.run.home import write_dotfiles

    home = run.workshop.home
    write_dotfiles(str(home), plan.dotfiles)
    return container_command(
        find_engine(),
        image,
        run.command,
        plan,
        mountpoint=run.workshop.mountpoint,
        home=home,
        environment=run.environment,
        terminal=sys.stdin.isatty() and sys.stdout.isatty(),
    )
