"""Writing: local content of a node, from its first change to the moment nobody needs it.

A file that is changed gets a staging file; what is not in it yet is fetched when it is read or when
the file is closed. Bytes that were acknowledged by a close, or are travelling, are never changed in
place: the next writer gets a clone. So an upload is never torn, and a crash in the middle of a
rewrite leaves what was closed before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import BLOCK_SIZE, BlockIndex, BlockKey
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import IsADirectory, NotFound, RangeOutside, RemoteUnavailable, Stale
from vfsmount.log import event
from vfsmount.store.staging import Content, StagingArea
from vfsmount.values import NO_ATTRS, Kind, LocalAttrs, Validator
from vfsmount.vfs.deadline import Pulse, within
from vfsmount.vfs.exclusion import Exclusion
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.notes import Notes, together
from vfsmount.vfs.paths import PathGate, conflict_name, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy, without_set_id
from vfsmount.vfs.ranges import IN_ONE_PIECE
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.replay import NO_OPERATION, Operation
from vfsmount.vfs.room import Room
from vfsmount.vfs.staged import NO_REST, StagedFile, staged_of

_log = logging.getLogger("vfsmount.vfs.writer")

SENT_FILE_MODE = 0o644  # what a server makes of an upload: 0666 less its umask (contract 4.3)
# Ranges of 4-16 MiB reach a real storage-proxy's full speed (contract 7).
_FETCH_PIECE = 8 << 20
_FETCH_ALIGN = 1 << 20
# Files up to this size come whole with the first change: one request either way, and then nobody
# can take away the version that the rest of them would have to be fetched from.
WHOLE_BELOW = 1 << 20


class Writer:
    """Owns local content. What is to be sent is told to `recorded`."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        inodes: InodeTable,
        area: StagingArea,
        gate: PathGate,
        exclusion: Exclusion,
        recorder: Recorder,
        room: Room,
        blocks: BlockIndex,
        policy: MountPolicy,
        recorded: Callable[[Node], None],
        revived: Callable[[Node, Node, bytes], None],
        notes: Notes | None = None,
    ) -> None:
        """Args:
        revived: told of each node that goes on under another name, with the directory and the old name.
        recorded: told of each node that has something new to send.
        """
        self._transfers = transfers
        self._metadata = metadata
        self._inodes = inodes
        self._area = area
        self._gate = gate
        self._exclusion = exclusion
        self._recorder = recorder
        self._room = room
        self._blocks = blocks
        self._policy = policy
        self._recorded = recorded
        self._revived = revived
        self._notes = notes
        self._staged: set[Node] = set()

    @property
    def staged(self) -> list[Node]:
        """Nodes with local content, oldest first."""
        return sorted(self._staged, key=lambda n: n.serial)

    @contextmanager
    def holding(self, node: Node | None) -> Iterator[None]:
        """Local content of the node is not let go of meanwhile, whoever closes it."""
        if node is None:
            yield
            return
        node.writers += 1
        try:
            yield
        finally:
            node.writers -= 1
            self.let_go(node)

    # --- content -------------------------------------------------------------------------------

    async def create(
        self, parent: Node, name: bytes, attrs: LocalAttrs, operation: Operation = NO_OPERATION
    ) -> Node:
        """A new empty file, here only until it is sent."""
        content = await self._area.create(name)
        try:
            # A directory that is being removed must not take in what would go with it unsent.
            await self._gate.settled(parent)
            if name in parent.entries or parent.unlinked:
                raise Stale("the directory changed meanwhile; try again")
            node = self._inodes.add(parent, name, Kind.FILE, mode=SENT_FILE_MODE)
        except BaseException:
            content.release()
            raise
        node.local = attrs
        node.mtime_ns = node.ctime_ns = time.time_ns()
        with together(self._notes):
            operation.begins(node)
            self.attach(node, StagedFile(content, base=None))
        return node

    def attach(self, node: Node, staged: StagedFile) -> None:
        """The node has local content from now on."""
        node.staged = staged
        self._staged.add(node)
        self._note(node)

    def _note_change(self, node: Node, staged: StagedFile) -> None:
        """What was acknowledged, or sent, is about to be changed: it is dirty from here on."""
        if self._notes is not None and staged.change in (staged.acked, staged.sent):
            self._notes.staged(node, changing=True)

    def _note(self, node: Node) -> None:
        if self._notes is not None:
            self._notes.staged(node)

    async def read(self, node: Node, offset: int, length: int) -> bytes:
        """Bytes of the local content, fetched where they are not here yet."""
        while True:
            staged = staged_of(node)
            content = staged.content
            if content.missing(offset, offset + length):
                start = offset // _FETCH_ALIGN * _FETCH_ALIGN
                stop = -(-(offset + length) // _FETCH_ALIGN) * _FETCH_ALIGN
                async with self._exclusion.settled(node) as pulse:
                    if node.staged is staged and staged.content is content:
                        await self._fetch(node, staged, content, start, stop, pulse)
            elif staged.content is content:
                return await content.read(offset, length)
            if node.staged is None:
                raise Stale("the file was let go of meanwhile")

    async def write(self, node: Node, epoch: int, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`.

        Raises:
            Stale: somebody else replaced the file since it was opened (`epoch`).
            NoSpace: no room for unsent data; the content is as before.
        """
        # Room first: who waits for it with the lock held keeps this very file from being sent.
        async with self._room.reserved(len(data)), self._exclusion.settled(node) as pulse:
            staged = await self._stage(node, epoch, node.size, pulse)
            content = await self._changeable(node, staged, offset, staged.content.size)
            self._note_change(node, staged)
            # What the next process must not take for bytes that are on the server only.
            news = content.unchecked.total or content.missing(offset, offset + len(data))
            await self._room.when_disk_has_some(lambda: content.write(offset, data))
            self._touched(node, staged)
            if news and self._notes is not None:
                self._notes.run(node, offset, offset + len(data))

    async def truncate(self, node: Node, epoch: int | None, size: int) -> None:
        """Cut or extend. `epoch` None: whatever is there now."""
        async with self._exclusion.settled(node) as pulse:
            staged = await self._stage(node, node.epoch if epoch is None else epoch, size, pulse)
            if staged.content.size != size or not staged.dirty:
                content = await self._changeable(node, staged, size, size)
                self._note_change(node, staged)
                await content.truncate(size)
                self._touched(node, staged)
                self._note(node)

    async def make_local(self, node: Node) -> None:
        """Have the whole content here, unchanged, because its name is about to go. Hold `holding`."""
        async with self._exclusion.settled(node) as pulse:
            staged = await self._stage(node, node.epoch, node.size, pulse)
            await self._fetch(node, staged, staged.content, 0, staged.content.size, pulse)

    def _touched(self, node: Node, staged: StagedFile) -> None:
        staged.change += 1
        node.version += 1
        node.size = staged.content.size
        node.mtime_ns = node.ctime_ns = time.time_ns()
        if node.local is not NO_ATTRS:
            # We cannot see who wrote, so the superuser's writes clear the set-id bits too.
            before, node.local = node.local, replace(without_set_id(node.local), mtime_ns=None)
            if node.local != before:
                self._inodes.changed(node)

    async def _changeable(self, node: Node, staged: StagedFile, start: int, keep: int) -> Content:
        """The content, or a clone of its first `keep` bytes where bytes from `start` on are sealed."""
        content = staged.content
        if start >= content.sealed:
            return content
        if not keep:
            new = await self._area.create(node.name)
        else:
            async with self._room.reserved(min(keep, content.written.total)):
                new = await content.clone(node.name, keep)
        # no await until the new one is what everybody sees
        staged.content = new
        if node.staged is staged and self._notes is not None:
            # Dirty at once: killed here, what is cut already is not changed by being cut again.
            self._notes.staged(node, changing=True)
        content.release()
        return new

    async def _stage(self, node: Node, epoch: int, keep: int, pulse: Pulse) -> StagedFile:
        """The node's local content; `keep`: bytes of it that stay. Hold the node's lock."""
        if node.epoch != epoch:
            raise Stale("the file was replaced on the server; open it again")
        if node.staged is None:
            base = node.validator or Validator(node.mtime_ns, node.size)
            content = await self._area.create(node.name)
            staged = StagedFile(content, base, base_exact=node.validator is not None, sent=0)
            try:
                # On the disk too: how long a file is after a crash is told by the file itself.
                await content.truncate(node.size)
                content.remote_size = min(keep, node.size)
                if await self._fill_from_memory(node, content):
                    if node.was is not None and node.unlinked and node.epoch == epoch:
                        self._revive(node, staged)
                        return staged
                elif content.remote_size > 0 and node.size <= WHOLE_BELOW:
                    await self._fetch(node, staged, content, 0, content.remote_size, pulse)
                elif content.remote_size and node.validator is None:
                    await self._metadata.revalidate(node)
                    staged.base, staged.base_exact = node.validator or base, node.validator is not None
                if node.epoch != epoch or node.unlinked:
                    raise Stale("the file was replaced on the server; open it again")
            except BaseException:
                content.release()
                raise
            self.attach(node, staged)
        return staged_of(node)

    def _revive(self, node: Node, staged: StagedFile) -> None:
        """Somebody replaced the file while it was open for writing: what is written goes beside it.

        Raises:
            Stale: there is no place beside it any more.
        """
        assert node.was is not None
        parent, name = node.was
        if parent.unlinked:
            raise Stale("the file was replaced on the server; open it again")
        staged.base, staged.base_exact = None, False
        new = conflict_name(name, self._policy.host, time.time(), parent.entries)
        self._inodes.relink(node, parent, new)
        self.attach(node, staged)
        self._revived(node, parent, name)

    async def _fill_from_memory(self, node: Node, content: Content) -> bool:
        """Take what stays of a small file from the blocks read of this very version, if they are here."""
        if not 0 < content.remote_size <= WHOLE_BELOW or node.validator is None:
            return False
        count = -(-content.remote_size // BLOCK_SIZE)
        blocks = [self._blocks.get(BlockKey(node.serial, node.version, n)) for n in range(count)]
        data = b"".join(b for b in blocks if b is not None)[: content.remote_size]
        if len(data) < content.remote_size:
            return False
        await content.fill(0, data)
        # What was read counts as one version; a row must not ask the server for it again.
        content.is_one_version(True)
        return True

    async def _fetch(
        self, node: Node, staged: StagedFile, content: Content, start: int, stop: int, pulse: Pulse
    ) -> None:
        """Have ``[start, stop)`` here. Hold the node's lock.

        Raises:
            Stale: the server has another version now, so what is missing cannot be had any more.
        """
        for begin, end in content.missing(start, stop):
            at = begin
            while at < end:
                if node.staged is None:
                    # Later a mover waits for the lock that we hold; so its path stays until we let go.
                    await self._gate.settled(node)
                data = await self._fetch_piece(node, staged, at, min(_FETCH_PIECE, end - at), pulse)
                async with self._room.reserved(len(data)):
                    await content.fill(at, data)
                at += len(data)
        await self._check(node, staged, content)
        if node.staged is staged and staged.content is content and content.remote_size:
            self._note(node)

    async def _check(self, node: Node, staged: StagedFile, content: Content) -> None:
        """A file rewritten in place while it was sent mixes two versions under one validator, and one that
        was replaced may come under the old one."""
        same = True
        trusted = IN_ONE_PIECE if self._transfers.tells_what_it_sends else 0
        if content.unchecked.total > trusted and staged.base is not None:
            try:
                found = await self._transfers.revalidate(folder_of(node), remote_path(node), staged.base)
                same = found is None
            except (NotFound, IsADirectory):
                same = False
        content.is_one_version(same)
        if not same:
            raise Stale("the file was replaced on the server; open it again")

    async def _fetch_piece(
        self, node: Node, staged: StagedFile, offset: int, length: int, pulse: Pulse
    ) -> bytes:
        while True:
            path, base = remote_path(node), staged.base
            try:
                reply = await self._transfers.read_range(
                    folder_of(node),
                    path,
                    offset,
                    length,
                    validator=base if staged.base_exact else None,
                    on_progress=pulse.beat,
                )
            except (Stale, RangeOutside, NotFound) as e:
                if isinstance(e, NotFound) and remote_path(node) != path:
                    continue  # renamed while we asked
                if node.staged is None:
                    await self._metadata.revalidate(node)
                raise Stale("the file was replaced on the server; open it again") from e
            found = reply.validator
            if base is None or not base.matches_listing(found.size, found.mtime_ns):
                raise Stale("the file was replaced on the server; open it again")
            staged.base, staged.base_exact = found, True
            return reply.data

    # --- acknowledging -------------------------------------------------------------------------

    async def flush(self, node: Node) -> None:
        """The content as it is now survives the daemon's death; it is sent from here on.

        What is missing of it is fetched first, so that nobody can take it away. Where the server
        cannot be reached it is recorded as it is.

        Raises:
            Stale: the version it was made from is gone from the server before all of it was here;
                what was written is recorded all the same, and goes beside the other version.
            NoSpace, LocalIOError: it is not recorded.
        """
        if not self._to_record(node):
            return
        async with self._exclusion.settled(node) as pulse:
            if self._to_record(node):
                try:
                    await self._fetch_rest(node, pulse)
                finally:
                    if not node.unlinked:
                        await self._acknowledge(node, durable=False, sealed=node.writers <= 1)
                        self._recorded(node)

    async def _acknowledge(self, node: Node, *, durable: bool, sealed: bool) -> None:
        staged = staged_of(node)
        before = staged.acked
        await self._recorder.acknowledge(node, durable=durable, sealed=sealed)
        if staged.acked != before:
            staged.acknowledged(trio.current_time())
        if node.staged is staged:
            self._note(node)

    async def _fetch_rest(self, node: Node, pulse: Pulse) -> None:
        staged = staged_of(node)
        try:
            with within(self._policy.deadline_s / 2):
                await self._fetch(node, staged, staged.content, 0, staged.content.size, pulse)
        except RemoteUnavailable as e:
            event(_log, logging.INFO, "staging.incomplete", ino=node.ino, error=type(e).__name__)

    async def fsync(self, node: Node) -> None:
        """As `flush`, and it survives a power cut; fetches nothing."""
        if node.staged is None or node.unlinked:
            return
        async with self._exclusion.settled(node):
            if node.staged is not None and staged_of(node).dirty:
                await self._acknowledge(node, durable=True, sealed=False)
        self._recorded(node)

    @staticmethod
    def _to_record(node: Node) -> bool:
        if node.staged is None or node.unlinked:
            return False
        staged = staged_of(node)
        return staged.dirty and (
            staged.acked != staged.change or not (staged.detail and staged.detail.sealed)
        )

    async def complete(self, node: Node, pulse: Pulse) -> None:
        """Have all of a content here before it is sent. Hold the node's lock."""
        staged = staged_of(node)
        content = staged.acked_content or staged.content
        await self._fetch(node, staged, content, 0, content.size, pulse)

    # --- letting go ----------------------------------------------------------------------------

    def closed(self, node: Node) -> None:
        """Its last writer is gone: what he has written is whole."""
        if node.staged is not None:
            staged_of(node).rest_until = NO_REST
            self._recorded(node)

    def let_go(self, node: Node) -> None:
        """Drop local content that nobody needs: clean or nameless, and not open for writing."""
        if node.staged is None or node.writers or (node.unlinked and node.opens):
            return
        staged = staged_of(node)
        if (staged.dirty or staged.upload is not None) and not node.unlinked:
            staged.rest()  # thousands may be waiting to be sent
            return
        if self._notes is not None:
            self._notes.unstaged(node)
        if staged.upload is not None:
            staged.upload.superseded = True
            staged.upload.scope.cancel()
        if staged.acked_content is not None:
            acked, staged.acked_content = staged.acked_content, None
            self._recorder.retire(acked)
        staged.release_all()
        node.staged = None
        self._staged.discard(node)
        self._inodes.released(node)

    def abandon(self) -> None:
        """End of the mount: descriptors go, files stay for the next mount."""
        for node in self._staged:
            staged = staged_of(node)
            if node.unlinked or not staged.dirty:
                staged.release_all()
                continue
            for content in (staged.content, staged.acked_content, staged.session_content):
                if content is not None:
                    content.abandon()
