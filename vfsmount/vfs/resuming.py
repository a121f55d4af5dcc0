"""Going on where a process of this very mount was killed: the tree, open files and local content as before.

The kernel has its numbers and handles still, and programs their open files; what `recovery` does for a
mount that is gone would be wrong here. Nothing is asked of a server. Three things say what was: the
journal for what the kernel knows, the records for what was acknowledged, and the staging files for what
was written. Where they differ because we were killed between one and the other, the journal has the tree,
and the records have what is unsent.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import trio
from msgspec.structs import replace

from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.inodes import KNOWN_NOTED, PLACE_NOTED, InodeTable, Node
from vfsmount.core.journal import (
    DirectoryRecord,
    Folded,
    HandleRecord,
    Meta,
    NodeRecord,
    Notice,
    OperationRecord,
    ShownRecord,
    Tag,
)
from vfsmount.core.shown import TAIL, Shown
from vfsmount.errors import LocalIOError, RemoteUnavailable, VfsError
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Move
from vfsmount.store.staging import StagingArea
from vfsmount.values import NO_ATTRS, ROOT_INO, Ino, Kind, Validator
from vfsmount.vfs.deadline import within
from vfsmount.vfs.following import Following
from vfsmount.vfs.handles import DirHandle, Handle
from vfsmount.vfs.namespace import Namespace
from vfsmount.vfs.notes import NOTICED_WITHIN_S, Notes
from vfsmount.vfs.paths import PathGate, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.restaging import LONG_AGO, Restaging
from vfsmount.vfs.writer import Writer

_log = logging.getLogger("vfsmount.vfs.resuming")

_TAKE_OVER_TRIES = 250  # 5 s for a process that was killed to be gone altogether
_AGAIN_S = 1.0
_SHOWN_TRIES = 30


@dataclass(slots=True)
class Resumed:
    """What the filesystem goes on with.

    Attributes:
        unheard: handles that nobody may have been told of.
        start: begins what asks the server, and one more task, once requests can be answered.
    """

    generation: int
    next_fh: int
    start: Callable[[Callable[[], Awaitable[None]]], None]
    handles: dict[int, Handle] = field(default_factory=dict)
    directories: dict[int, DirHandle] = field(default_factory=dict)
    unheard: set[int] = field(default_factory=set)
    operations: dict[int, OperationRecord] = field(default_factory=dict)


class Resumer:
    """Puts everything back. Used once, before the first request."""

    def __init__(
        self,
        transfers: Transfers,
        inodes: InodeTable,
        area: StagingArea,
        records: Records,
        recorder: Recorder,
        restaging: Restaging,
        writer: Writer,
        following: Following,
        namespace: Namespace,
        gate: PathGate,
        policy: MountPolicy,
        notes: Notes,
        nursery: trio.Nursery,
        recorded: Callable[[Node], None],
        changed: Callable[[Ino], None],
        entry_changed: Callable[[Ino, bytes], None],
    ) -> None:
        self._transfers = transfers
        self._inodes = inodes
        self._area = area
        self._rows = records.staged
        self._recorder = recorder
        self._restaging = restaging
        self._writer = writer
        self._following = following
        self._namespace = namespace
        self._gate = gate
        self._policy = policy
        self._notes = notes
        self._nursery = nursery
        self._recorded = recorded
        self._changed = changed
        self._entry_changed = entry_changed
        self._nodes: dict[int, Node] = {}
        self._tasks: list[Callable[[], Awaitable[None]]] = []

    async def run(self) -> Resumed:
        """Put everything back.

        Raises:
            LocalIOError: the journal, the records or the staging area cannot be used.
        """
        # Hundreds of thousands of objects come at once and stay; to look among them for what may go again and
        # again takes twice as long as all the rest.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return await self._run()
        finally:
            if collecting:
                gc.enable()

    async def _run(self) -> Resumed:
        began = time.monotonic()
        folded = self._notes.journal.load()
        meta = folded.decoded(Tag.META, Meta)[0]
        await self._take_area(meta.area)
        self._notes.generation, self._notes.reserved_fh = meta.generation, meta.next_fh
        self._inodes.begin_serials_at(meta.next_serial)
        self._restore_nodes(folded.decoded(Tag.NODE, NodeRecord))
        resumed = Resumed(meta.generation, meta.next_fh, self._start)
        self._restore_handles(folded, resumed)
        operations = folded.decoded(Tag.OPERATION, OperationRecord)
        resumed.operations = operations
        await self._end_moves(operations)
        others = await self._restaging.run(folded, self._nodes)
        await self._hold_moves(operations)
        self._take_notices(folded)
        self._tasks.append(partial(self._tidy, others))
        event(
            _log,
            logging.INFO,
            "mount.resumed",
            inodes=len(self._nodes),
            files=len(resumed.handles),
            unsent=len(self._writer.staged),
            seconds=round(time.monotonic() - began, 3),
        )
        return resumed

    async def _take_area(self, directory: str) -> None:
        for _ in range(_TAKE_OVER_TRIES):
            if self._area.resume(directory):
                return
            await trio.sleep(0.02)
        raise LocalIOError("the process that served this mount before still has its staging directory")

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(task)
        for node in self._writer.staged:
            self._recorded(node)
        for each in self._tasks:
            self._nursery.start_soon(self._guarded, each)

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except VfsError as e:
            event(_log, logging.WARNING, "resume.incomplete", error=str(e))
        except Exception:
            # A bug here must not end the mount.
            _log.exception("resume.bug")

    # --- nodes ---------------------------------------------------------------------------------

    def _restore_nodes(self, found: dict[int, NodeRecord]) -> None:
        root = self._inodes.root
        nodes = self._nodes
        nodes[ROOT_INO] = root
        if (value := found.pop(ROOT_INO, None)) is not None:
            root.noted, root.local = KNOWN_NOTED, value.local or NO_ATTRS
        for ino in found:
            chain: list[int] = []
            at = ino
            while at in found and at not in nodes and at not in chain:
                chain.append(at)
                at = found[at].parent
            for n in reversed(chain):
                nodes[n] = self._restore_node(n, found[n])
        for ino, value in found.items():
            node = nodes[ino]
            if value.was is not None and (above := nodes.get(value.was[0])) is not None and node.unlinked:
                node.was, node.ref = (above, value.was[1]), above.ref
        dircache.state_of(root).listed = True

    def _restore_node(self, ino: int, value: NodeRecord) -> Node:
        node = self._inodes.restore(
            ino,
            value.serial,
            value.kind,
            self._nodes.get(value.parent),
            value.name,
            folder=value.folder,
            mode=value.mode,
        )
        node.noted = KNOWN_NOTED if value.known else PLACE_NOTED
        node.lookups = int(value.known)  # at least: how often, nobody knows
        node.size, node.mtime_ns, node.ctime_ns = value.size, value.mtime_ns, value.ctime_ns
        if value.validator is not None:
            node.validator = Validator(*value.validator)
        node.local = value.local or NO_ATTRS
        node.recorded, node.grew = value.recorded, value.grew
        node.checked_at = LONG_AGO
        if value.folder is not None and not value.reachable:
            self._gate.unreachable.add(value.folder.id)
        return node

    # --- handles -------------------------------------------------------------------------------

    def _restore_handles(self, folded: Folded, resumed: Resumed) -> None:
        shown = folded.decoded(Tag.SHOWN, ShownRecord)
        for fh, value in folded.decoded(Tag.HANDLE, HandleRecord).items():
            node = self._nodes.get(value.ino)
            if node is None:
                event(_log, logging.ERROR, "resume.lost_handle", fh=fh, ino=value.ino)
                continue
            epoch = node.epoch if value.current else node.epoch - 1
            resumed.handles[fh] = handle = Handle(node, value.flags, epoch, met=value.met, made=value.made)
            node.opens += 1
            node.writers += handle.writable
            if value.met and node.shown is None:
                self._restore_shown(node, shown.get(node.ino))
            self._following.opened(node)
            if folded.unheard(Tag.HANDLE, fh, value.heard):
                resumed.unheard.add(fh)
        for fh, directory in folded.decoded(Tag.DIRECTORY, DirectoryRecord).items():
            node = self._nodes.get(directory.ino)
            if node is None:
                event(_log, logging.ERROR, "resume.lost_handle", fh=fh, ino=directory.ino)
                continue
            resumed.directories[fh] = DirHandle(node, folded.names(fh), restored=True)
            node.opens += 1
            if folded.unheard(Tag.DIRECTORY, fh, directory.heard):
                resumed.unheard.add(fh)

    def _restore_shown(self, node: Node, value: ShownRecord | None) -> None:
        if value is not None:
            node.shown = Shown.restored(value.end, value.head, value.tail)
        else:
            node.shown = Shown()
            node.shown.forget()
            self._tasks.append(partial(self._see_again, node))
        if node.grew:
            # The kernel may not have the new size yet.
            self._tasks.append(partial(self._extend, node))

    async def _extend(self, node: Node) -> None:
        self._following.grown(node, node.size, None)

    async def _see_again(self, node: Node) -> None:
        """Have again what a file is known by should it grow, as long as it is the version that was read."""
        for _ in range(_SHOWN_TRIES):
            version, shown = node.validator, node.shown
            if node.staged is not None or node.unlinked or not node.opens or node.kind is not Kind.FILE:
                return
            if version is None or shown is None or not shown.lost or not version.size:
                return
            try:
                await self._gate.settled(node)
                folder, path, start = folder_of(node), remote_path(node), max(0, version.size - TAIL)
                end = await self._transfers.read_range(
                    folder, path, start, version.size - start, validator=version
                )
                head = await self._transfers.read_range(
                    folder, path, 0, min(TAIL, version.size), validator=version
                )
            except RemoteUnavailable:
                await trio.sleep(_AGAIN_S)
                continue
            except VfsError:
                return  # another version: who reads it finds out
            if node.validator == version and node.shown is shown and shown.lost:
                shown.read(0, head.data)
                shown.read(start, end.data)
            return

    # --- local content -------------------------------------------------------------------------

    async def _tidy(self, others: list[str]) -> None:
        """Delete what nobody needs, once a power cut does not bring back who did."""
        if others:
            await self._recorder.sync()
            self._area.delete(others)

    # --- renames -------------------------------------------------------------------------------

    async def _end_moves(self, operations: dict[int, OperationRecord]) -> None:
        """Where the tree has a rename already, the rows get their new names, too: nothing is to be looked
        for where it was."""
        moves = {_place_of(move): move for move in await self._rows.read_moves(self._area.own)}
        if not moves:
            return
        rows, _ = await self._rows.read_mount(self._area.own)
        for _, node, _, new_parent, move in self._renames(operations):
            row = moves.get(_place_of(move))
            # Without any left behind, who has the new name by now is the one that was moved.
            if (
                row is not None
                and node.parent is new_parent
                and node.name == move.new_name
                and any(move.takes(r) for r in rows)
            ):
                await self._rows.end_move(self._area.own, row, happened=True)

    async def _hold_moves(self, operations: dict[int, OperationRecord]) -> None:
        """Nobody uses a path that a rename may have changed, until it is known whether it has."""
        moves = {_place_of(move): move for move in await self._rows.read_moves(self._area.own)}
        for value, node, parent, new_parent, move in self._renames(operations):
            row = moves.pop(_place_of(move), None)
            move = replace(move, id=row.id if row is not None else 0)
            target = self._nodes.get(value.target)
            settled = self._namespace.hold_move(value.request, node, target)
            self._tasks.append(partial(self._settle_move, settled, parent, node, new_parent, move))
        for row in moves.values():
            await self._rows.end_move(self._area.own, row, happened=False)

    def _renames(
        self, operations: dict[int, OperationRecord]
    ) -> Iterator[tuple[OperationRecord, Node, Node, Node, Move]]:
        """Those of files and directories that were begun: with what moves, from where, and where to."""
        for _, value in sorted(operations.items()):
            what, directory, name, new_directory, new_name = value.request
            node, parent = self._nodes.get(value.ino), self._nodes.get(directory)
            new_parent = self._nodes.get(new_directory)
            if what != "rename" or node is None or parent is None or new_parent is None:
                continue
            if node.folder is None or parent is self._inodes.root or new_parent.unlinked or parent.unlinked:
                continue
            old = (self._inodes.path(parent), name)
            new = (self._inodes.path(new_parent), new_name)
            yield value, node, parent, new_parent, Move(0, folder_of(parent).id, *old, *new, value.replaces)

    async def _settle_move(
        self,
        settled: Callable[[], None],
        parent: Node,
        node: Node,
        new_parent: Node,
        move: Move,
    ) -> None:
        try:
            while True:
                try:
                    with within(self._policy.deadline_s):
                        await self._namespace.settle_move(parent, node, new_parent, move)
                    return
                except VfsError as e:
                    if not e.retryable:
                        raise
                    event(_log, logging.INFO, "resume.retry", ino=node.ino, error=type(e).__name__)
                    await trio.sleep(_AGAIN_S)
        finally:
            settled()

    # --- what the kernel was told --------------------------------------------------------------

    def _take_notices(self, folded: Folded) -> None:
        notices = folded.decoded(Tag.NOTICE, Notice)
        self._notes.begin_notices_at(max([-1, *notices]) + 1)
        now = time.monotonic()
        due = [n for _, n in sorted(notices.items()) if now - n.at < NOTICED_WITHIN_S]

        async def tell() -> None:
            for notice in due:
                if notice.name:
                    self._entry_changed(Ino(notice.ino), notice.name)
                else:
                    self._changed(Ino(notice.ino))

        self._tasks.append(tell)


def _place_of(move: Move) -> tuple[str, bytes, bytes, bytes, bytes]:
    return (move.folder, move.parent, move.name, move.new_parent, move.new_name)
