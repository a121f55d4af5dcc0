"""Attributes the server cannot keep, and names it has no form for: between nodes and records.

A file's attributes belong to one version of it, so they are written with its validator and dropped
when the server has another: somebody replaced the file, and what was set was not set for that one.
Unsent files are recorded when they are sent. Directories have no version; theirs hold until the
directory goes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from vfsmount.core import dircache
from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import AttributeUnsupported, LocalIOError, NoAttribute, NoSpace, NotSupported
from vfsmount.log import event
from vfsmount.store.records import AttrRecord, Records
from vfsmount.store.staged import Move
from vfsmount.values import NO_ATTRS, Kind, LocalAttrs, Validator, without_number
from vfsmount.vfs.policy import MountPolicy

_log = logging.getLogger("vfsmount.vfs.attributes")

# Bytes of one file's names and values: room for the largest value that the kernel passes on, and others.
XATTRS_MAX = 128 << 10
_XATTR_NAMES_MAX = 64 << 10  # what listxattr(2) can return, each name with its NUL
RESERVED_XATTRS = b"user.vfsmount."


class Attributes:
    """Keeps the records and the tree saying the same. Callers hold no lock; the kernel orders changes
    of one directory, and a row that is one change late is corrected by the next."""

    def __init__(self, records: Records, inodes: InodeTable, policy: MountPolicy) -> None:
        self._records = records
        self._inodes = inodes
        self._policy = policy

    async def read(self, directory: Node) -> list[AttrRecord] | None:
        """What is recorded of a directory's names; nothing where it has been taken in already.

        Asked before the listing is, so that listing and records can be taken in together. None where
        they cannot be read now: the next listing asks again.
        """
        if dircache.state_of(directory).attrs_loaded or directory.folder is None:
            return []
        try:
            return await self._records.read_directory(directory.folder.id, InodeTable.path(directory))
        except LocalIOError as e:
            # Shown without them rather than not at all; nothing of the server's depends on these rows.
            event(_log, logging.WARNING, "records.unreadable", ino=directory.ino, error=str(e))
            return None

    def take(self, directory: Node, found: list[AttrRecord] | None, newer: Collection[bytes]) -> list[bytes]:
        """Apply what `read` gave to a directory that has just been listed.

        Args:
            newer: names we changed since the records were read.

        Returns:
            Names whose records are about something that is gone; see `drop`.
        """
        if found is None:
            return []
        dircache.state_of(directory).attrs_loaded = True
        return self._take_all(directory, [r for r in found if r.name not in newer])

    async def read_name(self, directory: Node, name: bytes) -> AttrRecord | None:
        """What is recorded of a name that a cut listing did not show. Asked before the server is."""
        if directory.folder is None:
            return None
        try:
            return await self._records.read_name(directory.folder.id, InodeTable.path(directory), name)
        except LocalIOError as e:
            event(_log, logging.WARNING, "records.unreadable", ino=directory.ino, error=str(e))
            return None

    def take_name(self, directory: Node, record: AttrRecord | None) -> list[bytes]:
        """As `take`, for what `read_name` gave."""
        return [] if record is None else self._take_all(directory, [record])

    async def drop(self, directory: Node, names: Iterable[bytes]) -> None:
        """Forget records that `take` found to be outdated."""
        for name in names:
            if directory.folder is None or directory.unlinked:
                return
            node = directory.entries.get(name)
            if node is not None and node.recorded:
                continue  # recorded anew while we removed others
            with _only_logged(directory):
                await self._records.remove(directory.folder.id, InodeTable.path(directory), name)

    async def read_folders(self) -> dict[str, LocalAttrs]:
        """What is recorded of folders' top directories, by folder id."""
        try:
            return await self._records.read_folders()
        except LocalIOError as e:
            event(_log, logging.WARNING, "records.unreadable", error=str(e))
            return {}

    def _take_all(self, directory: Node, found: list[AttrRecord]) -> list[bytes]:
        """Apply records; names of those about something that is gone."""
        outdated = [r.name for r in found if not self._take(directory, r)]
        numbered = [(directory.entries.get(r.name), r.attrs.ino) for r in found if r.attrs.ino is not None]
        self._inodes.renumber(
            (node, ino) for node, ino in numbered if node is not None and node.recorded and ino is not None
        )
        return outdated

    def _take(self, directory: Node, record: AttrRecord) -> bool:
        """Apply one record; False where what it belonged to is gone."""
        if not record.name:
            return True  # the top directory's own: taken in with the list of folders
        node = directory.entries.get(record.name)
        if record.kind.is_local:
            if node is None:
                node = self._inodes.add(directory, record.name, record.kind, mode=0o644)
                node.size = len(record.attrs.target)
                node.mtime_ns = node.ctime_ns = record.attrs.mtime_ns or 0
            elif node.kind is not record.kind:
                return node.staged is not None  # the server has the name now
        elif node is None:
            return dircache.state_of(directory).cut  # not listed may only mean cut off
        elif node.kind is not record.kind or not _same_version(node, record.version):
            return False
        if node.local is NO_ATTRS:
            node.local = without_number(record.attrs)
        node.recorded = True
        return True

    async def save(self, node: Node) -> None:
        """Record a node's attributes, or forget them where they say nothing.

        Raises:
            LocalIOError: they hold while the mount lives, not longer.
        """
        if node.folder is None or node.parent is None or node.kind is Kind.SYMLINK:
            return
        if node.staged is not None and node.staged.dirty:
            return  # they belong to a version that does not exist yet: `save` comes again when it does
        attrs = self._worth_keeping(node)
        if node.is_folder_root:
            await self._records.put(node.folder.id, b"", AttrRecord(b"", node.kind, None, attrs))
            return
        parent = InodeTable.path(node.parent)
        if attrs == NO_ATTRS and not node.kind.is_local:
            if node.recorded:
                node.recorded = False
                await self._records.remove(node.folder.id, parent, node.name)
            return
        version = None
        if node.kind is Kind.FILE:
            version = node.validator or Validator(node.mtime_ns, node.size)
        node.recorded = True
        await self._records.put(node.folder.id, parent, AttrRecord(node.name, node.kind, version, attrs))

    @staticmethod
    def get_xattr(node: Node, name: bytes) -> bytes:
        """Value of an extended attribute.

        Raises:
            NoAttribute: it is not set.
        """
        value = dict(node.local.xattrs).get(name)
        if value is None:
            raise NoAttribute("no such attribute")
        return value

    @staticmethod
    def set_xattr(node: Node, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute of the ``user.`` namespace, or remove it (None); `save` comes next.

        Raises:
            NoAttribute: to be removed, and not set.
            AttributeUnsupported: another namespace.
            NotSupported: a name of the mount's own.
            NoSpace: over 128 KiB in all, or 64 KiB of names.
        """
        if not name.startswith(b"user."):
            raise AttributeUnsupported("only user.* attributes are kept")
        if name.startswith(RESERVED_XATTRS):
            raise NotSupported("user.vfsmount.* belongs to the mount")
        kept = dict(node.local.xattrs)
        if value is not None:
            kept[name] = value
        elif kept.pop(name, None) is None:
            raise NoAttribute("no such attribute")
        names = sum(len(n) + 1 for n in kept)
        if names > _XATTR_NAMES_MAX or names + sum(map(len, kept.values())) > XATTRS_MAX:
            raise NoSpace("the attributes of one file may take 128 KiB, their names 64 KiB")
        node.local = replace(node.local, xattrs=tuple(kept.items()))
        node.ctime_ns = time.time_ns()

    async def save_if_possible(self, node: Node) -> None:
        """`save` after something that has succeeded already, and must not fail for want of a row."""
        with _only_logged(node):
            await self.save(node)

    def _worth_keeping(self, node: Node) -> LocalAttrs:
        """A node's attributes less a mode that would be shown anyway, which is that of most files."""
        attrs = self._inodes.attrs_to_keep(node)
        if attrs.mode == self._policy.default_bits(node):
            return replace(attrs, mode=None)
        return attrs

    async def removed(self, folder: str, parent: bytes, node: Node) -> None:
        """A name is gone; `parent` is the path it was in.

        Raises:
            LocalIOError: what existed here only will be back with the next mount.
        """
        if node.recorded or node.is_dir:
            node.recorded = False
            with _only_logged(node, unless=node.kind.is_local):
                await self._records.remove(folder, parent, node.name)

    async def moved(
        self,
        folder: str,
        node: Node,
        old: tuple[bytes, bytes],
        new: tuple[bytes, bytes],
        replaced: Node | None,
    ) -> None:
        """A name was moved from ``(directory, name)`` to another, maybe over one that had a record.

        Raises:
            LocalIOError: what exists here only will have its old name with the next mount.
        """
        if node.recorded or node.is_dir or (replaced is not None and replaced.recorded):
            with _only_logged(node, unless=node.kind.is_local):
                await self._records.rename(folder, *old, *new)

    async def moved_if_not(self, folder: str, node: Node, move: Move) -> None:
        """As `moved`, where it is not known whether that was done."""
        old = (move.parent, move.name)
        below = move.parent + b"/" + move.name if move.parent else move.name
        known = await self._records.read_name(folder, *old) is not None
        if known or await self._records.read_directory(folder, below):
            with _only_logged(node, unless=node.kind.is_local):
                await self._records.rename(folder, *old, move.new_parent, move.new_name)

    async def folder_removed(self, node: Node) -> None:
        """A vfolder was deleted; `node`: its top directory."""
        if node.folder is not None:
            with _only_logged(node):
                await self._records.remove_folder(node.folder.id)


@contextmanager
def _only_logged(node: Node, *, unless: bool = False) -> Iterator[None]:
    """What the server has done already does not fail for want of a row."""
    try:
        yield
    except LocalIOError as e:
        if unless:
            raise
        event(_log, logging.WARNING, "records.unwritable", ino=node.ino, error=str(e))


def _same_version(node: Node, version: Validator | None) -> bool:
    if version is None:
        return node.is_dir
    if node.validator is not None:
        return version.matches_listing(node.validator.size, node.validator.mtime_ns)
    return version.matches_listing(node.size, node.mtime_ns)
