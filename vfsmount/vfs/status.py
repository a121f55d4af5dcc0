"""What a mount says of itself: to `vfsmount status`, to `user.vfsmount.*`, and at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vfsmount.core.inodes import Node
from vfsmount.core.staging import State
from vfsmount.values import CallBudget
from vfsmount.vfs.recent import Failure
from vfsmount.vfs.staged import staged_of


@dataclass(frozen=True, slots=True)
class UnsentFile:
    """One file that the server does not have as it was acknowledged.

    Attributes:
        name: folder and path, as shown on the mount.
        state: ``waiting``, ``uploading 43%``, ``failing``, ``parked``.
        age_s: since it was acknowledged.
        reason: why the last try failed, "" where none did.
        kept_at: the local file that holds the content.
    """

    name: str
    size: int
    state: str
    age_s: float
    reason: str
    kept_at: str


@dataclass(frozen=True, slots=True)
class Queued:
    """One file on its way to the server.

    Attributes:
        next_try_s: until the next try may begin; None: one is under way.
    """

    file: UnsentFile
    next_try_s: float | None


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """One vfolder as it is mounted.

    Attributes:
        name: as shown on the mount.
        permission: ``ro``, ``rw`` or ``wd``, as granted to us.
        quota_limit, quota_used: bytes that its owner may store on its host, and does; None where no limit is
            known. As last heard for a `df`: nobody is asked for them.
    """

    name: str
    id: str
    permission: str
    is_owner: bool
    unsent_files: int
    unsent_bytes: int
    quota_limit: int | None = None
    quota_used: int | None = None


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What is held of what was read, in bytes.

    Attributes:
        directory: of the cache on disk; None: there is none.
        disk_used, disk_limit: of all mounts that share it; None where that cannot be told now.
        disk_floor, disk_free: free bytes that stay on its disk, and those there are.
    """

    memory_used: int
    memory_limit: int
    directory: str | None = None
    disk_used: int | None = None
    disk_limit: int | None = None
    disk_floor: int | None = None
    disk_free: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Numbers are bytes and seconds.

    Attributes:
        unsent: oldest first.
        removals: names removed here that the server still has.
        conflicts: (path as shown, name it was kept under, seconds since the epoch), newest first.
        local_only: links, FIFOs and sockets that exist on this machine only.
        folders: by name.
        errors: newest first.
    """

    unsent: tuple[UnsentFile, ...]
    removals: tuple[str, ...]
    conflicts: tuple[tuple[str, str, float], ...]
    partial: tuple[str, ...]
    local_only: int
    staging_used: int
    staging_limit: int
    folders: tuple[FolderStatus, ...]
    budget: CallBudget
    cache: CacheStatus
    errors: tuple[Failure, ...]

    @property
    def unsent_bytes(self) -> int:
        return sum(f.size for f in self.unsent)

    @property
    def oldest_s(self) -> float:
        return max((f.age_s for f in self.unsent), default=0.0)


def state_of_file(node: Node) -> str:
    """One word (and a share) for what the server has of a file; see `user.vfsmount.state`."""
    if node.kind.is_local:
        return "local"
    if node.staged is None:
        return "clean"
    staged = staged_of(node)
    if not staged.dirty:
        return "clean"
    if staged.detail is not None and staged.detail.state is State.PARKED and staged.error is not None:
        return "parked"
    if staged.upload is not None:
        share = 100 * staged.upload.done_bytes // staged.upload.size if staged.upload.size else 0
        return f"uploading {min(99, share)}%"
    if staged.acked != staged.change:
        return "dirty"
    return "failing" if staged.error is not None else "waiting"


def unsent_file(name: str, node: Node) -> UnsentFile:
    """What is to be said of one unsent node."""
    staged = staged_of(node)
    detail = staged.detail
    content = staged.acked_content or staged.content
    return UnsentFile(
        name=name,
        size=detail.size if detail is not None else staged.content.size,
        state=state_of_file(node),
        age_s=max(0.0, time.time() - detail.acked_at) if detail is not None else 0.0,
        reason=str(staged.error) if staged.error is not None else "",
        kept_at=str(content.path),
    )
