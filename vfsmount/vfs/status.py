"""What a mount says of itself: to `vfsmount status`, to `user.vfsmount.*`, and at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vfsmount.core.inodes import Node
from vfsmount.core.staging import State
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
class Status:
    """Numbers are bytes and seconds.

    Attributes:
        unsent: oldest first.
        removals: names removed here that the server still has.
        conflicts: (path as shown, name it was kept under, seconds since the epoch), newest first.
        local_only: links, FIFOs and sockets that exist on this machine only.
        calls_left: manager calls the budget still allows, None where the server tells no limit.
    """

    unsent: tuple[UnsentFile, ...]
    removals: tuple[str, ...]
    conflicts: tuple[tuple[str, str, float], ...]
    partial: tuple[str, ...]
    local_only: int
    staging_used: int
    staging_limit: int
    calls_left: int | None

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
