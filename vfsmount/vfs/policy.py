"""How a mount shows things: owner, modes, times of belief."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace

from vfsmount.core.inodes import Node
from vfsmount.values import Kind, LocalAttrs
from vfsmount.vfs.handles import Maker

# A symlink on the server shows as a file: its text is not told, and every call acts on its target.
_FORMAT = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFREG,
    Kind.LOCAL_LINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class MountPolicy:
    """Options of one mount that decide what programs see.

    Attributes:
        uid, gid: who owns what the server has, and what the user makes who mounted.
        mounter: that user; None: the same.
        dir_ttl_s: how long a listing is believed.
        attr_ttl_s: how long attributes of an open file are believed.
        folder_ttl_s: how long the list of vfolders is believed; one manager call each time.
        deadline_s: every request is answered within this.
        retry_first_s: wait after the first failure of an upload; doubled up to a minute.
        sync: every close waits until the server has the file, verified.
        fsync_remote: every fsync does.
        staging_size: bytes that may be here unsent; 0: as much as the disk holds.
        settle_s: how long what was sent is watched for somebody who overwrites it unknowingly.
        host: this machine's name, for the names of conflicts.
        drain_timeout_s: how long the end of the mount waits for what is unsent.
        only: names of the vfolders to show; all when empty.
    """

    uid: int = 0
    gid: int = 0
    mounter: Maker | None = None
    umask: int = 0o022
    read_only: bool = False
    dir_ttl_s: float = 5.0
    attr_ttl_s: float = 1.0
    folder_ttl_s: float = 10.0
    deadline_s: float = 30.0
    retry_first_s: float = 1.0
    sync: bool = False
    fsync_remote: bool = False
    staging_size: int = 0
    settle_s: float = 2.0
    host: str = "here"
    drain_timeout_s: float = 60.0
    memory: int = 256 << 20
    only: tuple[str, ...] = ()

    def writable(self, node: Node) -> bool:
        """Whether changes below or to `node` are worth sending."""
        if self.read_only:
            return False
        return node.folder is None or node.folder.writable

    def mode(self, node: Node) -> int:
        """st_mode. The caller can read what the server lets them, so the owner's bits always are set."""
        bits = self.default_bits(node) if node.local.mode is None else node.local.mode
        if not self.writable(node):
            bits &= ~0o222
        return _FORMAT[node.kind] | bits

    def for_new(self, directory: Node, maker: Maker | None, mode: int, *, is_dir: bool = False) -> LocalAttrs:
        """Attributes of a name that is being made in a directory; `maker` None: the user who mounted.

        A set-group-ID directory hands on its group, and the bit to directories: the kernel leaves it to us.
        """
        mounter = self.mounter or Maker(self.uid, self.gid)
        maker = maker or mounter
        uid = None if maker.uid in (self.uid, mounter.uid) else maker.uid
        gid = None if maker.gid in (self.gid, mounter.gid) else maker.gid
        if (directory.local.mode or 0) & stat.S_ISGID:
            gid = directory.local.gid
            mode |= stat.S_ISGID if is_dir else 0
        return LocalAttrs(mode=mode & 0o7777, uid=uid, gid=gid)

    def default_bits(self, node: Node) -> int:
        """Permission bits of what nobody has set any for."""
        if node.kind is Kind.LOCAL_LINK:
            return 0o777  # as lstat(2) shows every symlink
        if node.is_dir:
            return 0o755 & ~self.umask | 0o700
        return (node.mode & 0o777 | 0o600) & ~self.umask | 0o600


def without_set_id(attrs: LocalAttrs) -> LocalAttrs:
    """Attributes as write(2) and chown(2) leave them: no setuid, and no setgid where a group may execute.

    Ours to do, because we tell the kernel so in INIT (HANDLE_KILLPRIV_V2, see fuse.device).
    """
    if attrs.mode is None or not attrs.mode & 0o6000:
        return attrs
    return replace(attrs, mode=attrs.mode & (~0o6000 if attrs.mode & 0o010 else ~0o4000))
