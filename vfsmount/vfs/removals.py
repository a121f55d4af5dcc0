"""Removed names: gone here at once, recorded, and taken off the server in few calls.

`rm -r` of a thousand files would cost a thousand manager calls; the server takes a list. Until it has
answered, a removed name is hidden, whatever a listing says, and nothing else takes its place: who
wants the name waits for the removal.

Directories go with what is in them while it is fresh that nothing else is (`vfs.pending`). Otherwise each
waits for what is in it, and is looked at just before its own call.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable

import trio
from cachetools import TTLCache

from vfsmount.api.client import Client
from vfsmount.api.governor import background, class_now
from vfsmount.api.http import SLEPT_S, slept
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
    RemoteUnavailable,
    Stale,
    TooLate,
    VfsError,
)
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Removal
from vfsmount.values import Folder, Kind, RemoteEntry, Validator
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.paths import PathGate, folder_of
from vfsmount.vfs.pending import LATE_S, Pending, ready, whole_trees
from vfsmount.vfs.recent import Recent
from vfsmount.vfs.recorder import Recorder

_log = logging.getLogger("vfsmount.vfs.removals")

BATCH = 250  # names in a call: far below what a request may hold, enough to make calls rare
IDLE_S = 0.1  # no more came for this long: whoever removes is done, or slow
TREE_IDLE_S = 0.4  # with directories among them
CLEARING_S = 2.0  # who removed a name so long ago may be removing the directory
ATTEMPTS = 5  # at a look and a call, with twice the time between them at each
MOST_FAILURES = 5  # of the server on one name, before that stays
MANY = 10_000  # directories from which names are removed at a time
LONGEST_S = 1.0  # from the first name to the call


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
        self._in: defaultdict[Node, set[Pending]] = defaultdict(set)  # by the directory they are removed from
        self._directories = 0  # of them
        self._slept_s, self._woke_at = slept(), -math.inf
        # Directories from which names went a moment ago, and when the server last said that one has gone.
        self._touched: TTLCache[Node, float] = TTLCache(MANY, CLEARING_S, trio.current_time)
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
        return [p.shown for p in self._pending.values() if p.within is None and not p.parent.unlinked]

    def hides(self, directory: Node, name: bytes) -> bool:
        """Whether a name that the server may still show is gone."""
        return (directory, name) in self._pending

    def pending_in(self, directory: Node) -> bool:
        """Whether anything removed from a directory may still be on the server."""
        return directory in self._in

    def is_clearing(self, directory: Node, parent: Node) -> bool:
        """Whether names were removed from a directory, or from where it lies in, a moment ago."""
        return directory in self._touched or parent in self._touched or self.pending_in(directory)

    def touched(self, directory: Node) -> None:
        """A name was removed from a directory."""
        self._touched[directory] = self._touched.get(directory, -math.inf)

    def gone_from_at(self, directory: Node) -> float:
        """When the server last said of a name that it has gone from a directory, which proves nothing on
        26.x, or this machine woke up: what was seen in it before is no longer to be believed."""
        self._forget_what_slept()
        return max(self._woke_at, self._touched.get(directory, -math.inf))

    def shown(self, directory: Node, entries: Iterable[RemoteEntry]) -> None:
        """The server shows these: what is of another kind than what was removed is another's."""
        if not self.pending_in(directory):
            return
        for entry in entries:
            pending = self._pending.get((directory, entry.name))
            if pending is not None and pending.is_directory != (entry.kind is Kind.DIRECTORY):
                pending.look_first, pending.seen_at = True, -math.inf
                if pending.within is not None:
                    pending.within.seen_at = -math.inf

    def doubts(self, directory: Node) -> bool:
        """Whether something in a directory may not be what was removed from it."""
        return any(p.look_first for p in self._in.get(directory, ()))

    async def add(
        self,
        parent: Node,
        node: Node,
        version: Validator | None,
        row_ids: Iterable[int] = (),
        *,
        seen_at: float = -math.inf,
    ) -> None:
        """Record that a name the server has is gone, and its rows with it.

        Args:
            seen_at: of a directory: when it was asked whether anything is in it, on trio's clock.

        Raises:
            NoSpace, LocalIOError: it is not removed.
        """
        path, state = InodeTable.path(parent), dircache.state_of(parent)
        known = not state.cut or node.checked_at == state.fetched_at
        removal = Removal(folder_of(node).id, path, node.name, version, directory=node.is_dir)
        await self._rows.removed(self._recorder.mount, removal, row_ids)
        self._recorder.changed()
        self._put(Pending(parent, removal, known, seen_at=seen_at), node)

    def adopt(self, parent: Node, removal: Removal, node: Node | None = None) -> None:
        """Go on with one of a mount that died; `node`: what stood for it.

        Of several, those in a directory come before it.
        """
        # Whether it is a link by now is for a directory not seen by looking at it.
        known = not removal.directory
        self._put(Pending(parent, removal, known, look_first=True), node)

    def _put(self, pending: Pending, node: Node | None) -> None:
        if not self._pending:
            self._first_at = pending.added_at
        self._added_at = pending.added_at
        self.touched(pending.parent)
        self._pending[pending.parent, pending.name] = pending
        self._in[pending.parent].add(pending)
        self._directories += pending.is_directory
        for p in self._in.get(node, ()) if node is not None else ():
            p.within = pending
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
                due = min(self._added_at + self._idle_s, self._first_at + LONGEST_S)
                if self._wanted or len(self._pending) >= BATCH or now >= due:
                    return
            else:
                due = float("inf")
            self._wake = trio.Event()
            with trio.move_on_at(due):
                await self._wake.wait()

    @property
    def _idle_s(self) -> float:
        """After a directory there come its neighbours and what it lies in, each with a look."""
        return TREE_IDLE_S if self._directories else IDLE_S

    async def _send_batch(self) -> None:
        folder = min(self._pending.values(), key=lambda p: p.failures).folder
        self._first_at = trio.current_time()
        if await self._remove_trees(folder) and not self._wanted:
            # What is left may go with its directory, which is likely to follow.
            old = self._first_at - LONGEST_S
            if len(self._pending) < BATCH and all(p.added_at > old for p in self._pending.values()):
                return
        errors = [*await self._remove_files(folder), *await self._remove_directories(folder)]
        if errors:
            self._left = [p for p, _ in errors]
            raise errors[0][1]

    def _forget_what_slept(self) -> None:
        """The clock stands still while the machine is suspended; what was seen before is long ago."""
        slept_s, self._slept_s = slept() - self._slept_s, slept()
        if slept_s >= SLEPT_S:
            self._woke_at = trio.current_time()
            for p in self._pending.values():
                p.seen_at = -math.inf

    def _of(self, folder: Folder) -> list[Pending]:
        return [p for p in self._pending.values() if p.folder.id == folder.id]

    async def _remove_trees(self, folder: Folder) -> bool:
        """Directories with all that is in them, in one call; whether there were any."""
        self._forget_what_slept()
        trees = whole_trees(self._of(folder), trio.current_time())
        if not trees.tops:
            return False
        try:
            self._gate.check_reachable(folder)
            paths, known = [p.path for p in trees.tops], all(p.known for p in trees.tops)
            await self._client.delete_files(
                folder, paths, recursive=True, known=known, not_after=trees.not_after
            )
        except VfsError as e:
            for p in trees.all:
                p.seen_at = -math.inf  # each is looked at, and told of by itself
            _doubt_outcome(trees.all, e)
            if isinstance(e, TooLate) or not (e.retryable or isinstance(e, LocalIOError)):
                return False
            raise
        await self._finish(trees.all)
        return True

    async def _remove_files(self, folder: Folder) -> list[tuple[Pending, VfsError]]:
        """Names that are no directories; those that stay, and why."""
        # Names that failed before come last: others do not wait behind one that always fails.
        files = sorted((p for p in self._of(folder) if not p.is_directory), key=lambda p: p.failures)
        batch = files[:BATCH]
        wanted: list[Pending] = []
        left: list[tuple[Pending, VfsError]] = []
        for p in batch:
            try:
                if await self._still_wanted(p):
                    wanted.append(p)
                self._pulse.beat()
            except VfsError as e:
                if e.retryable or isinstance(e, LocalIOError):
                    raise
                if not isinstance(e, RemoteError) or self._gives_up(p):
                    await self._refused([p], e)
                else:
                    left.append((p, e))
        stayed, error = await self._delete(folder, wanted)
        left += [(p, error) for p in stayed if error is not None]
        self._pulse.beat()
        await self._finish([p for p in batch if all(p is not other for other, _ in left)])
        return left

    async def _remove_directories(self, folder: Folder) -> list[tuple[Pending, VfsError]]:
        """Directories that have to be looked at; those that stay, and why."""
        left: list[tuple[Pending, VfsError]] = []
        failed: set[Pending] = set()
        while those := [p for p in ready(self._of(folder)) if p not in failed]:
            for pending in sorted(those, key=lambda p: p.failures):
                try:
                    await self._remove_directory(pending)
                except RemoteError as e:
                    # Not the server's state as a whole: others do not wait behind this one.
                    if not self._gives_up(pending):
                        failed.add(pending)
                        left.append((pending, e))
                        continue
                    await self._refused([pending], e)
                await self._finish([pending])
                self._pulse.beat()
        return left

    async def _remove_directory(self, pending: Pending) -> None:
        """Take a directory off the server if nothing is in it.

        Raises:
            RemoteUnavailable, RateLimited, RemoteError, LocalIOError: it is tried again.
        """
        try:
            self._gate.check_reachable(pending.folder)
            await self.remove_empty(pending.folder, pending.path, known=pending.known)
        except (NotFound, NotADirectory, Stale):
            pending.in_doubt()  # gone, or replaced by something else
        except VfsError as e:
            if e.retryable or isinstance(e, LocalIOError | RemoteError):
                raise
            await self._refused([pending], e)

    async def remove_empty(
        self, folder: Folder, path: str, *, known: bool, seen_at: float = -math.inf
    ) -> None:
        """Take one directory off the server, if by a fresh look nothing is in it.

        Args:
            known: as `Client.delete_files`.
            seen_at: when it was asked for what is in it, on trio's clock; nothing was.

        Raises:
            NotEmpty, and what a listing and a deletion may meet.
        """
        for doublings in range(ATTEMPTS):
            if trio.current_time() > seen_at + LATE_S:
                seen_at, slept_s = trio.current_time(), slept()
                listing = await self._client.list_files(folder, path)
                if listing.entries or listing.cut:
                    raise NotEmpty("the directory holds something that was not removed here")
                if slept() - slept_s >= SLEPT_S:
                    seen_at = -math.inf
                    continue
            try:
                # A server may need longer for a listing than what it says is worth.
                not_after = seen_at + LATE_S * 2**doublings
                await self._client.delete_files(
                    folder, [path], recursive=True, known=known, not_after=not_after
                )
                return
            except TooLate:
                seen_at = -math.inf
        raise RemoteUnavailable("the server takes too long to tell what is in a directory", sent=False)

    async def _delete(self, folder: Folder, wanted: list[Pending]) -> tuple[list[Pending], VfsError | None]:
        """Take names off the server; those it fails on stay, with its last word. One of them makes a
        whole call fail (as a path does that is too long for 26.x), so a call that fails is halved."""
        try:
            await self._delete_at_once(folder, wanted)
        except RemoteError as e:
            if len(wanted) == 1:
                if self._gives_up(wanted[0]):
                    await self._refused(wanted, e)
                    return [], None
                return wanted, e
            first, second = wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]
            left, error = await self._delete(folder, first)
            if len(left) == len(first):
                return wanted, e  # a server that fails on everything is not asked for each
            left_too, error_too = await self._delete(folder, second)
            return left + left_too, error or error_too
        return [], None

    async def _delete_at_once(self, folder: Folder, wanted: list[Pending]) -> None:
        while wanted := [p for p in wanted if not self._is_gone(p)]:
            try:
                paths, known = [p.path for p in wanted], all(p.known for p in wanted)
                await self._client.delete_files(folder, paths, known=known)
                break
            except (NotFound, IsADirectory) as e:
                # 23.09 stops at the first it does not find; those before it are gone as well.
                left = [p for p in wanted if await self._is_there(p)]
                if len(left) == len(wanted):
                    await self._refused(left, e)
                wanted = left if len(left) < len(wanted) else []
            except VfsError as e:
                if e.retryable or isinstance(e, LocalIOError | RemoteError):
                    _doubt_outcome(wanted, e)
                    raise
                await self._refused(wanted, e)
                wanted = []

    @staticmethod
    def _gives_up(pending: Pending) -> bool:
        """The server fails on this one alone; whether it has for long enough."""
        pending.failures += 1
        return pending.failures >= MOST_FAILURES

    @staticmethod
    def _is_gone(pending: Pending) -> bool:
        """Whether its directory has gone from the server, and it with that."""
        try:
            pending.path  # noqa: B018
        except Stale:
            pending.in_doubt()
            return True
        return False

    async def _still_wanted(self, pending: Pending) -> bool:
        try:
            path = pending.path
            self._gate.check_reachable(pending.folder)
            if not pending.look_first:
                return True
            found = await self._transfers.stat(pending.folder, path)
        except (NotFound, IsADirectory, Stale):
            pending.in_doubt()  # gone with its directory, or replaced by one
            return False
        version = pending.removal.version
        if version is None or version.matches_listing(found.size, found.mtime_ns):
            return True
        pending.in_doubt()
        return False

    async def _is_there(self, pending: Pending) -> bool:
        try:
            await self._transfers.stat(pending.folder, pending.path)
        except (NotFound, IsADirectory, Stale):
            pending.in_doubt()
            return False
        return True

    async def _refused(self, refused: list[Pending], e: VfsError) -> None:
        for pending in refused:
            pending.error = e
            pending.in_doubt()
            self._recent.note("removal", e, pending.shown)
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
        if not batch:
            return
        await self._rows.removals_done(p.removal for p in batch)
        for pending in batch:
            del self._pending[pending.parent, pending.name]
            self._directories -= pending.is_directory
            self._in[pending.parent].discard(pending)
            if not self._in[pending.parent]:
                del self._in[pending.parent]
            # A listing that was asked for before shows them still.
            dircache.record_change(pending.parent, pending.name)
            self._touched[pending.parent] = trio.current_time()
            if pending.stays:
                dircache.expire(pending.parent)  # so far it was hidden
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
        return not pending.done.is_set() and (
            self._left is None or any(pending in left.chain for left in self._left)
        )


def _doubt_outcome(pending: Iterable[Pending], e: VfsError) -> None:
    """Where it may have been done, what is there by the next time may be another's."""
    crashed = isinstance(e, RemoteError) and e.status >= 500
    if crashed or (isinstance(e, RemoteUnavailable) and e.sent):
        for p in pending:
            p.look_first = p.look_first or not p.is_directory


def _concerns(pending: Pending, directories: tuple[Node, ...], name: bytes | None) -> bool:
    if not directories:
        return True
    if name is not None:
        return pending.parent is directories[0] and pending.name == name
    parent = pending.top.parent
    return any(parent is d or InodeTable.is_below(parent, d) for d in directories)


async def _either(one: trio.Event, other: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)
