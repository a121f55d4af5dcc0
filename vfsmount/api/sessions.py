"""Calls about sessions: make one with folders in it, run something, follow its output, end it.

Source: contract 3.10; Backend.AI manager ``api/session.py``, agent ``kernel.py``, client
``func/session.py``.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vfsmount.api import shapes
from vfsmount.api.dialect import Dialect, ServerInfo
from vfsmount.api.manager import Manager
from vfsmount.api.paths import encode
from vfsmount.errors import InvalidName, InvalidRequest, NotSupported, ProtocolError
from vfsmount.values import Folder

NAME = re.compile(r"(?=.{4,24}\Z)\w[\w.-]*\w", re.ASCII)  # 23.09 takes up to 64, newer ones 24
RUNNING = frozenset({"RUNNING", "RUNNING_DEGRADED"})
# Of these no command will ever run in it.
ENDED = frozenset({"TERMINATING", "TERMINATED", "CANCELLED", "ERROR"})


@dataclass(frozen=True, slots=True)
class SessionMount:
    """One folder in a new session.

    Attributes:
        subpath: directory in it that is mounted instead of its root; "" for the root.
        target: absolute path in the session; None for the default, by the folder's name.
        permission: asked for; None for the folder's own.
    """

    folder: Folder
    subpath: str = ""
    target: str | None = None
    permission: str | None = None


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What a new session is to be.

    Attributes:
        resources, resource_opts: as the server takes them: ``{"cpu": "1", "mem": "1g"}`` and
            ``{"shmem": "64m"}``.
    """

    name: str
    image: str
    architecture: str = "x86_64"
    mounts: Sequence[SessionMount] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    resources: Mapping[str, str] = field(default_factory=dict)
    resource_opts: Mapping[str, str] = field(default_factory=dict)
    scaling_group: str | None = None
    tag: str | None = None
    bootstrap_script: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SessionState:
    """Where a session stands, and the scheduler's word on why, where it has one."""

    status: str
    why: str = ""


class RunStatus(enum.Enum):
    """What a piece of a run ended with."""

    CONTINUED = "continued"
    CLEAN_FINISHED = "clean-finished"
    BUILD_FINISHED = "build-finished"
    WAITING_INPUT = "waiting-input"
    EXEC_TIMEOUT = "exec-timeout"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RunPiece:
    """One reply of a run.

    Attributes:
        console: (``stdout``, ``stderr`` or another kind, text) in the order it was written.
        exit_code: of what has finished; None where nothing has, or nobody knows.
        secret: the input that is waited for is a password.
        files: names of files that the run says it made.
    """

    status: RunStatus
    console: Sequence[tuple[str, str]]
    exit_code: int | None = None
    secret: bool = False
    files: Sequence[str] = ()


def mount_config(mounts: Sequence[SessionMount], info: ServerInfo) -> dict[str, Any]:
    """The part of a new session's ``config`` that is about folders.

    26.x is told ids, since it takes a name for the first folder of that name that anybody has. 23.09
    knows names only, and fails with 500 on keys that it does not know.

    Raises:
        NotSupported: 23.09 is asked for another permission than the folder's own.
        InvalidRequest: two folders of one name, which the server cannot tell apart.
    """
    ids = {m.folder.name: m.folder.id for m in mounts}
    for m in mounts:
        if ids[m.folder.name] != m.folder.id:
            raise InvalidRequest(f"two folders called {m.folder.name!r} cannot be in one session")
    if info.dialect is Dialect.V23:
        return _by_name(mounts, with_options=False)
    return _by_id(mounts) if info.takes_mount_ids else _by_name(mounts, with_options=True)


def _by_name(mounts: Sequence[SessionMount], *, with_options: bool) -> dict[str, Any]:
    keys = [f"{m.folder.name}/{m.subpath}" if m.subpath else m.folder.name for m in mounts]
    pairs = list(zip(keys, mounts, strict=True))
    config: dict[str, Any] = {"mounts": keys, "mount_map": {k: m.target for k, m in pairs if m.target}}
    asked = {k: m.permission for k, m in pairs if m.permission not in (None, m.folder.permission)}
    if asked and not with_options:
        name = next(iter(asked))
        own = next(m.folder.permission for k, m in pairs if k == name)
        raise NotSupported(
            f"servers of 23.09 mount a folder with the permission that you have on it ({name}: {own}); "
            f"leave :{asked[name]} out"
        )
    if asked:
        config["mount_options"] = {k: {"type": "bind", "permission": p} for k, p in asked.items()}
    return config


def _by_id(mounts: Sequence[SessionMount]) -> dict[str, Any]:
    if len({m.folder.id for m in mounts}) < len(mounts):
        raise NotSupported("this server cannot mount two directories of one folder in one session")
    ids = {str(uuid.UUID(m.folder.id)): m for m in mounts}
    options = {
        i: {"type": "bind", "permission": m.permission, "subpath": m.subpath or None}
        for i, m in ids.items()
        if m.permission or m.subpath
    }
    config: dict[str, Any] = {"mounts": [], "mount_map": {}, "mount_ids": list(ids)}
    config["mount_id_map"] = {i: m.target for i, m in ids.items() if m.target}
    return {**config, "mount_options": options} if options else config


