"""Sessions: a home directory with folders in it, and commands that run there.

Only with ``--sessions``, because the commands are processes of this machine, as the user that the
server runs as. Folders are symlinks below a directory that stands for ``/home/work``; that a folder is
read-only is not enforced.
Source: contract 3.10; Backend.AI manager ``api/session.py``, ``models/vfolder.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.access import Access, accessible
from vfsmount.server.kernel import Kernel
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.settings import DOMAIN, PROJECT
from vfsmount.server.state import Call, Route, Server

IMAGES = frozenset({"cr.backend.ai/stable/python:3.9-ubuntu20.04", "stable/python:3.9", "python:3.9"})
HOME = "/home/work"
HOMES = "sessions"  # below the data directory: their home directories
_NAME = re.compile(r"(?=.{4,64}\Z)\w[\w.-]*\w", re.ASCII)
_SLOTS = frozenset({"cpu", "mem"})
_CONFIG = frozenset(
    (
        *("mounts", "mount_map", "mountMap", "environ", "scaling_group", "scalingGroup", "resources"),
        *("resource_opts", "resourceOpts", "preopen_ports", "preopenPorts", "agent_list", "agentList"),
    )
)
# Seconds after which a new session is so far.
_PHASES = ((0.2, "RUNNING"), (0.1, "PREPARING"), (0.05, "SCHEDULED"))


@dataclass(slots=True)
class Session:
    """One session that has not ended.

    Attributes:
        fits: a machine has room for it; else it waits in the queue for ever.
        ready: its bootstrap script.
        fails: something that it mounts is not there, which turns out when it is prepared.
    """

    name: str
    owner: str
    image: str
    fits: bool
    fails: bool
    kernel: Kernel
    home: Path
    bootstrap: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    since: float = field(default_factory=time.monotonic)
    ready: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        """Where it stands now."""
        if not self.fits:
            return "PENDING"
        age = time.monotonic() - self.since
        if self.fails and age >= _PHASES[1][0]:
            return "ERROR"
        status = next((status for after, status in _PHASES if age >= after), "PENDING")
        bootstrapped = self.ready is None or self.ready.done()
        return status if bootstrapped or status != "RUNNING" else "PREPARING"

    async def close(self) -> None:
        """End its processes and remove its home directory."""
        if self.ready is not None:
            self.ready.cancel()
        await self.kernel.close()
        # Symlinks are removed, not followed.
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)


async def create(call: Call) -> web.Response:
    """A new session, or with ``reuseIfExists`` the one of that name."""
    p, config = call.params, call.params["config"]
    if not _NAME.fullmatch(p["name"]):
        raise Problem("invalid-api-params", "Input validation error", {"name": "does not match pattern"})
    if call.dialect.strict and not config.keys() <= _CONFIG:
        raise Problem("internal-server-error")  # its check of `config` is one that nobody catches
    resources = config.get("resources") or {}
    for slot in resources.keys() - _SLOTS:
        raise Problem("invalid-api-params", f"Invalid resource allocation: Unknown slot type: {slot!r}")
    if p["image"] not in IMAGES:
        text = f"Unknown image references: ref:'{p['image']}', alias:'{p['image']}'"
        raise no_such("environment image", msg=text)
    known = _of(call.server, call.user.access_key, p["name"])
    if known is not None:
        if not p["reuseIfExists"] or known.image != p["image"]:
            raise Problem("session-already-exists", data={"existingSessionId": known.id})
        return _created(known, created=False)
    session = await _new(call, config, resources)
    call.server.compute[call.user.access_key, p["name"]] = session
    return await _answered(call, session)


async def _answered(call: Call, session: Session) -> web.Response:
    limit = call.params["maxWaitSeconds"] or float("inf")
    while not call.params["enqueueOnly"] and session.status != "RUNNING":
        if time.monotonic() - session.since > limit:
            return _created(session, created=True, status="TIMEOUT")
        await asyncio.sleep(0.05)
    return _created(session, created=True)


async def _new(call: Call, config: Mapping[str, Any], resources: Mapping[str, Any]) -> Session:
    places = _places(call, config)
    home = Path(tempfile.mkdtemp(prefix="session-", dir=call.server.settings.data / HOMES))
    try:
        for path, source in places.items():
            _stand(home, path, source)
        for dotfile in _dotfiles(call):
            _write(home, dotfile.path, dotfile.data, int(dotfile.permission, 8))
    except OSError as e:
        shutil.rmtree(home, ignore_errors=True)
        raise Problem("invalid-api-params", f"The mounts cannot be made: {e.strerror}") from e
    environ = {str(k): str(v) for k, v in (config.get("environ") or {}).items()}
    kernel = Kernel(home, environ)
    fits = int(float(resources.get("cpu", 1))) <= (os.cpu_count() or 1)
    fails = not all(source.is_dir() for source in places.values())
    owner = call.user.access_key
    session = Session(call.params["name"], owner, call.params["image"], fits, fails, kernel, home)
    script = call.params["bootstrap_script"] or call.user.bootstrap_script
    if script:
        session.ready = asyncio.ensure_future(kernel.bootstrap(script))
    return session


def _created(session: Session, *, created: bool, status: str = "") -> web.Response:
    reply: dict[str, Any] = {"sessionId": session.id, "sessionName": session.name}
    reply |= {"status": status or session.status, "servicePorts": [], "created": created}
    return web.json_response(reply, status=201)


async def info(call: Call) -> web.Response:
    """Where a session stands."""
    session = _named(call)
    waits = session.status == "PENDING" and not session.fits
    return web.json_response(
        {
            "domainName": DOMAIN,
            "image": session.image,
            "status": session.status,
            "statusInfo": _why(session) or "None",
            "statusData": {"scheduler": {"msg": "No room on any machine."}} if waits else None,
            "age": int((time.monotonic() - session.since) * 1000),
        }
    )


def _why(session: Session) -> str:
    if session.status == "ERROR":
        return "creation-failed"
    return "" if session.fits else "no-available-instances"


async def destroy(call: Call) -> web.Response:
    """End a session; while it is prepared only if forced to."""
    session = _named(call)
    forced = params.boolean(call.request.query.get("forced", "false"), call.dialect)
    if session.status in ("SCHEDULED", "PREPARING", "ERROR") and not forced:
        text = "Cannot destroy sessions in scheduled/preparing/terminating/error status"
        raise Problem("generic-forbidden", text)
    stats = {"status": "terminated"} if session.status == "PENDING" else {}
    call.server.compute.pop((session.owner, session.name), None)
    await session.close()
    return web.json_response({"stats": stats})


async def execute(call: Call) -> web.Response:
    """Begin or go on with a run; a piece of its output."""
    try:
        given = json.loads(await call.request.read())
        mode, run_id = given["mode"], given["runId"]
    except (ValueError, KeyError, TypeError):
        raise Problem("invalid-api-params", "runId is missing!") from None
    if mode not in ("query", "batch", "continue", "input"):
        raise Problem("invalid-api-params", "mode has an invalid value.")
    if run_id is None and mode in ("continue", "input"):
        raise Problem("invalid-api-params", "continuation requires explicit run ID")
    session = _named(call)
    if session.status != "RUNNING":
        raise Problem("internal-server-error")
    options = given.get("options") or {}
    run_id = str(run_id or uuid.uuid4().hex)
    result = await session.kernel.execute(run_id, mode, given.get("code") or "", options)
    return web.json_response({"result": result})


def _named(call: Call) -> Session:
    name = call.request.match_info["session"]
    session = _of(call.server, call.user.access_key, name)
    if session is None:
        raise no_such("session", msg=f"Session (id={name}) does not exist.")
    return session


def _of(server: Server, owner: str, name: str) -> Session | None:
    found = server.compute.get((owner, name))
    assert found is None or isinstance(found, Session)
    return found or next((s for s in server.compute.values() if s.owner == owner and s.id == name), None)


@contextmanager
def homes(data: Path) -> Iterator[None]:
    """Where home directories are made; what a server that died left there is removed."""
    # Symlinks are removed, not followed.
    shutil.rmtree(data / HOMES, ignore_errors=True)
    (data / HOMES).mkdir(mode=0o700)
    yield


async def close_all(server: Server) -> None:
    """End every session."""
    sessions, server.compute = list(server.compute.values()), {}
    for session in sessions:
        await session.close()


# --- what stands in the home directory ---------------------------------------------------------


def _places(call: Call, config: Mapping[str, Any]) -> dict[str, Path]:
    """Path below the home directory → directory of a folder."""
    seen = accessible(call.records, call.user, call.dialect)
    targets = {**(config.get("mount_map") or {}), **(config.get("mount_id_map") or {})}
    options = config.get("mount_options") or {}
    if len(set(targets.values())) < len(targets):
        raise Problem("invalid-api-params", "Duplicate alias folder name exists.")
    found: dict[str, Path] = {}
    for key in [*(config.get("mounts") or []), *(config.get("mount_ids") or [])]:
        access, subpath = _find(seen, str(key), options.get(key) or {})
        wanted = (options.get(key) or {}).get("permission")
        if wanted in ("rw", "wd") and access.permission == "ro":
            raise Problem(
                "generic-forbidden", f"The folder is allowed to be accessed in 'ro' mode, not {wanted}"
            )
        path = _below_home(str(targets.get(key) or access.folder.name))
        source = call.server.volume.resolve(access.folder.id, subpath or ".")
        _refuse_overlap(path, found)
        found[path] = source
    for access in seen:
        if access.folder.name.startswith("."):
            found.setdefault(access.folder.name, call.server.volume.folder(access.folder.id))
    return found


def _find(seen: Iterable[Access], key: str, options: Mapping[str, Any]) -> tuple[Access, str]:
    name, _, subpath = key.partition("/")
    found = [a for a in seen if name in (a.folder.name, a.folder.id, str(uuid.UUID(a.folder.id)))]
    if not found:
        raise no_such("virtual folder", msg=f"VFolder {name} is not found or accessible.")
    # The real one makes a map by name, in which the last one stays.
    return found[-1], str(options.get("subpath") or subpath)


def _below_home(target: str) -> str:
    path = os.path.normpath(os.path.join(HOME, target)) + "/"
    if not path.startswith(HOME + "/") or path == HOME + "/":
        raise Problem("invalid-api-params", f"This server mounts below {HOME} only.")
    return path.removeprefix(HOME + "/").rstrip("/")


def _refuse_overlap(path: str, others: Iterable[str]) -> None:
    for other in others:
        if path == other or path.startswith(other + "/") or other.startswith(path + "/"):
            raise Problem("invalid-api-params", f"VFolder mount path {path} overlaps with {other}")


def _stand(home: Path, path: str, source: Path) -> None:
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    (home / path).symlink_to(source, target_is_directory=True)


def _dotfiles(call: Call) -> Iterable[Any]:
    """The user's before the project's before the domain's, each path once."""
    project = call.records.project(PROJECT)
    scopes = [("user", call.user.id), ("group", project[0] if project else ""), ("domain", DOMAIN)]
    found: dict[str, Any] = {}
    for scope, owner in scopes:
        for dotfile in call.records.dotfiles(scope, owner):
            found.setdefault(dotfile.path, dotfile)
    return found.values()


