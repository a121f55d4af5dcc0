"""Removed names: gone here at once, recorded, and taken off the server in few calls.

`rm -r` of a thousand files would cost a thousand manager calls; the server takes a list. Until it has
answered, a removed name is hidden, whatever a listing says, and nothing else takes its place: who
wants the name waits for the removal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from vfsmount.api.client import Client
from vfsmount.api.governor import background, class_now
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.governor import Class
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.writeback import Schedule
from vfsmount.errors import IsADirectory, LocalIOError, NotFound, RemoteError, Stale, VfsError
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Removal
from vfsmount.values import Folder, Validator
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.paths import PathGate, child_path, folder_of
from vfsmount.vfs.recent import Recent
from vfsmount.vfs.recorder import Recorder

_log = logging.getLogger("vfsmount.vfs.removals")

BATCH = 250  # names in a call: far below what a request may hold, enough to make calls rare
IDLE_S = 0.1  # no more came for this long: whoever removes is done, or slow
LONGEST_S = 1.0  # from the first name to the call


@dataclass(slots=True, eq=False)
class Pending:
    """One name on its way out.

    Attributes:
        directory: path of `parent` when it was recorded.
        look_first: it was removed by a mount that died; somebody may have made a new one since.
        failures: how often the server had no answer for it alone.
    """

    parent: Node
    directory: bytes
    name: bytes
    folder: Folder
    version: Validator | None
    look_first: bool = False
    failures: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    error: VfsError | None = None

    @property
    def shown(self) -> str:
        """For people: folder and path."""
        path = self.directory + b"/" + self.name if self.directory else self.name
        return f"{self.folder.name}/{path.decode('utf-8', 'backslashreplace')}"


class Removals:
    """Names that are removed here and not yet on the server. `run` must be running."""

    def __init__(
        self,
        client: Client,
        transfers: Transfers,
        gate: PathGate,
        records: Records,
        recorder: Recorder,
        recent: Recent,
        retry_first_s: float,
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._gate = gate
        self._rows = records.staged
        self._recorder = recorder
        self._recent = recent
        self._retry_first_s = retry_first_s
        self._pending: dict[tuple[Node, bytes], Pending] = {}
        self._added_at = self._first_at = 0.0
        self._wanted = 0  # callers who wait
        self._urgent = 0  # those of them that somebody waits for
        self._hurry = trio.Event()  # of the batch that is being sent
        self._wake = trio.Event()
        self._pulse = Pulse()
        self._schedule = Schedule()
        self._failed = trio.Event()
        self._error: VfsError | None = None
        self._left: list[Pending] | None = None  # what the last failure was about; None: everything

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def names(self) -> list[str]:
        """For people: folder and path of each."""
        return [p.shown for p in self._pending.values() if not p.parent.unlinked]

    def hides(self, directory: Node, name: bytes) -> bool:
        """Whether a name that the server may still show is gone."""
        return (directory, name) in self._pending

    def pending_in(self, directory: Node) -> bool:
        """Whether anything removed from a directory may still be on the server."""
        return any(parent is directory for parent, _ in self._pending)

    async def add(self, parent: Node, node: Node, version: Validator | None, row_ids: Iterable[int]) -> None:
        """Record that a name the server has is gone, and its rows with it.

        Raises:
            NoSpace, LocalIOError: it is not removed.
        """
        removal = Removal(folder_of(node).id, InodeTable.path(parent), node.name, version)
        await self._rows.removed(self._recorder.mount, removal, row_ids)
        self._recorder.changed()
        self._put(Pending(parent, removal.parent, node.name, folder_of(node), version))

    def adopt(self, parent: Node, removal: Removal) -> None:
        """Go on with one of a mount that died."""
        folder, version = folder_of(parent), removal.version
        self._put(Pending(parent, removal.parent, removal.name, folder, version, look_first=True))

    def _put(self, pending: Pending) -> None:
        now = trio.current_time()
        if not self._pending:
            self._first_at = now
        self._added_at = now
        self._pending[pending.parent, pending.name] = pending
        self._wake.set()

    # --- sending -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what was removed, for ever."""
        while True:
            await self._gathered()
            self._left = None
            try:
                self._hurry = trio.Event()
                if self._urgent:
                    self._hurry.set()
                with background(self._hurry):
                    await self._send_batch()
                self._schedule = Schedule()
            except VfsError as e:
                # Nothing is known of any of them; all are tried again.
                self._error = e
                self._recent.note("removal", e)
                failed, self._failed = self._failed, trio.Event()
                failed.set()
                now = trio.current_time()
                retry_at = self._schedule.failed(now, retryable=True, first_s=self._retry_first_s)
                event(_log, logging.INFO, "removal.retry", names=len(self), error=type(e).__name__)
                self._wake = trio.Event()
                with trio.move_on_at(retry_at):
                    await self._wake.wait()
            except Exception:
                # A bug here must not end the mount.
                _log.exception("removal.bug")
                await trio.sleep(LONGEST_S)

    async def _gathered(self) -> None:
        """Wait until there is something to send and no more seems to come."""
        while True:
            now = trio.current_time()
            if self._pending:
                due = min(self._added_at + IDLE_S, self._first_at + LONGEST_S)
                if self._wanted or len(self._pending) >= BATCH or now >= due:
                    return
            else:
                due = float("inf")
            self._wake = trio.Event()
            with trio.move_on_at(due):
                await self._wake.wait()

    async def _send_batch(self) -> None:
        # Names that failed before come last: others do not wait behind one that always fails.
        pending = sorted(self._pending.values(), key=lambda p: p.failures)
        folder = pending[0].folder
        batch = [p for p in pending if p.folder.id == folder.id][:BATCH]
        self._first_at = trio.current_time()
        wanted = [p for p in batch if await self._still_wanted(p)]
        left, error = await self._delete(folder, wanted)
        self._pulse.beat()
        if len(left) < len(batch):
            await self._finish([p for p in batch if p not in left])
        if error is not None:
            self._left = left
            raise error

    async def _delete(self, folder: Folder, wanted: list[Pending]) -> tuple[list[Pending], VfsError | None]:
        """Take names off the server; those it fails on stay, with its last word. One of them makes a
        whole call fail (as a path does that is too long for 26.x), so a call that fails is halved."""
        try:
            await self._delete_at_once(folder, wanted)
        except RemoteError as e:
            if len(wanted) == 1:
                wanted[0].failures += 1
                return wanted, e
            first, second = wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]
            left, error = await self._delete(folder, first)
            if len(left) == len(first):
                return wanted, e  # a server that fails on everything is not asked for each
            left_too, error_too = await self._delete(folder, second)
            return left + left_too, error or error_too
        return [], None

    async def _delete_at_once(self, folder: Folder, wanted: list[Pending]) -> None:
        while wanted:
            try:
                paths = [child_path(p.parent, p.name) for p in wanted]
                known = not any(dircache.state_of(p.parent).cut for p in wanted)
                await self._client.delete_files(folder, paths, known=known)
                break
            except (NotFound, IsADirectory) as e:
                # 23.09 stops at the first it does not find; those before it are gone as well.
                left = [p for p in wanted if await self._is_there(p)]
                if len(left) == len(wanted):
                    await self._refused(left, e)
                wanted = left if len(left) < len(wanted) else []
            except VfsError as e:
                if e.retryable or isinstance(e, LocalIOError):
                    raise
                await self._refused(wanted, e)
                wanted = []

    async def _still_wanted(self, pending: Pending) -> bool:
        try:
            path = child_path(pending.parent, pending.name)
            self._gate.check_reachable(pending.folder)
            if not pending.look_first:
                return True
            found = await self._transfers.stat(pending.folder, path)
        except (NotFound, IsADirectory, Stale):
            return False  # gone with its directory, or replaced by one
        version = pending.version
        return version is None or version.matches_listing(found.size, found.mtime_ns)

    async def _is_there(self, pending: Pending) -> bool:
        try:
            await self._transfers.stat(pending.folder, child_path(pending.parent, pending.name))
        except (NotFound, IsADirectory, Stale):
            return False
        return True

    async def _refused(self, refused: list[Pending], e: VfsError) -> None:
        for pending in refused:
            pending.error = e
            self._recent.note("removal", e, pending.shown)
            dircache.expire(pending.parent)
            name = pending.name.decode("utf-8", "backslashreplace")
            event(
                _log,
                logging.WARNING,
                "removal.refused",
                directory=pending.parent.ino,
                name=name,
                error=str(e),
            )

    async def _finish(self, batch: list[Pending]) -> None:
        await self._rows.removals_done(batch[0].folder.id, [(p.directory, p.name) for p in batch])
        for pending in batch:
            del self._pending[pending.parent, pending.name]
            # A listing that was asked for before shows them still.
            dircache.record_change(pending.parent, pending.name)
            pending.done.set()

    # --- waiting -------------------------------------------------------------------------------

    async def flush(self, *directories: Node, name: bytes | None = None) -> None:
        """Return when nothing removed in or below these directories (none given: anywhere) is left
        on the server; `name`: only that name, in the one directory given.

        Raises:
            VfsError: why the server did not do it.
        """
        urgent = class_now() is Class.FOREGROUND
        while wanted := [p for p in self._pending.values() if _concerns(p, directories, name)]:
            self._wanted += 1
            self._urgent += urgent
            if urgent and not self._hurry.is_set():
                self._hurry.set()
                self._client.governor.look_again()
            self._wake.set()
            failed = self._failed
            try:
                await wait_behind(self._pulse, lambda p=wanted[0], f=failed: _either(p.done, f))  # type: ignore[misc]
            finally:
                self._wanted -= 1
                self._urgent -= urgent
            if wanted[0].error is not None:
                raise wanted[0].error
            if failed.is_set() and self._has_failed(wanted[0]) and self._error is not None:
                raise self._error

    def want(self, directories: Iterable[Node], names: Iterable[tuple[Node, bytes]] = ()) -> list[Pending]:
        """What is removed here and still on the server: below `directories`, and (directory, name)s."""
        tops, keys = tuple(directories), set(names)
        return [p for key, p in self._pending.items() if key in keys or (tops and _concerns(p, tops, None))]

    async def wait_for(self, wanted: list[Pending], *, patient: bool) -> None:
        """Return when these are gone from the server; takes out of `wanted` what is.

        Args:
            patient: go on waiting while the server cannot be reached.

        Raises:
            VfsError: why the server did not do it.
        """
        # Only once: where the server is away the next tries keep their own time.
        self._wake.set()
        while wanted:
            pending, failed = wanted[0], self._failed
            self._wanted += 1
            try:
                await wait_behind(self._pulse, lambda p=pending, f=failed: _either(p.done, f))  # type: ignore[misc]
            finally:
                self._wanted -= 1
            if pending.error is not None:
                raise pending.error
            if pending.done.is_set():
                del wanted[0]
            elif (
                self._error is not None
                and self._has_failed(pending)
                and not (patient and self._error.retryable)
            ):
                raise self._error

    def _has_failed(self, pending: Pending) -> bool:
        """Whether the last failure was about this name; it may have come when the call was under way."""
        return not pending.done.is_set() and (self._left is None or pending in self._left)


def _concerns(pending: Pending, directories: tuple[Node, ...], name: bytes | None) -> bool:
    if not directories:
        return True
    if name is not None:
        return pending.parent is directories[0] and pending.name == name
    return any(pending.parent is d or InodeTable.is_below(pending.parent, d) for d in directories)


async def _either(one: trio.Event, other: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)
