"""Removed names: gone here at once, recorded, and taken off the server in few calls.

`rm -r` of a thousand files would cost a thousand manager calls; the server takes a list. Until it has
answered, a removed name is hidden, whatever a listing says, and nothing else takes its place: who
wants the name waits for the removal.

A directory was seen to be empty when it was removed, but for names that are on their way out themselves.
They go with it: the server removes a directory with all that is in it, in one call for a whole tree. Where
that call comes late it is seen again first, because others may have put something there.
"""

from __future__ import annotations

import enum
import logging
import math
import os
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from vfsmount.api.client import Client
from vfsmount.api.governor import background, class_now
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.governor import Class
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.writeback import Schedule
from vfsmount.errors import (
    IsADirectory,
    LocalIOError,
    NotADirectory,
    NotEmpty,
    NotFound,
    RemoteError,
    Stale,
    VfsError,
)
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Removal
from vfsmount.values import Folder, Kind, Validator
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.paths import PathGate, child_path, folder_of
from vfsmount.vfs.recent import Recent
from vfsmount.vfs.recorder import Recorder

_log = logging.getLogger("vfsmount.vfs.removals")

BATCH = 250  # names in a call: far below what a request may hold, enough to make calls rare
LATE_S = 2.0  # after a directory was seen to be empty; LONGEST_S is well within
IDLE_S = 0.1  # no more came for this long: whoever removes is done, or slow
LONGEST_S = 1.0  # from the first name to the call


@dataclass(slots=True, eq=False)
class Pending:
    """One name on its way out.

    Attributes:
        removal: as recorded; its paths are those of then, and stay while it is pending.
        was_listed: the last listing showed it for what it is; a probe takes a link for its target.
        look_first: it was removed by a mount that died; somebody may have made a new one since.
        seen_at: when a directory was seen to be empty, on trio's clock.
        is_placeless: its directory was removed by a process that died; `parent` is further up.
        left_behind: the directory it was to go with stays; its own path is the recorded one.
        failures: how often the server had no answer for it alone.
        at: path for the server, as of the batch it is in; its directory may be removed meanwhile.
    """

    parent: Node
    folder: Folder
    removal: Removal
    was_listed: bool = False
    look_first: bool = False
    seen_at: float = -math.inf
    is_placeless: bool = False
    left_behind: bool = False
    failures: int = 0
    at: str = ""
    done: trio.Event = field(default_factory=trio.Event)
    error: VfsError | None = None

    @property
    def shown(self) -> str:
        """For people: folder and path."""
        return f"{self.folder.name}/{self.removal.path.decode('utf-8', 'backslashreplace')}"

    @property
    def key(self) -> tuple[object, bytes]:
        """What it is known by: directory and name, as it is looked for, while it has a directory."""
        removal = self.removal
        return ((self.folder.id, removal.path), b"") if self.is_placeless else (self.parent, removal.name)

    @property
    def path(self) -> str:
        """For the server.

        Raises:
            Stale: its directory is gone, and it with that.
        """
        if self.left_behind:
            return os.fsdecode(self.removal.path)
        return child_path(self.parent, self.removal.name)


