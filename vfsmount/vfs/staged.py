"""What a node with local content carries: the content, what was acknowledged of it, what is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from vfsmount.core.inodes import Node
from vfsmount.core.writeback import Schedule
from vfsmount.errors import VfsError
from vfsmount.store.staged import StagedDetail
from vfsmount.store.staging import Content
from vfsmount.values import Grant, Validator
from vfsmount.vfs.deadline import Pulse

# What of a file may be on its way uncounted: bytes are counted once they have left, by the MiB.
COMMITTING = 2 << 20
# A file that is still open for writing gets this long to be closed before it is sent as it is.
OPEN_REST_S = 2.0
NO_REST = float("-inf")


@dataclass(slots=True)
class Upload:
    """One try to send a content.

    Attributes:
        change: the `StagedFile.change` it is of.
        superseded: its outcome is of no interest any more.
        resumed: it goes on with an older session.
        done_bytes: of `size`, as they left; where it is resumed, of what was left.
    """

    content: Content
    size: int
    change: int
    began: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    pulse: Pulse = field(default_factory=Pulse)
    superseded: bool = False
    resumed: bool = False
    done_bytes: int = 0

    @property
    def may_be_committing(self) -> bool:
        """Whether the request that completes the file may have been sent."""
        return self.resumed or self.size - self.done_bytes <= COMMITTING


@dataclass(slots=True)
class StagedFile:
    """Local content of one node.

    Attributes:
        content: as programs see it now.
        base: the version the server has under this name, as far as we were told; None: nothing.
        base_exact: a transfer told it; a listing only tells it to the microsecond.
        change: grows with every modification.
        acked: the `change` that was recorded last, -1: none.
        sent: the `change` that the server is known to have, -1: none.
        row_id, detail, acked_content: the row as last written (one writer at a time, row_lock), and the
            content it names, held for it.
        session: an unfinished upload session; with the content it is of (held), its size and `change`.
            It is brought to its end before anything newer is sent: only then is it known what the
            server has.
        may_be_there: an upload was begun and did not end well, so the server may have it all the same.
        stopped: what was travelling when an upload was broken off (held), and its size: the server's
            version may be `base` or this.
        tries: how many ended, however.
        error: why the last one failed.
        rest_until: what was acknowledged while a writer had it open is not sent before, if he still has it
            then. It may be half of what he writes: a child of his that ends closes his files, too.
    """

    content: Content
    base: Validator | None
    base_exact: bool = False
    change: int = 0
    acked: int = -1
    sent: int = -1
    row_id: int = 0
    detail: StagedDetail | None = None
    row_lock: trio.Lock = field(default_factory=trio.Lock)
    acked_content: Content | None = None
    schedule: Schedule = field(default_factory=Schedule)
    upload: Upload | None = None
    session: Grant | None = None
    session_content: Content | None = None
    session_size: int = 0
    session_change: int = 0
    may_be_there: bool = False
    stopped: tuple[Content, int] | None = None
    tries: int = 0
    error: VfsError | None = None
    rest_until: float = NO_REST

    @property
    def dirty(self) -> bool:
        """The server does not have this content."""
        return self.change != self.sent

    @property
    def created_here(self) -> bool:
        """The server has nothing under this name, as far as we were told."""
        return self.base is None

    def due(self, now: float, *, open_for_writing: bool) -> float:
        """When sending may begin."""
        due = self.schedule.recorded(now)
        return max(due, self.rest_until) if open_for_writing and not self.schedule.hurried else due

    def acknowledged(self, now: float) -> None:
        """There is something new to send, and its writer has not closed it yet."""
        self.schedule.changed()
        if self.rest_until == NO_REST:
            self.rest_until = now + OPEN_REST_S

    def keep_session(self, session: Grant | None, upload: Upload | None = None) -> None:
        """An upload session was opened for `upload`, or (None) there is none any more."""
        before = self.session_content
        self.session, self.session_content = session, None
        if session is not None and upload is not None:
            self.session_content = upload.content.hold()
            self.session_size, self.session_change = upload.size, upload.change
        if before is not None:
            before.release()

    def keep_stopped(self, upload: Upload | None) -> None:
        """An upload was broken off, or (None) it is known what the server has."""
        before = self.stopped
        self.stopped = None if upload is None else (upload.content.hold(), upload.size)
        if before is not None:
            before[0].release()

    def inherit_stopped(self, replaced: StagedFile) -> None:
        """This file takes the place of another one, whose upload may still arrive."""
        if replaced.stopped is not None and self.stopped is None:
            self.stopped = (replaced.stopped[0].hold(), replaced.stopped[1])

    def rest(self) -> None:
        """Nobody writes for now."""
        for content in (self.content, self.acked_content, self.session_content):
            if content is not None:
                content.rest()

    def release_all(self) -> None:
        """Nobody needs local content of this node any more."""
        self.keep_session(None)
        self.keep_stopped(None)
        if self.acked_content is not None:
            self.acked_content.release()
            self.acked_content = None
        self.content.release()

    @property
    def unsent(self) -> bool:
        """Something acknowledged is not on the server yet."""
        return self.acked > self.sent


def staged_of(node: Node) -> StagedFile:
    """The node's local content; it must have some."""
    staged = node.staged
    assert isinstance(staged, StagedFile)
    return staged


def version_of(node: Node) -> Validator | None:
    """What the server has under the node's name, as far as we were told; None: nothing."""
    if node.kind.is_local:
        return None
    if node.staged is not None:
        return staged_of(node).base
    return node.validator or Validator(node.mtime_ns, node.size)
