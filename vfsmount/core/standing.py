"""What stands under a path, and what `rm` and `mv` may do about it.

The server's calls act on what a symlink points to, a move onto a directory goes into it, and 26.x says
yes to everything (contract 3.5, 6.4). So commands look first, and this module, which is pure, decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vfsmount.errors import (
    AlreadyExists,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotSupported,
    VfsError,
)
from vfsmount.values import Kind, RemoteEntry

# Names in one call: what official clients send, and few enough that one bad name costs little.
BATCH_NAMES = 500
# Bytes of JSON in one call: the server takes 1 MiB (aiohttp's usual limit), a proxy in between may less.
BATCH_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands under a path.

    Attributes:
        kind: None: nothing.
        listed: its directory's listing shows it. Else it was found by asking for it, which follows
            links, so it may be one.
        through_link: a directory above it is a symlink, or is in no listing and may be one.
        entry: as listed.
    """

    kind: Kind | None
    listed: bool = True
    through_link: bool = False
    entry: RemoteEntry | None = None

    @property
    def is_dir(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def certain(self) -> bool:
        """Whether it is what it looks like, under its real path."""
        return self.listed and not self.through_link


NOTHING = Standing(None)


def check_removable(
    at: Standing, *, recursive: bool, unlisted: bool = False, links: bool = False
) -> VfsError | None:
    """Why a path must not be removed; None: it may.

    Args:
        recursive: directories go with all that is in them.
        unlisted: what is in no listing is taken for what it looks like.
        links: a symlink can be removed as such, as on a mount.
    """
    if at.kind is None:
        return NotFound("no such file or directory")
    if at.is_dir and not recursive:
        return IsADirectory("is a directory; with -r it is removed with all that is in it")
    return check_no_link(at, "removes", unlisted=unlisted, links=links)


def check_no_link(at: Standing, does: str, *, unlisted: bool, links: bool = False) -> VfsError | None:
    """Why the server's call would reach something else than what was named; None: it does not."""
    if links:
        return None
    if at.kind is Kind.SYMLINK:
        return NotSupported(f"is a symlink: the server {does} what it points to, and not the link")
    if not at.certain and not unlisted:
        if at.listed:
            return NotSupported("a directory above it is, or may be, a symlink; name its real path")
        return NotSupported(
            f"the listing of its directory is cut and does not show it, so it may be a symlink, of which the "
            f"server {does} what it points to; --unlisted takes it for what it looks like"
        )
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """A path that `mv` was given, and what stands there.

    Attributes:
        slash: it was written with a slash at its end, so it must be a directory.
    """

    path: str
    at: Standing
    slash: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def goes_to(src: Place, dst: Place, *, several: bool, into: bool | None = None) -> str | VfsError:
    """The path that `mv SRC DST` moves to: DST itself, or SRC's name in the directory DST.

    Args:
        several: there are other sources, so DST must be a directory.
        into: True: DST is a directory (-t); False: never into it (-T); None: as it stands.
    """
    if dst.at.kind is Kind.SYMLINK:
        return NotSupported(f"{dst.path}: is a symlink: the server would replace what it points to")
    if dst.at.is_dir and into is not False:
        return f"{dst.path}/{src.name}" if dst.path else src.name
    if several or into or (dst.slash and not src.at.is_dir):
        error = NotFound if dst.at.kind is None else NotADirectory
        return error(f"{dst.path}: is no directory")
    return dst.path


def check_move(src: Place, final: Place, *, replace: bool, unlisted: bool, links: bool) -> VfsError | None:
    """Why `src` must not be moved to `final`, which may be taken; None: one call does what rename(2) does.

    A directory never replaces another one, not even an empty one: the server would move into it.

    Args:
        replace: a file that stands there may be replaced.
    """
    error: VfsError | None
    if not src.path or not final.path:
        return InvalidRequest("the folder's root cannot be moved ('vfsmount rename' renames a folder)")
    if src.at.kind is None:
        return NotFound(f"{src.path}: no such file or directory")
    if src.path == final.path:
        return InvalidRequest(f"{src.path}: source and target are the same")
    if src.at.is_dir and final.path.startswith(f"{src.path}/"):
        return InvalidRequest(f"{src.path}: a directory cannot be moved into itself")
    if src.slash and not src.at.is_dir:
        return NotADirectory(f"{src.path}: is no directory")
    for place in (src, final):
        if place.at.kind is not None and (
            error := check_no_link(place.at, "moves or replaces", unlisted=unlisted, links=links)
        ):
            return type(error)(f"{place.path}: {error}")
    if final.at.kind is None:
        return None
    if final.at.is_dir:
        return AlreadyExists(f"{final.path}: a directory stands there; remove it first")
    if src.at.is_dir:
        return AlreadyExists(f"{final.path}: a file stands where the directory would go")
    return None if replace else AlreadyExists(f"{final.path}: exists")


def batches(
    paths: Iterable[str],
    size_of: Callable[[str], int],
    *,
    names: int = BATCH_NAMES,
    size: int = BATCH_BYTES,
) -> Iterator[list[str]]:
    """The paths in lists of at most `names`, and of at most `size` bytes where one has several.

    Args:
        size_of: bytes that a path takes in the request.
    """
    batch: list[str] = []
    used = 0
    for path in paths:
        needed = size_of(path)
        if batch and (len(batch) >= names or used + needed > size):
            yield batch
            batch, used = [], 0
        batch.append(path)
        used += needed
    if batch:
        yield batch


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths, each once, without those that lie below another of them; sorted."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda p: p.split("/")):
        if not kept or not (path == kept[-1] or path.startswith(f"{kept[-1]}/") or not kept[-1]):
            kept.append(path)
    return kept