class Verdict(enum.Enum):
    """What is to be done with a removal when its turn comes."""

    DELETE = enum.auto()
    DROP = enum.auto()  # nobody wants it any more, or it is refused
    LATER = enum.auto()


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
        self._pending: dict[tuple[object, bytes], Pending] = {}
        self._directories: set[tuple[object, bytes]] = set()  # of them
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
        return [p.shown for p in self._pending.values() if not p.parent.unlinked or p.left_behind]

    def hides(self, directory: Node, name: bytes) -> bool:
        """Whether a name that the server may still show is gone."""
        return (directory, name) in self._pending

    def count_in(self, directory: Node) -> int:
        """Names removed from a directory that may still be on the server."""
        return sum(p.parent is directory for p in self._pending.values())

    async def add(self, parent: Node, node: Node, version: Validator | None, row_ids: Iterable[int]) -> None:
        """Record that a name the server has is gone, and its rows with it.

        Raises:
            NoSpace, LocalIOError: it is not removed.
        """
        removal = Removal(folder_of(node).id, InodeTable.path(parent), node.name, version)
        await self._rows.removed(self._recorder.mount, removal, row_ids)
        self._recorder.changed()
        self._put(Pending(parent, folder_of(node), removal, was_listed=_was_listed(parent, node)))

    async def add_directory(self, parent: Node, node: Node, seen_at: float) -> None:
        """Record that a directory is gone in which nothing was but what is removed as well.

        Args:
            seen_at: when that was asked for, on trio's clock.

        Raises:
            NoSpace, LocalIOError: it is not removed.
        """
        removal = Removal(folder_of(node).id, InodeTable.path(parent), node.name, None, directory=True)
        await self._rows.removed(self._recorder.mount, removal)
        self._recorder.changed()
        listed = _was_listed(parent, node)
        self._put(Pending(parent, folder_of(node), removal, was_listed=listed, seen_at=seen_at))

    def adopt(self, parent: Node, removal: Removal, with_it: Iterable[Removal] = ()) -> None:
        """Go on with one of a mount that died; `with_it`: those below a directory."""
        self._put(Pending(parent, folder_of(parent), removal, look_first=True))
        for below in with_it:
            self._put(Pending(parent, folder_of(parent), below, look_first=True, is_placeless=True))

    def _put(self, pending: Pending) -> None:
        now = trio.current_time()
        if not self._pending:
            self._first_at = now
        self._added_at = now
        self._pending[pending.key] = pending
        if pending.removal.directory:
            self._directories.add(pending.key)
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
                due = self._first_at + LONGEST_S
                if not self._directories:
                    due = min(due, self._added_at + IDLE_S)  # after one there comes what it lies in
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
        pending = [p for p in pending if p.folder.id == folder.id]
        tops = {p.removal.path for p in pending if p.removal.directory}
        batch = [p for p in pending if _top_of(p, tops) is None][:BATCH]
        for p in batch:
            with suppress(Stale):
                p.at = p.path
        self._first_at = trio.current_time()
        verdicts = [(p, await self._verdict(p)) for p in batch]
        batch = [p for p, verdict in verdicts if verdict is not Verdict.LATER]
        wanted = [p for p, verdict in verdicts if verdict is Verdict.DELETE]
        left, error = await self._delete(folder, [p for p in wanted if not p.removal.directory])
        left_too, error_too = await self._delete(folder, [p for p in wanted if p.removal.directory])
        left, error = left + left_too, error or error_too
        self._pulse.beat()
        if len(left) < len(batch):
            await self._finish([p for p in batch if p not in left])
        if error is not None:
            self._left = left + self._going_with(left)
            raise error

    def _going_with(self, tops: Iterable[Pending]) -> list[Pending]:
        """What else is pending below directories of one folder."""
        tops = [p for p in tops if p.removal.directory]
        paths = {p.removal.path for p in tops}
        return [
            p
            for p in self._pending.values()
            if tops and p.folder.id == tops[0].folder.id and _top_of(p, paths) is not None
        ]

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
                paths = [p.at for p in wanted]
                recursive = wanted[0].removal.directory  # of all of them, or of none
                known = all(p.was_listed or not dircache.state_of(p.parent).cut for p in wanted)
                await self._client.delete_files(folder, paths, recursive=recursive, known=known)
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

    async def _verdict(self, pending: Pending) -> Verdict:
        if not pending.at:
            return Verdict.DROP  # gone with its directory
        try:
            self._gate.check_reachable(pending.folder)
            if pending.removal.directory:
                return await self._verdict_on_directory(pending)
            if not pending.look_first:
                return Verdict.DELETE
            found = await self._transfers.stat(pending.folder, pending.at)
        except (NotFound, NotADirectory, IsADirectory, Stale):
            return Verdict.DROP  # gone with its directory, or replaced by another kind
        version = pending.removal.version
        same = version is None or version.matches_listing(found.size, found.mtime_ns)
        return Verdict.DELETE if same else Verdict.DROP

    async def _verdict_on_directory(self, pending: Pending) -> Verdict:
        if trio.current_time() <= pending.seen_at + LATE_S:
            return Verdict.DELETE
        below = self._going_with([pending])
        asked_at = trio.current_time()
        ours = {p.removal.path: p.removal for p in below}
        empty = await self._holds_only(pending.folder, pending.at, ours)
        if empty:
            pending.seen_at = asked_at
            return Verdict.DELETE
        for left in below:  # each by itself; what is there then is somebody else's
            left.left_behind = left.look_first = True
        if below and empty is None:
            return Verdict.LATER
        await self._refused([pending], NotEmpty("somebody else has put something into the directory"))
        return Verdict.DROP

    async def _holds_only(self, folder: Folder, path: str, ours: Mapping[bytes, Removal]) -> bool | None:
        """Whether nothing is in a directory, or below, but these; None: not all of it is shown."""
        listing = await self._client.list_files(folder, path)
        if listing.cut:
            return None
        for entry in listing.entries:
            below = f"{path}/{os.fsdecode(entry.name)}"
            removal = ours.get(os.fsencode(below))
            if removal is None or removal.directory != (entry.kind is Kind.DIRECTORY):
                return False
            if removal.directory and not (whole := await self._holds_only(folder, below, ours)):
                return whole
            version = removal.version
            if version is not None and not version.matches_listing(entry.size, entry.mtime_ns):
                return False
        return True

    async def _is_there(self, pending: Pending) -> bool:
        try:
            await self._transfers.stat(pending.folder, pending.at)
        except IsADirectory:
            return pending.removal.directory
        except (NotFound, Stale):
            return False
        return not pending.removal.directory

    async def _refused(self, refused: list[Pending], e: VfsError) -> None:
        for pending in refused:
            pending.error = e
            self._recent.note("removal", e, pending.shown)
            dircache.expire(pending.parent)
            name = pending.removal.name.decode("utf-8", "backslashreplace")
            event(
                _log,
                logging.WARNING,
                "removal.refused",
                directory=pending.parent.ino,
                name=name,
                error=str(e),
            )

    async def _finish(self, batch: list[Pending]) -> None:
        below = self._going_with(p for p in batch if p.error is None)
        await self._rows.removals_done(p.removal for p in batch)
        for pending in (*below, *batch):
            self._pending.pop(pending.key, None)
            self._directories.discard(pending.key)
            # A listing that was asked for before shows them still.
            dircache.record_change(pending.parent, pending.removal.name)
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


