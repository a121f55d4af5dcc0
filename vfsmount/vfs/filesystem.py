"""The filesystem as a program sees it, with or without a kernel in front.

`Filesystem` takes inode numbers, names and handles, and answers with values; errors are `VfsError`.
It knows nothing of FUSE: the same object serves the kernel, the tests and Python callers.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import replace

import trio

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.blockindex import Bytes
from vfsmount.core.inodes import Node
from vfsmount.core.journal import Heard
from vfsmount.errors import (
    BadHandle,
    InvalidRequest,
    IsADirectory,
    LocalIOError,
    NameTooLong,
    NoAttribute,
    NoSpace,
    NotADirectory,
    NotFound,
    NotSupported,
    RemoteUnavailable,
    Stale,
    VfsError,
)
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.store.blockcache import BlockCache
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.values import NAME_MAX, Folder, HostUsage, Ino, Kind, LocalAttrs
from vfsmount.vfs.administration import Administration
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.following import Extend, nothing_to_extend
from vfsmount.vfs.handles import Attr, DirHandle, Handle, Maker, Opened, SetAttr
from vfsmount.vfs.metadata import MOST_PROBED
from vfsmount.vfs.notes import together
from vfsmount.vfs.parts import Parts
from vfsmount.vfs.policy import MountPolicy, without_set_id
from vfsmount.vfs.recovery import Report
from vfsmount.vfs.replay import Operation
from vfsmount.vfs.staged import staged_of, version_of
from vfsmount.vfs.status import state_of_file

_log = logging.getLogger("vfsmount.vfs")

# Setting or reading it waits. Reading is the better way: the kernel locks a file while an attribute is
# set, and has an error for the next who closes it when the process that sets it is killed.
WAIT_ATTRIBUTE = b"user.vfsmount.wait"

# Whether the request that a task answers may be one that a killed process had read, while `replaying`.
RESENT: ContextVar[bool] = ContextVar("RESENT", default=True)

_SPECIAL = {
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


class Filesystem(Administration):
    """All vfolders a user may access, as one tree."""

    def __init__(
        self,
        client: Client,
        transfers: Transfers,
        area: StagingArea,
        records: Records,
        policy: MountPolicy,
        nursery: trio.Nursery,
        changed: Callable[[Ino], None] = lambda ino: None,
        entry_changed: Callable[[Ino, bytes], None] = lambda ino, name: None,
        cache: BlockCache | None = None,
        extend: Extend = nothing_to_extend,
        journal: Journal | None = None,
    ) -> None:
        """Args:
        nursery: owns fetches and uploads for as long as the filesystem is served.
        cache: where blocks that were read are kept on disk; None: nowhere.
        changed: told the number of each inode whose content somebody else changed.
        entry_changed: told (directory, name) of each name that stands for another inode now.
        extend: has the kernel take bytes at the new end of a file that has grown.
        journal: what the next process needs to go on where this one is killed; None: nobody goes on.
        """
        self._replaying = False
        self._hurried = trio.Event()
        self.policy = policy
        self._client = client
        self._area = area
        self._area.named = True  # until `close` knows better
        self._rows = records.staged
        self._records = records
        self.parts = parts = Parts(
            client, transfers, area, records, policy, nursery, cache, changed, entry_changed, extend, journal
        )
        self._notes = parts.notes
        self._operations = parts.operations
        self._ahead = parts.ahead
        self._attributes = parts.attributes
        self._following = parts.following
        self._gate = parts.gate
        self._inodes = parts.inodes
        self._metadata = parts.metadata
        self._namespace = parts.namespace
        self._pressure = parts.pressure
        self._reader = parts.reader
        self._recorder = parts.recorder
        self._recoverer = parts.recoverer
        self._removals = parts.removals
        self._settling = parts.settling
        self._uploader = parts.uploader
        self._usage = parts.usage
        self._writer = parts.writer
        self._handles: dict[int, Handle] = {}
        self._dir_handles: dict[int, DirHandle] = {}
        self._next_fh = 1
        self._unheard: set[int] = set()  # handles that a killed process may not have told anybody of
        # Given for a request that came again, and perhaps in use by another program: closed twice then.
        self._shared: set[int] = set()
        self._closed_once: dict[int, Handle] = {}
        self._dirs_closed_once: dict[int, DirHandle] = {}

    # --- after a crash -------------------------------------------------------------------------

    @property
    def _replaying(self) -> bool:
        return self._is_replaying and RESENT.get()

    @_replaying.setter
    def _replaying(self, yes: bool) -> None:
        self._is_replaying = yes

    @property
    def replaying(self) -> bool:
        """Whether requests are answered that were read by a process that was killed. It may have done what
        they ask, which is a success then. Set it before the first of them, take it back after the last."""
        return self._replaying

    @replaying.setter
    def replaying(self, yes: bool) -> None:
        if self._replaying and not yes:
            self._operations.all_came()
            self._heard()
        self._replaying = yes

    def _heard(self) -> None:
        """Handles that were given out at the end of the last life are in use, or nobody asks for them."""
        unheard, self._unheard = self._unheard, set()
        for fh in unheard:
            self._note_handle(fh, Heard.YES)

    def _given(self, node: Node, flags: int | None) -> int | None:
        """A handle that a killed process has made for this very request, which has come again."""
        for fh in self._unheard if self._replaying else ():
            handle: Handle | DirHandle | None = (
                self._dir_handles.get(fh) if flags is None else self._handles.get(fh)
            )
            if handle is None or handle.node is not node:
                continue
            if isinstance(handle, DirHandle) or handle.flags == flags:
                self._unheard.discard(fh)
                self._shared.add(fh)
                self._note_handle(fh)
                return fh
        return None

    def _note_handle(self, fh: int, heard: Heard = Heard.UNLESS_LAST) -> None:
        """A handle is about to be given out, or (again) it was."""
        if self._notes is None:
            return
        if (handle := self._handles.get(fh)) is not None:
            self._notes.handle(fh, handle, heard)
        elif (directory := self._dir_handles.get(fh)) is not None:
            self._notes.directory(fh, directory.node, heard)

    # --- attributes ----------------------------------------------------------------------------

    def _attr(self, node: Node) -> Attr:
        now = trio.current_time()
        policy = self.policy
        entry_ttl = policy.dir_ttl_s
        if node.parent is not None and node.parent.listing is not None:
            entry_ttl = node.parent.listing.remaining(now, self._metadata.ttl(node.parent))
        local = node.local
        mtime = node.mtime_ns if local.mtime_ns is None else local.mtime_ns
        return Attr(
            ino=node.ino,
            mode=policy.mode(node),
            size=0 if node.is_dir else node.size,
            uid=policy.uid if local.uid is None else local.uid,
            gid=policy.gid if local.gid is None else local.gid,
            atime_ns=mtime if local.atime_ns is None else local.atime_ns,
            mtime_ns=mtime,
            ctime_ns=node.ctime_ns or mtime,
            nlink=self._nlink(node, now),
            rdev=local.rdev,
            generation=self.parts.generation + node.serial,
            attr_ttl_s=self._attr_ttl_s(node),
            entry_ttl_s=entry_ttl,
        )

    def _attr_ttl_s(self, node: Node) -> float:
        if node.is_dir:
            return self.policy.dir_ttl_s
        # A direct write clears set-id bits, and the kernel keeps the mode it knows (seen on 6.18).
        return 0.0 if (node.local.mode or 0) & (stat.S_ISUID | stat.S_ISGID) else self._belief_s(node)

    def _belief_s(self, node: Node) -> float:
        """How long the attributes of an open file are believed.

        Half as long while it grows: who polls once a second would else come just too early every time.
        """
        return self.policy.attr_ttl_s / 2 if node.grew else self.policy.attr_ttl_s

    def _nlink(self, node: Node, now: float) -> int:
        """A directory's is told while its listing is believed; 1 says "not told", as on btrfs.

        Programs that stop looking for subdirectories when they have seen so many must not trust an old one.
        """
        if node.unlinked:
            return 0
        if not node.is_dir:
            return 1
        state = dircache.state_of(node)
        return 2 + node.subdirs if state.fresh(now, self._metadata.ttl(node)) and not state.cut else 1

    async def lookup(self, parent: int, name: bytes) -> Attr:
        """Attributes of a name; counts as one reference of the caller's to its inode.

        Raises:
            NotFound: no such name.
            NameTooLong: there can be none.
        """
        if len(name) > NAME_MAX:
            raise NameTooLong("a name may have at most 255 bytes")
        if name == b".":
            node = self._inodes.get(parent)  # also of a file: how the kernel finds what a file handle means
        elif name == b"..":
            node = self._directory(parent).parent or self._inodes.root
        else:
            node = await self._metadata.lookup(self._directory(parent), name)
        self._inodes.looked_up(node)
        return self._attr(node)

    def get_known(self, parent: int, name: bytes) -> Attr | None:
        """As `lookup`, of a name that is there and believed; None: `lookup` may tell more."""
        node = self._metadata.get_known(self._inodes.get(parent), name)
        if node is None:
            return None
        self._inodes.looked_up(node)
        return self._attr(node)

    def negative_ttl_s(self, parent: int) -> float:
        """How long "no such name" may be believed in a directory just looked at."""
        node = self._inodes.get(parent)
        state = dircache.state_of(node)
        if state.cut:
            return self._metadata.ttl(node)  # the name itself was asked for
        return state.remaining(trio.current_time(), self._metadata.ttl(node))

    async def getattr(self, ino: int) -> Attr:
        """Attributes of an inode, at most `attr_ttl_s` old for open files, `dir_ttl_s` for others.

        Raises:
            Stale: its name is gone, or stands for another file now. The kernel, which may have asked on
                the way to opening the name, looks it up again then.
        """
        node = self._inodes.get(ino)
        if node.unlinked and not node.opens:
            raise Stale("the file was removed")
        try:
            await self._refresh_attributes(node)
            await self._following.extended(node)
        except RemoteUnavailable:
            pass  # what is known is served as before the cut (promise P5)
        except NotFound:
            if not node.opens:
                raise Stale("the file was removed") from None
        if node.was is not None and node.unlinked and not node.writers:
            # Who waits at the end for more is told: there will never be any.
            raise Stale("the file was replaced on the server; open it again")
        return self._attr(node)

    async def _refresh_attributes(self, node: Node) -> None:
        if node.staged is not None or node.unlinked or node is self._inodes.root:
            return
        if node.kind is Kind.FILE and node.opens:
            if self._metadata.is_stale(node, self._belief_s(node)):
                await self._reader.confirm(node)
        elif (
            node.parent is not None
            and not node.is_folder_root
            and self._metadata.is_stale(node, self.policy.dir_ttl_s)
        ):
            parent = node.parent
            await self._metadata.refresh(parent)
            if node.unlinked:
                raise NotFound("no such file or directory")
            if dircache.state_of(parent).cut:
                await self._metadata.lookup(parent, node.name)

    async def setattr(self, ino: int, change: SetAttr, fh: int | None = None) -> Attr:
        """Apply a change; size goes to the server, the rest is kept here while the mount lives."""
        node = self._inodes.get(ino)
        self._gate.check_writable(node)
        if change.size is not None:
            await self._truncate(node, change.size, fh)
        if not node.is_dir and (change.uid is not None or change.gid is not None):
            node.local = without_set_id(node.local)
        node.local = node.local.updated(
            mode=change.mode if change.mode is None else change.mode & 0o7777,
            uid=change.uid,
            gid=change.gid,
            mtime_ns=change.mtime_ns,
            atime_ns=change.atime_ns,
        )
        node.ctime_ns = time.time_ns()
        await self._save_attrs(node)
        return self._attr(node)

    async def _save_attrs(self, node: Node) -> None:
        self._inodes.changed(node)
        if node.staged is not None and staged_of(node).dirty:
            await self._recorder.save_attrs(node)  # they belong to a version that is not there yet
        else:
            await self._attributes.save(node)

    # --- extended attributes -------------------------------------------------------------------

    def get_xattr(self, ino: int, name: bytes) -> bytes:
        """Value of an extended attribute; NoAttribute where it is not set.

        Ours, which no list shows so that no program copies them: ``user.vfsmount.state`` (what the
        server has of a file), ``user.vfsmount.validator``, ``user.vfsmount.partial`` (directories).
        """
        node = self._inodes.get(ino)
        if name == b"user.vfsmount.state" and not node.is_dir:
            return state_of_file(node).encode()
        if name == b"user.vfsmount.validator" and not node.is_dir and version_of(node) is not None:
            return str(version_of(node)).encode()
        if name == b"user.vfsmount.partial" and node.is_dir:
            return b"1" if dircache.state_of(node).cut else b"0"
        return self._attributes.get_xattr(node, name)

    async def wait_in_band(self, ino: int) -> bytes:
        """What `WAIT_ATTRIBUTE` says, once all that is acknowledged at or below a node is on the server.

        Raises:
            VfsError: why it is not.
        """
        await self.wait([self._inodes.get(ino)], patient=False)
        return b"1"

    def list_xattrs(self, ino: int) -> list[bytes]:
        """Names of the extended attributes that are set."""
        return [name for name, _ in self._inodes.get(ino).local.xattrs]

    async def set_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or remove it (None); see `Attributes.set_xattr`."""
        node = self._inodes.get(ino)
        if name == WAIT_ATTRIBUTE:
            await self.wait_in_band(ino)
            return
        self._gate.check_writable(node)
        if value is None:
            await self._remove_xattr(node, name)
            return
        self._attributes.set_xattr(node, name, value)
        await self._save_attrs(node)

    async def _remove_xattr(self, node: Node, name: bytes) -> None:
        with self._operations.of(self._replaying, "removexattr", node.ino, name) as operation:
            try:
                self._attributes.get_xattr(node, name)
            except NoAttribute:
                if operation.before is None:
                    self._attributes.set_xattr(node, name, None)  # says what is wrong with it
                    raise
                return
            operation.begins(node)
            self._attributes.set_xattr(node, name, None)
            await self._save_attrs(node)

    # --- links and special files ---------------------------------------------------------------

    async def symlink(self, parent: int, name: bytes, target: bytes, maker: Maker | None = None) -> Attr:
        """As symlink(2), for this machine only; counts as a lookup."""
        directory = self._directory(parent)
        attrs = replace(self.policy.for_new(directory, maker, 0), mode=None, target=target)
        return await self._make_local("symlink", directory, name, Kind.LOCAL_LINK, attrs)

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int = 0, maker: Maker | None = None
    ) -> Attr:
        """The name of a FIFO, socket or device, for this machine only, or an empty file; counts as a lookup.

        Raises:
            InvalidRequest: another kind of file.
        """
        if stat.S_ISREG(mode):
            return await self._make_file(parent, name, mode, maker)
        kind = _SPECIAL.get(stat.S_IFMT(mode))
        if kind is None:
            raise InvalidRequest("no kind of file that mknod makes")
        directory = self._directory(parent)
        attrs = replace(self.policy.for_new(directory, maker, mode), rdev=rdev)
        return await self._make_local("mknod", directory, name, kind, attrs)

    async def _make_file(self, parent: int, name: bytes, mode: int, maker: Maker | None) -> Attr:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        with self._operations.of(self._replaying, "mknod", parent, name) as operation:
            fh, attr = await self._create(operation, parent, name, mode, flags, maker)
            try:
                await self.flush(fh)
            finally:
                await self.release(fh)
        return attr

    async def _make_local(
        self, what: str, directory: Node, name: bytes, kind: Kind, attrs: LocalAttrs
    ) -> Attr:
        with self._operations.of(self._replaying, what, directory.ino, name) as operation:
            node = await self._namespace.make_local(directory, name, kind, attrs, operation)
            return self._looked_up(node, operation)

    def _looked_up(self, node: Node, operation: Operation) -> Attr:
        """The last of an operation that makes a name."""
        with together(self._notes):
            self._inodes.looked_up(node)
            operation.done()
        return self._attr(node)

    def readlink(self, ino: int) -> bytes:
        """Where a symlink made on this machine points.

        Raises:
            InvalidRequest: not such a symlink.
        """
        node = self._inodes.get(ino)
        if node.kind is not Kind.LOCAL_LINK:
            raise InvalidRequest("not a symbolic link")
        return node.local.target

    async def _truncate(self, node: Node, size: int, fh: int | None) -> None:
        if node.is_dir:
            raise IsADirectory("this is a directory")
        self._refuse_link(node)
        handle = self._handles.get(fh) if fh is not None else None
        self._following.cut(node, size)
        with self._writer.holding(node):
            await self._writer.truncate(node, handle.epoch if handle and handle.met else None, size)
            if handle is not None:
                handle.epoch = node.epoch
                self._meets(fh or 0, handle)
            else:
                # truncate(2) on a path: no close will follow that could record it
                await self._flush(node)

    # --- directories ---------------------------------------------------------------------------

    def _directory(self, ino: int) -> Node:
        node = self._inodes.get(ino)
        if not node.is_dir:
            raise NotADirectory("not a directory")
        return node

    async def opendir(self, ino: int) -> int:
        """A directory handle; its listing is made sure of here, so that errors come from opendir."""
        node = self._directory(ino)
        if node.unlinked:
            raise Stale("the directory was removed")
        self._ahead.read(node)
        if (given := self._given(node, None)) is not None:
            return given
        await self._metadata.names(node)
        fh = self._new_fh()
        self._dir_handles[fh] = DirHandle(node)
        node.opens += 1  # keeps the listing here while somebody reads it
        self._note_handle(fh)
        return fh

    async def readdir(self, fh: int, offset: int) -> Iterator[tuple[int, bytes, Attr]]:
        """Entries from `offset` (0: from a fresh look; n: after the one with that number) of an open
        directory, each with its number.

        Names and their order are frozen at offset 0, so an offset means the same until the next rewind.
        What stands under a name is not: somebody else may have replaced it, and a name that was removed
        or renamed since is left out, or the kernel would believe in it anew. Lazy, because the kernel
        takes a page at a time: take what you need before the next await.
        """
        handle = self._dir_handles.get(fh)
        if handle is None:
            handle = self._dirs_closed_once.pop(fh, None)
            if handle is None:
                raise BadHandle("not an open directory")
            self._dir_handles[fh] = handle
            handle.node.opens += 1
            self._note_handle(fh)
        if offset == 0 or handle.names is None:
            names = [] if handle.node.unlinked else await self._metadata.names(handle.node)
            handle.names = [b".", b"..", *names]
            if self._notes is not None:
                self._notes.names(fh, handle)
            handle.restored = False
        ready = await self._metadata.wait_for_names(handle.node, offset + 1)
        stop = len(handle.names) if ready is None else min(2 + ready, len(handle.names))
        if handle.restored and not handle.node.unlinked:
            stop = await self._find_again(handle, offset)
        return self._entries(handle.node, handle.names, offset, stop)

    async def _find_again(self, handle: DirHandle, offset: int) -> int:
        """Have nodes for names that a process listed which was killed; up to which number there are.

        A listing that is cut may lack them, so some are asked for one by one; the caller comes again.
        """
        directory, names = handle.node, handle.names or []
        if not dircache.state_of(directory).listed:
            await self._metadata.names(directory)
        if not dircache.state_of(directory).cut:
            return len(names)
        asked = 0
        for number in range(max(offset, 2), len(names)):
            if names[number] in directory.entries:
                continue
            if asked == MOST_PROBED:
                return number
            asked += 1
            await self._metadata.find(directory, names[number])
        return len(names)

    def _entries(
        self, directory: Node, names: list[bytes], offset: int, stop: int
    ) -> Iterator[tuple[int, bytes, Attr]]:
        dots = {b".": directory, b"..": directory.parent or self._inodes.root}
        for number in range(offset, stop):
            name = names[number]
            node = dots.get(name) or directory.entries.get(name)
            if node is not None:
                yield number + 1, name, self._attr(node)

    def looked_up(self, ino: int) -> None:
        """The kernel was told this number by a directory reading."""
        self._inodes.looked_up(self._inodes.get(ino))

    def all_looked_up(self, inos: Iterable[int]) -> None:
        """As `looked_up`, of a page of them."""
        self._inodes.all_looked_up([self._inodes.get(ino) for ino in inos])

    def releasedir(self, fh: int) -> None:
        """The last close of a directory handle."""
        handle = self._dir_handles.pop(fh, None)
        if handle is None:
            self._dirs_closed_once.pop(fh, None)
            return
        handle.node.opens -= 1
        if self._notes is not None:
            self._notes.directory_closed(fh)
        self._inodes.released(handle.node)
        if fh in self._shared:
            self._shared.discard(fh)
            self._dirs_closed_once[fh] = handle

    async def mkdir(self, parent: int, name: bytes, mode: int, maker: Maker | None = None) -> Attr:
        """As mkdir(2); counts as a lookup."""
        directory = self._directory(parent)
        attrs = self.policy.for_new(directory, maker, mode, is_dir=True)
        with self._operations.of(self._replaying, "mkdir", parent, name) as operation:
            node = await self._namespace.mkdir(directory, name, attrs, operation)
            return self._looked_up(node, operation)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """As rmdir(2)."""
        with self._operations.of(self._replaying, "rmdir", parent, name) as operation:
            await self._namespace.rmdir(self._directory(parent), name, operation)

    async def unlink(self, parent: int, name: bytes) -> None:
        """As unlink(2)."""
        self._pressure.changed(trio.current_time())
        with self._operations.of(self._replaying, "unlink", parent, name) as operation:
            await self._namespace.unlink(self._directory(parent), name, operation)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """As renameat2(2)."""
        again = self._replaying
        with self._operations.of(again, "rename", parent, name, new_parent, new_name) as operation:
            await self._namespace.rename(
                self._directory(parent), name, self._directory(new_parent), new_name, flags, operation
            )

    # --- files ---------------------------------------------------------------------------------

    def _new_fh(self) -> int:
        fh, self._next_fh = self._next_fh, self._next_fh + 1
        if self._notes is not None and fh >= self._notes.reserved_fh:
            self._notes.reserve_fhs(fh)
        return fh

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is not None:
            return handle
        handle = self._closed_once.pop(fh, None)
        if handle is None:
            raise BadHandle("not an open file")
        self._handles[fh] = handle
        handle.node.opens += 1
        handle.node.writers += handle.writable
        self._following.opened(handle.node)
        self._note_handle(fh)
        return handle

    @staticmethod
    def _refuse_link(node: Node) -> None:
        if node.kind is Kind.SYMLINK:
            raise NotSupported("the server would replace this symlink by a file")

    def _register(self, node: Node, flags: int, *, made: bool = False) -> int:
        fh = self._new_fh()
        self._handles[fh] = handle = Handle(node, flags, node.epoch, made=made)
        node.opens += 1
        node.writers += handle.writable
        self._following.opened(node)
        return fh

    async def open(self, ino: int, flags: int) -> Opened:
        """Open an existing file; its version is confirmed if it was last seen too long ago."""
        node = self._inodes.get(ino)
        if node.is_dir:
            raise IsADirectory("this is a directory")
        if node.unlinked and not node.opens:
            raise Stale("the file was removed")
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if node.kind.is_local:
            raise NotSupported("the kernel opens links and FIFOs itself")
        if writing:
            self._gate.check_writable(node)
            self._refuse_link(node)
        if node.folder is not None:
            self._gate.check_reachable(node.folder)
        if (given := self._given(node, flags)) is not None:
            return Opened(given, keep_cache=False)
        if not writing:
            self._reader.opened(node)
        stale = self._metadata.is_stale(node, self.policy.attr_ttl_s)
        if node.kind is Kind.SYMLINK and (stale or node.validator is None):
            await self._metadata.follow_link(node)
        fh = self._register(node, flags)
        node.opening += 1
        try:
            await self._prepare(node, flags, bool(writing), stale)
        except BaseException:
            node.opening -= 1
            self._close(fh)
            raise
        node.opening -= 1
        self._handles[fh].epoch = node.epoch
        self._note_handle(fh)
        keep, node.shown_epoch = node.shown_epoch == node.epoch, node.epoch
        return Opened(fh, keep)

    async def _prepare(self, node: Node, flags: int, writing: bool, stale: bool) -> None:
        """Have of a file what whoever opens it has to be sure of."""
        unseen, was_unlinked = node.shown is None and node.kind is Kind.FILE, node.unlinked
        if flags & os.O_TRUNC:
            self._following.cut(node, 0)
            await self._writer.truncate(node, None, 0)
            return
        if (
            node.staged is None
            and not node.unlinked
            and node.kind is Kind.FILE
            and (stale or writing or unseen)
        ):
            await self._reader.prime(node, stale=stale or writing, bytes_too=writing)
            if unseen and node.shown is None and (beginning := self._reader.beginning(node)):
                # To know the file by, should it grow before anything else of it is read.
                self._following.shown(node, 0, beginning)
        # The kernel has to know the size of what nobody has seen before anybody sees bytes of it.
        in_time = await self._following.extended(node)
        if (node.unlinked and not was_unlinked) or (unseen and not in_time):
            # The kernel looks the name up again and opens what it finds then.
            raise Stale("the file was replaced on the server; open it again")

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, maker: Maker | None = None
    ) -> tuple[int, Attr]:
        """As open(2) with O_CREAT; counts as a lookup. A new file is recorded by its first flush."""
        with self._operations.of(self._replaying, "create", parent, name) as operation:
            fh, attr = await self._create(operation, parent, name, mode, flags, maker)
            with together(self._notes):
                self._note_handle(fh)
                operation.done(fh)
        return fh, attr

    async def _create(
        self, operation: Operation, parent: int, name: bytes, mode: int, flags: int, maker: Maker | None
    ) -> tuple[int, Attr]:
        self._pressure.changed(trio.current_time())
        directory = self._directory(parent)
        exclusive = bool(flags & os.O_EXCL)
        attrs = self.policy.for_new(directory, maker, mode)
        node, made = await self._namespace.create(
            directory, name, attrs, exclusive=exclusive, operation=operation
        )
        before = operation.before
        if before is not None and before.fh in self._handles and self._handles[before.fh].node is node:
            self._inodes.looked_up(node)
            return before.fh, self._attr(node)
        if node.staged is not None:
            fh = self._register(node, flags, made=made)
        else:
            fh = (await self.open(node.ino, flags)).fh
        if node.staged is not None and flags & os.O_TRUNC and node.size:
            try:
                await self._writer.truncate(node, None, 0)
            except BaseException:
                self._close(fh)
                raise
        self._inodes.looked_up(node)
        return fh, self._attr(node)

    async def read(self, fh: int, offset: int, length: int) -> Bytes:
        """As pread(2).

        Raises:
            Stale: the file was replaced on the server after this handle had begun to read it.
        """
        handle = self._handle(fh)
        node = handle.node
        for _ in range(4):
            if handle.epoch != node.epoch:
                if handle.met:
                    break
                handle.epoch = node.epoch
            if node.staged is not None:
                if not handle.met:
                    self._meets(fh, handle)
                changed = await self._writer.read(node, offset, length)
                counters.staged.gave(len(changed))
                return changed
            try:
                data = await self._reader.read(node, node.version, offset, length, handle.ahead)
            except Stale:
                if node.unlinked:
                    raise
                if not node.grew or node.staged is not None:
                    continue  # replaced while it was on its way, or changed here: look again
                data = await self._metadata.read_through(node, offset, length)
            if handle.epoch == node.epoch:
                if not handle.met and data:
                    self._meets(fh, handle)
                self._following.shown(node, offset, data)
                if node.grew and self._notes is not None and offset + len(data) >= node.size:
                    self._notes.shown(node)
                return data
        raise Stale("the file was replaced on the server; open it again")

    async def write(self, fh: int, offset: int, data: bytes) -> None:
        """As pwrite(2), always all of `data`. Whoever appends knows where the end is."""
        self._pressure.changed(trio.current_time())
        handle = self._handle(fh)
        node = handle.node
        for last in (False, False, True):
            if not handle.met:
                handle.epoch = node.epoch
            try:
                await self._writer.write(node, handle.epoch, offset, data)
            except Stale:
                if last or handle.met or node.unlinked:
                    raise
                continue  # replaced since it was listed, but this handle has shown nothing of it yet
            if not handle.met:
                self._meets(fh, handle)
            self._following.written(node, offset, data)
            return

    def _meets(self, fh: int, handle: Handle) -> None:
        """It is about to show bytes of this version, or has taken some: it never shows another's."""
        handle.met = True
        if self._notes is not None:
            self._notes.handle(fh, handle)

    def ino_of(self, fh: int) -> Ino:
        """The inode an open file handle belongs to."""
        return self._handle(fh).node.ino

    async def flush(self, fh: int) -> None:
        """The close(2) hook: returns once the content is recorded here, or, where the mount is
        `sync`, on the server and verified.

        Raises:
            VfsError: it is not.
        """
        handle = self._handle(fh)
        if handle.writable:
            await self._flush(handle.node)

    async def _flush(self, node: Node) -> None:
        await self._writer.flush(node)
        if self.policy.sync:
            await self._uploader.wait([node])

    async def fsync(self, fh: int) -> None:
        """As fsync(2): the content survives a power cut of this machine; where the mount says so, it
        is on the server."""
        node = self._handle(fh).node
        await self._writer.fsync(node)
        if self.policy.sync or self.policy.fsync_remote:
            await self._uploader.wait([node])

    async def fsyncdir(self) -> None:
        """As fsync(2) of a directory: names that were changed here survive a power cut."""
        await self._recorder.sync()

    async def release(self, fh: int) -> None:
        """The last reference to a handle is gone; nobody hears an error."""
        handle = self._handles.get(fh)
        if handle is None:
            self._closed_once.pop(fh, None)
            return
        try:
            if handle.writable:  # a writable mapping may have written after the last close(2)
                await self._flush(handle.node)
        except VfsError as e:
            event(
                _log, logging.WARNING, "upload.pending", ino=handle.node.ino, error=str(e), kept="tried again"
            )
            raise
        finally:
            self._close(fh)

    def _close(self, fh: int) -> None:
        handle = self._handles.pop(fh)
        if self._notes is not None:
            self._notes.closed(fh)
        node = handle.node
        node.opens -= 1
        node.writers -= handle.writable
        if not node.writers:
            self._writer.closed(node)
        if not node.opens:
            self._reader.closed(node)
        self._writer.let_go(node)
        if not node.opens:
            self._metadata.closed(node)
        self._inodes.released(node)
        if fh in self._shared:
            self._shared.discard(fh)
            self._closed_once[fh] = handle

    # --- the rest ------------------------------------------------------------------------------

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped `count` references to an inode."""
        self._inodes.forget(ino, count)

    def statfs(self) -> HostUsage:
        """How much room there is, as last heard; never waits."""
        return self._usage.get(self._folders())

    def _folders(self) -> Iterator[Folder]:
        return (n.folder for n in self._inodes.root.entries.values() if n.folder is not None)

    async def warm(self) -> None:
        """Have the list of folders, so that the mount answers at once.

        Raises:
            VfsError: the server cannot be used.
        """
        await self._metadata.refresh(self._inodes.root)

    async def recover(self) -> Report:
        """Take up what mounts that died left behind; call it after `warm`, before the first request."""
        report = await self._recoverer.run()
        if self._notes is not None:
            journal = self._notes.journal
            self._area.hold(journal.holder)
            journal.append(self._notes.meta())
            journal.begin()
        return report

    async def resume(self) -> None:
        """Go on where a process that was killed stopped, in place of `warm` and `recover`; asks no server.

        Raises:
            LocalIOError: what it has left cannot be read.
        """
        assert self._notes is not None and self.parts.resumer is not None
        resumed = await self.parts.resumer.run()
        self.parts.generation = resumed.generation
        self._handles, self._dir_handles = resumed.handles, resumed.directories
        self._unheard, self._next_fh = resumed.unheard, resumed.next_fh
        for fh in self._unheard:  # or what is written next would say that they were heard of
            self._notes.unheard(fh, self._handles.get(fh), self._dir_handles.get(fh))
        self._operations.take(resumed.operations)
        resumed.start(self._nobody_asks_again)

    async def _nobody_asks_again(self) -> None:
        """Whoever was to be answered by the process before us has waited no longer than this."""
        await trio.sleep(2 * self.policy.deadline_s)
        if not self._replaying:  # else its end does the same
            self._operations.all_came()
            self._heard()

    # --- paths, for those who tell people of requests ------------------------------------------

    def path_of(self, ino: int) -> bytes:
        """Path of an inode below the mountpoint, b"" for the top.

        Raises:
            Stale: it has no name any more.
        """
        return self._path(self._inodes.get(ino))

    def path_of_file(self, fh: int) -> bytes:
        """As `path_of`, of an open file."""
        return self._path(self._handle(fh).node)

    def path_of_directory(self, fh: int) -> bytes:
        """As `path_of`, of an open directory."""
        handle = self._dir_handles.get(fh)
        if handle is None:
            raise BadHandle("not an open directory")
        return self._path(handle.node)

    def _path(self, node: Node) -> bytes:
        names = []
        while node is not self._inodes.root:
            if node.parent is None:
                raise Stale("the file was removed")
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names))

    async def close(self) -> None:
        """After `drain` and after the services have ended: content that is not sent stays on the disk."""
        await self._recorder.sync()
        try:
            self._area.named = await self._rows.has_any(self._area.own)
        except (LocalIOError, NoSpace) as e:
            self._area.named = True  # rather found by the next mount with nothing in it
            event(_log, logging.WARNING, "records.unreadable", error=str(e))
        self._settling.abandon()
        self._writer.abandon()
