"""A folder's files as commands see them: at the server, or through a running mount.

What is named as a path on a mount goes through that mount with the calls that any program makes: it
has caches, what is unsent, and attributes and links that the server cannot keep, and its own checks
find conflicts. What is named otherwise is asked of the server, after the mounts that show the folder
have sent what they hold there (`mounted.settle`), because it is the server's state that is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from vfsmount.cli import show
from vfsmount.cli.exit_codes import FAILED, OK, exit_code
from vfsmount.cli.options import Flags
from vfsmount.cli.target import Target, folder_of
from vfsmount.core.standing import Standing
from vfsmount.errors import RemoteError, VfsError
from vfsmount.values import Kind, Listing

if TYPE_CHECKING:
    from vfsmount.api.client import Client

T = TypeVar("T")

Write = Callable[[memoryview], None]


@dataclass(frozen=True, slots=True)
class Look:
    """A directory's listing, and whether people should hear that it is not the whole of it.

    `Listing.cut` is also true where only the number of entries is suspicious.
    """

    listing: Listing
    partial: bool


class Tree(Protocol):
    """One folder. Paths are relative to its root, "" is the root; errors are `VfsError`.

    Attributes:
        folder_id: which folder.
        links: links are names of their own, which can be moved and removed as such.
    """

    folder_id: str
    links: bool

    async def settle(self, paths: Sequence[str]) -> None:
        """Call it before anything else: what mounts hold unsent there is on the server, or shows here."""

    async def settled(self, paths: Sequence[str]) -> None:
        """Call it after changes at these paths: they are on the server, and shown by the mounts."""

    async def list(self, path: str) -> Look:
        """A directory, links to directories followed."""

    async def look(self, paths: Iterable[str]) -> dict[str, Standing]:
        """What stands at each of the paths, now; a link at its end is not followed."""

    async def read(self, path: str, offset: int, length: int | None, write: Write) -> None:
        """Hand over bytes of one version of a file, a negative offset counted from its end."""

    async def remove(self, found: Mapping[str, Kind]) -> dict[str, VfsError]:
        """Remove these names, directories with all that is in them; what is still there, and why."""

    async def mkdir(self, path: str, *, parents: bool) -> None:
        """Make a directory; with `parents` those above it, too, and no error where it is there."""

    async def move(self, src: str, dst: str, kind: Kind) -> None:
        """Give a name another one, where `core.standing.check_move` has nothing against it."""

    def close(self) -> None:
        """Let go of everything; it cannot be used afterwards."""


class Trees:
    """The trees of one command, one for each folder and way to it."""

    def __init__(self, client: Client | None, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        self._trees: dict[tuple[str, str], Tree] = {}

    async def of(self, target: Target) -> Tree:
        """The tree that a place lies in.

        Raises:
            NotFound, Ambiguous, ConfigError, MountError: it cannot be used.
        """
        from vfsmount.cli.files.mounttree import MountTree
        from vfsmount.cli.files.remotetree import RemoteTree

        if target.mount is not None:
            root = target.local.removesuffix(target.path).rstrip("/")
            key = target.folder_id, root
            if key not in self._trees:
                self._trees[key] = await MountTree.at(target.folder_id, root, target.mount, self._state_dir)
            return self._trees[key]
        assert self._client is not None
        key = "", target.name
        if key not in self._trees:
            folder = await folder_of(self._client, target)
            self._trees[key] = RemoteTree(self._client, folder, self._state_dir)
        return self._trees[key]

    def close(self) -> None:
        """Close all of them."""
        for tree in self._trees.values():
            tree.close()


def with_trees(
    flags: Flags, targets: Sequence[Target], state_dir: Path, work: Callable[[Trees], Awaitable[T]]
) -> T:
    """Do the work; a server is connected to only where a target is not on a mount.

    Raises:
        as `remote.with_client`.
    """
    from vfsmount.cli.remote import alone, with_client

    async def run(client: Client | None) -> T:
        trees = Trees(client, state_dir)
        try:
            result = await work(trees)
        except Exception:
            trees.close()
            raise
        # Not where we are cancelled: a thread that was given up may still use what is open.
        trees.close()
        return result

    if all(target.mount is not None for target in targets):
        return alone(lambda: run(None))
    return with_client(flags, run)


class Failures:
    """What went wrong with some of several things, told as it happens; the others go on."""

    def __init__(self) -> None:
        self.code = OK
        self.told: list[tuple[str, str]] = []

    def add(self, shown: str, error: VfsError, path: str = "") -> None:
        """Tell of a failure; the exit status is that of the first.

        Args:
            path: what it is about, where `shown` does not say.
        """
        show.say(f"{shown}: {error}")
        self.told.append((path or shown, str(error)))
        if self.code == OK:
            self.code = exit_code(error) or FAILED

    @property
    def as_json(self) -> list[dict[str, str]]:
        return [{"path": shown, "reason": reason} for shown, reason in self.told]


def place(target: Target) -> dict[str, str]:
    """The fields that JSON has of a place in a folder."""
    return {"folder": target.name, "path": target.path}


def named(shown: str, error: VfsError) -> VfsError:
    """The error with what it is about in front; of a class with the same exit status."""
    if isinstance(error, RemoteError):
        return RemoteError(f"{shown}: {error}", status=error.status)
    return type(error)(f"{shown}: {error}")


def grouped(targets: Sequence[Target]) -> list[list[Target]]:
    """Targets of one folder and way together, in the order they came."""
    groups: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        way = target.mount.mountpoint if target.mount else ""
        groups.setdefault((way, target.name), []).append(target)
    return list(groups.values())
