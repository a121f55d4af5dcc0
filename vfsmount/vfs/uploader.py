"""Sending what was recorded: in the background, several files at a time, until the server has it.

The order of sending is `core.writeback`'s. A file whose upload failed keeps its session, which is
resumed; nothing acknowledged is ever given up. What the server refuses is parked, reported, and
tried again rarely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from vfsmount.api.governor import background
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.writeback import Pressure, Schedule
from vfsmount.errors import (
    Conflict,
    DeadlineExceeded,
    IsADirectory,
    LocalIOError,
    NotFound,
    RemoteError,
    RemoteUnavailable,
    Stale,
    UploadFailed,
    VfsError,
)
from vfsmount.log import event
from vfsmount.values import NO_ATTRS, Folder, Grant, Validator
from vfsmount.vfs.attributes import Attributes
from vfsmount.vfs.conflicts import Conflicts
from vfsmount.vfs.deadline import Pulse, wait_behind
from vfsmount.vfs.exclusion import Exclusion
from vfsmount.vfs.notes import Notes, together
from vfsmount.vfs.paths import PathGate, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.queue import Queue
from vfsmount.vfs.recent import Recent
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.settling import Settling
from vfsmount.vfs.staged import NO_REST, StagedFile, Upload, staged_of
from vfsmount.vfs.writer import Writer

_log = logging.getLogger("vfsmount.vfs.uploader")

# The manager serves some 30 calls a second whatever the parallelism, and a small file costs one; a
# few more keep it busy while others of ours talk to the storage-proxy.
PARALLEL = 8
PARALLEL_UNDER_PRESSURE = 1
COMMIT_GRACE_S = 5.0  # for the server to answer a request that may have completed a file
# Who waits for more files than this looks at them in turns.
MANY = 200
LOOK_AT_MANY_S = 0.25


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody waits for: content of one node as it was acknowledged.

    Attributes:
        tries: those that had ended, or did not count, when the waiting began.
    """

    staged: StagedFile
    change: int
    tries: int

    def is_there(self, node: Node) -> bool:
        """The server has it, or nobody wants it any more."""
        return node.staged is not self.staged or self.staged.sent >= self.change or node.unlinked

    @property
    def failure(self) -> VfsError | None:
        """Why a try that was made since did not succeed."""
        return self.staged.error if self.staged.tries > self.tries else None


