"""What mounts that died left behind: taken up by the next one, behind a mount that is usable at once.

`core.staging.recover` decides about each row. Content that no row names was never acknowledged; it is
moved to ``unsent/`` for a human to look at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from vfsmount.api.transfer import Transfers
from vfsmount.core.extents import Extents
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.staging import Found, Recovery, State, recover
from vfsmount.errors import IsADirectory, LocalIOError, NoSpace, NotFound, VfsError
from vfsmount.log import event
from vfsmount.store.records import AttrRecord, Records
from vfsmount.store.staged import Move, Removal, StagedDetail, StagedRow
from vfsmount.store.staging import Content, StagingArea
from vfsmount.store.syscalls import boot_id
from vfsmount.values import NO_ATTRS, Folder, Kind, Validator, without_number
from vfsmount.vfs.paths import conflict_name
from vfsmount.vfs.pending import inner_first
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.staged import StagedFile, Upload
from vfsmount.vfs.writer import SENT_FILE_MODE, Writer

_log = logging.getLogger("vfsmount.vfs.recovery")

# Two versions this close to each other may have been put there by mounts that did not see each other.
BLIND_WITHIN_S = 5.0
NAMED = 20  # files in the one line that says what is taken up


def contents_of(detail: StagedDetail) -> Iterator[str]:
    """Names of the staging files that a row means."""
    yield detail.content
    yield detail.upload
    if detail.fallback is not None:
        yield detail.fallback.content


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        resumed: files that are sent now, as shown on the mount.
        aside: files that were not acknowledged or may be torn, and where they are now.
        left: rows of folders this mount does not show, or that could not be looked at now.
    """

    resumed: list[str] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: int = 0


