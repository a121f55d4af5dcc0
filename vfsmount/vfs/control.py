"""The control socket: what other processes of the same user may ask a running mount.

A Unix stream socket that only its user can reach. A connection carries one request, a JSON object on
one line of at most `MAX_REQUEST` bytes, and then the answer: one or more JSON objects, a line each,
after which the mount closes. A client that closes first takes its request back. Every answer may be
``{"error": SENTENCE}``. Lines are ASCII; bytes that are not UTF-8 are lone surrogates in requests, as
Python's `os.fsdecode` makes them, and spelt ``\\xff`` in answers.

docs/control.md has all requests and the fields of their answers; a test finds one that is missing there.

The socket answers from the moment the mount does until everything is sent at its end.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

import msgspec
import trio

from vfsmount import __version__
from vfsmount.errors import InvalidRequest, NotFound, VfsError
from vfsmount.log import event, set_level
from vfsmount.vfs.barrier import Barrier
from vfsmount.vfs.filesystem import Filesystem
from vfsmount.vfs.status import UnsentFile
from vfsmount.vfs.warmup import Warmup

_log = logging.getLogger("vfsmount.vfs.control")

PROTOCOL = 1  # a larger one breaks older clients; fields and requests may be added without
MAX_REQUEST = 1 << 20  # some thousand paths
MAX_LISTED = 1000
MAX_CLIENTS = 64  # at a time: a descriptor each, of which a mount needs its own
BEAT_S = 1.0  # so that a client can tell a long wait from a daemon that hangs
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
_PATIENCE_S = 10.0  # with a client that neither asks nor reads
_GOODBYE_S = 2.0  # for the last answers when the mount ends

Answer = dict[str, Any]


class Request(msgspec.Struct):
    """One request; see the module."""

    op: str
    paths: list[str] = []
    limit: int = 20
    recursive: bool = False
    pin: bool = False
    level: str = ""
    command: list[str] = []


class Keeper(Protocol):
    """What keeps the mount while daemons change.

    Attributes:
        holder: its process.
        number: of this daemon, from 1.
        takeovers: how often another one took over.
    """

    holder: int
    number: int
    takeovers: int

    async def upgrade(self, command: list[str]) -> str:
        """Have what this command starts take over; returns only where it does not, why."""


class Control:
    """Answers requests about one `Filesystem`."""

    def __init__(
        self, fs: Filesystem, mountpoint: str, device: str | None = None, keeper: Keeper | None = None
    ) -> None:
        """Args:
        device: major:minor of the mount, by which a stranger tells it from another one over it.
        keeper: None: the mount ends with this process.
        """
        self._keeper = keeper
        self._fs = fs
        self._mountpoint = mountpoint
        self._device = device
        self._clients = 0
        self._since = trio.current_time()
        self._draining = False
        self._ended = trio.Event()
        self._idle = trio.Event()

    def drain_begins(self) -> None:
        """The mount is gone from the tree; what is left is being sent."""
        self._draining = True

    async def end(self) -> None:
        """Answer who still waits, and stop."""
        self._ended.set()
        with trio.move_on_after(_GOODBYE_S):
            await self._idle.wait()

    async def run(self, listener: trio.SocketListener) -> None:
        """Answer clients, several at a time, until `end`. A failure ends the service, never the mount."""
        try:
            async with trio.open_nursery() as clients, trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, listener, clients)
                await self._ended.wait()
                accepting.cancel_scope.cancel()
        except Exception:
            _log.exception("control.bug")
        finally:
            self._idle.set()

    async def _accept(self, listener: trio.SocketListener, clients: trio.Nursery) -> None:
        await trio.serve_listeners(self._serve, [listener], handler_nursery=clients)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                if self._clients > MAX_CLIENTS:
                    await _send(stream, {"error": "too many clients ask this mount; ask again later"})
                    return
                await self._answer(stream)
        except* _GONE:
            event(_log, logging.DEBUG, "control.client_gone")
        except* Exception:
            _log.exception("control.bug")
        finally:
            self._clients -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            try:
                request = await _read_request(stream)
                nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
                await self._carry_out(request, stream)
            except VfsError as e:
                await _send(stream, {"error": str(e)})
            nursery.cancel_scope.cancel()

    async def _carry_out(self, request: Request, stream: trio.SocketStream) -> None:
        match request.op:
            case "hello":
                await _send(stream, self._hello())
            case "metrics":
                await _send(stream, {**self._hello(), **self._fs.metrics()})
            case "queue":
                await self._queue(stream)
            case "log-level":
                was = set_level(request.level)
                event(_log, logging.INFO, "log.level", level=request.level.upper(), was=was)
                await _send(stream, {"done": True, "level": request.level.upper(), "was": was})
            case "status":
                await _send(stream, await self._status(request.limit))
            case "wait":
                await self._wait(self._fs.barrier(map(_bytes, request.paths)), stream)
            case "refresh":
                for path in request.paths or [""]:
                    with suppress(NotFound):  # so there is nothing to be forgotten
                        self._fs.refresh(_bytes(path))
                await _send(stream, {"done": True})
            case "warmup":
                paths = [_bytes(p) for p in request.paths]
                warmup = self._fs.warmup(paths, recursive=request.recursive, pin=request.pin)
                await self._warm_up(warmup, stream)
            case "unpin":
                files = 0
                for path in request.paths:
                    files += await self._fs.unpin(_bytes(path), recursive=request.recursive)
                await _send(stream, {"done": True, "files": files})
            case "pins":
                pins = [{"name": _text(name), "size": size} for name, size in await self._fs.pins()]
                for at in range(0, len(pins), MAX_LISTED):
                    await _send(stream, {"pins": pins[at : at + MAX_LISTED]})
                await _send(stream, {"done": True})
            case "upgrade":
                await self._upgrade(request.command, stream)
            case "folders":
                folders = [{"name": _text(name), "id": ident} for name, ident in self._fs.folders()]
                for at in range(0, len(folders), MAX_LISTED):
                    await _send(stream, {"folders": folders[at : at + MAX_LISTED]})
                await _send(stream, {"done": True})
            case _:
                raise InvalidRequest(f"this mount knows no request {request.op!r}; is it of another version?")

    # --- hello, queue --------------------------------------------------------------------------

    def _hello(self) -> Answer:
        """Who answers here."""
        return {
            "protocol": PROTOCOL,
            "mountpoint": _text(self._mountpoint),
            "device": self._device,
            "pid": os.getpid(),
            "holder": self._keeper.holder if self._keeper is not None else 0,
            "version": __version__,
            "uptime_s": trio.current_time() - self._since,
            "draining": self._draining,
        }

    async def _upgrade(self, command: list[str], stream: trio.SocketStream) -> None:
        """Answer only where this process goes on; else the connection ends with it."""
        if self._keeper is None:
            raise InvalidRequest(
                "it has no holder, because it was mounted with --no-holder: unmount, and mount again"
            )
        if not command:
            raise InvalidRequest("no command to go on with")
        why = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_beat, stream)
            why = await self._keeper.upgrade(command)
            nursery.cancel_scope.cancel()
        raise InvalidRequest(why)

    async def _queue(self, stream: trio.SocketStream) -> None:
        files = [{**_unsent(q.file), "next_try_s": q.next_try_s} for q in self._fs.queue()]
        for at in range(0, len(files), MAX_LISTED):
            await _send(stream, {"queue": files[at : at + MAX_LISTED]})
        await _send(stream, {"done": True, "files": len(files), "bytes": sum(f["size"] for f in files)})

    # --- status --------------------------------------------------------------------------------

    async def _status(self, limit: int) -> Answer:
        """Everything `vfsmount status` shows. Sizes are bytes; times seconds, `at` since the epoch."""
        status = await self._fs.status()
        limit = max(0, min(limit, MAX_LISTED))
        return {
            **self._hello(),
            "generation": self._keeper.number if self._keeper is not None else 1,
            "takeovers": self._keeper.takeovers if self._keeper is not None else 0,
            "unsent_files": len(status.unsent),
            "unsent_bytes": status.unsent_bytes,
            "oldest_s": status.oldest_s,
            "unsent": [_unsent(f) for f in status.unsent[:limit]],
            "removals_pending": len(status.removals),
            "removals": [_text(name) for name in status.removals[:limit]],
            "conflicts": [
                {"path": _text(path), "kept_as": _text(kept_as), "at": at}
                for path, kept_as, at in status.conflicts[:limit]
            ],
            "partial": [_text(name) for name in status.partial[:limit]],
            "local_only": status.local_only,
            "staging_used": status.staging_used,
            "staging_limit": status.staging_limit,
            "calls_left": status.budget.left,
            "folders_total": len(status.folders),
            "folders": [{**asdict(f), "name": _text(f.name)} for f in status.folders[:limit]],
            "budget": asdict(status.budget),
            "cache": asdict(status.cache),
            "errors": [
                {**asdict(e), "name": _text(e.name), "reason": _text(e.reason)} for e in status.errors[:limit]
            ],
        }

    # --- wait ----------------------------------------------------------------------------------

    async def _wait(self, barrier: Barrier, stream: trio.SocketStream) -> None:
        failed: VfsError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report, barrier, stream)
            nursery.start_soon(_cancel_after, self._ended, nursery.cancel_scope)
            try:
                await barrier.run()
            except VfsError as e:
                failed = e
            nursery.cancel_scope.cancel()
        files, size = barrier.left
        if not files and failed is None:
            await _send(stream, {"done": True})
            return
        refused = [{"name": _text(r.name), "reason": _text(r.reason)} for r in barrier.refused]
        if failed is not None and not refused:
            refused = [{"name": "", "reason": _text(str(failed))}]
        await _send(stream, {"failed": refused, "left_files": files, "left_bytes": size})

    # --- warmup --------------------------------------------------------------------------------

    async def _warm_up(self, warmup: Warmup, stream: trio.SocketStream) -> None:
        is_over = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_progress, warmup, stream)
            nursery.start_soon(_cancel_after, self._ended, nursery.cancel_scope)
            await warmup.run()
            is_over = True
            nursery.cancel_scope.cancel()
        for warning in warmup.take_warnings():
            await _send(stream, {"warning": warning})
        if is_over and not warmup.failed_files:
            await _send(stream, {"done": True, **warmup.progress})
            return
        failed = [{"name": _text(r.name), "reason": _text(r.reason)} for r in warmup.failed]
        if not is_over:
            failed = [{"name": "", "reason": "the mount has ended"}, *failed]
        answer = {"failed_files": warmup.failed_files, "unreachable": warmup.unreachable, **warmup.progress}
        await _send(stream, {"failed": failed, **answer})


def _unsent(f: UnsentFile) -> Answer:
    return {
        "name": _text(f.name),
        "size": f.size,
        "state": f.state,
        "age_s": f.age_s,
        "reason": _text(f.reason),
        "kept_at": _text(f.kept_at),
    }


async def _report_progress(warmup: Warmup, stream: trio.SocketStream) -> None:
    while True:
        for warning in warmup.take_warnings():
            await _send(stream, {"warning": warning})
        await _send(stream, dict(warmup.progress))
        await trio.sleep(BEAT_S / 2)


async def _beat(stream: trio.SocketStream) -> None:
    while True:
        await _send(stream, {"waiting": True})
        await trio.sleep(BEAT_S)


async def _report(barrier: Barrier, stream: trio.SocketStream) -> None:
    while True:
        files, size = barrier.left
        await _send(stream, {"left_files": files, "left_bytes": size})
        await trio.sleep(BEAT_S / 2)


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass  # one request a connection: what comes after it has no meaning
    scope.cancel()


async def _read_request(stream: trio.SocketStream) -> Request:
    line = bytearray()
    with trio.fail_after(_PATIENCE_S):
        while b"\n" not in line:
            piece = await stream.receive_some(65536)
            if not piece:
                raise trio.ClosedResourceError("nothing was asked")
            line += piece
            if len(line) > MAX_REQUEST:
                raise InvalidRequest(f"a request is one line of at most {MAX_REQUEST} bytes")
    try:
        # json, where msgspec would refuse the surrogates that stand for odd bytes of names.
        return msgspec.convert(json.loads(line.partition(b"\n")[0]), type=Request)
    except (ValueError, RecursionError, msgspec.ValidationError) as e:
        raise InvalidRequest(f"not a request: {e}") from e


async def _send(stream: trio.SocketStream, answer: Answer) -> None:
    with trio.fail_after(_PATIENCE_S):
        await stream.send_all(json.dumps(answer).encode() + b"\n")


def _text(name: str) -> str:
    """A name as any JSON reader can hold it; bytes that are not UTF-8 are spelt out."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return name.encode("ascii", "backslashreplace").decode()


def _bytes(path: str) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError as e:
        raise InvalidRequest("a path that no file can have") from e
