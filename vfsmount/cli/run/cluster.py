"""``vfsmount run IMAGE COMMAND``: in a session on the cluster, from the queue to its end."""

from __future__ import annotations

import getpass
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vfsmount.cli import show
from vfsmount.cli.options import Flags
from vfsmount.cli.remote import choose_folder, with_client
from vfsmount.core.foldernames import SHOWN_STATUSES
from vfsmount.core.mountspec import MountSpec, check_places
from vfsmount.errors import (
    Ambiguous,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RemoteError,
    RemoteUnavailable,
    VfsError,
)

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.sessions import RunPiece, SessionMount, SessionSpec
    from vfsmount.values import Folder

POLL_S = (0.2, 5.0)  # between looks at a session that is not there yet: first, and at last
DESTROY_S = 30.0  # also what a user waits for after Ctrl-C
LOST_REPLIES = 5  # in a row, of a command that runs
TIMED_OUT = 124  # exit status of a command that the cluster's time limit ended, as timeout(1) has it


@dataclass(frozen=True, slots=True)
class Job:
    """What is to run, and in what.

    Attributes:
        shell: command line for the shell; or else `code` in the image's own language.
        remove: destroy the session at the end.
        timeout_s: how long it may wait in the queue and start; None: as long as it takes.
    """

    image: str
    shell: str = ""
    code: str = ""
    name: str | None = None
    mounts: Sequence[MountSpec] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    resources: Mapping[str, str] = field(default_factory=dict)
    resource_opts: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "x86_64"
    scaling_group: str | None = None
    tag: str | None = None
    bootstrap_script: str | None = field(default=None, repr=False)
    remove: bool = False
    timeout_s: float | None = None
    quiet: bool = False


def run_session(job: Job, *, flags: Flags, state_dir: Path) -> int:
    """Run the job; the command's exit status.

    Raises:
        ConfigError, NotFound, NotSupported: it cannot be as asked for; nothing was made.
        Unsent: a folder's files on a mount of this machine are not on the server.
        DeadlineExceeded: it did not start in time; it is taken out of the queue.
    """
    from vfsmount.api.sessions import SessionSpec, check_name
    from vfsmount.config import load_settings

    settings = load_settings(flags, os.environ)
    name = job.name or f"vfsmount-{secrets.token_hex(4)}"
    check_name(name)

    async def work(client: Client) -> int:
        folders = await client.list_folders()
        mounts = _mounts(client, job.mounts, folders, settings.group)
        await _settle([*((m.folder, m.subpath) for m in mounts), *_automounted(folders, mounts)], state_dir)
        spec = SessionSpec(
            name,
            job.image,
            architecture=job.architecture,
            mounts=mounts,
            environ=job.environ,
            resources=job.resources,
            resource_opts=job.resource_opts,
            scaling_group=job.scaling_group,
            tag=job.tag,
            bootstrap_script=job.bootstrap_script,
        )
        return await _until_signal(_Run(client, job, spec), settings.domain, settings.group)

    return with_client(flags, work)


# --- before it is made -------------------------------------------------------------------------


def _mounts(
    client: Client, wanted: Sequence[MountSpec], folders: Sequence[Folder], group: str
) -> list[SessionMount]:
    from vfsmount.api.sessions import SessionMount, mount_config

    by_name = not client.traits.by_id
    found = []
    for spec in wanted:
        folder = choose_folder(folders, spec.folder, addressed_by_name=by_name)
        _check_reach(folder, folders, by_name=by_name)
        _check_project(folder, group)
        found.append(SessionMount(folder, spec.subpath, spec.target, spec.permission))
    check_places([(_source(m), spec.path(m.folder.name)) for m, spec in zip(found, wanted, strict=True)])
    mount_config(found, client.info)  # refuses what this server cannot do, before anything is waited for
    return found