class Recoverer:
    """Takes up what was left. Used once, before the first request."""

    def __init__(
        self,
        transfers: Transfers,
        inodes: InodeTable,
        area: StagingArea,
        records: Records,
        recorder: Recorder,
        writer: Writer,
        removals: Removals,
        policy: MountPolicy,
        recorded: Callable[[Node], None],
        has_moved: Callable[[Folder, Move], Awaitable[bool]],
    ) -> None:
        """Args:
        has_moved: asks the server for the outcome of a rename.
        """
        self._transfers = transfers
        self._inodes = inodes
        self._area = area
        self._records = records
        self._rows = records.staged
        self._recorder = recorder
        self._writer = writer
        self._removals = removals
        self._policy = policy
        self._recorded = recorded
        self._has_moved = has_moved
        self._boot = boot_id()
        self._report = Report()

    async def run(self) -> Report:
        """Claim what is left, and put it where it belongs in the tree.

        The list of folders must be there. Errors of the server leave rows to the next mount; errors
        of the local disk raise.
        """
        rows = {}
        for directory in self._area.claim_dead():
            try:
                rows[directory] = await self._read(directory)
            except (LocalIOError, NoSpace):
                raise
            except VfsError as e:  # it cannot be said under which names they are now
                event(_log, logging.WARNING, "recovery.postponed", error=str(e))
                self._area.let_go(directory, named=True)
        named = {name for found in rows.values() for row, _ in found for name in contents_of(row.detail)}
        for directory, found in rows.items():
            for row, durable in found:
                try:
                    await self._take_row(row, durable)
                except (LocalIOError, NoSpace):
                    raise
                except VfsError as e:
                    self._report.left += 1
                    event(_log, logging.WARNING, "recovery.postponed", error=str(e))
            await self._take_removals(directory)
        for directory in rows:
            await self._set_aside(directory, named)
            if not self._area.contents_in(directory):
                self._area.let_go(directory)
        self._tell()
        return self._report

    async def _read(self, directory: str) -> list[tuple[StagedRow, bool]]:
        """Rows of a dead mount, with their names as the server has them now."""
        for move in await self._rows.read_moves(directory):
            folder = self._folder(move.folder)
            if folder is not None:
                happened = await self._has_moved(folder, move)
                await self._rows.end_move(directory, move, happened=happened)
        rows, durable_to = await self._rows.read_mount(directory)
        return [
            (row, row.detail.boot == self._boot or row.detail.durable or row.seq <= durable_to)
            for row in rows
        ]

    # --- one row -------------------------------------------------------------------------------

    async def _take_row(self, row: StagedRow, durable: bool) -> None:
        folder, detail = self._folder(row.folder), row.detail
        name = self._name_of(folder, row)
        path = self._area.base / detail.content
        size = path.stat().st_size if path.exists() else None
        older = detail.fallback
        found = Found(
            detail.state,
            detail.size,
            detail.sealed,
            size,
            durable,
            folder is not None,
            fallback=older is not None and self._is_whole(older),
        )
        match recover(found):
            case Recovery.SEND:
                await self._send(row, name, row.name)
                self._drop_fallback(detail)
            case Recovery.VERIFY:
                assert folder is not None
                await self._verify(folder, row, name)
                self._drop_fallback(detail)
            case Recovery.SEND_OLDER:
                assert older is not None
                if size is not None and older.content != detail.content:
                    kept = self._area.set_aside(detail.content, name)
                    self._report.aside.append((name, str(kept)))
                older = replace(older, base=detail.base, boot=self._boot, state=State.WAITING)
                await self._rows.update(row.id, older)
                await self._send(replace(row, detail=older), name, row.name)
            case Recovery.SET_ASIDE:
                kept = self._area.set_aside(detail.content, name)
                self._report.aside.append((name, str(kept)))
                await self._rows.remove([row.id])
            case Recovery.REPORT_LOST:
                self._report.lost.append(name)
                await self._rows.remove([row.id])
            case Recovery.LEAVE:
                self._report.left += 1

    def _is_whole(self, detail: StagedDetail) -> bool:
        path = self._area.base / detail.content
        return path.exists() and path.stat().st_size >= detail.size

    def _drop_fallback(self, detail: StagedDetail) -> None:
        """What was acknowledged before is not needed: what came after it is whole."""
        older = detail.fallback
        if older is not None and older.content not in (detail.content, detail.upload):
            (self._area.base / older.content).unlink(missing_ok=True)

    async def take_up(self, row: StagedRow) -> None:
        """Have a row sent that is ours already."""
        await self._take_row(row, True)

    async def _send(self, row: StagedRow, shown: str, name: bytes) -> None:
        parent = await self.directory(row.folder, row.parent)
        if parent is None:
            self._report.left += 1
            return
        detail, base = row.detail, row.detail.base
        if detail.boot != self._boot:
            # On the disk before the machine was restarted; the new row has another number to tell it by.
            detail = replace(detail, boot=self._boot, durable=True)
            await self._rows.update(row.id, detail)
        if name in parent.entries:  # another dead mount had content for it too
            name = conflict_name(name, self._policy.host, time.time(), parent.entries)
            base = None
        written = Extents(detail.written or [(0, detail.size)])
        content = self._area.adopt(
            detail.content, detail.size, written, detail.remote_size, sealed=detail.sealed
        )
        if not detail.sealed:
            detail = await self._seal(row.id, detail, content)
            row = replace(row, detail=detail)
        node = self._inodes.add(parent, name, Kind.FILE, mode=SENT_FILE_MODE)
        if detail.attrs.ino is not None:
            self._inodes.renumber([(node, detail.attrs.ino)])
        node.local, node.size = without_number(detail.attrs), content.size
        node.mtime_ns = node.ctime_ns = int(detail.acked_at * 1e9)
        staged = StagedFile(content, base, change=2, acked=2, sent=0, row_id=row.id, detail=detail)
        staged.acked_content = content.hold()
        self._take_session(staged, row)
        self._writer.attach(node, staged)
        if name != row.name:
            move = Move(0, row.folder, row.parent, row.name, row.parent, name)
            await self._rows.end_move(row.mount, move, happened=True)
            await self._recorder.rebased(staged, None)
        await self._rows.take_over(row.id, self._recorder.mount, self._recorder.next_seq())
        self._recorder.adopted(content)
        self._report.resumed.append(shown)
        self._recorded(node)

    async def _seal(self, row_id: int, detail: StagedDetail, content: Content) -> StagedDetail:
        """Who wrote in place after an fsync is gone: what is found is one version from here on, and who
        opens the file next does not change it in place."""
        await content.sync()  # the row is not to claim more than a power cut leaves
        content.sealed = content.size
        written = detail.written and tuple(content.written)
        detail = replace(detail, size=content.size, sealed=True, written=written)
        await self._rows.update(row_id, detail)
        return detail

    def _take_session(self, staged: StagedFile, row: StagedRow) -> None:
        """The upload that was under way, of the row's content or of an older one."""
        detail = row.detail
        if detail.session is None:
            return
        if detail.upload == detail.content and detail.upload_size <= staged.content.size:
            # The first part of a file that was appended to afterwards is an older version of it.
            content, change = staged.content.hold(), 2 if detail.upload_size == detail.size else 1
        elif detail.upload != detail.content and (self._area.base / detail.upload).exists():
            whole = Extents([(0, detail.upload_size)])
            content = self._area.adopt(detail.upload, detail.upload_size, whole, 0, sealed=True)
            change = 1
        else:
            return
        content.sealed = max(content.sealed, detail.upload_size)
        staged.keep_session(detail.session, Upload(content, detail.upload_size, change, 0.0))
        content.release()  # the session holds it

    async def _verify(self, folder: Folder, row: StagedRow, shown: str) -> None:
        """It was on the server, read back: is it still, and if not, did somebody overwrite it blindly?"""
        detail, sent = row.detail, row.detail.sent
        path = (row.parent + b"/" + row.name if row.parent else row.name).decode("utf-8", "surrogateescape")
        try:
            found = await self._transfers.stat(folder, path)
        except (NotFound, IsADirectory):
            found = None
        except VfsError:
            self._report.left += 1
            return
        if sent is not None and found is not None and found != sent:
            if abs(found.mtime_ns - sent.mtime_ns) <= BLIND_WITHIN_S * 1e9:
                parent = await self.directory(row.folder, row.parent)
                taken = parent.entries if parent is not None else {}
                await self._send(row, shown, conflict_name(row.name, self._policy.host, time.time(), taken))
                return
        elif sent is not None and found == sent and detail.attrs != NO_ATTRS:
            await self._restore_attrs(row, sent)
        await self._rows.remove([row.id])
        (self._area.base / detail.content).unlink(missing_ok=True)

    async def _restore_attrs(self, row: StagedRow, sent: Validator) -> None:
        """What was set before it was sent, unless it was recorded since, and maybe changed again."""
        known = await self._records.read_name(row.folder, row.parent, row.name)
        if known is None or known.version != sent:
            attrs = AttrRecord(row.name, Kind.FILE, sent, row.detail.attrs)
            await self._records.put(row.folder, row.parent, attrs)

    async def _take_removals(self, directory: str) -> None:
        removals = await self._rows.read_removals(directory)
        if not removals:
            return
        await self._rows.take_removals_over(directory, self._recorder.mount)
        await self._rows.removals_done([r for r in inner_first(removals) if not await self._take_removal(r)])

    async def _take_removal(self, removal: Removal) -> bool:
        """Whether somebody is to go on with it: the name may be in use again."""
        parent = await self.directory(removal.folder, removal.parent)
        if parent is None:
            return True  # not to be seen in this mount; another one may
        node = parent.entries.get(removal.name)
        if node is not None and (not removal.directory or self.is_in_use(node)):
            return False
        if node is not None:
            self._inodes.unlink(node)
        self._removals.adopt(parent, removal, node)
        return True

    # --- places --------------------------------------------------------------------------------

    def _folder(self, folder_id: str) -> Folder | None:
        for node in self._inodes.root.entries.values():
            if node.folder is not None and node.folder.id == folder_id:
                return node.folder
        return None

    async def directory(self, folder_id: str, path: bytes) -> Node | None:
        """The node of a directory, made where it is not known yet; None where that cannot be."""
        at = next(
            (n for n in self._inodes.root.entries.values() if n.folder and n.folder.id == folder_id), None
        )
        for name in filter(None, path.split(b"/")):
            if at is None or not at.is_dir:
                return None
            above = self._inodes.path(at)
            child = at.entries.get(name)
            if child is None:
                child = self._inodes.add(at, name, Kind.DIRECTORY, mode=0o755)
                child.mtime_ns = child.ctime_ns = time.time_ns()
                record = await self._records.read_name(folder_id, above, name)
                if record is not None and record.attrs.ino is not None:
                    self._inodes.renumber([(child, record.attrs.ino)])  # those below go by it
            at = child
        return at if at is not None and at.is_dir else None

    def is_in_use(self, node: Node) -> bool:
        """Whether there is more of a node than directories that were made on the way to what was removed."""
        return any(not n.is_dir for n in self._inodes.subtree(node))

    def _name_of(self, folder: Folder | None, row: StagedRow) -> str:
        path = row.parent + b"/" + row.name if row.parent else row.name
        return f"{folder.name if folder else row.folder}/{path.decode('utf-8', 'backslashreplace')}"

    async def _set_aside(self, directory: str, named: set[str]) -> None:
        """Content that nobody acknowledged."""
        for name, size in self._area.contents_in(directory).items():
            if name in named:
                continue
            if not size:
                (self._area.base / name).unlink()
                continue
            kept = self._area.set_aside(name, "crashed")
            self._report.aside.append((name.partition("-")[2], str(kept)))

    def _tell(self) -> None:
        report = self._report
        if report.resumed:
            names = ", ".join(report.resumed[:NAMED]) + (", ..." if len(report.resumed) > NAMED else "")
            event(_log, logging.WARNING, "recovery.resumed", files=len(report.resumed), names=names)
        for name, kept in report.aside:
            event(
                _log,
                logging.WARNING,
                "staging.leftover",
                name=name,
                kept_at=kept,
                note="never closed, or torn by a power cut; not sent",
            )
        for name in report.lost:
            event(_log, logging.ERROR, "recovery.lost", name=name, note="its staging file is gone")
        if report.left:
            event(
                _log,
                logging.WARNING,
                "recovery.left",
                files=report.left,
                note="unsent files of folders that this mount does not show stay where they are",
            )
