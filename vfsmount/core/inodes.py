"""Inode numbers, dentries and lookup counts: one tree of nodes in memory.

A node stands for one file or directory for as long as anybody may name it: the kernel (lookup
count), an open handle, a listing that showed it, or unsent data. A directory's `entries` are both
its dentries and its cached listing, so the two can never disagree.

Invariants (checked by tests/model/test_inodes_model.py):

- every node but the root is either in its parent's `entries` under its own `name`, or `unlinked`;
- an unlinked node has no parent and is kept only while it is pinned (looked up, open, staged);
- no two nodes have one number at a time.

Numbers survive remounts: a node's usual number comes from its parent's and its name. Who has another
one (it was renamed, or its usual number was still in use) has it recorded with its attributes.
A number may be used again when the kernel has forgotten it; `Node.serial` never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol

from vfsmount.core.shown import Shown
from vfsmount.errors import Stale
from vfsmount.values import NO_ATTRS, ROOT_INO, Folder, Ino, Kind, LocalAttrs, Validator

NEVER = float("-inf")
# What the journal says of a node: nothing, where it is, or that the kernel knows it, too.
NOT_NOTED, PLACE_NOTED, KNOWN_NOTED = range(3)
SERIALS = 1 << 16  # set aside at a time


class Notes(Protocol):
    """Is told what must outlive the process, before anybody else is; see `vfs.notes`."""

    def known(self, nodes: Iterable[Node]) -> None:
        """The kernel is about to be told of them."""

    def place(self, node: Node) -> None:
        """A node has to be found again, whether the kernel knows it or not."""

    def changed(self, node: Node) -> None:
        """Something is different about a node; called only where it is noted."""

    def gone(self, node: Node) -> None:
        """Nobody can ask for a node any more; called only where it is noted."""

    def reserve(self, next_serial: int) -> None:
        """Serials up to this one are about to be used."""


class FolderRef:
    """The vfolder that all nodes of one tree share, so that a rename or a new grant reaches them all."""

    __slots__ = ("folder",)

    def __init__(self, folder: Folder) -> None:
        self.folder = folder


class Node:
    """One file or directory. A plain record; who may change what is said beside the fields."""

    __slots__ = (
        "checked_at",
        "ctime_ns",
        "entries",
        "epoch",
        "grew",
        "ino",
        "kind",
        "listing",
        "local",
        "lookups",
        "mode",
        "mtime_ns",
        "name",
        "noted",
        "opening",
        "opens",
        "parent",
        "reached_at",
        "recorded",
        "ref",
        "serial",
        "shown",
        "shown_epoch",
        "size",
        "staged",
        "subdirs",
        "unlinked",
        "validator",
        "version",
        "was",
        "writers",
    )

    def __init__(
        self,
        ino: Ino,
        serial: int,
        kind: Kind,
        parent: Node | None,
        name: bytes,
        ref: FolderRef | None,
        mode: int,
    ) -> None:
        # identity: InodeTable
        self.ino = ino
        self.serial = serial  # tells it from all others that were or will be
        self.kind = kind
        self.parent = parent
        self.name = name
        self.ref = ref  # None for the mount's root only
        self.entries: dict[bytes, Node] = {}
        self.subdirs = 0  # directories among them
        self.lookups = 0  # references the kernel holds
        self.opens = 0  # open file handles
        self.opening = 0  # those of them that nobody has been given yet
        self.writers = 0  # those of them that may write
        self.unlinked = False
        self.was: tuple[Node, bytes] | None = None  # where it was when somebody else replaced it
        # what the server (or, while staged, this machine) says: vfs/
        self.size = 0
        self.mode = mode
        self.mtime_ns = 0
        self.ctime_ns = 0
        self.validator: Validator | None = None  # exact version, once a transfer told it
        self.version = 0  # grows with every change of the content, whoever made it: keys blocks
        self.epoch = 0  # grows only when somebody else changed it: old handles must not go on
        self.shown_epoch = 0  # of the last open: pages the kernel holds are of this one
        self.shown: Shown | None = None  # what was shown of this version; None: nothing, nor written here
        self.grew = False  # the kernel knows it under this number with an older time: vfs.following
        self.checked_at = NEVER  # when the above was last confirmed
        self.reached_at = NEVER  # when an open file below this directory was last found under its path
        self.staged: Any = None  # vfs.writer.StagedFile while there is local content
        self.listing: Any = None  # core.dircache.ListingState of a directory
        # what a program set and the server cannot keep; None: not set
        self.local: LocalAttrs = NO_ATTRS
        self.recorded = False  # the records hold a row for this name: vfs.attributes
        self.noted = NOT_NOTED  # what the next process would know of it: `Notes`

    @property
    def folder(self) -> Folder | None:
        """The vfolder this node lies in; None for the mount's root."""
        return self.ref.folder if self.ref is not None else None

    @property
    def is_dir(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def is_folder_root(self) -> bool:
        """Whether this is the top directory of a vfolder."""
        return self.parent is not None and self.parent.ino == ROOT_INO

    @property
    def pinned(self) -> bool:
        """Whether somebody can still ask for this node without naming it."""
        return self.lookups > 0 or self.opens > 0 or self.staged is not None

    def __repr__(self) -> str:
        return f"<Node {self.ino} {self.kind.value} {self.name!r}>"


class InodeTable:
    """All nodes, by number and by name."""

    def __init__(self) -> None:
        self.notes: Notes | None = None
        self._next_serial, self._reserved = 0, SERIALS
        self._nodes: dict[Ino, Node] = {}
        self.root = Node(ROOT_INO, self._serial(), Kind.DIRECTORY, None, b"", None, 0o755)
        self._nodes[ROOT_INO] = self.root
        self.root.lookups = 1

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def _serial(self) -> int:
        serial, self._next_serial = self._next_serial, self._next_serial + 1
        if serial >= self._reserved:
            self._reserved += SERIALS
            if self.notes is not None:
                self.notes.reserve(self._reserved)
        return serial

    @property
    def reserved(self) -> int:
        """Serials from here on were never used."""
        return self._reserved

    def begin_serials_at(self, serial: int) -> None:
        """Others have used those before this one."""
        self._next_serial, self._reserved = serial, serial

    def _new(self, kind: Kind, parent: Node, name: bytes, ref: FolderRef | None, mode: int) -> Node:
        node = Node(ROOT_INO, self._serial(), kind, parent, name, ref, mode)
        self._number(node)
        return node

    def _number(self, node: Node) -> None:
        n = 0
        while (ino := _number_of(node, n)) in self._nodes:
            n += 1
        node.ino = ino
        self._nodes[ino] = node

    def renumber(self, wanted: Iterable[tuple[Node, int]]) -> None:
        """Give nodes the numbers they had before, where nobody else has those and nobody has heard of
        the ones they have."""
        moving = [(n, i) for n, i in wanted if not n.pinned and not n.entries and i > ROOT_INO]
        for node, _ in moving:  # all at once: two may have swapped
            if node.noted:
                self._tell_gone(node)
            del self._nodes[node.ino]
        unlucky = []
        for node, ino in moving:
            if Ino(ino) in self._nodes:
                unlucky.append(node)
            else:
                node.ino = Ino(ino)
                self._nodes[node.ino] = node
        for node in unlucky:
            self._number(node)

    def get(self, ino: int) -> Node:
        """The node of a number the kernel sent.

        Raises:
            Stale: we never gave out that number, or everybody had forgotten it.
        """
        try:
            return self._nodes[Ino(ino)]
        except KeyError:
            raise Stale(f"inode {ino} is unknown") from None

    def add(self, parent: Node, name: bytes, kind: Kind, *, folder: Folder | None = None, mode: int) -> Node:
        """Make a node under a free name; `folder` is given for a vfolder's top directory only."""
        assert name not in parent.entries and parent.is_dir
        ref = FolderRef(folder) if folder is not None else parent.ref
        node = self._new(kind, parent, name, ref, mode)
        parent.entries[name] = node
        parent.subdirs += node.is_dir
        return node

    def restore(
        self,
        ino: int,
        serial: int,
        kind: Kind,
        parent: Node | None,
        name: bytes,
        *,
        folder: Folder | None,
        mode: int,
    ) -> Node:
        """Make a node that another process had, with its number; `parent` None: it has no name any more.

        A name that is taken means that the later of the two nodes has it.
        """
        if parent is not None and (taken := parent.entries.get(name)) is not None:
            if taken.serial > serial:
                parent = None
            else:
                self.unlink(taken)
        ref = FolderRef(folder) if folder is not None else parent.ref if parent is not None else None
        node = Node(Ino(ino), serial, kind, parent, name, ref, mode)
        node.unlinked = parent is None
        self._nodes[node.ino] = node
        if parent is not None:
            parent.entries[name] = node
            parent.subdirs += node.is_dir
        return node

    def unlink(self, node: Node) -> None:
        """Take a node (with everything below it) out of the tree; pinned nodes stay known by number."""
        assert node.parent is not None
        del node.parent.entries[node.name]
        node.parent.subdirs -= node.is_dir
        for child in list(node.entries.values()):
            self.unlink(child)
        node.parent = None
        node.unlinked = True
        if node.noted:
            self._tell_changed(node)
        self._drop_if_unused(node)

    def placed(self, node: Node) -> None:
        """A node has to be found again, whether the kernel knows it or not."""
        if self.notes is not None:
            self.notes.place(node)

    def changed(self, node: Node) -> None:
        """Something is different about a node that whoever knows it would notice."""
        if node.noted:
            self._tell_changed(node)

    def _tell_changed(self, node: Node) -> None:
        if self.notes is not None:
            self.notes.changed(node)

    def _tell_gone(self, node: Node) -> None:
        if self.notes is not None:
            self.notes.gone(node)

    def replace(self, node: Node) -> Node:
        """Put a new node in a file's place; the old one is as unlinked."""
        parent, name = node.parent, node.name
        assert parent is not None and not node.is_dir
        self.unlink(node)
        node.was = (parent, name)
        if node.noted:
            self._tell_changed(node)
        new = self._new(node.kind, parent, name, node.ref, node.mode)
        parent.entries[name] = new
        return new

    def relink(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an unlinked file that somebody still uses a free name."""
        assert node.unlinked and node.pinned and not node.is_dir and name not in parent.entries
        assert not parent.unlinked
        node.parent, node.name, node.unlinked, node.was = parent, name, False, None
        parent.entries[name] = node
        if node.noted:
            self._tell_changed(node)

    def rename(self, node: Node, parent: Node, name: bytes) -> None:
        """Move a node to a free name; numbers, handles and children stay as they are."""
        assert node.parent is not None and name not in parent.entries
        assert parent is not node and not self.is_below(parent, node)
        del node.parent.entries[node.name]
        node.parent.subdirs -= node.is_dir
        node.parent, node.name = parent, name
        parent.entries[name] = node
        parent.subdirs += node.is_dir
        if node.noted:
            self._tell_changed(node)

    def looked_up(self, node: Node) -> None:
        """The kernel was told this number once more."""
        node.lookups += 1
        if node.noted != KNOWN_NOTED and self.notes is not None:
            self.notes.known((node,))

    def all_looked_up(self, nodes: list[Node]) -> None:
        """As `looked_up`, of many in one go."""
        for node in nodes:
            node.lookups += 1
        if self.notes is not None:
            self.notes.known([n for n in nodes if n.noted != KNOWN_NOTED])

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped `count` references. Never raises: nobody would hear it."""
        node = self._nodes.get(Ino(ino))
        if node is None or node is self.root:
            return
        node.lookups = max(0, node.lookups - count)
        self._drop_if_unused(node)

    def released(self, node: Node) -> None:
        """A handle was closed, or staged content went: the node may have lost its last user."""
        self._drop_if_unused(node)

    def _drop_if_unused(self, node: Node) -> None:
        if node.noted and not node.pinned and not node.entries and not node.is_folder_root:
            self._tell_gone(node)
        # A linked node is part of its directory's listing and stays until that is shed.
        if node.unlinked and not node.pinned:
            self._nodes.pop(node.ino, None)

    def shed(self, directory: Node, must_stay: Callable[[Node], bool] = lambda _: False) -> int:
        """Forget a directory's listing to save memory; return how many nodes went.

        Children that somebody uses, or that carry attributes the server does not know, stay.
        """
        gone = 0
        for child in list(directory.entries.values()):
            if child.pinned or child.entries or child.local is not NO_ATTRS or must_stay(child):
                continue
            del directory.entries[child.name]
            directory.subdirs -= child.is_dir
            child.parent = None
            child.unlinked = True
            if child.noted:
                self._tell_gone(child)
            del self._nodes[child.ino]
            gone += 1
        directory.listing = None
        return gone

    @staticmethod
    def is_below(node: Node, ancestor: Node) -> bool:
        """Whether `node` lies strictly below `ancestor`."""
        up = node.parent
        while up is not None:
            if up is ancestor:
                return True
            up = up.parent
        return False

    @staticmethod
    def path(node: Node) -> bytes:
        """Path inside the vfolder, ``b""`` for its top directory.

        Raises:
            Stale: the node was unlinked, so it has no path.
        """
        parts: list[bytes] = []
        at = node
        while not at.is_folder_root:
            if at.parent is None:
                raise Stale("the file was removed")
            parts.append(at.name)
            at = at.parent
        return b"/".join(reversed(parts))

    @staticmethod
    def attrs_to_keep(node: Node) -> LocalAttrs:
        """What the records are to say of a node: what a program set, and its number if it is not the usual
        one."""
        if node.parent is None:
            return node.local
        number = None if node.ino == _number_of(node, 0) else int(node.ino)
        return replace(node.local, ino=number) if number is not None else node.local

    @staticmethod
    def subtree(node: Node) -> Iterator[Node]:
        """The node and everything known below it, parents first."""
        stack = [node]
        while stack:
            at = stack.pop()
            yield at
            stack.extend(at.entries.values())


def _number_of(node: Node, n: int) -> Ino:
    """The `n`-th choice of a number for a node; 63 bits, because some programs count with signed ones."""
    above, name = node.parent, node.name
    assert above is not None
    if above.ino == ROOT_INO and node.ref is not None:
        name = node.ref.folder.id.encode()  # so that nobody's rename of a vfolder changes its number
    at = above.ino.to_bytes(8, "big") + n.to_bytes(4, "big")
    return Ino(int.from_bytes(blake2b(at + name, digest_size=8).digest(), "big") >> 1 | 2)
