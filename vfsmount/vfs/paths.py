"""Names on their way to the server: paths, and who may use one while it changes.

The server knows files by path only. An upload that ends after its directory was renamed would bring
the old directory back (uploads create missing parents), so a rename waits for the uploads it would
pull the path away from, and new ones wait for the rename.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager

import trio

from vfsmount.core.inodes import InodeTable, Node
from vfsmount.errors import Ambiguous, InvalidName, NameTooLong, NotSupported, ReadOnly, Stale
from vfsmount.values import NAME_MAX, Folder
from vfsmount.vfs.policy import MountPolicy

# The server stages uploads here, in every folder's root; nobody may meet it by name on the mount.
UPLOAD_DIR = b".upload"


def remote_path(node: Node) -> str:
    """The node's path for the API; "" for a folder's root.

    Raises:
        Stale: the node has no name any more.
    """
    return os.fsdecode(InodeTable.path(node))


def child_path(parent: Node, name: bytes) -> str:
    """Path of a name in a directory."""
    path = InodeTable.path(parent)
    return os.fsdecode(path + b"/" + name if path else name)


def folder_of(node: Node) -> Folder:
    """The vfolder a node lies in.

    Raises:
        NotSupported: the node is the mount's root.
        Ambiguous: the server would answer with a namesake of this folder.
    """
    if node.folder is None:
        raise NotSupported("this is the list of folders, not a folder")
    return node.folder


def hidden(directory: Node, name: bytes) -> bool:
    """Whether a listed name does not show on the mount."""
    return directory.is_folder_root and name == UPLOAD_DIR


def check_new_name(directory: Node, name: bytes) -> None:
    """Refuse a name that the server cannot store or give back.

    Raises:
        NameTooLong, InvalidName, NotSupported.

    Source: contract 6.5 and trap 17 (CR and LF can be uploaded but never downloaded).
    """
    if len(name) > NAME_MAX:
        raise NameTooLong("a name may have at most 255 bytes")
    if b"\r" in name or b"\n" in name:
        raise InvalidName("the server cannot give back files with CR or LF in their names")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidName("the server stores UTF-8 names only") from None
    if hidden(directory, name):
        raise NotSupported(f"{UPLOAD_DIR.decode()} in a folder's root belongs to the server")


def conflict_name(name: bytes, host: str, at: float, taken: Container[bytes]) -> bytes:
    """``name.conflict-<host>-<UTC time>``, at most 255 bytes, not in `taken`.

    Args:
        at: seconds since the epoch.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in host)[:64]
    n = 1
    while True:
        suffix = f".conflict-{safe}-{stamp}{f'-{n}' if n > 1 else ''}".encode()
        # Cut where a character ends: the server takes UTF-8 only.
        short = name[: NAME_MAX - len(suffix)].decode("utf-8", "ignore").encode()
        if short + suffix not in taken:
            return short + suffix
        n += 1


class PathGate:
    """Renames against everything that is using the old path."""

    def __init__(self, policy: MountPolicy) -> None:
        self._policy = policy
        self._moving: dict[Node, trio.Event] = {}
        self.unreachable: set[str] = set()  # ids of folders that a name does not reach (23.09)

    def check_writable(self, node: Node) -> None:
        """Raises ReadOnly before anything is sent."""
        if not self._policy.writable(node):
            raise ReadOnly("the folder is read-only for you")

    def check_reachable(self, folder: Folder) -> None:
        """Raises Ambiguous where the server would act on another folder of the same name."""
        if folder.id in self.unreachable:
            raise Ambiguous(
                f"several folders are called {folder.name!r} and this server reaches only one of them; "
                "ask its owner to rename it"
            )

    async def settled(self, node: Node) -> None:
        """Wait until nobody is renaming the node or a directory above it."""
        while (event := self._moving_above(node)) is not None:
            await event.wait()

    def is_moving(self, node: Node) -> bool:
        """Whether the node's path is about to change."""
        return self._moving_above(node) is not None

    def holds_moving(self, node: Node) -> bool:
        """Whether the path of the node, or of one below it, is about to change."""
        return self.is_moving(node) or self.moves_below(node)

    async def settled_below(self, node: Node) -> None:
        """Wait until nobody is renaming or removing anything below the node."""
        while (below := next((m for m in self._moving if InodeTable.is_below(m, node)), None)) is not None:
            await self._moving[below].wait()

    def moves_below(self, node: Node, but: Node | None = None) -> bool:
        """Whether anything below the node is being renamed or removed, `but` one."""
        return any(InodeTable.is_below(moving, node) for moving in self._moving if moving is not but)

    def _moving_above(self, node: Node) -> trio.Event | None:
        at: Node | None = node
        while at is not None:
            if at in self._moving:
                return self._moving[at]
            at = at.parent
        return None

    def hold(self, *nodes: Node) -> Callable[[], None]:
        """As `moving`, until what is returned is called: before anybody else can begin."""
        event = trio.Event()
        held = [n for n in nodes if n not in self._moving]
        self._moving.update(dict.fromkeys(held, event))

        def let_go() -> None:
            for node in held:
                del self._moving[node]
            event.set()

        return let_go

    @asynccontextmanager
    async def moving(self, node: Node, target: Node | None = None) -> AsyncIterator[None]:
        """Keep new users of paths at and below `node` waiting while its name changes.

        Args:
            target: what is replaced; what the server says of its name is soon about `node`.
        """
        nodes = (node,) if target is None else (node, target)
        while any(self.is_moving(n) for n in nodes):
            for n in nodes:
                await self.settled(n)
        if node.unlinked:
            raise Stale("the file was removed")
        # no await until the entries are published
        event = trio.Event()
        self._moving.update(dict.fromkeys(nodes, event))
        try:
            yield
        finally:
            for n in nodes:
                del self._moving[n]
            event.set()