def _was_listed(parent: Node, node: Node) -> bool:
    return node.checked_at == dircache.state_of(parent).fetched_at


def by_tree(removals: Iterable[Removal]) -> list[tuple[Removal, list[Removal]]]:
    """Recorded removals that stand for themselves, each with those that go with it."""
    found: dict[Removal, list[Removal]] = {}
    tops: dict[tuple[str, bytes], Removal] = {}
    for removal in sorted(removals, key=lambda r: (r.path.count(b"/"), not r.directory)):
        at, top = removal.parent, None
        while at and top is None:
            top, at = tops.get((removal.folder, at)), at.rpartition(b"/")[0]
        if top is not None:
            found[top].append(removal)
            continue
        found[removal] = []
        if removal.directory:
            tops[removal.folder, removal.path] = removal
    return list(found.items())


def _top_of(pending: Pending, directories: Container[bytes]) -> bytes | None:
    """The one of these removed directories that it goes with."""
    above = b"" if pending.left_behind else pending.removal.parent
    while above and above not in directories:
        above = above.rpartition(b"/")[0]
    return above or None


def _concerns(pending: Pending, directories: tuple[Node, ...], name: bytes | None) -> bool:
    if not directories:
        return True
    if name is not None:
        return pending.parent is directories[0] and pending.removal.name == name
    return any(pending.parent is d or InodeTable.is_below(pending.parent, d) for d in directories)


async def _either(one: trio.Event, other: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)