def check_name(name: str) -> None:
    """Refuse a name that a session cannot have.

    Raises:
        InvalidName: says what it must look like.
    """
    if not NAME.fullmatch(name):
        raise InvalidName(f"{name!r}: a session's name has 4 to 24 letters, digits, '_', '-' and '.'")


class SessionCalls:
    """Part of `Client`: sessions."""

    _manager: Manager

    async def create_session(self, spec: SessionSpec, *, domain: str, group: str) -> str:
        """Put a new session into the queue; its status, as a rule ``PENDING``.

        Raises:
            NotFound: unknown image or folder.
            AlreadyExists: a session of this name runs.
            RemoteUnavailable: if it was sent, there may be one now.
        """
        info = self._manager.info
        assert info is not None, "connect() comes first"
        body = {
            "name": spec.name,
            "image": spec.image,
            "architecture": spec.architecture,
            "type": "interactive",
            "domain": domain,
            "group": group,
            "clusterSize": 1,
            "clusterMode": "single-node",
            # To wait for the start in this one call would need a reply that takes as long as the queue.
            "enqueueOnly": True,
            "maxWaitSeconds": 0,
            "reuseIfExists": False,
            "startupCommand": None,
            "tag": spec.tag,
            "bootstrap_script": spec.bootstrap_script,
            "config": {
                **mount_config(spec.mounts, info),
                "environ": dict(spec.environ),
                "resources": dict(spec.resources),
                "resource_opts": dict(spec.resource_opts),
                "scalingGroup": spec.scaling_group,
            },
        }
        reply = await self._manager.call("POST", "/session", body=body)
        return shapes.text(reply.object.get("status")) or "PENDING"

    async def read_session(self, name: str) -> SessionState:
        """Where a session stands.

        Raises:
            NotFound: there is none, or no more.
        """
        reply = (await self._manager.call("GET", _path(name))).object
        status = shapes.text(reply.get("status"))
        if not status:
            raise ProtocolError("a session without status")
        return SessionState(status.upper(), _why(reply))

    async def begin_run(self, name: str, run_id: str, *, shell: str = "", code: str = "") -> RunPiece:
        """Start a command line of the shell, or else code in the image's own language.

        Args:
            run_id: any new name; `continue_run` wants the same.

        Raises:
            RemoteUnavailable: if it was sent, it may run.
        """
        body: dict[str, Any] = {"mode": "query", "code": code, "runId": run_id}
        if shell:
            # The steps before it are skipped where they are empty.
            steps = {"clean": "", "build": "", "buildLog": False, "exec": shell}
            body = {"mode": "batch", "code": "", "runId": run_id, "options": steps}
        return await self._run(name, body)

    async def continue_run(self, name: str, run_id: str) -> RunPiece:
        """What has happened since; the server answers within a few seconds.

        Raises:
            RemoteUnavailable: if it was sent, output may be lost with the reply.
        """
        return await self._run(name, {"mode": "continue", "code": "", "runId": run_id})

    async def send_input(self, name: str, run_id: str, line: str) -> RunPiece:
        """Answer a run that waits for input."""
        return await self._run(name, {"mode": "input", "code": line, "runId": run_id})

    async def destroy_session(self, name: str, *, forced: bool = False) -> None:
        """End a session, or take it out of the queue.

        Raises:
            NotFound: there is none, or no more.
            PermissionDenied: it is being prepared, and only `forced` ends it.
        """
        query = {"forced": "true"} if forced else {}
        await self._manager.call("DELETE", _path(name), query=query, idempotent=True)

    async def _run(self, name: str, body: Mapping[str, Any]) -> RunPiece:
        reply = await self._manager.call("POST", _path(name), body=body)
        return run_piece(reply.object.get("result"))


def run_piece(raw: object) -> RunPiece:
    """One reply of a run.

    Raises:
        ProtocolError: it has no form we know.
    """
    result = raw if isinstance(raw, Mapping) else {}
    try:
        status = RunStatus(result.get("status"))
    except ValueError:
        raise ProtocolError(f"a run with the status {result.get('status')!r}") from None
    options = result.get("options")
    return RunPiece(
        status,
        console=[c for c in map(_console, shapes.sequence(result.get("console") or [])) if c is not None],
        exit_code=shapes.number(result.get("exitCode")),
        secret=isinstance(options, Mapping) and shapes.truth(options.get("is_password")),
        # Their addresses hold grants; nobody needs them here.
        files=[
            shapes.text(f.get("name"))
            for f in shapes.sequence(result.get("files") or [])
            if isinstance(f, Mapping)
        ],
    )


def _console(raw: object) -> tuple[str, str] | None:
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        return None
    kind, content = raw
    if isinstance(content, list | tuple) and content:
        content = content[0]  # media: (type, data)
    return shapes.text(kind), shapes.text(content)


def _why(reply: Mapping[str, object]) -> str:
    info = shapes.text(reply.get("statusInfo"))
    data = reply.get("statusData")
    scheduler = data.get("scheduler") if isinstance(data, Mapping) else None
    said = shapes.text(scheduler.get("msg")) if isinstance(scheduler, Mapping) else ""
    known = "" if info in ("", "None") else info
    return ": ".join(part for part in (known, said) if part)


def _path(name: str) -> str:
    return f"/session/{encode(name)}"