class Uploader:
    """Owns the uploads. `run` must be running."""

    def __init__(
        self,
        transfers: Transfers,
        inodes: InodeTable,
        gate: PathGate,
        exclusion: Exclusion,
        attributes: Attributes,
        recorder: Recorder,
        writer: Writer,
        settling: Settling,
        conflicts: Conflicts,
        policy: MountPolicy,
        pulse: Pulse,
        queue: Queue,
        pressure: Pressure,
        recent: Recent,
        notes: Notes | None = None,
    ) -> None:
        """Args:
        pulse: beats while any upload moves.
        """
        self._transfers = transfers
        self._inodes = inodes
        self._gate = gate
        self._exclusion = exclusion
        self._attributes = attributes
        self._recorder = recorder
        self._writer = writer
        self._settling = settling
        self._conflicts = conflicts
        self._policy = policy
        self._pulse = pulse
        self._queue = queue
        self._pressure = pressure
        self._recent = recent
        self._notes = notes
        self._line = Schedule()  # the server as a whole: silent to one file, silent to all
        self._tried = trio.Event()  # renewed whenever a try has ended
        self._running: dict[Node, Upload | None] = {}
        self._litter: list[tuple[Folder, Grant]] = []  # sessions nobody will go on with

    # --- what there is to send -----------------------------------------------------------------

    @property
    def unsent(self) -> list[Node]:
        """Nodes with acknowledged content that the server does not have."""
        return [n for n in self._writer.staged if not n.unlinked and staged_of(n).unsent]

    @property
    def will_free(self) -> bool:
        """Whether anything is on its way that will make room here by itself."""
        errors = (staged_of(n).error for n in self.unsent)
        return any(e is None or e.retryable for e in errors)

    def rows_of(self, node: Node) -> list[int]:
        """Rows of a node in the records: unsent, or sent and not looked at again."""
        rows = {self._settling.row_of(node), staged_of(node).row_id if node.staged is not None else None}
        return sorted(row for row in rows if row)

    def look_at(self, node: Node) -> None:
        """The node may have something to send."""
        self._queue.put(node, trio.current_time())

    async def run(self) -> None:
        """Send what is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                wait_s = self._start_due(nursery)
                with trio.move_on_after(wait_s):
                    await self._queue.woken()

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Start what may start; return seconds until there may be more."""
        now = trio.current_time()
        while self._litter:
            nursery.start_soon(self._transfers.discard, *self._litter.pop())
        if self._line.not_before > now:
            return self._line.not_before - now
        pressed_s = self._pressure.left_s(now)
        while len(self._running) < (PARALLEL_UNDER_PRESSURE if pressed_s else PARALLEL):
            node = self._queue.pop(now)
            if node is None:
                return self._queue.next_in(now)
            if node in self._running or node.unlinked or node.staged is None:
                continue  # its end looks again
            if staged_of(node).due(now, open_for_writing=node.writers > 0) > now:
                # It failed, was sent, or is being written again since it was put there.
                self._queue.put(node, now)
            elif staged_of(node).unsent:
                self._running[node] = None
                nursery.start_soon(self._try, node)
        return pressed_s or float("inf")

    # --- one try -------------------------------------------------------------------------------

    async def _try(self, node: Node) -> None:
        try:
            with background():
                await self._send(node)
        except VfsError as e:  # of the records: the server's are dealt with where they come up
            if isinstance(node.staged, StagedFile):
                self._failed(node, node.staged, e)
        except Exception as e:
            # A bug here must fail this file, not the mount.
            _log.exception("upload.bug ino=%d", node.ino)
            if node.staged is not None:
                self._failed(node, staged_of(node), LocalIOError(f"unexpected: {type(e).__name__}"))
        finally:
            self._running.pop(node, None)
            staged = node.staged
            if isinstance(staged, StagedFile):
                staged.tries += 1
                if staged.unsent and not node.unlinked:
                    self._queue.put(node, trio.current_time())
            self._writer.let_go(node)
            tried, self._tried = self._tried, trio.Event()
            tried.set()
            self._queue.wake()

    async def _send(self, node: Node) -> None:
        try:
            async with self._exclusion.settled(node) as pulse:
                if node.unlinked or node.staged is None or not staged_of(node).unsent:
                    return
                staged = staged_of(node)
                self._gate.check_reachable(folder_of(node))
                self._gate.check_writable(node)
                if staged.session_content is None:
                    await self._writer.complete(node, pulse)
                upload = self._begin(node, staged)
        except VfsError as e:
            if node.unlinked or node.staged is None:
                return
            staged = staged_of(node)
            if isinstance(e, Stale):
                if staged.base is not None:
                    await self._conflicts.give_way(node, remote_path(node), None)
                await self._park(node, staged, Stale("parts of the version it was made from are gone"))
            else:
                await self._not_sent(node, staged, e)
            return
        path = remote_path(node)
        with upload.content.held():
            try:
                conflict = await self._transfer(node, staged, upload)
            finally:
                # Who waits for the end of this upload acts on what the node says by now.
                if staged.upload is upload:
                    staged.upload = None
                upload.content.release()
                upload.done.set()
            if conflict is not None and not await self._is_our_own(
                node, staged, upload, path, conflict.found
            ):
                await self._conflicts.give_way(node, path, conflict.found)

    async def _is_our_own(
        self, node: Node, staged: StagedFile, upload: Upload, path: str, found: Validator | None
    ) -> bool:
        """Whether the version in our way came from an upload of ours that was broken off, too late, perhaps
        by a process that was killed: then it has this very content.

        Then it is what the next try replaces. Where that cannot be told now, the next try meets it
        again.
        """
        candidates = [
            (upload.content, upload.size),
            *([staged.stopped] if staged.stopped is not None else []),
        ]
        for content, size in candidates:
            if found is None or found.size != size:
                continue
            try:
                with content.held():
                    same = await self._transfers.same_content(
                        folder_of(node), path, found, content.read, on_progress=self._pulse.beat
                    )
            except (NotFound, IsADirectory, Stale):
                return True
            except VfsError as e:
                self._failed(node, staged, e)
                return True
            if same:
                staged.base_exact = True
                await self._recorder.rebased(staged, found)
                return True
        return False

    def _begin(self, node: Node, staged: StagedFile) -> Upload:
        """Freeze what is to be sent: an unfinished session's content, or the newest acknowledged."""
        if staged.session_content is not None:
            content, size, change = staged.session_content, staged.session_size, staged.session_change
        elif (
            staged.detail is not None
            and staged.acked_content is not None
            and (staged.detail.sealed or staged.acked_content is not staged.content)
        ):
            # What was closed, and not what somebody writes after it and has not closed yet.
            content, size, change = staged.acked_content, staged.detail.size, staged.acked
        else:
            content, size, change = staged.content, staged.content.size, staged.change
        content.sealed = max(content.sealed, size)
        upload = Upload(content.hold(), size, change, trio.current_time())
        upload.resumed = staged.session is not None
        staged.upload = self._running[node] = upload
        staged.may_be_there = True
        if self._notes is not None:
            self._notes.staged(node)
        return upload

    async def _transfer(self, node: Node, staged: StagedFile, upload: Upload) -> Conflict | None:
        async def on_session(session: Grant | None) -> None:
            if not upload.superseded:
                await self._recorder.sending(node, upload, session)

        def on_progress(moved: int) -> None:
            upload.done_bytes = min(upload.size, upload.done_bytes + moved)
            upload.pulse.beat()
            self._pulse.beat()

        outcome: Validator | VfsError | None = None
        with upload.scope:
            try:
                outcome = await self._transfers.upload(
                    folder_of(node),
                    remote_path(node),
                    upload.size,
                    upload.content.read,
                    base=staged.base,
                    session=staged.session,
                    on_session=on_session,
                    on_progress=on_progress,
                )
            except VfsError as e:
                outcome = e
        if upload.superseded or outcome is None or node.unlinked:
            return None
        if isinstance(outcome, Validator):
            await self._sent(node, staged, upload, outcome)
        elif isinstance(outcome, Conflict):
            staged.may_be_there = False
            return outcome
        else:
            await self._not_sent(node, staged, outcome)
        return None

    async def _sent(self, node: Node, staged: StagedFile, upload: Upload, version: Validator) -> None:
        now = trio.current_time()
        self._line = Schedule()
        detail = staged.detail
        # no await until the node says what the server has
        staged.base, staged.base_exact = version, True
        staged.may_be_there, staged.error = False, None
        staged.keep_stopped(None)
        staged.sent = upload.change
        staged.schedule.sent(upload.began, now)
        if not staged.unsent:
            staged.rest_until = NO_REST
        clean, all_of_it = not staged.dirty, staged.acked <= staged.sent
        if clean:
            node.validator, node.mtime_ns, node.checked_at = version, version.mtime_ns, now
        if node.parent is not None:
            dircache.record_change(node.parent, node.name)
        event(_log, logging.DEBUG, "upload.sent", file=self.name_of(node), size=upload.size, clean=clean)
        sealed = detail is not None and detail.sealed
        if not sealed:
            # An fsync promised nothing about later changes, and nothing travels any more.
            upload.content.sealed = 0
        await self._recorder.sent(staged, version)
        # After the row, which is what says so to the next process where we are killed in between.
        with together(self._notes):
            if self._notes is not None and node.staged is staged:
                self._notes.staged(node)
            self._inodes.changed(node)
        if clean and (node.recorded or InodeTable.attrs_to_keep(node) != NO_ATTRS):
            await self._attributes.save_if_possible(node)
        if all_of_it and detail is not None:
            # Changed in place meanwhile, it is no copy of what was sent.
            kept = upload.content if sealed else None
            self._settling.watch(node, staged.row_id, detail, kept, version)

    async def _not_sent(self, node: Node, staged: StagedFile, e: VfsError) -> None:
        now = trio.current_time()
        # Uploads that one cut ends together are one failure.
        if isinstance(e, RemoteUnavailable) and not e.status and self._line.not_before <= now:
            self._line.failed(now, retryable=True, first_s=self._policy.retry_first_s)
        passing = isinstance(e, LocalIOError | UploadFailed) or (
            isinstance(e, RemoteError) and e.status >= 500
        )
        if e.retryable or passing:
            self._failed(node, staged, e)
        else:
            await self._park(node, staged, e)

    def _failed(self, node: Node, staged: StagedFile, e: VfsError) -> None:
        staged.error = e
        self._recent.note("upload", e, self.name_of(node))
        retry_at = staged.schedule.failed(
            trio.current_time(), retryable=True, first_s=self._policy.retry_first_s
        )
        wait_s = retry_at - trio.current_time()
        event(_log, logging.INFO, "upload.retry", ino=node.ino, wait_s=wait_s, error=type(e).__name__)

    async def _park(self, node: Node, staged: StagedFile, e: VfsError) -> None:
        news = staged.error is None or str(staged.error) != str(e)
        staged.error = e
        self._recent.note("upload", e, self.name_of(node))
        staged.may_be_there = False if not isinstance(e, RemoteUnavailable) else staged.may_be_there
        staged.schedule.failed(trio.current_time(), retryable=False)
        if news:
            event(
                _log, logging.WARNING, "upload.parked", file=self.name_of(node), reason=str(e),
                note="kept here and tried again",
            )  # fmt: skip
        await self._recorder.parked(staged, str(e))

    # --- for those who look ----------------------------------------------------------------------

    def next_try(self, node: Node, now: float) -> float | None:
        """Seconds until an unsent node's next try may begin; None: one is under way."""
        if node in self._running:
            return None
        due = staged_of(node).due(now, open_for_writing=node.writers > 0)
        return max(0.0, max(due, self._line.not_before) - now)

    # --- for those who change names ------------------------------------------------------------

    async def stop(self, nodes: Iterable[Node]) -> None:
        """Break off uploads of these nodes, because their paths are about to change or to go.

        One that may be completed by now is waited for: the server would put the file in place after
        we have stopped listening, under a name that is not its any more. Call with
        `PathGate.moving` held, so that none begins anew.
        """
        all_staged = [(n, n.staged) for n in nodes if isinstance(n.staged, StagedFile)]
        with trio.move_on_after(COMMIT_GRACE_S):
            for _, staged in all_staged:
                if staged.upload is not None and staged.upload.may_be_committing:
                    await wait_behind(self._pulse, staged.upload.done.wait)
        for node, staged in all_staged:
            upload = staged.upload
            if upload is not None:
                staged.keep_stopped(upload)
                upload.superseded = True
                upload.scope.cancel()
                await upload.done.wait()
                if self._notes is not None and node.staged is staged:
                    self._notes.staged(node)
            if staged.session is not None:
                self._litter.append((folder_of(node), staged.session))
                staged.keep_session(None)
                # A next mount must not go on with a session that leads to the old name.
                await self._recorder.rebased(staged, staged.base)

    # --- for those who wait --------------------------------------------------------------------

    async def wait(self, nodes: Iterable[Node], *, patient: bool = False) -> None:
        """Return when the server has what was acknowledged of these nodes, verified.

        Args:
            patient: go on waiting while the server cannot be reached.

        Raises:
            VfsError: why one of them is not there.
        """
        await self.wait_for(self.want(nodes, patient=patient), patient=patient)

    def want(self, nodes: Iterable[Node], *, patient: bool = False) -> dict[Node, Wanted]:
        """Have these nodes sent next, rest or no rest; what `wait_for` waits for."""
        wanted = {}
        for node in nodes:
            staged = node.staged
            if not isinstance(staged, StagedFile):
                continue
            change = staged.acked
            # A try under way with older content does not count.
            older = staged.upload is not None and staged.upload.change < change
            wanted[node] = Wanted(staged, change, staged.tries + older)
            staged.schedule.hurry()
            self._queue.put(node, trio.current_time())
        if not patient:
            self._line.hurry()
        self._queue.wake()
        return wanted

    async def wait_for(self, wanted: dict[Node, Wanted], *, patient: bool) -> None:
        """As `wait`; takes out of `wanted` what the server has."""
        while True:
            tried = self._tried
            for node in [n for n, w in wanted.items() if w.is_there(n)]:
                del wanted[node]
            errors = (e for w in wanted.values() if (e := w.failure) is not None)
            for error in errors:
                if not (patient and error.retryable):
                    raise error
            if not wanted:
                return
            await wait_behind(self._pulse, tried.wait)
            if len(wanted) > MANY:
                # Looking at each after every try would cost more than sending them.
                await trio.sleep(LOOK_AT_MANY_S)

    # --- the end -------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Send what is left, for at most `timeout_s` and two tries of each file.

        A server that falls silent is waited for once, not once for each file.
        """
        with trio.move_on_after(timeout_s):
            # What failed before says nothing about now.
            self._line = Schedule()
            for node in self.unsent:
                staged_of(node).error = None
                staged_of(node).schedule.hurry()
                self._queue.put(node, trio.current_time())
            tries: dict[Node, int] = {}
            self._queue.wake()
            while True:
                await self._end_of_tries(tries)
                await self._settling.finish()
                if not self._hopeful(tries):  # else it found something to be sent once more
                    return

    async def _end_of_tries(self, tries: dict[Node, int]) -> None:
        # One whose file has just arrived is still to be written down as sent.
        while self._hopeful(tries) or self._running:
            tried = self._tried
            with trio.move_on_after(self._policy.retry_first_s):
                await tried.wait()

    def _hopeful(self, tries: dict[Node, int]) -> list[Node]:
        """Unsent nodes that another try may help.

        Args:
            tries: those that had ended when a node was seen here first; added to.
        """
        unsent = self.unsent
        for node in unsent:
            tries.setdefault(node, staged_of(node).tries)
        return [n for n in unsent if not self._hopeless(n, tries)]

    def _hopeless(self, node: Node, tries: dict[Node, int]) -> bool:
        staged = staged_of(node)
        if staged.error is None or node in self._running:
            return False
        tried = staged.tries - tries.get(node, staged.tries)
        silent = isinstance(staged.error, DeadlineExceeded) or self._line.failures > 1
        return tried > 1 or (tried > 0 and not staged.error.retryable) or silent

    def name_of(self, node: Node) -> str:
        """For people: folder and path."""
        folder = node.folder.name if node.folder else "?"
        try:
            path = InodeTable.path(node)
        except Stale:  # its directory was removed under it
            path = node.name
        return f"{folder}/{path.decode('utf-8', 'backslashreplace')}"
