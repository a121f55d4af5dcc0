"""Requests that another daemon had read, answered without pyfuse3: it hides by which of them they are known.

The kernel marks a request that it sends again (bit 63 of its number). Only for such a one may a name that is
there already mean that the work was done; pyfuse3 shows no handler that mark. So they are unpacked here,
given to the same handlers, each in a task of its own, and their answers packed as libfuse does. It is for a
moment after a takeover; all other requests go through pyfuse3.

Source: Linux, include/uapi/linux/fuse.h, as of protocol 7.31, which libfuse 3.14 answers.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT

from vfsmount.errnos import errno_of
from vfsmount.errors import VfsError
from vfsmount.fuse.ops import Operations, entry_of
from vfsmount.holder.kernel import REQUEST_ROOM
from vfsmount.log import event
from vfsmount.vfs.filesystem import RESENT, Filesystem

_log = logging.getLogger("vfsmount.fuse.requests")

_HEADER = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions
_REPLY = struct.Struct("=IiQ")
_ENTRY = struct.Struct("=QQQQII")  # node, generation, entry and attribute validity: seconds, nanoseconds
_ATTR_VALID = struct.Struct("=QII")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_DIRENT = struct.Struct("=QQII")
_OPENED = struct.Struct("=QII")
_RESENT = 1 << 63

_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42  # not answered
_CREATE, _READDIRPLUS = 35, 44
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_ATIME, _SET_MTIME, _SET_FH = 1, 2, 4, 8, 16, 32, 64
_SET_ATIME_NOW, _SET_MTIME_NOW = 128, 256
_KEEP_CACHE = 2


@dataclass(frozen=True, slots=True)
class Request:
    """One message of the kernel; the first four stand where handlers look for a `pyfuse3.RequestContext`."""

    uid: int
    gid: int
    pid: int
    umask: int
    opcode: int
    unique: int
    node: InodeT
    body: bytes

    @property
    def is_resent(self) -> bool:
        """Whether another daemon read it first."""
        return bool(self.unique & _RESENT)

    def names(self, at: int) -> list[FileNameT]:
        """What stands behind the first `at` bytes, each with a NUL at its end."""
        return [FileNameT(name) for name in self.body[at:].split(b"\0")]


def parse(message: bytes) -> Request:
    """A message of the kernel as it is read from the device."""
    _, opcode, unique, node, uid, gid, pid, _, _ = _HEADER.unpack_from(message)
    return Request(uid, gid, pid, 0, opcode, unique, InodeT(node), message[_HEADER.size :])


@dataclass(frozen=True, slots=True)
class _Fields:
    """As `pyfuse3.SetattrFields`."""

    update_size: bool
    update_mode: bool
    update_uid: bool
    update_gid: bool
    update_atime: bool
    update_mtime: bool
    update_ctime: bool = False


class Taken:
    """Answers what is in the kernel's queue when a daemon takes over."""

    def __init__(self, fd: int, operations: Operations, fs: Filesystem) -> None:
        """Args:
        fd: the device; not closed here.
        """
        self._fd = fd
        self._ops = operations
        self._fs = fs
        self.resent = 0

    async def run(self, started: trio.Event) -> None:
        """Answer them; `started` is set when all have been read.

        Raises:
            OSError: the mount is gone.
        """
        self._fs.replaying = True
        async with trio.open_nursery() as others:
            async with trio.open_nursery() as resent:
                self._start(resent, others)
                started.set()
            self._fs.replaying = False

    def _start(self, resent: trio.Nursery, others: trio.Nursery) -> None:
        """Read until no request of another daemon is left, and have each answered in a nursery.

        They stand at the head of the queue; the first that is not of them has been read by then, and is
        answered like them.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while poll.poll(0):
            try:
                request = parse(os.read(self._fd, REQUEST_ROOM))
            except OSError as e:  # the mount is gone, as pyfuse3 will find, too
                event(_log, logging.DEBUG, "requests.none", errno=e.errno)
                return
            (resent if request.is_resent else others).start_soon(self._answer, request)
            if not request.is_resent:
                return
            self.resent += 1

    async def _answer(self, request: Request) -> None:
        RESENT.set(request.is_resent)  # for this task, and what it calls
        code, body = 0, b""
        try:
            body = await self._carry_out(request)
        except FUSEError as e:
            code = e.errno
        except VfsError as e:
            code = errno_of(e)
        except Exception:
            code = errno.EIO
            _log.exception("request.bug opcode=%d", request.opcode)
        if request.opcode in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            return
        event(
            _log,
            logging.DEBUG,
            "request.taken_over",
            opcode=request.opcode,
            resent=request.is_resent,
            errno=code,
        )
        head = _REPLY.pack(_REPLY.size + len(body), -code, request.unique)
        try:
            os.writev(self._fd, [head, body] if body else [head])
        except OSError as e:  # ENOENT: whoever asked does not wait any more; others: the mount is gone
            event(_log, logging.DEBUG, "request.nobody_waits", opcode=request.opcode, errno=e.errno)

    async def _carry_out(self, r: Request) -> bytes:
        handler = _HANDLERS.get(r.opcode)
        if handler is None:
            raise FUSEError(errno.ENOSYS)  # as libfuse where pyfuse3 has no handler
        if r.opcode == _READDIRPLUS:
            return await self._read_directory(r)
        answer: bytes = await handler(self._ops, r)
        return answer

    async def _read_directory(self, r: Request) -> bytes:
        fh, offset, size = struct.unpack_from("=QQI", r.body)
        page, told = b"", []
        for number, name, attr in await self._fs.readdir(fh, offset):
            entry = entry_of(attr)
            length = _ENTRY.size + _ATTR.size + _DIRENT.size + len(name)
            room = -length % 8
            if len(page) + length + room > size:
                break
            is_dot = name in (b".", b"..")
            if not is_dot:
                told.append(attr.ino)
            head = bytes(_ENTRY.size + _ATTR.size) if is_dot else _entry(entry)
            kind = stat.S_IFMT(entry.st_mode) >> 12
            page += head + _DIRENT.pack(entry.st_ino, number, len(name), kind) + name + bytes(room)
        self._fs.all_looked_up(told)
        return page


# --- answers -----------------------------------------------------------------------------------


def _valid(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


def _attr(e: EntryAttributes) -> bytes:
    times = [divmod(ns, 10**9) for ns in (e.st_atime_ns, e.st_mtime_ns, e.st_ctime_ns)]
    seconds, nanoseconds = zip(*times, strict=True)
    return _ATTR.pack(
        *(e.st_ino, e.st_size, e.st_blocks, *(s & 0xFFFF_FFFF_FFFF_FFFF for s in seconds), *nanoseconds),
        *(e.st_mode, e.st_nlink, e.st_uid, e.st_gid, e.st_rdev & 0xFFFF_FFFF, e.st_blksize, 0),
    )


def _entry(e: EntryAttributes) -> bytes:
    (entry_s, entry_ns), (attr_s, attr_ns) = _valid(e.entry_timeout), _valid(e.attr_timeout)
    return _ENTRY.pack(e.st_ino, e.generation, entry_s, attr_s, entry_ns, attr_ns) + _attr(e)


def _attributes(e: EntryAttributes) -> bytes:
    return _ATTR_VALID.pack(*_valid(e.attr_timeout), 0) + _attr(e)


def _opened(info: FileInfo) -> bytes:
    return _OPENED.pack(info.fh, _KEEP_CACHE if info.keep_cache else 0, 0)


def _value(value: bytes, size: int) -> bytes:
    """Of an extended attribute, or their names."""
    if not size:
        return struct.pack("=II", len(value), 0)
    if len(value) > size:
        raise FUSEError(errno.ERANGE)
    return value


# --- requests ----------------------------------------------------------------------------------


def _ctx(r: Request, umask: int = 0) -> pyfuse3.RequestContext:
    return cast(pyfuse3.RequestContext, Request(r.uid, r.gid, r.pid, umask, r.opcode, r.unique, r.node, b""))


def _u32(r: Request, at: int) -> int:
    return int.from_bytes(r.body[at : at + 4], "little" if struct.pack("=H", 1)[0] else "big")


def _fh(r: Request, at: int = 0) -> FileHandleT:
    return FileHandleT(struct.unpack_from("=Q", r.body, at)[0])


async def _lookup(ops: Operations, r: Request) -> bytes:
    return _entry(await ops.lookup(r.node, r.names(0)[0], _ctx(r)))


async def _forget(ops: Operations, r: Request) -> bytes:
    await ops.forget([(r.node, struct.unpack_from("=Q", r.body)[0])])
    return b""


async def _batch_forget(ops: Operations, r: Request) -> bytes:
    pairs = struct.iter_unpack("=QQ", r.body[8 : 8 + 16 * _u32(r, 0)])
    await ops.forget([(InodeT(node), count) for node, count in pairs])
    return b""


async def _nothing(ops: Operations, r: Request) -> bytes:
    return b""


async def _getattr(ops: Operations, r: Request) -> bytes:
    return _attributes(await ops.getattr(r.node, _ctx(r)))


async def _setattr(ops: Operations, r: Request) -> bytes:
    valid, _, fh, size, _, *times, mode, _, uid, gid, _ = struct.unpack_from("=IIQQQQQQIIIIIIII", r.body)
    atime, mtime, _, atime_ns, mtime_ns, _ = times
    change, now = EntryAttributes(), time.time_ns()
    change.st_size, change.st_mode, change.st_uid, change.st_gid = size, ModeT(mode), uid, gid
    change.st_atime_ns = now if valid & _SET_ATIME_NOW else _signed(atime) * 10**9 + atime_ns
    change.st_mtime_ns = now if valid & _SET_MTIME_NOW else _signed(mtime) * 10**9 + mtime_ns
    fields = _Fields(
        update_size=bool(valid & _SET_SIZE),
        update_mode=bool(valid & _SET_MODE),
        update_uid=bool(valid & _SET_UID),
        update_gid=bool(valid & _SET_GID),
        update_atime=bool(valid & (_SET_ATIME | _SET_ATIME_NOW)),
        update_mtime=bool(valid & (_SET_MTIME | _SET_MTIME_NOW)),
    )
    handle = FileHandleT(fh) if valid & _SET_FH else None
    changed = await ops.setattr(r.node, change, cast(pyfuse3.SetattrFields, fields), handle, _ctx(r))
    return _attributes(changed)


def _signed(seconds: int) -> int:
    return seconds - (1 << 64) if seconds >> 63 else seconds


async def _readlink(ops: Operations, r: Request) -> bytes:
    return await ops.readlink(r.node, _ctx(r))


async def _symlink(ops: Operations, r: Request) -> bytes:
    name, target, *_ = r.names(0)
    return _entry(await ops.symlink(r.node, name, target, _ctx(r)))


async def _mknod(ops: Operations, r: Request) -> bytes:
    mode, rdev, umask = struct.unpack_from("=III", r.body)
    return _entry(await ops.mknod(r.node, r.names(16)[0], mode, rdev, _ctx(r, umask)))


async def _mkdir(ops: Operations, r: Request) -> bytes:
    return _entry(await ops.mkdir(r.node, r.names(8)[0], ModeT(_u32(r, 0)), _ctx(r, _u32(r, 4))))


async def _unlink(ops: Operations, r: Request) -> bytes:
    await ops.unlink(r.node, r.names(0)[0], _ctx(r))
    return b""


async def _rmdir(ops: Operations, r: Request) -> bytes:
    await ops.rmdir(r.node, r.names(0)[0], _ctx(r))
    return b""


async def _rename(ops: Operations, r: Request) -> bytes:
    old, new, *_ = r.names(8)
    await ops.rename(r.node, old, InodeT(_fh(r)), new, FlagT(0), _ctx(r))
    return b""


async def _rename2(ops: Operations, r: Request) -> bytes:
    old, new, *_ = r.names(16)
    await ops.rename(r.node, old, InodeT(_fh(r)), new, FlagT(_u32(r, 8)), _ctx(r))
    return b""


async def _link(ops: Operations, r: Request) -> bytes:
    return _entry(await ops.link(InodeT(_fh(r)), r.node, r.names(8)[0], _ctx(r)))


async def _open(ops: Operations, r: Request) -> bytes:
    return _opened(await ops.open(r.node, FlagT(_u32(r, 0)), _ctx(r)))


async def _create(ops: Operations, r: Request) -> bytes:
    flags, mode, umask = struct.unpack_from("=III", r.body)
    info, entry = await ops.create(r.node, r.names(16)[0], mode, flags, _ctx(r, umask))
    return _entry(entry) + _opened(info)


async def _read(ops: Operations, r: Request) -> bytes:
    fh, offset, size = struct.unpack_from("=QQI", r.body)
    return await ops.read(fh, offset, size)


async def _write(ops: Operations, r: Request) -> bytes:
    fh, offset, size = struct.unpack_from("=QQI", r.body)
    return struct.pack("=II", await ops.write(fh, offset, r.body[40 : 40 + size]), 0)


async def _statfs(ops: Operations, r: Request) -> bytes:
    s = await ops.statfs(_ctx(r))
    counts = (s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree)
    return struct.pack("=QQQQQIII28x", *counts, s.f_bsize, s.f_namemax, s.f_frsize)


async def _flush(ops: Operations, r: Request) -> bytes:
    await ops.flush(_fh(r))
    return b""


async def _release(ops: Operations, r: Request) -> bytes:
    await ops.release(_fh(r))
    return b""


async def _fsync(ops: Operations, r: Request) -> bytes:
    await ops.fsync(_fh(r), bool(_u32(r, 8) & 1))
    return b""


async def _setxattr(ops: Operations, r: Request) -> bytes:
    size, flags = struct.unpack_from("=II", r.body)
    name, _, rest = r.body[8:].partition(b"\0")
    attribute, value = pyfuse3.XAttrNameT(name), rest[:size]
    before = None
    if flags & (os.XATTR_CREATE | os.XATTR_REPLACE):  # as pyfuse3 looks at it
        try:
            before = await ops.getxattr(r.node, attribute, _ctx(r))
        except FUSEError as e:
            if e.errno != errno.ENODATA or flags & os.XATTR_REPLACE:
                raise
    if before is not None and flags & os.XATTR_CREATE:
        if r.is_resent and before == value:
            return b""
        raise FUSEError(errno.EEXIST)
    await ops.setxattr(r.node, attribute, value, _ctx(r))
    return b""


async def _getxattr(ops: Operations, r: Request) -> bytes:
    return _value(await ops.getxattr(r.node, pyfuse3.XAttrNameT(r.names(8)[0]), _ctx(r)), _u32(r, 0))


async def _listxattr(ops: Operations, r: Request) -> bytes:
    names = await ops.listxattr(r.node, _ctx(r))
    return _value(b"".join(name + b"\0" for name in names), _u32(r, 0))


async def _removexattr(ops: Operations, r: Request) -> bytes:
    await ops.removexattr(r.node, pyfuse3.XAttrNameT(r.names(0)[0]), _ctx(r))
    return b""


async def _opendir(ops: Operations, r: Request) -> bytes:
    return _OPENED.pack(await ops.opendir(r.node, _ctx(r)), 0, 0)


async def _releasedir(ops: Operations, r: Request) -> bytes:
    await ops.releasedir(_fh(r))
    return b""


async def _fsyncdir(ops: Operations, r: Request) -> bytes:
    await ops.fsyncdir(_fh(r), bool(_u32(r, 8) & 1))
    return b""


_HANDLERS: dict[int, Callable[[Operations, Request], Awaitable[Any]]] = dict(
    (
        *((1, _lookup), (_FORGET, _forget), (3, _getattr), (4, _setattr), (5, _readlink), (6, _symlink)),
        *((8, _mknod), (9, _mkdir), (10, _unlink), (11, _rmdir), (12, _rename), (13, _link), (14, _open)),
        *((15, _read), (16, _write), (17, _statfs), (18, _release), (20, _fsync), (21, _setxattr)),
        *((22, _getxattr), (23, _listxattr), (24, _removexattr), (25, _flush), (27, _opendir)),
        *((29, _releasedir), (30, _fsyncdir), (_CREATE, _create), (_INTERRUPT, _nothing)),
        *((_BATCH_FORGET, _batch_forget), (_READDIRPLUS, _nothing), (45, _rename2)),
    )
)
