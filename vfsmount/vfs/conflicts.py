"""Somebody changed the file we were about to replace: both versions are kept (promise P3).

The server's version stays under its name; ours goes on under another one, beside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import LocalIOError, NoSpace, Stale
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import ConflictRecord, Move, StagedDetail
from vfsmount.store.staging import Content
from vfsmount.values import Ino, Kind, Validator, without_number
from vfsmount.vfs.exclusion import Exclusion
from vfsmount.vfs.notes import Notes
from vfsmount.vfs.paths import PathGate, conflict_name, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.staged import StagedFile, staged_of
from vfsmount.vfs.writer import SENT_FILE_MODE, Writer

_log = logging.getLogger("vfsmount.vfs.conflicts")


class Conflicts:
    """Keeps ours beside theirs."""

    def __init__(
        self,
        inodes: InodeTable,
        gate: PathGate,
        exclusion: Exclusion,
        records: Records,
        recorder: Recorder,
        writer: Writer,
        policy: MountPolicy,
        recorded: Callable[[Node], None],
        entry_changed: Callable[[Ino, bytes], None],
        notes: Notes | None = None,
    ) -> None:
        """Args:
        recorded: told of each node that has something new to send.
        entry_changed: told (directory, name) of each name that stands for something else now.
        """
        self._inodes = inodes
        self._gate = gate
        self._exclusion = exclusion
        self._rows = records.staged
        self._recorder = recorder
        self._writer = writer
        self._policy = policy
        self._recorded = recorded
        self._entry_changed = entry_changed
        self._notes = notes
        self.count = 0

    async def give_way(self, node: Node, path: str, found: Validator | None) -> None:
        """The node, with its unsent content and whoever has it open, gets another name.

        Args:
            path: under which the conflict was met; where the node has another one by now, nothing
                is done.
            found: the version that is there.
        """
        try:
            async with self._gate.moving(node), self._exclusion.alone(node):
                if node.unlinked or node.parent is None or remote_path(node) != path:
                    return
                parent, old = node.parent, node.name
                new = conflict_name(old, self._policy.host, time.time(), parent.entries)
                await self._note(node, parent, old, new)
                if node.unlinked or node.parent is not parent or new in parent.entries:
                    return  # a name that came meanwhile: the next try meets the conflict again
                self._inodes.rename(node, parent, new)
                staged = staged_of(node)
                staged.base, staged.base_exact, staged.may_be_there, staged.error = None, False, False, None
                staged.schedule.hurry()
                if self._notes is not None:
                    self._notes.staged(node)
                dircache.record_change(parent, new)
                dircache.expire(parent)
                self._entry_changed(parent.ino, old)
                await self._recorder.rebased(staged, None)
        except Stale:
            return  # removed meanwhile
        self._tell(parent, old, new, found)
        self._recorded(node)

    async def bring_back(self, node: Node, content: Content, detail: StagedDetail) -> None:
        """What we sent was overwritten by somebody who had not seen it: it is sent again, beside.

        Args:
            content: what was sent; ours from here on.
        """
        parent, old = node.parent, node.name
        if parent is None or parent.unlinked:
            content.release()
            return
        new = conflict_name(old, self._policy.host, time.time(), parent.entries)
        copy = self._inodes.add(parent, new, Kind.FILE, mode=SENT_FILE_MODE)
        copy.local, copy.size = without_number(detail.attrs), detail.size
        copy.mtime_ns = copy.ctime_ns = time.time_ns()
        self._writer.attach(copy, StagedFile(content, base=None))
        dircache.record_change(parent, new)
        dircache.expire(parent)
        await self._recorder.acknowledge(copy, durable=False, sealed=True)
        await self._remember(copy, parent, old, new)
        self._tell(parent, old, new, None)
        self._recorded(copy)

    async def revived(self, node: Node, parent: Node, old: bytes) -> None:
        """A file that somebody replaced while it was open for writing was changed all the same."""
        self._entry_changed(parent.ino, old)
        self._tell(parent, old, node.name, None)
        try:
            await self._remember(node, parent, old, node.name)
        except Stale:
            return  # the directory is gone again, and what is said of the file with it

    async def _note(self, node: Node, parent: Node, old: bytes, new: bytes) -> None:
        folder, directory = folder_of(node).id, InodeTable.path(parent)
        move = Move(0, folder, directory, old, directory, new)
        await self._rows.end_move(self._recorder.mount, move, happened=True)
        await self._remember(node, parent, old, new)

    async def _remember(self, node: Node, parent: Node, old: bytes, new: bytes) -> None:
        path = InodeTable.path(parent)
        full = path + b"/" + old if path else old
        try:
            await self._rows.add_conflict(ConflictRecord(folder_of(node).id, full, new, time.time()))
        except (LocalIOError, NoSpace) as e:
            event(_log, logging.WARNING, "records.unwritable", ino=node.ino, error=str(e))

    def _tell(self, parent: Node, old: bytes, new: bytes, found: Validator | None) -> None:
        self.count += 1
        event(
            _log,
            logging.WARNING,
            "file.conflict",
            directory=parent.ino,
            name=old.decode("utf-8", "backslashreplace"),
            kept_as=new.decode("utf-8", "backslashreplace"),
            theirs=found.etag if found else "",
            at=round(trio.current_time(), 1),
        )
