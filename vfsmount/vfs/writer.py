"""Writing: local content first, then one upload of the whole file.

A file that is opened for writing gets a staging file when it is first changed. `flush` (every
close(2)) and `fsync` send it and return only when the server has it, verified: until uploads are
recorded durably, an acknowledged close means "on the server". What could not be sent stays here,
is tried again, and ends in a named place if the mount ends first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import DeadlineExceeded, NotFound, RangeOutside, Stale, VfsError
from vfsmount.log import event
from vfsmount.store.staging import StagingArea, StagingFile, check_room
from vfsmount.values import NO_ATTRS, Kind, LocalAttrs
from vfsmount.vfs.attributes import Attributes
from vfsmount.vfs.deadline import Pulse, wait_behind, within
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy, without_set_id

_log = logging.getLogger("vfsmount.vfs.writer")

# Ranges of 4-16 MiB reach a real storage-proxy's full speed (contract 7).
SENT_FILE_MODE = 0o644  # what a server makes of an upload: 0666 less its umask (contract 4.3)
_FETCH_PIECE = 8 << 20


@dataclass(slots=True)
class StagedFile:
    """Local content of one node.

    Attributes:
        dirty: the server does not have this content.
        created_here: the server has nothing under this name yet, as far as we were told.
        may_be_there: an upload was begun and did not end well, so the server may have it all the same.
        error: why the last try to send it failed.
    """

    file: StagingFile
    dirty: bool
    created_here: bool
    may_be_there: bool = False
    error: VfsError | None = None


@dataclass(slots=True)
class _Busy:
    """Who may change or send one node's content now; a trio lock with what waiters need to know."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    pulse: Pulse = field(default_factory=Pulse)
    users: int = 0


@dataclass(frozen=True, slots=True)
class Unsent:
    """Content that could not be sent before the mount ended.

    Attributes:
        name: where it should have gone, as shown on the mount.
        kept_at: the local file that holds it now.
    """

    name: str
    kept_at: Path
    reason: str


