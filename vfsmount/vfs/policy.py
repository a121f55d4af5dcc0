"""How a mount shows things: owner, modes, times of belief."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from vfsmount.core.inodes import Node
from vfsmount.values import Kind


@dataclass(frozen=True, slots=True)
class MountPolicy:
    """Options of one mount that decide what programs see.

    Attributes:
        dir_ttl_s: how long a listing is believed.
        attr_ttl_s: how long attributes of an open file are believed.
        folder_ttl_s: how long the list of vfolders is believed; one manager call each time.
        deadline_s: every request is answered within this.
        retry_every_s: how often what a close could not send is tried again.
        only: names of the vfolders to show; all when empty.
    """

    uid: int = 0
    gid: int = 0
    umask: int = 0o022
    read_only: bool = False
    dir_ttl_s: float = 5.0
    attr_ttl_s: float = 1.0
    folder_ttl_s: float = 10.0
    deadline_s: float = 30.0
    retry_every_s: float = 10.0
    memory: int = 256 << 20
    only: tuple[str, ...] = ()

    def writable(self, node: Node) -> bool:
        """Whether changes below or to `node` are worth sending."""
        if self.read_only:
            return False
        return node.folder is None or node.folder.writable

    def mode(self, node: Node) -> int:
        """st_mode. The caller can read what the server lets them, so the owner's bits always are set."""
        kind = stat.S_IFDIR if node.kind is Kind.DIRECTORY else stat.S_IFREG
        if node.local.mode is not None:
            bits = node.local.mode
        elif node.is_dir:
            bits = 0o755 & ~self.umask | 0o700
        else:
            bits = (node.mode & 0o777 | 0o600) & ~self.umask | 0o600
        if not self.writable(node):
            bits &= ~0o222
        return kind | bits
