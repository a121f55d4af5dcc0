"""Acknowledging: content and intent are on this machine's disk before a close or fsync returns.

A row survives the daemon's death the moment it is written. A power cut is survived after the next
grouped sync, at most `GROUP_S` and the disk's own time later, or at once where fsync asked for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio
from msgspec.structs import replace

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.staging import Event, State, after
from vfsmount.errors import NoSpace, VfsError
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import StagedDetail, StagedRecords, StagedRow
from vfsmount.store.staging import Content, StagingArea
from vfsmount.store.syscalls import boot_id
from vfsmount.values import Grant, Validator
from vfsmount.vfs.paths import folder_of
from vfsmount.vfs.staged import StagedFile, Upload, staged_of

_log = logging.getLogger("vfsmount.vfs.recorder")

GROUP_S = 0.5
# From here on one syncfs(2) costs less than an fdatasync(2) for each file.
SYNC_ALL_FROM = 8


class Recorder:
    """Writes the rows of staged files. Callers hold the node's lock, so a row never goes back in time."""

    def __init__(self, records: Records, area: StagingArea) -> None:
        self._rows: StagedRecords = records.staged
        self._area = area
        self._boot = boot_id()
        self._seq = 0
        self._unsynced: dict[str, Content] = {}  # acknowledged, and at a power cut's mercy
        self._retired: list[Content] = []  # to be deleted when the rows are synced
        self._wake = trio.Event()

    @property
    def mount(self) -> str:
        """Under which name this mount's rows stand."""
        return self._area.own

    def next_seq(self) -> int:
        """The number of one more acknowledgement."""
        self._seq += 1
        return self._seq

    def resume(self, seq: int) -> None:
        """Go on behind the acknowledgements of a process that was killed."""
        self._seq = seq

    async def acknowledge(self, node: Node, *, durable: bool, sealed: bool) -> None:
        """Record the node's content as it is now.

        Args:
            durable: it survives a power cut when this returns.
            sealed: it is not changed in place from here on (a close).

        Raises:
            NoSpace, LocalIOError: it is not recorded.
        """
        staged = staged_of(node)
        async with staged.row_lock:
            await self._acknowledge(node, staged, durable, sealed)

    async def _acknowledge(self, node: Node, staged: StagedFile, durable: bool, sealed: bool) -> None:
        old = staged.detail
        if node.unlinked or node.parent is None:
            return
        if staged.acked == staged.change and old is not None and (old.durable or not durable):
            if sealed:
                staged.content.sealed = max(staged.content.sealed, staged.content.size)
            if old.sealed or not sealed:
                return
        content, change = staged.content, staged.change
        # What an fsync has put on the disk stays there when it is only sealed.
        on_disk = old is not None and old.durable and old.content == content.name and staged.acked == change
        fallback = None if durable or on_disk else self._fallback(old)
        if durable:
            await content.sync()
            await self._area.sync_names()
        elif not on_disk:
            # Before the row has a number: what is synced by number must have been waiting by then.
            self._unsynced[content.name] = content
            self._wake.set()
        complete = content.complete
        detail = StagedDetail(
            content=content.name,
            size=content.size,
            sealed=sealed,
            acked_at=time.time(),
            boot=self._boot,
            state=after(old.state if old else None, Event.ACKNOWLEDGED, session=staged.session is not None),
            written=() if complete else tuple(content.checked()),
            remote_size=0 if complete else content.remote_size,
            base=staged.base,
            attrs=InodeTable.attrs_to_keep(node),
            durable=durable or on_disk,
            fallback=fallback,
        )
        detail = _with_session(detail, staged)
        row = StagedRow(
            folder_of(node).id,
            InodeTable.path(node.parent),
            node.name,
            self._area.own,
            self.next_seq(),
            detail,
            staged.row_id,
        )
        staged.row_id = await self._rows.put(row, durable=durable)
        # no await until the row and what it names are known here too
        staged.detail, staged.acked = detail, change
        if sealed:
            content.sealed = max(content.sealed, detail.size)
        if staged.acked_content is not content:
            before, staged.acked_content = staged.acked_content, content.hold()
            if before is not None:
                self.retire(before)

    def _fallback(self, old: StagedDetail | None) -> StagedDetail | None:
        """What a power cut leaves when it comes before the next sync: the row may be faster than the
        content it names."""
        if old is None or old.state is State.SENT:
            return None
        if old.content in self._unsynced:
            return old.fallback
        return replace(old, fallback=None, session=None, upload="", upload_size=0)

    async def sending(self, node: Node, upload: Upload, session: Grant | None) -> None:
        """An upload session was opened, or is of no use any more; known before its first byte goes out."""
        staged = staged_of(node)
        if session is None:
            await self._write(staged, lambda: Event.NO_SESSION, ends_session=True)
        else:
            staged.keep_session(session, upload)
            await self._write(staged, lambda: Event.SESSION)

    async def sent(self, staged: StagedFile, version: Validator) -> None:
        """The server has what `staged.sent` says."""

        def what() -> Event:
            # Decided when it is our turn: a close that was faster has put newer content into the row.
            return Event.READ_BACK_OLDER if staged.unsent else Event.READ_BACK

        await self._write(staged, what, ends_session=True, base=version, reason="", sent=version)

    async def parked(self, staged: StagedFile, reason: str) -> None:
        """The server refuses it."""
        await self._write(staged, lambda: Event.REFUSED, reason=reason)

    async def rebased(self, staged: StagedFile, base: Validator | None) -> None:
        """It is to take the place of another version than was thought, or goes to a new name."""
        staged.base = base
        await self._write(staged, lambda: Event.REBASED, base=base, sent=None)

    async def save_attrs(self, node: Node) -> None:
        """What was set for content that is not sent yet."""
        staged = staged_of(node)
        attrs = InodeTable.attrs_to_keep(node)
        if staged.detail is not None and staged.detail.attrs != attrs:
            await self._write(staged, lambda: None, attrs=attrs)

    async def _write(
        self,
        staged: StagedFile,
        event_of: Callable[[], Event | None],
        *,
        ends_session: bool = False,
        **changes: object,
    ) -> None:
        """Change the row, if there is one; `event_of` is asked when it is our turn to write.

        Args:
            ends_session: there is none any more. What it was of stays here until the row does not name it:
                a next mount tells by it that what the server has is ours.
        """
        async with staged.row_lock:
            if staged.detail is not None:
                detail = replace(staged.detail, **changes)
                happened = event_of()
                if happened is not None:
                    has_session = staged.session is not None and not ends_session
                    detail = replace(detail, state=after(detail.state, happened, session=has_session))
                staged.detail = _without_session(detail) if ends_session else _with_session(detail, staged)
                try:
                    await self._rows.update(staged.row_id, staged.detail)
                except VfsError:
                    if ends_session:  # here at least it is known
                        staged.keep_session(None)
                    raise
            if ends_session:
                staged.keep_session(None)

    def changed(self) -> None:
        """Rows were changed elsewhere (a rename, a removal): they survive a power cut soon, too."""
        self._wake.set()

    def adopted(self, content: Content) -> None:
        """A content of a mount that died is ours now."""
        self._unsynced[content.name] = content
        self._wake.set()

    def retire(self, content: Content) -> None:
        """No row names this content any more; takes the caller's hold over.

        A power cut may bring back the row that did, until the rows are synced; so the file stays until
        then, unless it was never promised to survive one.
        """
        if self._unsynced.pop(content.name, None) is not None:
            content.release()
            return
        content.rest()
        self._retired.append(content)
        self._wake.set()

    # --- grouped sync --------------------------------------------------------------------------

    async def run(self) -> None:
        """Sync what was acknowledged, soon after it was, many in one go."""
        while True:
            await self._wake.wait()
            await trio.sleep(GROUP_S)
            await self.sync()

    async def sync(self) -> None:
        """Have everything acknowledged so far survive a power cut."""
        self._wake = trio.Event()
        waiting, self._unsynced = self._unsynced, {}
        retired, self._retired = self._retired, []
        seq = self._seq
        for content in waiting.values():
            content.hold()
        try:
            if len(waiting) >= SYNC_ALL_FROM:
                await self._area.sync_all()
            else:
                for content in waiting.values():
                    await content.sync()
                await self._area.sync_names()
            await self._rows.set_durable(self._area.own, seq, self._boot)
        except VfsError as e:
            # Kept for the next round; a full disk is told to writers by their own calls.
            self._unsynced = {**waiting, **self._unsynced}
            self._retired, retired = [*retired, *self._retired], []
            level = logging.INFO if isinstance(e, NoSpace) else logging.WARNING
            event(_log, level, "staging.unsynced", files=len(waiting), error=str(e))
            self._wake.set()
        finally:
            for content in (*waiting.values(), *retired):
                content.release()


def _with_session(detail: StagedDetail, staged: StagedFile) -> StagedDetail:
    """The row with the open upload session, of a content that may be an older one than the row's."""
    if staged.session is None or staged.session_content is None:
        return _without_session(detail)
    content = staged.session_content
    return replace(detail, session=staged.session, upload=content.name, upload_size=staged.session_size)


def _without_session(detail: StagedDetail) -> StagedDetail:
    return replace(detail, session=None, upload="", upload_size=0)
