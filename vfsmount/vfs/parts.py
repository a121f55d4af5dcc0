"""Everything a `Filesystem` is made of, put together.

One object for each of the modules beside this one, made in the order in which they need each other;
where two need each other, one is told how to reach the other later.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.core.blockindex import BlockIndex
from vfsmount.core.inodes import InodeTable
from vfsmount.core.writeback import Pressure
from vfsmount.store.blockcache import BlockCache
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.values import Ino
from vfsmount.vfs.ahead import Ahead
from vfsmount.vfs.attributes import Attributes
from vfsmount.vfs.conflicts import Conflicts
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.deadline import Pulse
from vfsmount.vfs.disktier import DiskTier
from vfsmount.vfs.exclusion import Exclusion
from vfsmount.vfs.following import Extend, Following
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.namespace import Namespace
from vfsmount.vfs.notes import Notes
from vfsmount.vfs.paths import PathGate
from vfsmount.vfs.pins import Pins
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.queue import Queue
from vfsmount.vfs.reader import Reader
from vfsmount.vfs.recent import Recent
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.recovery import Recoverer
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.replay import Operations
from vfsmount.vfs.restaging import Restaging
from vfsmount.vfs.resuming import Resumer
from vfsmount.vfs.room import Room
from vfsmount.vfs.settling import Settling
from vfsmount.vfs.uploader import Uploader
from vfsmount.vfs.usage import Usage
from vfsmount.vfs.writer import Writer


class Parts:
    """The parts of one mount's filesystem, each under the name of its module."""

    def __init__(
        self,
        client: Client,
        transfers: Transfers,
        area: StagingArea,
        records: Records,
        policy: MountPolicy,
        nursery: trio.Nursery,
        cache: BlockCache | None,
        changed: Callable[[Ino], None],
        entry_changed: Callable[[Ino, bytes], None],
        extend: Extend,
        journal: Journal | None = None,
    ) -> None:
        """Args: as of `Filesystem`. Its services run in `nursery` from here on."""
        self.inodes = InodeTable()
        self.inodes.root.mtime_ns = self.inodes.root.ctime_ns = time.time_ns()
        generation = time.time_ns() // 1_000_000
        self.recent = Recent()
        self.gate = PathGate(policy)
        notes = None if journal is None else Notes(journal, self.inodes, self.gate, area, generation)
        self.generation, self.notes = generation, notes
        self.inodes.notes = notes
        tell_changed, tell_entry_changed = changed, entry_changed
        if notes is not None:

            def changed(ino: Ino) -> None:
                notes.notice(ino, b"")
                tell_changed(ino)

            def entry_changed(ino: Ino, name: bytes) -> None:
                notes.notice(ino, name)
                tell_entry_changed(ino, name)

        self.attributes = Attributes(records, self.inodes, policy)
        self.recorder = Recorder(records, area)
        self.removals = Removals(
            client, transfers, self.gate, records, self.recorder, self.recent, policy.retry_first_s
        )
        self.following = Following(
            transfers, self.gate, nursery, extend, lambda node: self.metadata.renew(node)
        )
        self.metadata = Metadata(
            client,
            transfers,
            self.inodes,
            policy,
            self.gate,
            self.attributes,
            self.removals,
            self.following,
            lambda node: changed(node.ino),
            entry_changed,
            lambda old, new: self.settling.replaced(old, new),
            nursery,
        )
        self.ahead = Ahead(self.metadata, client.governor)
        # The rest is for the daemon itself, for replies under way, and for what the allocator cannot use.
        self.blocks = BlockIndex(policy.memory * 7 // 16)
        self.disk = DiskTier(cache, client.endpoint, self.blocks)
        self.pins = Pins(cache, client.endpoint, policy.deadline_s / 3)
        self.reader = Reader(
            transfers,
            self.metadata,
            self.blocks,
            self.disk,
            self.gate,
            nursery,
            self.pins,
            policy.attr_ttl_s,
            policy.memory,
        )
        self.exclusion = Exclusion(self.inodes, self.gate)
        self.queue = Queue()
        self.pressure = Pressure()
        pulse = Pulse()
        self.room = Room(
            area,
            policy.staging_size,
            policy.deadline_s,
            pulse,
            lambda: self.uploader.will_free or bool(self.settling),
        )
        self.writer = Writer(
            transfers,
            self.metadata,
            self.inodes,
            area,
            self.gate,
            self.exclusion,
            self.recorder,
            self.room,
            self.blocks,
            policy,
            self.queue.put_now,
            lambda *revived: nursery.start_soon(self.conflicts.revived, *revived),
            notes,
        )
        self.conflicts = Conflicts(
            self.inodes,
            self.gate,
            self.exclusion,
            records,
            self.recorder,
            self.writer,
            policy,
            self.queue.put_now,
            entry_changed,
            notes,
        )
        self.settling = Settling(transfers, self.metadata, self.gate, records, self.conflicts, policy)
        self.uploader = Uploader(
            transfers,
            self.inodes,
            self.gate,
            self.exclusion,
            self.attributes,
            self.recorder,
            self.writer,
            self.settling,
            self.conflicts,
            policy,
            pulse,
            self.queue,
            self.pressure,
            self.recent,
            notes,
        )
        self.namespace = Namespace(
            client,
            transfers,
            self.inodes,
            self.metadata,
            self.writer,
            self.uploader,
            self.removals,
            self.exclusion,
            self.recorder,
            records,
            self.gate,
            self.attributes,
            policy,
            notes,
        )
        self.operations = Operations(notes)
        self.recoverer = Recoverer(
            transfers,
            self.inodes,
            area,
            records,
            self.recorder,
            self.writer,
            self.removals,
            policy,
            self.queue.put_now,
            self.namespace.has_moved,
        )
        self.resumer = None
        if notes is not None:
            self.resumer = Resumer(
                transfers,
                self.inodes,
                area,
                records,
                self.recorder,
                Restaging(
                    self.inodes,
                    area,
                    records,
                    self.recorder,
                    self.recoverer,
                    self.writer,
                    self.removals,
                    self.settling,
                    notes,
                ),
                self.writer,
                self.following,
                self.namespace,
                self.gate,
                policy,
                notes,
                nursery,
                self.queue.put_now,
                tell_changed,
                tell_entry_changed,
            )
        self.usage = Usage(client, nursery)
        for service in (self.uploader, self.removals, self.settling, self.recorder, self.ahead, self.disk):
            nursery.start_soon(service.run)
        nursery.start_soon(self.pins.run)
        if notes is not None:
            nursery.start_soon(notes.journal.run, notes.prepare)
            nursery.start_soon(notes.journal.run_heard)
