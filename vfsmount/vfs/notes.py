"""What is written into the journal, and when: before the answer that reveals it.

Nodes are written when the kernel is first told of them (with the directories above them, because a
number without a path is of no use), and again when anything of them changes that the kernel, or a
program that has them open, would notice.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from vfsmount.core.inodes import KNOWN_NOTED, NOT_NOTED, PLACE_NOTED, InodeTable, Node
from vfsmount.core.journal import (
    DirectoryRecord,
    HandleRecord,
    Heard,
    Meta,
    NodeRecord,
    Notice,
    OperationRecord,
    ShownRecord,
    StagedRecord,
    Tag,
    gone,
    names_record,
    record,
    run_record,
)
from vfsmount.errors import LocalIOError
from vfsmount.log import event
from vfsmount.store.staging import StagingArea
from vfsmount.values import NO_ATTRS, Ino
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.handles import DirHandle, Handle
from vfsmount.vfs.paths import PathGate
from vfsmount.vfs.staged import StagedFile, staged_of

_log = logging.getLogger("vfsmount.vfs.notes")

FHS = 1 << 12  # set aside at a time
# For so long the kernel is told again, after a crash, what it was told before: it may not have heard.
NOTICED_WITHIN_S = 60.0
_NOTICES = 512  # of them, the latest


def together(notes: Notes | None) -> AbstractContextManager[None]:
    """As `Journal.together`, where there is a journal."""
    return _NOT if notes is None else notes.together()


_NOT: AbstractContextManager[None] = nullcontext()


class Notes:
    """Writes the journal of one mount; see `core.inodes.Notes`."""

    def __init__(
        self, journal: Journal, inodes: InodeTable, gate: PathGate, area: StagingArea, generation: int
    ) -> None:
        self.journal = journal
        self._inodes = inodes
        self._gate = gate
        self._area = area
        self.generation = generation
        self.reserved_fh = FHS
        self._notices = itertools.count()
        self._runs: set[Node] = set()  # whose extents came one by one

    def together(self) -> AbstractContextManager[None]:
        """As `Journal.together`."""
        return self.journal.together()

    def meta(self) -> bytes:
        """The mount as a whole."""
        value = Meta(self._area.own, self.generation, self._inodes.reserved, self.reserved_fh)
        return record(Tag.META, 0, value)

    def reserve(self, next_serial: int) -> None:
        """See `core.inodes.Notes`."""
        self.journal.append(self.meta())

    def reserve_fhs(self, upto: int) -> None:
        """File handles up to this one are about to be given out."""
        self.reserved_fh = upto + FHS
        self.journal.append(self.meta())

    # --- nodes ---------------------------------------------------------------------------------

    def known(self, nodes: Iterable[Node]) -> None:
        """See `core.inodes.Notes`."""
        records: list[bytes] = []
        for node in nodes:
            if node.noted != KNOWN_NOTED:
                self._note(node, KNOWN_NOTED, records)
        if records:
            self.journal.append(*records)

    def changed(self, node: Node) -> None:
        """See `core.inodes.Notes`."""
        records: list[bytes] = []
        self._note(node, node.noted, records)
        self.journal.append(*records)

    def place(self, node: Node) -> None:
        """A node has to be found again, whether the kernel knows it or not."""
        if not node.noted:
            records: list[bytes] = []
            self._note(node, PLACE_NOTED, records)
            self.journal.append(*records)

    def _note(self, node: Node, how: int, records: list[bytes]) -> None:
        above = node.parent
        if above is not None and not above.noted and above is not self._inodes.root:
            self._note(above, PLACE_NOTED, records)
        node.noted = max(how, node.noted)
        records.append(record(Tag.NODE, node.ino, self._record_of(node)))

    def _record_of(self, node: Node) -> NodeRecord:
        parent, version, was = node.parent, node.validator, node.was
        folder = node.folder if node.is_folder_root else None
        return NodeRecord(
            node.serial,
            0 if parent is None else parent.ino,
            node.name,
            node.kind,
            node.mode,
            node.size,
            node.mtime_ns,
            node.ctime_ns,
            None if version is None else (version.mtime_ns, version.size),
            node.noted == KNOWN_NOTED,
            node.recorded,
            node.grew,
            None if node.local is NO_ATTRS else node.local,
            None if was is None else (was[0].ino, was[1]),
            folder,
            folder is None or folder.id not in self._gate.unreachable,
        )

    def gone(self, node: Node) -> None:
        """See `core.inodes.Notes`. Never raises: nobody would hear it."""
        node.noted = NOT_NOTED
        self.journal.append_later(gone(Tag.NODE, node.ino))

    # --- local content -------------------------------------------------------------------------

    def staged(self, node: Node, *, changing: bool = False) -> None:
        """What is known of a node's local content is another now than it was, or is about to be."""
        with self.together():
            self.place(node)
            self.journal.append(record(Tag.STAGED, node.ino, _staged_record(staged_of(node), changing)))
        self._runs.discard(node)

    def unstaged(self, node: Node) -> None:
        """Nobody needs a node's local content any more: its files go next."""
        self._runs.discard(node)
        self.journal.append(gone(Tag.STAGED, node.ino))

    def run(self, node: Node, start: int, stop: int) -> None:
        """Bytes came to a content of which the rest is on the server."""
        self._runs.add(node)
        self.journal.append(run_record(node.ino, start, stop))

    # --- handles -------------------------------------------------------------------------------

    def handle(self, fh: int, handle: Handle, heard: Heard = Heard.YES) -> None:
        """An open file, as it is from now on."""
        node = handle.node
        value = HandleRecord(
            node.ino, handle.flags, handle.met, handle.made, handle.epoch == node.epoch, heard
        )
        with self.together():
            self.place(node)
            self.journal.append(record(Tag.HANDLE, fh, value))
        if heard is Heard.UNLESS_LAST:
            self.journal.tells_soon()

    def unheard(self, fh: int, file: Handle | None, directory: DirHandle | None) -> None:
        """A handle that the process before has given out and maybe nobody was told of."""
        if file is not None:
            self.handle(fh, file, Heard.MAYBE_NOT)
        elif directory is not None:
            self.directory(fh, directory.node, Heard.MAYBE_NOT)

    def closed(self, fh: int) -> None:
        """It is closed: whoever closes it again is told nothing else."""
        self.journal.append(gone(Tag.HANDLE, fh))

    def directory(self, fh: int, node: Node, heard: Heard = Heard.YES) -> None:
        """An open directory."""
        with self.together():
            self.place(node)
            self.journal.append(record(Tag.DIRECTORY, fh, DirectoryRecord(node.ino, heard)))
        if heard is Heard.UNLESS_LAST:
            self.journal.tells_soon()

    def names(self, fh: int, handle: DirHandle) -> None:
        """Its names were looked at: what an offset means from now on."""
        self.journal.append(names_record(fh, handle.names or []))

    def directory_closed(self, fh: int) -> None:
        """See `closed`."""
        self.journal.append(gone(Tag.DIRECTORY, fh))

    def shown(self, node: Node) -> None:
        """What was shown of a file that grows while it is read."""
        shown = node.shown
        if shown is None or shown.lost:
            return
        self.journal.append(record(Tag.SHOWN, node.ino, ShownRecord(shown.end, shown.head, shown.tail[1])))

    # --- operations ----------------------------------------------------------------------------

    def operation(self, number: int, value: OperationRecord) -> None:
        """A change of names begins, goes on, or is done."""
        self.journal.append(record(Tag.OPERATION, number, value))
        if value.done:
            self.journal.tells_soon()

    def no_operation(self, number: int) -> None:
        """It has failed, and who asked for it is told so; or nobody asks any more."""
        self.journal.append(gone(Tag.OPERATION, number))

    # --- what the kernel is told ---------------------------------------------------------------

    def notice(self, ino: Ino, name: bytes) -> None:
        """The kernel is about to be told that something is not so any more."""
        number = next(self._notices)
        records = [record(Tag.NOTICE, number, Notice(time.monotonic(), ino, name))]
        if number >= _NOTICES:
            records.append(gone(Tag.NOTICE, number - _NOTICES))
        try:
            self.journal.append(*records)
        except LocalIOError as e:
            event(_log, logging.WARNING, "journal.unwritable", error=str(e))

    def begin_notices_at(self, number: int) -> None:
        """Others have used the numbers before."""
        self._notices = itertools.count(number)

    # --- compaction ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write anew what takes more room than it needs; see `Journal.run`."""
        with self.together():
            self.journal.append(self.meta())
            for node in list(self._runs):
                if node.staged is not None:
                    self.staged(node)
            for node in self._inodes:
                # Directories that the kernel forgot while something in them was still known.
                idle = node.noted and node.is_dir and not node.pinned and not node.is_folder_root
                if idle and not any(n.noted for n in node.entries.values()):
                    self.gone(node)


def _staged_record(staged: StagedFile, changing: bool) -> StagedRecord:
    content = staged.content
    complete = content.complete
    return StagedRecord(
        content.name,
        0 if complete else content.remote_size,
        content.sealed,
        () if complete else tuple(content.checked()),
        staged.base,
        staged.base_exact,
        staged.change + changing,
        staged.acked,
        staged.sent,
        staged.row_id,
        staged.may_be_there,
        None if staged.stopped is None else (staged.stopped[0].name, staged.stopped[1]),
    )
