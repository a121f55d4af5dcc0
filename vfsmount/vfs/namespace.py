"""Making, moving and removing names.

The server's calls are blunter than rename(2) and rmdir(2): a move onto a directory goes *into* it, a
recursive delete checks nothing, and a lost reply leaves the outcome open. So each operation looks
first, sends one call, and believes its directories no longer where the outcome is unknown.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import trio
from msgspec.structs import replace as replace_field

from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.core.journal import OperationRecord
from vfsmount.errors import (
    AlreadyExists,
    CrossFolder,
    InvalidRequest,
    IsADirectory,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
    PermissionDenied,
    ReadOnly,
    Stale,
    VfsError,
)
from vfsmount.log import event
from vfsmount.store.records import Records
from vfsmount.store.staged import Move
from vfsmount.values import Folder, Kind, LocalAttrs, Validator
from vfsmount.vfs.attributes import Attributes
from vfsmount.vfs.exclusion import Exclusion
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.notes import Notes, together
from vfsmount.vfs.paths import PathGate, check_new_name, child_path, folder_of, remote_path
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.recorder import Recorder
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.replay import NO_OPERATION, Operation, Request
from vfsmount.vfs.staged import staged_of, version_of
from vfsmount.vfs.uploader import Uploader
from vfsmount.vfs.writer import Writer

_log = logging.getLogger("vfsmount.vfs.namespace")

# The server never cleans up after uploads that broke off (contract 0.10). One that has not grown for
# this long is taken for broken off, or an empty folder could never be deleted.
ABANDONED_AFTER_S = 600.0
RENAME_NOREPLACE = 1
# Who removes a tree has listed each directory just before: that look will do for whether it is empty.
JUST_S = 0.5


class Namespace:
    """mkdir, rmdir, unlink and rename, inside folders and among them."""

    def __init__(
        self,
        client: Client,
        transfers: Transfers,
        inodes: InodeTable,
        metadata: Metadata,
        writer: Writer,
        uploader: Uploader,
        removals: Removals,
        exclusion: Exclusion,
        recorder: Recorder,
        records: Records,
        gate: PathGate,
        attributes: Attributes,
        policy: MountPolicy,
        notes: Notes | None = None,
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._inodes = inodes
        self._metadata = metadata
        self._writer = writer
        self._uploader = uploader
        self._removals = removals
        self._exclusion = exclusion
        self._recorder = recorder
        self._rows = records.staged
        self._gate = gate
        self._attributes = attributes
        self._policy = policy
        self._notes = notes
        self._unsettled: dict[Request, trio.Event] = {}  # renames of which nobody knows yet how they ended
        self._arriving: Counter[Node] = (
            Counter()
        )  # names that are being made in a directory, or moved into it
        self._outdated: set[Node] = set()  # directories whose recorded time is no longer theirs

    # --- making --------------------------------------------------------------------------------

    async def mkdir(
        self, parent: Node, name: bytes, attrs: LocalAttrs, operation: Operation = NO_OPERATION
    ) -> Node:
        """Make a directory; in the mount's root, a vfolder on the default host."""
        self._gate.check_writable(parent)
        check_new_name(parent, name)
        existing = await self._metadata.find(parent, name)
        if existing is not None:
            if operation.before is None or not existing.is_dir:
                raise AlreadyExists("the name is taken")
            if parent is self._inodes.root:
                return existing
            return await self._made(parent, name, existing, attrs)
        if parent is self._inodes.root:
            return await self._create_folder(name, operation)
        asked_at = trio.current_time()
        await self._removals.flush(parent, name=name)
        await self._gate.settled(parent)
        folder = folder_of(parent)
        self._gate.check_reachable(folder)
        operation.begins()
        with self._unknown_if_lost(parent), self._arriving_in(parent):
            await self._client.mkdir(folder, child_path(parent, name))
        node = parent.entries.get(name) or self._inodes.add(parent, name, Kind.DIRECTORY, mode=0o755)
        node.checked_at = asked_at
        dircache.known_empty(node, asked_at)
        self._changed(parent, name)
        return await self._made(parent, name, node, attrs)

    async def _made(self, parent: Node, name: bytes, node: Node, attrs: LocalAttrs) -> Node:
        """What is to be said of a directory that was just made here."""
        node.local = attrs
        node.mtime_ns = node.ctime_ns = time.time_ns()
        self._inodes.changed(node)
        # Rows may be left of a directory of that name that somebody else removed.
        await self._attributes.removed(folder_of(parent).id, self._inodes.path(parent), node)
        await self._attributes.save_if_possible(node)
        await self._save_times()
        return node

    async def make_local(
        self,
        parent: Node,
        name: bytes,
        kind: Kind,
        attrs: LocalAttrs,
        operation: Operation = NO_OPERATION,
    ) -> Node:
        """A symlink, FIFO or socket: the server has no form for them, so they live in the records."""
        if parent is self._inodes.root:
            raise NotSupported("files live inside folders; make a folder with mkdir first")
        assert kind.is_local
        self._gate.check_writable(parent)
        check_new_name(parent, name)
        node = await self._metadata.find(parent, name)
        await self._removals.flush(parent, name=name)
        await self._gate.settled(parent)
        made = node is not None and operation.before is not None and operation.before.ino == node.ino
        if not made and (node is not None or name in parent.entries or parent.unlinked):
            raise AlreadyExists("the name is taken")
        if node is None:
            node = self._inodes.add(parent, name, kind, mode=0o644)
            node.mtime_ns = node.ctime_ns = time.time_ns()
            node.local = replace(attrs, mtime_ns=node.mtime_ns)  # no server knows when it was made
            node.size = len(attrs.target)
            operation.begins(node)
        self._changed(parent, name)
        try:
            await self._attributes.save(node)
        except BaseException:
            if not node.unlinked:
                self._inodes.unlink(node)  # it would not be there in the next mount
            raise
        await self._save_times()
        return node

    async def create(
        self,
        parent: Node,
        name: bytes,
        attrs: LocalAttrs,
        *,
        exclusive: bool,
        operation: Operation = NO_OPERATION,
    ) -> tuple[Node, bool]:
        """A new file that exists here only until it is flushed; an existing one as it is. And which it is.

        Raises:
            AlreadyExists: `exclusive`, and the name is taken, or was taken on the server a moment ago.
        """
        if parent is self._inodes.root:
            raise NotSupported("files live inside folders; make a folder with mkdir first")
        self._gate.check_writable(parent)
        check_new_name(parent, name)
        node = parent.entries.get(name)
        if node is not None and operation.before is not None and operation.before.ino == node.ino:
            return node, True  # by a process that was killed before it could say so
        node = await self._metadata.find(parent, name)
        if node is None:
            await self._removals.flush(parent, name=name)
        listing_age = trio.current_time() - dircache.state_of(parent).fetched_at
        if node is None and exclusive and listing_age > self._policy.attr_ttl_s:
            await self._refuse_if_there(parent, name)
        if node is None:
            node = await self._writer.create(parent, name, attrs, operation)
            self._touch(parent)
            await self._save_times()
            return node, True
        if exclusive:
            raise AlreadyExists("the name is taken")
        if node.is_dir:
            raise IsADirectory("this is a directory")
        return node, False

    async def _refuse_if_there(self, parent: Node, name: bytes) -> None:
        """One storage-proxy request that asks whether a name is taken after all."""
        try:
            await self._transfers.stat(folder_of(parent), child_path(parent, name))
        except NotFound:
            return
        except IsADirectory:
            pass
        dircache.expire(parent)
        raise AlreadyExists("the name is taken")

    # --- removing ------------------------------------------------------------------------------

    async def unlink(self, parent: Node, name: bytes, operation: Operation = NO_OPERATION) -> None:
        """Remove a file; who has it open keeps reading it."""
        self._gate.check_writable(parent)
        if operation.before is not None and not self._is_at(operation.before.ino, parent, name):
            # A process that was killed has done it; what is there now is another's.
            if self._policy.sync:
                await self._removals.flush(parent, name=name)
            return
        node = await self._metadata.lookup(parent, name)
        if node.is_dir:
            raise IsADirectory("this is a directory")
        self._refuse_link(node)
        with self._writer.holding(node):
            await self._keep_readable(node)
            await self._unlink(parent, name, node, operation)

    def _is_at(self, ino: int, parent: Node, name: bytes) -> bool:
        """Whether a node that is written down still has this name."""
        node = parent.entries.get(name)
        return node is not None and node.ino == ino

    async def _keep_readable(self, node: Node) -> None:
        """Fetch what programs have open before its name goes; without room for it they get ESTALE."""
        if node.opens and node.staged is None and not node.kind.is_local:
            try:
                await self._writer.make_local(node)
            except (NoSpace, Stale) as e:
                event(_log, logging.INFO, "unlink.unreadable", ino=node.ino, error=type(e).__name__)

    async def _unlink(self, parent: Node, name: bytes, node: Node, operation: Operation) -> None:
        async with self._gate.moving(node), self._exclusion.below(node):
            self._require_still(node, parent, name)
            await self._uploader.stop([node])
            operation.begins(node)
            if self._is_on_server(node) or _may_be_there(node):
                self._gate.check_reachable(folder_of(node))
                version = None if _may_be_there(node) else version_of(node)
                await self._removals.add(parent, node, version, self._uploader.rows_of(node))
            else:
                await self._rows.remove(self._uploader.rows_of(node))
            await self._gone(parent, node)
        if self._policy.sync:
            await self._removals.flush(parent, name=name)

    async def rmdir(self, parent: Node, name: bytes, operation: Operation = NO_OPERATION) -> None:
        """Remove a directory that is certainly empty.

        The server has no such call, only a recursive delete: what somebody else puts into the
        directory between our look and our call is lost (contract 6.3). Where a whole tree is being
        removed, that call comes within a moment and is for all of it (`vfs.removals`).
        """
        self._gate.check_writable(parent)
        if operation.before is not None and not self._is_at(operation.before.ino, parent, name):
            if self._policy.sync:
                await self._removals.flush(parent, name=name)
            return  # by a process that was killed before it could say so
        try:
            if operation.before is not None and parent is self._inodes.root:
                await self._metadata.refresh(parent, max_age_s=0.0)
            node = await self._metadata.lookup(parent, name)
            if not node.is_dir:
                raise NotADirectory("not a directory")
            seen_at = await self._look_into(parent, node)
        except NotFound:
            if operation.before is None:
                raise
            return  # as above; only the server knew
        if parent is self._inodes.root:
            await self._delete_folder(node, operation)
            return
        async with self._gate.moving(node):
            self._require_still(node, parent, name)
            if node.entries or self._arriving[node] or (seen_at is None and self._removals.pending_in(node)):
                raise NotEmpty("the directory is not empty")
            operation.begins(node)
            if seen_at is None:
                await self._delete_empty(parent, node)
                self._removals.touched(parent)
            else:
                await self._removals.add(parent, node, None, seen_at=seen_at)
            await self._gone(parent, node)
        if self._policy.sync:
            await self._removals.flush(parent, name=name)

    async def _look_into(self, parent: Node, directory: Node) -> float | None:
        """See that nothing is in a directory that is to be removed, and when that was asked for; None:
        nothing is on its way out of it either, and it may be removed at once.

        Raises:
            NotEmpty, NotFound, and what a listing may meet.
        """
        if parent is self._inodes.root or not self._removals.is_clearing(directory, parent):
            await self._require_empty(directory)
            return None
        asked_at = trio.current_time()
        believed_s = min(JUST_S, self._policy.dir_ttl_s)
        max_age_s = min(believed_s, asked_at - self._removals.gone_from_at(directory))
        await self._metadata.refresh(directory, max_age_s=max_age_s)
        limit, state = self._client.listing_limit(folder_of(directory)), dircache.state_of(directory)
        hides = state.cut or not limit.is_beyond_doubt(state.count) or self._removals.doubts(directory)
        old = state.fetched_at <= self._removals.gone_from_at(directory)
        # Somebody else may have removed since what was in it a moment ago.
        if hides or old or (directory.entries and state.fetched_at < asked_at):
            # Names on their way out may hide others, and may be another's by now.
            await self._require_empty(directory)
            return None
        self._check_empty(directory)
        return state.fetched_at

    async def _require_empty(self, directory: Node) -> None:
        if directory.entries:  # somebody else may have removed them
            await self._metadata.refresh(directory, max_age_s=0.0)
            self._check_empty(directory)
        await self._removals.flush(directory)
        await self._metadata.refresh(directory, max_age_s=0.0)
        self._check_empty(directory)

    @staticmethod
    def _check_empty(directory: Node) -> None:
        if directory.unlinked:
            raise NotFound("no such file or directory")
        if directory.entries or dircache.state_of(directory).cut:
            raise NotEmpty("the directory is not empty")

    async def _delete_empty(self, parent: Node, node: Node) -> None:
        """Take a directory that was seen to be empty off the server now."""
        folder, state = folder_of(node), dircache.state_of(parent)
        self._gate.check_reachable(folder)
        known, seen_at = not state.cut, dircache.state_of(node).fetched_at
        with self._unknown_if_lost(parent), suppress(NotFound):  # NotFound: gone already
            await self._removals.remove_empty(folder, remote_path(node), known=known, seen_at=seen_at)

    async def _delete(self, parent: Node, node: Node) -> None:
        folder = folder_of(node)
        self._gate.check_reachable(folder)
        # We have just looked; only what a cut listing did not show may be a link that a probe took
        # for its target.
        known = not dircache.state_of(parent).cut
        # NotFound: gone already, which is what was asked for.
        with self._unknown_if_lost(parent), suppress(NotFound):
            await self._client.delete_files(folder, [remote_path(node)], known=known)

    @staticmethod
    def _is_on_server(node: Node) -> bool:
        return not node.kind.is_local and (node.staged is None or not staged_of(node).created_here)

    async def _gone(self, parent: Node, node: Node) -> None:
        name, folder, path = node.name, folder_of(node).id, self._inodes.path(parent)
        if not node.unlinked:
            self._inodes.unlink(node)
        self._changed(parent, name)
        self._writer.let_go(node)
        await self._attributes.removed(folder, path, node)
        await self._save_times()

    # --- moving --------------------------------------------------------------------------------

    async def rename(
        self,
        parent: Node,
        name: bytes,
        new_parent: Node,
        new_name: bytes,
        flags: int,
        operation: Operation = NO_OPERATION,
    ) -> None:
        """rename(2), with RENAME_NOREPLACE; a replaced file goes in the same atomic step."""
        if flags & ~RENAME_NOREPLACE:
            raise InvalidRequest("the server cannot exchange two names")
        root = self._inodes.root
        if (parent is root) != (new_parent is root) or parent.ref is not new_parent.ref:
            raise CrossFolder("the server cannot move from one folder to another")
        self._gate.check_writable(parent)
        self._gate.check_writable(new_parent)
        check_new_name(new_parent, new_name)
        if operation.before is not None and await self._was_moved(operation.before, new_parent, new_name):
            return
        node = await self._metadata.lookup(parent, name)
        target = await self._metadata.find(new_parent, new_name)
        if target is node:
            return
        if target is not None and flags & RENAME_NOREPLACE:
            raise AlreadyExists("the name is taken")
        if new_parent is node or self._inodes.is_below(new_parent, node):
            raise InvalidRequest("a directory cannot be moved into itself")
        if parent is root:
            await self._rename_folder(node, target, new_name, operation)
            return
        self._refuse_link(node)
        if target is None:
            await self._move(parent, name, node, None, new_parent, new_name, operation)
            return
        with self._writer.holding(target):
            await self._check_replaceable(node, target)
            await self._move(parent, name, node, target, new_parent, new_name, operation)

    async def _was_moved(self, before: OperationRecord, new_parent: Node, new_name: bytes) -> bool:
        """Whether a process that was killed before it could say so has done it."""
        if (settled := self._unsettled.get(before.request)) is not None:
            await settled.wait()
        if new_parent is self._inodes.root:
            await self._metadata.refresh(new_parent, max_age_s=0.0)
        return self._is_at(before.ino, new_parent, new_name)

    async def _check_replaceable(self, node: Node, target: Node) -> None:
        self._refuse_link(target)
        if target.is_dir:
            if not node.is_dir:
                raise IsADirectory("a file cannot replace a directory")
            await self._require_empty(target)
        elif node.is_dir:
            raise NotADirectory("a directory cannot replace a file")
        else:
            await self._keep_readable(target)

    async def _move(
        self,
        parent: Node,
        old_name: bytes,
        node: Node,
        target: Node | None,
        new_parent: Node,
        new_name: bytes,
        operation: Operation,
    ) -> None:
        async with self._moving(node, target, new_parent, new_name), self._exclusion.below(node, target):
            self._require_still(node, parent, old_name)
            if new_parent.unlinked:
                raise NotFound("the directory was removed meanwhile")
            if target is not None and target.entries:
                raise NotEmpty("the directory is not empty")
            staged = [n for n in self._inodes.subtree(node) if n.staged is not None]
            await self._uploader.stop([*staged, *([target] if target is not None else [])])
            folder = folder_of(node).id
            old, new = (self._inodes.path(parent), old_name), (self._inodes.path(new_parent), new_name)
            move = Move(0, folder, *old, *new)
            operation.begins(node, target, version_of(target) if target is not None else None)
            if self._on_server_or_may_be(node):
                move = await self._move_recorded(parent, node, target, new_parent, new_name, move)
            else:
                await self._move_unsent(node, target, new_parent, new_name)
            await self._moved(parent, node, new_parent, new_name, move)
        for n in staged:
            self._uploader.look_at(n)

    @asynccontextmanager
    async def _moving(
        self, node: Node, target: Node | None, new_parent: Node, new_name: bytes
    ) -> AsyncIterator[None]:
        """Nothing removed is left on the server below what moves, or under its new name."""
        tops, names = [node] if node.is_dir else [], [(new_parent, new_name)]
        while True:
            if node.is_dir:
                await self._gate.settled_below(node)
                await self._removals.flush(node)
            await self._removals.flush(new_parent, name=new_name)
            async with self._gate.moving(node, target):
                if new_parent is node or self._inodes.is_below(new_parent, node):
                    raise InvalidRequest("a directory cannot be moved into itself")  # by another rename
                if self._gate.moves_below(node, but=target) or self._removals.want(tops, names):
                    await trio.lowlevel.checkpoint()
                    continue  # it began meanwhile
                with self._arriving_in(new_parent):
                    yield
                    return

    @contextmanager
    def _arriving_in(self, directory: Node) -> Iterator[None]:
        """The server is asked for a name there: the directory is not empty, whatever a listing says."""
        self._arriving[directory] += 1
        try:
            yield
        finally:
            self._arriving[directory] -= 1
            self._arriving += Counter()  # without zeroes

    async def _moved(self, parent: Node, node: Node, new_parent: Node, new_name: bytes, move: Move) -> None:
        """The server has moved what it has: say so here, too."""
        # no await until the tree says what the server has
        current, old_name = new_parent.entries.get(new_name), node.name
        replaced = []
        with together(self._notes):
            if current is not None and current is not node:
                replaced = self._uploader.rows_of(current)
                self._inodes.unlink(current)
                self._writer.let_go(current)
            self._inodes.rename(node, new_parent, new_name)
            if self._notes is not None and node.staged is not None:
                self._notes.staged(node)  # it may take another version's place now
        node.ctime_ns = time.time_ns()
        self._changed(parent, old_name)
        self._changed(new_parent, new_name)
        await self._rows.end_move(self._recorder.mount, move, happened=True, replaced=replaced)
        self._recorder.changed()
        old, new = (move.parent, move.name), (move.new_parent, move.new_name)
        await self._attributes.moved(move.folder, node, old, new, current)
        await self._keep_number(node)
        await self._save_times()

    # --- after a crash -------------------------------------------------------------------------

    def hold_move(self, request: Request, node: Node, target: Node | None) -> Callable[[], None]:
        """A process was killed while it moved a node: nobody uses its path, and who asks for the same
        again waits, until what is returned is called."""
        self._unsettled[request] = settled = trio.Event()
        let_go = self._gate.hold(*(n for n in (node, target) if n is not None and not n.unlinked))

        def end() -> None:
            let_go()
            self._unsettled.pop(request, None)
            settled.set()

        return end

    async def settle_move(self, parent: Node, node: Node, new_parent: Node, move: Move) -> None:
        """Find out whether that was done, and have everything here say so.

        Raises:
            VfsError: it cannot be found out now.
        """
        mount, new_name = self._recorder.mount, move.new_name
        if node.parent is new_parent and node.name == new_name:
            if move.id:  # its rows follow the tree by their numbers
                await self._rows.end_move(mount, move, happened=False)
            await self._attributes.moved_if_not(move.folder, node, move)
            await self._keep_number(node)
            return
        if node.parent is not parent or node.name != move.name:
            return
        if self._on_server_or_may_be(node) and await self.has_moved(folder_of(node), move):
            await self._moved(parent, node, new_parent, new_name, move)
        elif move.id:
            await self._rows.end_move(mount, move, happened=False)

    async def has_moved(self, folder: Folder, move: Move) -> bool:
        """Whether the server has done a rename that was sent to it."""
        if await self._look(folder, move.parent, move.name) is not None:
            return False
        found, old = await self._look(folder, move.new_parent, move.new_name), move.replaces
        if isinstance(found, Validator) and old is not None:
            # What moved had not arrived: the file it was to replace is still there.
            return not old.matches_listing(found.size, found.mtime_ns)
        return found is not None

    async def _look(self, folder: Folder, parent: bytes, name: bytes) -> Validator | Kind | None:
        """What is there: a file's version, DIRECTORY, or None."""
        path = (parent + b"/" + name if parent else name).decode("utf-8", "surrogateescape")
        try:
            return await self._transfers.stat(folder, path)
        except IsADirectory:
            return Kind.DIRECTORY
        except NotFound:
            return None

    async def _keep_number(self, node: Node) -> None:
        """Under its new name it has the number it had; the next mount is to give it the same."""
        if node.staged is not None and staged_of(node).dirty:
            await self._recorder.save_attrs(node)
        else:
            await self._attributes.save_if_possible(node)

    async def _move_recorded(
        self, parent: Node, node: Node, target: Node | None, new_parent: Node, new_name: bytes, move: Move
    ) -> Move:
        """Move what the server has; where the records know files below or in the way, a next mount can
        tell whether it did."""
        known = any(self._uploader.rows_of(n) for n in self._inodes.subtree(node))
        if known or (target is not None and self._uploader.rows_of(target)):
            if target is not None and not target.is_dir:
                move = replace_field(move, replaces=version_of(target))
            move = replace_field(move, id=await self._rows.begin_move(self._recorder.mount, move))
        try:
            with self._unknown_if_lost(parent, new_parent):
                try:
                    await self._move_remote(node, target, new_parent, new_name)
                except NotFound:
                    if not _may_be_there(node):
                        raise
                    # It had not arrived: the replaced file is still there, until we send ours.
                    await self._recorder.rebased(staged_of(node), version_of(target) if target else None)
        except BaseException:
            if move.id:
                with trio.CancelScope(shield=True):
                    await self._rows.end_move(self._recorder.mount, move, happened=False)
            raise
        return move

    async def _move_unsent(self, node: Node, target: Node | None, new_parent: Node, new_name: bytes) -> None:
        """Nothing moves on the server: what is sent later goes to the new name, over what is there."""
        if node.kind.is_local and target is not None and self._on_server_or_may_be(target):
            await self._delete(new_parent, target)
        current = new_parent.entries.get(new_name)
        if current is not None and current.is_dir:
            raise IsADirectory("a file cannot replace a directory")
        if current is not None and current is not node and node.staged is not None:
            # The server still has the replaced file there, until our next upload replaces it.
            staged = staged_of(node)
            staged.may_be_there = staged.may_be_there or _may_be_there(current)
            if current.staged is not None:
                staged.inherit_stopped(staged_of(current))
            await self._recorder.rebased(staged, version_of(current))

    def _on_server_or_may_be(self, node: Node) -> bool:
        return self._is_on_server(node) or _may_be_there(node)

    async def _move_remote(self, node: Node, target: Node | None, new_parent: Node, new_name: bytes) -> None:
        folder, src, dst = folder_of(node), remote_path(node), child_path(new_parent, new_name)
        self._gate.check_reachable(folder)
        if target is not None and target.is_dir:
            # move-file onto a directory would go into it, so the empty one goes first.
            seen_at = dircache.state_of(target).fetched_at
            await self._removals.remove_empty(folder, dst, known=False, seen_at=seen_at)
        elif target is None or target.kind.is_local:
            await self._refuse_directory_at(new_parent, dst)
        await self._client.move_file(folder, src, dst)

    async def _refuse_directory_at(self, parent: Node, path: str) -> None:
        """A directory somebody made at the new name meanwhile would swallow what we move there."""
        try:
            await self._transfers.stat(folder_of(parent), path)
        except NotFound:
            return
        except IsADirectory:
            dircache.expire(parent)
            raise NotEmpty("a directory was made under that name meanwhile") from None

    # --- vfolders ------------------------------------------------------------------------------

    def _folder_name(self, name: bytes) -> str:
        if name.startswith(b"."):
            raise NotSupported("folders whose names begin with a dot are made with the command line only")
        return name.decode()

    async def _create_folder(self, name: bytes, operation: Operation) -> Node:
        if self._policy.only:
            raise NotSupported("this mount shows chosen folders only")
        folder_name = self._folder_name(name)
        operation.begins()
        folder = await self._client.create_folder(folder_name)
        self._changed(self._inodes.root, name)
        node = self._inodes.root.entries.get(name) or self._metadata.add_folder(name, folder)
        dircache.known_empty(node, trio.current_time())
        return node

    async def _rename_folder(
        self, node: Node, target: Node | None, new_name: bytes, operation: Operation
    ) -> None:
        if target is not None:
            raise AlreadyExists("a folder cannot replace another")
        folder, name = folder_of(node), self._folder_name(new_name)
        if not folder.is_owner:
            raise PermissionDenied("only its owner may rename a folder")
        self._gate.check_reachable(folder)
        root = self._inodes.root
        async with self._moving(node, None, root, new_name), self._exclusion.below(node):
            await self._uploader.stop([n for n in self._inodes.subtree(node) if n.staged is not None])
            operation.begins(node)
            await self._client.rename_folder(folder, name)
            old = node.name
            if new_name not in self._inodes.root.entries:  # else a new list of folders came first
                self._inodes.rename(node, self._inodes.root, new_name)
            for changed in (old, new_name):
                self._changed(self._inodes.root, changed)
            dircache.expire(self._inodes.root)

    async def _delete_folder(self, node: Node, operation: Operation) -> None:
        folder = folder_of(node)
        if not folder.is_owner:
            raise PermissionDenied("only its owner may delete a folder")
        self._gate.check_reachable(folder)
        # An upload somebody has under way is hidden from the mount; it must not die with the folder.
        try:
            sessions = await self._client.list_files(folder, ".upload")
        except (NotFound, NotADirectory):
            sessions = None
        now_ns = (time.time() + self._client.clock_offset_s) * 1e9
        if sessions is not None and any(
            now_ns - e.mtime_ns < ABANDONED_AFTER_S * 1e9 for e in sessions.entries
        ):
            raise NotEmpty("an upload into this folder is under way")
        async with self._gate.moving(node):
            operation.begins(node)
            await self._client.delete_folder(folder)
            self._inodes.unlink(node)
            self._changed(self._inodes.root, node.name)
            await self._attributes.folder_removed(node)

    # --- shared --------------------------------------------------------------------------------

    @staticmethod
    def _require_still(node: Node, parent: Node, name: bytes) -> None:
        """The node has the name it was looked up by; a rename we waited for may have changed it."""
        if node.parent is not parent or node.name != name:
            raise NotFound("the file was renamed meanwhile")

    @staticmethod
    def _refuse_link(node: Node) -> None:
        """The server's calls would act on what a symlink points to (contract 6.4)."""
        if node.kind is Kind.SYMLINK:
            raise NotSupported("the server would act on the target of this symlink, not on the link")

    def _changed(self, directory: Node, name: bytes) -> None:
        dircache.record_change(directory, name)
        self._touch(directory)

    def _touch(self, directory: Node) -> None:
        """A directory has the time of its last change, no longer one that was set before."""
        directory.mtime_ns = directory.ctime_ns = time.time_ns()
        if directory.local.mtime_ns is not None:
            directory.local = replace(directory.local, mtime_ns=None)
            self._outdated.add(directory)

    async def _save_times(self) -> None:
        """Bring the records of touched directories up to date."""
        while self._outdated:
            await self._attributes.save_if_possible(self._outdated.pop())

    @contextmanager
    def _unknown_if_lost(self, *directories: Node) -> Iterator[None]:
        """Where no answer came, or one that contradicts our belief, look again before believing."""
        try:
            yield
        except (ReadOnly, InvalidRequest):
            raise
        except (VfsError, trio.Cancelled):
            for directory in directories:
                dircache.expire(directory)
            raise


def _may_be_there(node: Node) -> bool:
    """Whether an upload that failed may have arrived nevertheless."""
    return node.staged is not None and staged_of(node).may_be_there
