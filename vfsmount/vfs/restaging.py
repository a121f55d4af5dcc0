"""Local content that a killed process of this mount has left: the very same staged files, not leftovers.

The journal says which content an inode has and how much of it is here, the row what was acknowledged of it
and how far the sending has come. See `vfs.resuming`.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from msgspec.structs import replace

from vfsmount.core.extents import Extents
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.journal import Folded, StagedRecord, Tag, gone
from vfsmount.core.staging import State
from vfsmount.errors import LocalIOError
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Removal, StagedDetail, StagedRow
from vfsmount.store.staging import Content, StagingArea
from vfsmount.values import Kind
from vfsmount.vfs.notes import Notes
from vfsmount.vfs.paths import folder_of
from vfsmount.vfs.pending import inner_first
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.recovery import Recoverer, contents_of
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.settling import Settling
from vfsmount.vfs.staged import StagedFile, Upload, version_of
from vfsmount.vfs.writer import Writer

_log = logging.getLogger("vfsmount.vfs.restaging")

# Seen some time, but not to be believed: for a node that was never seen anything would be the same version.
LONG_AGO = -1e300


class Restaging:
    """Puts local content back. Used once, when the nodes are there."""

    def __init__(
        self,
        inodes: InodeTable,
        area: StagingArea,
        records: Records,
        recorder: Recorder,
        recoverer: Recoverer,
        writer: Writer,
        removals: Removals,
        settling: Settling,
        notes: Notes,
    ) -> None:
        self._inodes = inodes
        self._area = area
        self._rows = records.staged
        self._recorder = recorder
        self._recoverer = recoverer
        self._writer = writer
        self._removals = removals
        self._settling = settling
        self._notes = notes
        self._nodes: dict[int, Node] = {}
        self._contents: dict[str, Content] = {}
        self._removals_left: list[Removal] = []

    async def run(self, folded: Folded, nodes: dict[int, Node]) -> list[str]:
        """Put everything back; names of files that nobody needs any more.

        Raises:
            LocalIOError: the records or the staging area cannot be used.
        """
        self._nodes = nodes
        rows, durable_to = await self._rows.read_mount(self._area.own)
        self._recorder.resume(max([0, *(r.seq for r in rows)]))
        self._removals_left = await self._rows.read_removals(self._area.own)
        await self._restore_contents(folded, rows, durable_to)
        await self._restore_removals()
        needed = {name for row in rows for name in contents_of(row.detail)} | self._contents.keys()
        for content in self._contents.values():
            content.release()  # who needs it holds it
        return self._area.others(needed)

    def _content(
        self, name: str, *, written: Extents | None = None, remote_size: int = 0, sealed: int = 0
    ) -> Content:
        """One content for each file; held by us until all is put back."""
        content = self._contents.get(name)
        if content is None:
            content = self._area.reopen(name, written or Extents(), remote_size, sealed)
            self._contents[name] = content
        return content

    async def _restore_contents(self, folded: Folded, rows: list[StagedRow], durable_to: int) -> None:
        by_id = {row.id: row for row in rows}
        by_content = {row.detail.content: row for row in rows}
        taken: set[int] = set()
        for ino, value in folded.decoded(Tag.STAGED, StagedRecord).items():
            node = self._nodes.get(ino)
            row = by_id.get(value.row_id) or by_content.get(value.content)
            if node is None or node.kind is not Kind.FILE:
                self._notes.journal.append_later(gone(Tag.STAGED, ino))
                continue
            if row is not None:
                taken.add(row.id)
                if node.unlinked:  # removed, and killed before the records knew
                    await self._rows.remove([row.id])
                    row = None
            await self._restore_content(node, value, folded.written(ino), row)
        for row in rows:
            if row.id not in taken:
                await self._take_row(row)
            content = self._contents.get(row.detail.content)
            if content is not None and row.seq > durable_to and not row.detail.durable:
                self._recorder.adopted(content)
            older = row.detail.fallback
            if older is not None and older.content not in self._contents:
                self._retire(older)

    def _retire(self, older: StagedDetail) -> None:
        """What was acknowledged before goes when what came after it is synced."""
        try:
            content = self._content(older.content)
        except LocalIOError:
            return
        self._recorder.retire(content.hold())

    async def _restore_content(
        self, node: Node, value: StagedRecord, later: list[tuple[int, int]], row: StagedRow | None
    ) -> None:
        written = Extents([*value.written, *later])
        try:
            content = self._content(
                value.content, written=written, remote_size=value.remote_size, sealed=value.sealed
            )
        except LocalIOError:
            dirty = value.change != value.sent and not node.unlinked
            if dirty:
                event(_log, logging.ERROR, "recovery.lost", name=node.name, note="its staging file is gone")
            self._notes.unstaged(node)
            return
        staged = StagedFile(
            content.hold(),
            value.base,
            value.base_exact,
            value.change,
            value.acked,
            value.sent,
            value.row_id,
            may_be_there=value.may_be_there,
        )
        node.size = content.size
        if value.stopped is not None:
            self._take_stopped(staged, *value.stopped)
        if staged.dirty:
            node.mtime_ns = node.ctime_ns = max(node.mtime_ns, content.path.stat().st_mtime_ns)
        if row is not None:
            self._take_acknowledged(node, staged, row)
        self._writer.attach(node, staged)
        if row is not None:
            await self._put_right(node, staged, row)
        elif staged.unsent and not node.unlinked:
            staged.acked = -1
            await self._recorder.acknowledge(node, durable=False, sealed=node.writers <= 1)
            self._notes.staged(node)
        self._writer.let_go(node)

    def _take_stopped(self, staged: StagedFile, name: str, size: int) -> None:
        with suppress(LocalIOError):  # else what came too late of it is met as a conflict
            staged.stopped = (self._content(name).hold(), size)

    def _take_acknowledged(self, node: Node, staged: StagedFile, row: StagedRow) -> None:
        detail = row.detail
        staged.row_id, staged.detail = row.id, detail
        try:
            staged.acked_content = self._content(detail.content).hold()
        except LocalIOError:
            staged.acked = -1  # what is here now is acknowledged anew
            return
        if detail.sealed:
            staged.acked_content.sealed = max(staged.acked_content.sealed, detail.size)
        if detail.state is State.SENT and detail.sent is not None:
            staged.sent, staged.base, staged.base_exact = staged.acked, detail.sent, True
            staged.may_be_there = False
            if not staged.dirty:
                node.validator = detail.sent
                node.size, node.mtime_ns = detail.sent.size, detail.sent.mtime_ns
                # Known to the next process, too, where we are killed once this content is let go of.
                self._inodes.changed(node)
            return
        if staged.sent >= staged.acked >= 0:
            # The journal, which may be a step ahead, has it as sent. Nobody would see to the row then.
            staged.sent = staged.acked - 1
        base, known = detail.base, staged.base
        if base is None or known is None or not base.matches_listing(known.size, known.mtime_ns):
            staged.base, staged.base_exact = base, False
        if detail.session is not None:
            self._take_session(staged, detail)

    def _take_session(self, staged: StagedFile, detail: StagedDetail) -> None:
        """The upload that was under way goes on."""
        session = detail.session
        try:
            content = self._content(detail.upload)
        except LocalIOError:
            return
        if session is None or content.size < detail.upload_size:
            return
        whole = detail.upload == detail.content and detail.upload_size == detail.size
        change = staged.acked if whole else max(staged.acked - 1, 0)
        content.sealed = max(content.sealed, detail.upload_size)
        staged.keep_session(session, Upload(content, detail.upload_size, change, 0.0))
        staged.may_be_there = True

    async def _put_right(self, node: Node, staged: StagedFile, row: StagedRow) -> None:
        """The row says what the tree says, and the other way round."""
        parent = node.parent
        if parent is None:
            return
        place = (folder_of(node).id, InodeTable.path(parent), node.name)
        if place != (row.folder, row.parent, row.name):  # killed in the middle of a rename
            folder, path, name = place
            await self._rows.put(replace(row, folder=folder, parent=path, name=name))
        detail = row.detail
        if detail.state is State.SENT and detail.sent is not None and staged.acked >= 0:
            kept = staged.acked_content if detail.sealed else None
            self._settling.watch(node, row.id, detail, kept, detail.sent)

    async def _take_row(self, row: StagedRow) -> None:
        """A row of a file that nobody has local content of: it was sent, and is to be looked at again."""
        detail = row.detail
        if detail.state is not State.SENT or detail.sent is None:
            event(_log, logging.WARNING, "resume.unknown_row", state=detail.state.value)
            await self._recoverer.take_up(row)
            return
        if any(row.folder == r.folder and r.directory and r.holds(row.parent) for r in self._removals_left):
            await self._rows.remove([row.id])  # nobody looks for it there, and it is not to bring that back
            return
        parent = await self._recoverer.directory(row.folder, row.parent)
        if parent is None:
            return
        node = parent.entries.get(row.name)
        if node is None:
            node = self._inodes.add(parent, row.name, Kind.FILE, mode=0o644)
            node.validator, node.checked_at = detail.sent, LONG_AGO
            node.size, node.mtime_ns, node.ctime_ns = (
                detail.sent.size,
                detail.sent.mtime_ns,
                detail.sent.mtime_ns,
            )
        try:
            content = self._content(detail.content) if detail.sealed else None
        except LocalIOError:
            content = None
        # Somebody else's was seen in its place before we were killed.
        seen = version_of(node) if node.kind is Kind.FILE else None
        overtaken = seen is not None and not detail.sent.matches_listing(seen.size, seen.mtime_ns)
        self._settling.watch(node, row.id, detail, content, detail.sent, overtaken=overtaken)

    async def _restore_removals(self) -> None:
        for removal in inner_first(self._removals_left):
            parent = await self._recoverer.directory(removal.folder, removal.parent)
            if parent is None:
                continue
            node = parent.entries.get(removal.name)
            if node is not None and removal.directory and self._recoverer.is_in_use(node):
                await self._rows.removals_done([removal])  # in use again
                continue
            if node is not None:  # killed before the tree said so: nothing else takes the name before
                self._inodes.unlink(node)
                self._writer.let_go(node)
            self._removals.adopt(parent, removal, node)
