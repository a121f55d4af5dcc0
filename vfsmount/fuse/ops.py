"""Unpack a kernel request, call `Filesystem`, pack the answer. No decisions here."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from functools import partial
from typing import cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from vfsmount.errors import NotFound, VfsError
from vfsmount.fuse.errno_map import Watch, handler
from vfsmount.metrics import counters
from vfsmount.values import NAME_MAX, HostUsage
from vfsmount.vfs.filesystem import WAIT_ATTRIBUTE, Filesystem
from vfsmount.vfs.handles import Attr, Maker, SetAttr

_log = logging.getLogger("vfsmount.fuse")
_lookups = counters.operation("lookup")

_BLOCK = 4096
# What df shows where the server exposes no absolute figure: 1 PiB, so that no program refuses to
# write for want of room that only the server can judge.
_ASSUMED_TOTAL = 1 << 50


class Operations(pyfuse3.Operations):
    """pyfuse3's handlers over one `Filesystem`."""

    supports_dot_lookup = True
    # 4 KiB application writes reach us as pieces of up to 1 MiB. In return the kernel trusts its own size
    # and times of regular files: see vfs.metadata, `_replaced`.
    enable_writeback_cache = True
    enable_acl = False

    _fs: Filesystem

    def __init__(self) -> None:
        super().__init__()
        self.watch: Watch | None = None
        self.deadline_s = 0.0

    def bind(self, fs: Filesystem, watch: Watch | None = None) -> None:
        """Say what is served; before the first request."""
        self.watch = watch
        self._fs = fs
        self.deadline_s = fs.policy.deadline_s

    def failed(self, operation: str, error: VfsError) -> None:
        """A request ended in an error that programs do not meet every day."""
        self._fs.parts.recent.note(operation, error)

    # --- names ---------------------------------------------------------------------------------

    def _known(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes | None:
        attr = self._fs.get_known(parent_inode, name)
        return None if attr is None else entry_of(attr)

    @partial(handler, known=_known)
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        try:
            return entry_of(await self._fs.lookup(parent_inode, name))
        except NotFound:
            _lookups.failed(errno.ENOENT)
            entry = EntryAttributes()  # inode 0: "no such name", and for how long to believe it
            entry.st_ino = InodeT(0)
            entry.entry_timeout = self._fs.negative_ttl_s(parent_inode)
            return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, count in inode_list:
            self._fs.forget(ino, count)

    @handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return entry_of(await self._fs.mkdir(parent_inode, name, mode & ~ctx.umask, _maker(ctx)))

    @handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.rmdir(parent_inode, name)

    @handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.unlink(parent_inode, name)

    @handler
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # --- kinds of file the server has no form for ----------------------------------------------

    @handler
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return entry_of(await self._fs.mknod(parent_inode, name, mode & ~ctx.umask, rdev, _maker(ctx)))

    @handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return entry_of(await self._fs.symlink(parent_inode, name, target, _maker(ctx)))

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(self._fs.readlink(inode))

    @handler
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    # --- attributes ----------------------------------------------------------------------------

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return entry_of(await self._fs.getattr(inode))

    @handler
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        change = SetAttr(
            size=attr.st_size if fields.update_size else None,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return entry_of(await self._fs.setattr(inode, change, fh))

    @handler
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if name == WAIT_ATTRIBUTE:
            return await self._fs.wait_in_band(inode)
        return self._fs.get_xattr(inode, name)

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._fs.list_xattrs(inode)]

    @handler
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        await self._fs.set_xattr(inode, name, value)

    @handler
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._fs.set_xattr(inode, name, None)

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return _statvfs(self._fs.statfs())

    # --- directories ---------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(await self._fs.opendir(inode))

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        told = []
        for offset, name, attr in await self._fs.readdir(fh, start_id):
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry_of(attr), offset):
                break
            if name not in (b".", b".."):
                told.append(attr.ino)
        self._fs.all_looked_up(told)

    async def releasedir(self, fh: FileHandleT) -> None:
        self._fs.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.fsyncdir()

    # --- files ---------------------------------------------------------------------------------

    @handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        opened = await self._fs.open(inode, flags)
        return FileInfo(fh=FileHandleT(opened.fh), keep_cache=opened.keep_cache)

    @handler
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fh, attr = await self._fs.create(parent_inode, name, mode & ~ctx.umask, flags, _maker(ctx))
        return FileInfo(fh=FileHandleT(fh)), entry_of(attr)

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        data = await self._fs.read(fh, off, size)
        counters.read_bytes += len(data)
        # pyfuse3 takes whatever has a buffer, and a copy costs a quarter of a reply
        return cast(bytes, data)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        await self._fs.write(fh, off, buf)
        counters.written_bytes += len(buf)
        return len(buf)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        await self._fs.flush(fh)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.fsync(fh)

    @handler
    async def release(self, fh: FileHandleT) -> None:
        await self._fs.release(fh)


def _maker(ctx: RequestContext) -> Maker:
    return Maker(ctx.uid, ctx.gid)


def entry_of(attr: Attr) -> EntryAttributes:
    """What the kernel is told of a node."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(attr.ino)
    # Numbers are used again. A handle that name_to_handle_at(2) gave for another node, or in another
    # mount, is stale.
    entry.generation = attr.generation & 0xFFFF_FFFF  # all that the kernel keeps
    entry.st_mode = ModeT(attr.mode)
    entry.st_nlink = attr.nlink
    entry.st_rdev = attr.rdev
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_size = attr.size
    entry.st_blksize = 1 << 20  # programs that ask read and write in pieces of this size
    entry.st_blocks = -(-attr.size // 512)
    entry.st_atime_ns = attr.atime_ns
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    entry.attr_timeout = attr.attr_ttl_s
    entry.entry_timeout = attr.entry_ttl_s
    return entry


def _statvfs(usage: HostUsage) -> StatvfsData:
    total = usage.total or _ASSUMED_TOTAL
    used = int(total * (usage.percentage or 0.0) / 100) if usage.used is None else usage.used
    data = StatvfsData()
    data.f_bsize = data.f_frsize = _BLOCK
    data.f_blocks = total // _BLOCK
    data.f_bfree = max(0, total - used) // _BLOCK
    data.f_bavail = data.f_bfree if usage.available is None else usage.available // _BLOCK
    data.f_files = data.f_ffree = data.f_favail = 1 << 32
    data.f_namemax = NAME_MAX
    return data