class Writer:
    """Owns staging files and sends them."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        inodes: InodeTable,
        area: StagingArea,
        gate: PathGate,
        attributes: Attributes,
        policy: MountPolicy,
    ) -> None:
        self._transfers = transfers
        self._metadata = metadata
        self._inodes = inodes
        self._area = area
        self._gate = gate
        self._attributes = attributes
        self._policy = policy
        self._busy: dict[Node, _Busy] = {}
        self._staged: set[Node] = set()

    # --- exclusion -----------------------------------------------------------------------------

    @asynccontextmanager
    async def exclusive(self, node: Node) -> AsyncIterator[Pulse]:
        """Nobody else changes, sends or moves this node's content meanwhile.

        Held across an upload on purpose: a write must not tear it, a rename must not pull its path
        away. Waiters' deadlines move on as long as the upload does.
        """
        busy = self._busy.setdefault(node, _Busy())
        busy.users += 1
        try:
            await wait_behind(busy.pulse, busy.lock.acquire)
            try:
                yield busy.pulse
            finally:
                busy.lock.release()
        finally:
            busy.users -= 1
            if not busy.users:
                del self._busy[node]

    @asynccontextmanager
    async def _exclusive_settled(self, node: Node) -> AsyncIterator[Pulse]:
        """`exclusive` while nobody is renaming the node or a directory above it.

        A mover may be waiting for our lock; to wait for its end with the lock held would be for ever.
        """
        while True:
            await self._gate.settled(node)
            async with self.exclusive(node) as pulse:
                if not self._gate.is_moving(node):
                    yield pulse
                    return

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

    @asynccontextmanager
    async def exclusive_below(self, *tops: Node | None) -> AsyncIterator[None]:
        """`exclusive` for every staged node at or below `tops`, in ascending inode order."""
        nodes = {
            n for top in tops if top is not None for n in self._inodes.subtree(top) if n.staged is not None
        }
        async with AsyncExitStack() as stack:
            for node in sorted(nodes, key=lambda n: n.ino):
                await stack.enter_async_context(self.exclusive(node))
            yield

    # --- content -------------------------------------------------------------------------------

    async def create(self, parent: Node, name: bytes, mode: int) -> Node:
        """A new empty file, here only until its first flush. `mode`: permission bits."""
        file = await self._area.create(name)
        try:
            # A directory that is being removed must not take in what would go with it unsent.
            await self._gate.settled(parent)
            if name in parent.entries or parent.unlinked:
                raise Stale("the directory changed meanwhile; try again")
            node = self._inodes.add(parent, name, Kind.FILE, mode=SENT_FILE_MODE)
        except BaseException:
            file.close()
            raise
        node.local = LocalAttrs(mode=mode)
        node.mtime_ns = node.ctime_ns = time.time_ns()
        self._attach(node, StagedFile(file, dirty=True, created_here=True))
        return node

    def _attach(self, node: Node, staged: StagedFile) -> None:
        node.staged = staged
        self._staged.add(node)

    async def read(self, node: Node, offset: int, length: int) -> bytes:
        """Bytes of the local content."""
        staged: StagedFile = node.staged
        return await staged.file.read(offset, length)

    async def write(self, node: Node, epoch: int, offset: int | None, data: bytes) -> int:
        """Write all of `data` at `offset` (None: at the end); return where it went.

        Raises:
            Stale: somebody else replaced the file since it was opened (`epoch`).
            NoSpace: the staging disk is full; the content is as before.
        """
        async with self._exclusive_settled(node) as pulse:
            staged = await self._stage(node, epoch, node.size, pulse)
            at = staged.file.size if offset is None else offset
            await staged.file.write(at, data)
            self._touched(node, staged)
            return at

    async def truncate(self, node: Node, epoch: int | None, size: int) -> None:
        """Cut or extend to `size`; only what stays is fetched. `epoch` None: whatever version is there."""
        async with self._exclusive_settled(node) as pulse:
            staged = await self._stage(node, node.epoch if epoch is None else epoch, size, pulse)
            if staged.file.size != size or not staged.dirty:
                await staged.file.truncate(size)
                self._touched(node, staged)

    async def make_local(self, node: Node) -> None:
        """Have the whole content here, unchanged, because its name is about to go. Hold `holding`."""
        async with self._exclusive_settled(node) as pulse:
            await self._stage(node, node.epoch, node.size, pulse)

    def _touched(self, node: Node, staged: StagedFile) -> None:
        staged.dirty = True
        node.version += 1
        node.size = staged.file.size
        node.mtime_ns = node.ctime_ns = time.time_ns()
        # We cannot see who wrote, so the superuser's writes clear the set-id bits too.
        node.local = replace(without_set_id(node.local), mtime_ns=None)

    async def _stage(self, node: Node, epoch: int, keep: int, pulse: Pulse) -> StagedFile:
        """The node's local content, fetched up to `keep` bytes if there is none. Hold `exclusive`."""
        if node.epoch != epoch:
            raise Stale("the file was replaced on the server; open it again")
        if node.staged is None:
            file = await self._area.create(node.name)
            try:
                await check_room(self._area, min(keep, node.size))
                await self._fetch_into(file, node, min(keep, node.size), pulse)
                if file.size:
                    await self._metadata.revalidate(node)  # see reader.CHECKED_ABOVE
                if node.epoch != epoch or node.unlinked:
                    raise Stale("the file was replaced on the server; open it again")
            except BaseException:
                file.close()
                raise
            self._attach(node, StagedFile(file, dirty=False, created_here=False))
        staged: StagedFile = node.staged
        return staged

    async def _fetch_into(self, file: StagingFile, node: Node, size: int, pulse: Pulse) -> None:
        while file.size < size:
            await self._gate.settled(node)
            asked_at, path = trio.current_time(), remote_path(node)
            try:
                reply = await self._transfers.read_range(
                    folder_of(node),
                    path,
                    file.size,
                    min(_FETCH_PIECE, size - file.size),
                    validator=node.validator,
                    on_progress=pulse.beat,
                )
            except (Stale, RangeOutside, NotFound) as e:
                await self._metadata.revalidate(node)
                if isinstance(e, NotFound) and remote_path(node) != path:
                    continue  # renamed while we asked
                raise Stale("the file was replaced on the server; open it again") from e
            epoch = node.epoch
            self._metadata.confirm(node, reply.validator, asked_at)
            if node.epoch != epoch or node.validator != reply.validator:
                raise Stale("the file was replaced on the server; open it again")
            await file.write(file.size, reply.data)

    # --- sending -------------------------------------------------------------------------------

    async def flush(self, node: Node) -> None:
        """Have the content on the server, verified; nothing to do for clean or unlinked files.

        Raises:
            VfsError: it is not there; it stays dirty here and is tried again.
        """
        if not self._needs_sending(node):
            return
        async with self._exclusive_settled(node) as pulse:
            if self._needs_sending(node):
                await self._send(node, pulse)

    @staticmethod
    def _needs_sending(node: Node) -> bool:
        return node.staged is not None and node.staged.dirty and not node.unlinked

    async def _send(self, node: Node, pulse: Pulse) -> None:
        staged: StagedFile = node.staged
        folder, path, parent = folder_of(node), remote_path(node), node.parent
        self._gate.check_reachable(folder)
        staged.may_be_there = True
        try:
            validator = await self._transfers.upload(
                folder, path, staged.file.size, staged.file.read, on_progress=pulse.beat
            )
        except VfsError as e:
            staged.error = e
            raise
        # no await until the node says what the server has
        staged.dirty = staged.created_here = staged.may_be_there = False
        staged.error = None
        node.validator = validator
        node.mtime_ns = validator.mtime_ns
        node.checked_at = trio.current_time()
        if parent is not None:
            dircache.record_change(parent, node.name)
        if node.local is not NO_ATTRS or node.recorded:
            await self._attributes.save_if_possible(node)  # what was set, bound to the version just made

    def let_go(self, node: Node) -> None:
        """Drop local content that nobody needs: clean or nameless, and not open for writing."""
        staged: StagedFile | None = node.staged
        if staged is None or node.writers or (node.unlinked and node.opens):
            return
        if staged.dirty and not node.unlinked:
            return
        staged.file.close()
        node.staged = None
        self._staged.discard(node)
        self._inodes.released(node)

    # --- what is left --------------------------------------------------------------------------

    @property
    def dirty(self) -> list[Node]:
        """Nodes whose content the server does not have, oldest number first."""
        return sorted((n for n in self._staged if self._needs_sending(n)), key=lambda n: n.ino)

    async def run(self) -> None:
        """Try again, for ever, what a close could not send."""
        while True:
            await trio.sleep(self._policy.retry_every_s)
            for node in self.dirty:
                staged: StagedFile | None = node.staged
                # No error and nobody who writes: a close ran out of time before it could learn one.
                if node.writers or staged is None or (staged.error and not staged.error.retryable):
                    continue
                try:
                    with within(self._policy.deadline_s):
                        await self.flush(node)
                    event(_log, logging.INFO, "upload.recovered", ino=node.ino)
                except VfsError as e:
                    event(_log, logging.DEBUG, "upload.retry", ino=node.ino, error=type(e).__name__)
                except Exception:
                    # A bug here must fail this file, not the mount.
                    _log.exception("upload.bug ino=%d", node.ino)
                self.let_go(node)

    async def drain(self) -> list[Unsent]:
        """Send everything that is left; what cannot be sent is kept in a named place.

        A server that falls silent is waited for once, not once for each file.
        """
        unsent = []
        silence: DeadlineExceeded | None = None
        for node in self.dirty:
            try:
                if silence is not None:
                    raise silence
                with within(self._policy.deadline_s):
                    await self.flush(node)
            except VfsError as e:
                silence = e if isinstance(e, DeadlineExceeded) else silence
                unsent.append(self._keep(node, str(e)))
        for node in list(self._staged):
            node.writers = node.opens = 0
            self.let_go(node)
        return unsent

    def _keep(self, node: Node, reason: str) -> Unsent:
        staged: StagedFile = node.staged
        folder = folder_of(node).name
        try:
            path = InodeTable.path(node)
        except Stale:  # its directory was removed under it
            path = node.name
        try:
            kept_at = self._area.keep_unsent(staged.file, folder, path)
        except VfsError as e:
            kept_at, reason = staged.file.path, f"{reason}; {e}"
        name = f"{folder}/{path.decode('utf-8', 'backslashreplace')}"
        event(_log, logging.ERROR, "upload.unsent", file=name, kept_at=kept_at, reason=reason)
        return Unsent(name, kept_at, reason)
