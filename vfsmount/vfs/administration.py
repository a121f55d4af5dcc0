"""What commands ask of a mount, and what its end does: nothing here answers a request of the kernel."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import trio

from vfsmount.api.client import Client
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.writeback import urgency
from vfsmount.errors import InvalidRequest, NotFound, VfsError
from vfsmount.log import event
from vfsmount.metrics import counters
from vfsmount.store.records import Records
from vfsmount.store.staged import StagedRecords
from vfsmount.store.staging import StagingArea
from vfsmount.vfs.barrier import Barrier
from vfsmount.vfs.deadline import within
from vfsmount.vfs.handles import DirHandle, Handle
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.parts import Parts
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.staged import staged_of
from vfsmount.vfs.status import CacheStatus, FolderStatus, Queued, Status, UnsentFile, unsent_file
from vfsmount.vfs.uploader import Uploader
from vfsmount.vfs.warmup import Warmup
from vfsmount.vfs.writer import Writer

_log = logging.getLogger("vfsmount.vfs")

_KEEP_S = 5.0  # for what was read to reach the disk when the mount ends


class Administration:
    """Part of `Filesystem`: the mount as those see it who look after it."""

    policy: MountPolicy
    parts: Parts
    _client: Client
    _area: StagingArea
    _records: Records
    _rows: StagedRecords
    _inodes: InodeTable
    _metadata: Metadata
    _removals: Removals
    _uploader: Uploader
    _writer: Writer
    _handles: dict[int, Handle]
    _dir_handles: dict[int, DirHandle]
    _hurried: trio.Event

    # --- places --------------------------------------------------------------------------------

    def node_at(self, path: bytes) -> Node | None:
        """The node at a path below the mountpoint, as far as it is known here."""
        node: Node | None = self._inodes.root
        for name in filter(None, path.split(b"/")):
            node = node.entries.get(name) if node is not None else None
        return node

    def folders(self) -> list[tuple[str, str]]:
        """(name on the mount, id) of each vfolder that is shown, as far as is known here."""
        entries = self._inodes.root.entries.items()
        return [(os.fsdecode(name), n.folder.id) for name, n in entries if n.folder is not None]

    def refresh(self, path: bytes = b"") -> None:
        """Believe nothing at or below a path that was learnt before now; the next look asks the server.

        Raises:
            NotFound: the path is not known here, so nothing is believed of it.
        """
        node = self.node_at(path)
        if node is None:
            raise NotFound("nothing is known of this path")
        self._metadata.doubt(node)

    # --- what is kept on disk ------------------------------------------------------------------

    def warmup(self, paths: Iterable[bytes], *, recursive: bool, pin: bool) -> Warmup:
        """What has these files, and those in these directories, in the cache on disk; `run` it.

        Raises:
            InvalidRequest: this mount has no such cache.
        """
        self._check_keeps()
        return Warmup(self.parts, self.policy, list(paths), recursive=recursive, pin=pin)

    async def unpin(self, path: bytes, *, recursive: bool) -> int:
        """Let the pinned files at a path, or in the directory there, be evicted again; how many there were.

        Raises:
            InvalidRequest: this mount has no cache on disk.
        """
        self._check_keeps()
        top, _, rest = path.strip(b"/").partition(b"/")
        folders = self._inodes.root.entries
        if not top:
            named = [n for n in folders.values() if n.folder is not None and recursive]
        else:
            named = [n for n in (folders.get(top),) if n is not None]
        pins = self.parts.pins
        return sum(
            [await pins.unpin(n.folder.id, os.fsdecode(rest), recursive=recursive) for n in named if n.folder]
        )

    async def pins(self) -> list[tuple[str, int]]:
        """(folder and path, size) of the pinned files that lie in folders of this mount, by name.

        Raises:
            InvalidRequest: this mount has no cache on disk.
        """
        self._check_keeps()
        await self.parts.pins.load()
        names = {n.folder.id: os.fsdecode(n.name) for n in self._inodes.root.entries.values() if n.folder}
        return sorted(
            (f"{names[folder_id]}/{path}", max(v.size for v in versions))
            for (folder_id, path), versions in self.parts.pins.all.items()
            if folder_id in names
        )

    def _check_keeps(self) -> None:
        if not self.parts.disk.is_there:
            raise InvalidRequest(
                "this mount keeps nothing on disk: mount again without --cache-size 0, "
                "or with a --cache-dir that works (its log says why this one does not)"
            )

    # --- what is unsent ------------------------------------------------------------------------

    async def wait(self, nodes: list[Node] | None = None, *, patient: bool = True) -> None:
        """Return when what is acknowledged is on the server and verified: of these nodes and what is
        below them, or of everything.

        Raises:
            VfsError: why something is not. With `patient` a server that cannot be reached is waited for.
        """
        await self._barrier([self._inodes.root] if nodes is None else nodes, [], patient).run()

    def barrier(self, paths: Iterable[bytes] = ()) -> Barrier:
        """What is acknowledged by now below these paths (none: everywhere), to be waited for patiently.

        A path that is not known here has nothing unsent; where it was removed, that is waited for.
        """
        nodes, names = [], []
        for path in list(paths) or [b""]:
            node = self.node_at(path)
            parent, _, name = path.rstrip(b"/").rpartition(b"/")
            directory = self.node_at(parent)
            if node is not None:
                nodes.append(node)
            if directory is not None:  # a removed name may have been made anew since
                names.append((directory, name))
        return self._barrier(nodes, names, patient=True)

    def _barrier(self, tops: list[Node], names: list[tuple[Node, bytes]], patient: bool) -> Barrier:
        unsent = self._uploader.unsent
        files = [n for n in unsent if any(n is t or self._inodes.is_below(n, t) for t in tops)]
        return Barrier(self._uploader, self._removals, files, [t for t in tops if t.is_dir], names, patient)

    def unsent(self) -> list[UnsentFile]:
        """What the server does not have as it was acknowledged, oldest first."""
        files = [unsent_file(self._uploader.name_of(n), n) for n in self._uploader.unsent]
        return sorted(files, key=lambda f: -f.age_s)

    # --- what is shown ---------------------------------------------------------------------------

    async def status(self) -> Status:
        """What `vfsmount status` shows."""
        folders = {n.folder.id: os.fsdecode(n.name) for n in self._inodes.root.entries.values() if n.folder}
        conflicts = [
            (f"{folders.get(c.folder, c.folder)}/{os.fsdecode(c.path)}", os.fsdecode(c.kept_as), c.at)
            for c in await self._rows.read_conflicts()
        ]
        partial = [
            f"{n.folder.name}/{os.fsdecode(self._inodes.path(n))}"
            for n in self._inodes
            if n.is_dir and n.folder and not n.unlinked and n.listing and n.listing.likely_cut
        ]
        return Status(
            unsent=tuple(self.unsent()),
            removals=tuple(self._removals.names),
            conflicts=tuple(conflicts),
            partial=tuple(partial),
            local_only=await self._records.count_local(),
            staging_used=self._area.used,
            staging_limit=self.policy.staging_size,
            folders=tuple(self._folder_status()),
            budget=self._client.governor.state,
            cache=await self._cache_status(),
            errors=tuple(self.parts.recent.newest_first),
        )

    def metrics(self) -> dict[str, Any]:
        """`Counters.snapshot`, and what there is now of everything that has a level:

        ``uploads``: ``files`` and ``bytes`` not on the server yet, ``sending`` of these files, ``failing``
        of them, ``removals``: names removed here that the server still has;
        ``manager``: ``calls_left`` (null while the server tells no limit), ``limit`` of these in the
        server's window, ``waiting`` calls, ``in_flight``, ``concurrency``: how many may be;
        ``memory``: ``limit``, ``held`` and ``on_its_way``, bytes of file content;
        ``staging``: ``used`` and ``limit`` (0: none), bytes; ``cache``: ``not_kept``: blocks that were not
        kept on disk; ``inodes``, ``open_files``, ``open_directories``.
        """
        unsent = [staged_of(n) for n in self._uploader.unsent]
        governor, blocks = self._client.governor, self.parts.blocks
        return {
            **counters.snapshot(),
            "uploads": {
                "files": len(unsent),
                "bytes": sum(s.detail.size if s.detail is not None else s.content.size for s in unsent),
                "sending": sum(s.upload is not None for s in unsent),
                "failing": sum(s.error is not None for s in unsent),
                "removals": len(self._removals),
            },
            "manager": {
                "calls_left": governor.calls_left,
                "limit": governor.budget.limit,
                "waiting": governor.waiting,
                "in_flight": governor.in_flight,
                "concurrency": governor.concurrency.limit,
            },
            "memory": {"limit": blocks.limit, "held": blocks.size, "on_its_way": blocks.reserved},
            "staging": {"used": self._area.used, "limit": self.policy.staging_size},
            "cache": {"not_kept": self.parts.disk.not_kept},
            "inodes": len(self._inodes),
            "open_files": len(self._handles),
            "open_directories": len(self._dir_handles),
        }

    def _folder_status(self) -> Iterator[FolderStatus]:
        unsent: dict[str, list[int]] = {}
        for node in self._uploader.unsent:
            if node.folder is not None:
                unsent.setdefault(node.folder.id, []).append(unsent_file("", node).size)
        entries = self._inodes.root.entries
        for name in sorted(entries):
            folder = entries[name].folder
            if folder is not None:
                sizes = unsent.get(folder.id, [])
                quota = self.parts.usage.quota_of(folder)
                yield FolderStatus(
                    os.fsdecode(name),
                    folder.id,
                    folder.permission,
                    folder.is_owner,
                    len(sizes),
                    sum(sizes),
                    quota.limit if quota is not None else None,
                    quota.used if quota is not None else None,
                )

    async def _cache_status(self) -> CacheStatus:
        memory = self.parts.blocks
        disk = await self.parts.disk.usage()
        return CacheStatus(memory.size + memory.reserved, memory.limit, **disk)

    def queue(self) -> list[Queued]:
        """What is unsent in the order in which it is sent, as far as it can be told now."""
        now = trio.current_time()

        def order(entry: tuple[float | None, Node]) -> tuple[float, tuple[int, int]]:
            next_try_s, node = entry
            detail = staged_of(node).detail
            # A thing of tenths of a second: what is due together goes by `urgency`.
            when = -1.0 if next_try_s is None else float(int(next_try_s * 10))
            return when, urgency(detail.acked_at, detail.size) if detail is not None else (0, 0)

        found = [(self._uploader.next_try(n, now), n) for n in self._uploader.unsent]
        return [
            Queued(unsent_file(self._uploader.name_of(n), n), next_try_s)
            for next_try_s, n in sorted(found, key=order)
        ]

    # --- the end -------------------------------------------------------------------------------

    async def drain(self) -> list[UnsentFile]:
        """Send what is left; return what could not be sent. It stays recorded for the next mount."""
        for node in self._writer.staged:
            try:
                with within(self.policy.deadline_s):
                    await self._writer.flush(node)
            except VfsError as e:
                event(_log, logging.ERROR, "staging.unrecorded", ino=node.ino, error=str(e))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_hurried, nursery.cancel_scope)
            await self._send_the_rest()
            nursery.cancel_scope.cancel()
        return self._left()

    def hurry(self) -> None:
        """Send no more of what is left: `drain` returns soon."""
        self._hurried.set()

    async def _stop_when_hurried(self, sending: trio.CancelScope) -> None:
        await self._hurried.wait()
        sending.cancel()

    async def _send_the_rest(self) -> None:
        with trio.move_on_after(self.policy.drain_timeout_s) as time_left:
            try:
                with within(self.policy.deadline_s):
                    await self._removals.flush()
            except VfsError as e:
                event(_log, logging.WARNING, "removal.left", names=len(self._removals), error=str(e))
        await self._uploader.drain(max(0.0, time_left.deadline - trio.current_time()))
        with trio.move_on_after(_KEEP_S):
            await self.parts.disk.flush()

    def _left(self) -> list[UnsentFile]:
        left = [unsent_file(self._uploader.name_of(n), n) for n in self._writer.staged if self._is_left(n)]
        return left + [
            UnsentFile(name, 0, "removed here", 0.0, "the server still has it", "")
            for name in self._removals.names
        ]

    @staticmethod
    def _is_left(node: Node) -> bool:
        return staged_of(node).dirty and not node.unlinked
