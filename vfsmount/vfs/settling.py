"""What was sent is watched for a moment: the server replaces files without asking.

Two mounts may both find the target as they expect it and then both put their version in its place;
the server cannot compare and swap. The first of them notices a moment later that what it sent is not
there any more, and still has it. What somebody changed on purpose in that moment looks the same, and
costs a file too many rather than one too few.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum, auto

import trio

from vfsmount.api.transfer import Transfers
from vfsmount.core.inodes import Node
from vfsmount.errors import IsADirectory, NotFound, RangeOutside, VfsError
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import StagedDetail
from vfsmount.store.staging import Content
from vfsmount.values import Folder, Validator
from vfsmount.vfs.conflicts import Conflicts
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.staged import staged_of, version_of

_log = logging.getLogger("vfsmount.vfs.settling")

COMPARED = 4096  # bytes at the end, in the same request that tells the version
LOOK_AGAIN_S = 5.0  # after a look that the server did not answer


@dataclass(frozen=True, slots=True)
class _Watched:
    row_id: int
    detail: StagedDetail
    content: Content | None
    version: Validator
    due: float
    overtaken: bool = False  # somebody else's version was seen in its place


class _Seen(Enum):
    """What one look showed."""

    OURS = auto()  # there, or gone on purpose
    LOST = auto()  # somebody else's is in its place
    NOTHING = auto()  # something newer of ours is on its way to that name: look later
    SILENCE = auto()  # the server does not answer


class Settling:
    """Looks again at what was sent. `run` must be running."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        gate: PathGate,
        records: Records,
        conflicts: Conflicts,
        policy: MountPolicy,
    ) -> None:
        self._transfers = transfers
        self._metadata = metadata
        self._gate = gate
        self._rows = records.staged
        self._conflicts = conflicts
        self._policy = policy
        self._watched: dict[Node, _Watched] = {}
        self._looking: tuple[Node, _Watched] | None = None
        self._failures = 0
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._watched)

    def row_of(self, node: Node) -> int | None:
        """The row that says what was sent of a node, until it was looked at again."""
        watched = self._watched.get(node)
        if watched is None and self._looking is not None and self._looking[0] is node:
            watched = self._looking[1]
        return None if watched is None else watched.row_id

    def watch(
        self,
        node: Node,
        row_id: int,
        detail: StagedDetail,
        content: Content | None,
        version: Validator,
        *,
        overtaken: bool = False,
    ) -> None:
        """A file was sent; `content` is what, None where it cannot be had any more.

        Args:
            overtaken: somebody else's version was seen in its place.
        """
        before = self._watched.pop(node, None)
        if before is not None and before.content is not None:
            before.content.release()  # ours replaced ours
        due = trio.current_time() + self._policy.settle_s
        kept = content.hold() if content is not None else None
        if kept is not None:
            kept.rest()
        self._watched[node] = _Watched(row_id, detail, kept, version, due, overtaken)
        self._wake.set()

    def replaced(self, old: Node, new: Node) -> None:
        """A listing or a transfer showed another version under the node's name; `new` stands for it."""
        watched = self._watched.pop(old, None)
        if watched is not None:
            self._watched[new] = replace(watched, overtaken=True)

    async def run(self) -> None:
        """Look at what is due, for ever."""
        while True:
            if not self._watched:
                await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep_until(min((w.due for w in self._watched.values()), default=0.0))
            now = trio.current_time()
            for node in [n for n, w in self._watched.items() if w.due <= now]:
                if node not in self._watched:
                    continue  # seen to be replaced while we looked at others
                watched = self._watched[node]
                self._looking = node, watched
                try:
                    await self._look(node)
                except Exception:
                    # A bug here must not end the mount.
                    _log.exception("settling.bug ino=%d", node.ino)
                    if self._watched.get(node) is watched:
                        del self._watched[node]
                self._looking = None

    async def finish(self) -> None:
        """Look at everything in its time; what cannot be looked at is left to the next mount.

        Call when no upload is under way.
        """
        # The last row goes when nothing is watched any more.
        while self._looking or any(not _is_sent_anew(n) for n in self._watched):
            failures = self._failures
            await trio.sleep(0.05)
            if self._failures > failures:
                return

    async def _look(self, node: Node) -> None:
        watched = self._watched[node]
        try:
            seen = _Seen.LOST if watched.overtaken else await self._ask(node, watched)
        except VfsError as e:
            event(_log, logging.DEBUG, "settling.retry", ino=node.ino, error=type(e).__name__)
            seen = _Seen.SILENCE
        if self._watched.get(node) is not watched:
            return  # sent anew, or seen to be replaced: there is another look
        if seen in (_Seen.SILENCE, _Seen.NOTHING):
            self._failures += seen is _Seen.SILENCE
            again_s = LOOK_AGAIN_S if seen is _Seen.SILENCE else self._policy.settle_s
            self._watched[node] = replace(watched, due=trio.current_time() + again_s)
            return
        del self._watched[node]
        try:
            if seen is _Seen.LOST and watched.content is not None:
                await self._conflicts.bring_back(node, watched.content.hold(), watched.detail)
            await self._rows.remove_sent(watched.row_id, watched.version)
        except VfsError as e:
            event(_log, logging.WARNING, "records.unwritable", ino=node.ino, error=str(e))
        finally:
            if watched.content is not None:
                watched.content.release()

    async def _ask(self, node: Node, watched: _Watched) -> _Seen:
        """What the server says of the file, where nothing of ours can be what it speaks of."""
        asked_at = trio.current_time()
        await self._gate.settled(node)
        if node.unlinked or version_of(node) != watched.version:
            return _Seen.OURS  # ours since, or known to be another's on purpose
        if _is_sent_anew(node):
            return _Seen.NOTHING
        path = remote_path(node)
        found: Validator | None = None
        try:
            found = await self._other_than(watched, folder_of(node), path)
            seen = _Seen.OURS if found is None else _Seen.LOST
        except (NotFound, IsADirectory):
            seen = _Seen.OURS  # removed, on purpose
        if node.unlinked or version_of(node) != watched.version:
            return _Seen.OURS
        if self._gate.is_moving(node) or remote_path(node) != path or _is_sent_anew(node):
            return _Seen.NOTHING  # what was found may be our newer version, or what we put in its place
        if found is not None:
            # Tells `replaced`, which has it looked at again.
            self._metadata.confirm(node, found, asked_at, is_other=True)
        return seen

    async def _other_than(self, watched: _Watched, folder: Folder, path: str) -> Validator | None:
        """The version that is there, None where it is what was sent.

        Servers stamp files to a few milliseconds only, so two that were sent at the same moment may
        have the same size and time: their ends are compared, too.
        """
        version, content = watched.version, watched.content
        if content is None or not version.size:
            return await self._transfers.revalidate(folder, path, version)
        start = max(0, version.size - COMPARED)
        content.hold()  # ours may replace ours while we ask
        try:
            reply = await self._transfers.read_range(folder, path, start, version.size - start)
            same = reply.validator == version and reply.data == await content.read(
                start, version.size - start
            )
        except RangeOutside:
            return await self._transfers.stat(folder, path)
        finally:
            content.release()
        return None if same else reply.validator

    def abandon(self) -> None:
        """End of the mount: what was not looked at stays for the next one."""
        for watched in self._watched.values():
            if watched.content is not None:
                watched.content.abandon()


def _is_sent_anew(node: Node) -> bool:
    """Whether a newer version of ours may be what is found under the node's name.

    Its upload looks for this one's version before it replaces it, so nothing is overlooked meanwhile.
    """
    return node.staged is not None and (staged_of(node).may_be_there or staged_of(node).upload is not None)