def _automounted(folders: Sequence[Folder], mounts: Sequence[SessionMount]) -> list[tuple[Folder, str]]:
    """Folders that every session mounts, as far as they are not among `mounts` (contract 3.10)."""
    named = {mount.folder.id for mount in mounts}
    return [
        (f, "")
        for f in folders
        if f.name.startswith(".") and f.status in SHOWN_STATUSES and f.id not in named
    ]


def _source(mount: SessionMount) -> str:
    return f"{mount.folder.name}/{mount.subpath}" if mount.subpath else mount.folder.name


def _check_reach(folder: Folder, folders: Sequence[Folder], *, by_name: bool) -> None:
    if by_name and sum(f.name == folder.name for f in folders) > 1:
        # A 23.09 manager takes whichever the database gives it last.
        raise Ambiguous(
            f"you may use several folders called {folder.name!r}, and a 23.09 server would choose itself; "
            "rename yours ('vfsmount rename') or leave the other ('vfsmount leave')"
        )


def _check_project(folder: Folder, group: str) -> None:
    if folder.ownership != "group":
        return
    if folder.owner and folder.owner != group:
        # The server would leave the folder out without a word.
        raise InvalidRequest(
            f"{folder.name!r} belongs to the project {folder.owner!r}: sessions of {group!r} are without it. "
            f"Give --group {folder.owner}"
        )
    if not folder.owner:
        show.say(f"{folder.name} belongs to a project; a session of another one than {group!r} is without it")


async def _settle(places: Sequence[tuple[Folder, str]], state_dir: Path) -> None:
    """Return when what mounts of this machine hold unsent at these paths in folders is on the server."""
    import trio

    from vfsmount.cli.mounted import settle

    def wait() -> None:
        for folder, path in places:
            settle(folder.id, [path], state_dir=state_dir)

    if places:
        await trio.to_thread.run_sync(wait, abandon_on_cancel=True)