def _write(home: Path, path: str, data: str, mode: int) -> None:
    target = Path(os.path.normpath(home / path))
    # Not out of the home directory, and not through a folder that stands there.
    parents = [p for p in target.parents if p.is_relative_to(home)]
    if not parents or any(p.is_symlink() for p in (target, *parents)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(data, encoding="utf-8", newline="")
    target.chmod(mode)


_ANY = params.optional(lambda value, dialect: value)

ROUTES = (
    Route(
        "POST",
        "/session",
        create,
        (
            Field("name", params.text, aliases=("session_name", "clientSessionToken")),
            Field("image", params.text, aliases=("lang",)),
            Field("architecture", params.text, "x86_64", ("arch",)),
            Field("type", params.text, "interactive", ("sessionType",)),
            Field("group", params.text, PROJECT, ("groupName", "group_name")),
            Field("domain", params.text, DOMAIN, ("domainName", "domain_name")),
            Field("cluster_size", params.integer, 1, ("clusterSize",)),
            Field("cluster_mode", params.text, "single-node", ("clusterMode",)),
            Field("config", params.mapping, {}),
            Field("tag", _ANY, None),
            Field("enqueueOnly", params.boolean, False),
            Field("maxWaitSeconds", params.integer, 0),
            Field("starts_at", _ANY, None, ("startsAt",)),
            Field("reuseIfExists", params.boolean, True),
            Field("startupCommand", _ANY, None),
            Field("bootstrap_script", _ANY, None, ("bootstrapScript",)),
            Field("dependencies", _ANY, None),
            Field("callback_url", _ANY, None, ("callbackUrl", "callbackURL")),
            Field("owner_access_key", _ANY, None),
        ),
        frozen="all",
        place="body",
    ),
    Route("GET", "/session/{session}", info),
    Route("DELETE", "/session/{session}", destroy),
    Route("POST", "/session/{session}", execute),
)