async def _until_signal(run: _Run, domain: str, group: str) -> int:
    """The command's exit status; 128 + its number where SIGTERM or SIGHUP ends us."""
    import trio

    caught: list[int] = []
    status = 1

    async def watch(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                caught.append(number)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        status = await run.run(domain, group)
        nursery.cancel_scope.cancel()
    return 128 + caught[0] if caught else status


# --- while it is there -------------------------------------------------------------------------


class _Run:
    """One session and the one command in it."""

    def __init__(self, client: Client, job: Job, spec: SessionSpec) -> None:
        self._client, self._job, self._spec = client, job, spec
        self._name = spec.name
        self._run_id = secrets.token_hex(16)
        self._begun = False  # the command may run

    async def run(self, domain: str, group: str) -> int:
        """Make the session, run the command, end the session; the command's exit status."""
        try:
            await self._client.create_session(self._spec, domain=domain, group=group)
        except RemoteUnavailable as e:
            if e.sent:  # perhaps it was made
                await self._destroy()
            raise
        except NotFound as e:
            raise NotFound(f"no session of {self._job.image}: {e}", detail=e.detail) from e
        try:
            await self._start()
            return await self._command()
        except BrokenPipeError:
            # Who read our output has gone; nothing more may be written there, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        finally:
            if self._job.remove or not self._begun:
                await self._destroy()
            else:
                self._say(f"the session {self._name} goes on")

    async def _start(self) -> None:
        """Return when the session runs."""
        import trio

        timeout_s = self._job.timeout_s
        status, why = "", ""
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            wait_s = POLL_S[0]
            while True:
                state = await self._state()
                if state[0] != status:
                    self._say(f"session {self._name}: {state[0]}")
                status, why = state
                if status == "RUNNING":
                    return
                await trio.sleep(wait_s)
                wait_s = min(POLL_S[1], wait_s * 1.3)
        because = f"{status}: {why}" if why else status or "no word of it"
        raise DeadlineExceeded(
            f"the session {self._name} did not start within {timeout_s:g} s ({because}); it is taken back. "
            "--timeout gives it longer"
        )

    async def _state(self) -> tuple[str, str]:
        from vfsmount.api.sessions import ENDED, RUNNING

        try:
            state = await self._client.read_session(self._name)
        except NotFound as e:
            raise RemoteError(
                f"the session {self._name} ended before the command could run; the image may not work here"
            ) from e
        if state.status in ENDED:
            why = f" ({state.why})" if state.why else ""
            raise RemoteError(f"the session {self._name} is {state.status} before the command could run{why}")
        return ("RUNNING" if state.status in RUNNING else state.status), state.why

    async def _command(self) -> int:
        """Run the command and pass its output on; its exit status."""
        from vfsmount.api.sessions import RunStatus

        self._begun = True
        piece = await self._client.begin_run(
            self._name, self._run_id, shell=self._job.shell, code=self._job.code
        )
        while True:
            self._pass_on(piece)
            if piece.status is RunStatus.FINISHED:
                return exit_status(piece.exit_code)
            if piece.status is RunStatus.EXEC_TIMEOUT:
                show.say("the cluster's time limit ended the command")
                return TIMED_OUT
            if piece.status is RunStatus.BUILD_FINISHED and piece.exit_code:
                show.say(f"the build step ended with status {piece.exit_code}")
            if piece.status is RunStatus.WAITING_INPUT:
                line = await self._input(secret=piece.secret)
                piece = await self._client.send_input(self._name, self._run_id, line)
            else:
                piece = await self._continue()

    async def _continue(self) -> RunPiece:
        import trio

        for attempt in range(1, LOST_REPLIES + 1):
            try:
                return await self._client.continue_run(self._name, self._run_id)
            except RemoteUnavailable as e:
                if attempt == LOST_REPLIES:
                    raise
                if e.sent:
                    show.say("a reply was lost: some of the output may be missing here")
                await trio.sleep(attempt)
        raise AssertionError("unreachable")

    def _pass_on(self, piece: RunPiece) -> None:
        for kind, text in piece.console:
            if kind == "stdout":
                _write(sys.stdout, text)
            elif kind == "stderr":
                _write(sys.stderr, text)
            else:
                self._say(f"output of the kind {kind!r} is not shown")
        for name in piece.files:
            self._say(f"the command made the file {name}")

    async def _input(self, *, secret: bool) -> str:
        import trio

        if secret and sys.stdin.isatty():
            return str(await trio.to_thread.run_sync(getpass.getpass, abandon_on_cancel=True))
        line: str = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            raise InvalidRequest("the command waits for input, and stdin has ended")
        return line.rstrip("\n")

    async def _destroy(self) -> None:
        """End the session whatever state it is in; a failure is told, not raised."""
        import trio

        with trio.CancelScope(shield=True), trio.move_on_after(DESTROY_S) as scope:
            try:
                try:
                    await self._client.destroy_session(self._name)
                except PermissionDenied:
                    await self._client.destroy_session(self._name, forced=True)
                self._say(f"session {self._name}: destroyed")
            except NotFound:
                pass
            except VfsError as e:
                self._left(str(e))
        if scope.cancelled_caught:
            self._left("no answer in time")

    def _left(self, why: str) -> None:
        show.say(
            f"the session {self._name} may still be there and use the cluster ({why}); "
            "end it in the web console, or try again"
        )

    def _say(self, sentence: str) -> None:
        if not self._job.quiet:
            show.say(sentence)


def exit_status(code: int | None) -> int:
    """Ours for a command's: what ended by a signal is 128 + its number, as a shell has it.

    -1 is no signal but what the runner in the session says of a failure of its own; None is nobody's word.
    """
    if code is None or code == -1:
        return 1
    return (128 - code if code < 0 else code) & 0xFF or (1 if code else 0)


def _write(stream: object, text: str) -> None:
    """Text as it came; whatever the terminal's encoding."""
    out = getattr(stream, "buffer", None)
    if out is None:
        print(text, end="", file=stream, flush=True)  # type: ignore[call-overload]
        return
    stream.flush()  # type: ignore[attr-defined]
    out.write(text.encode("utf-8", "surrogatepass"))
    out.flush()
