"""/home/work as a session has it, in a mount namespace that is nobody else's.

Directories that are not there are made to appear: a tmpfs is put over the directory above, with all
that was in it bound to where it was. So nothing on this machine's disks is changed, and everything
that was there still is, at its place.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vfsmount.cli.run import namespaces
from vfsmount.cli.run.plan import Dotfile, Plan
from vfsmount.core.mountspec import HOME
from vfsmount.errors import MountError
from vfsmount.places import private_dir


@dataclass(frozen=True, slots=True)
class Workshop:
    """A directory that only this run knows: the mount of the folders, and where a root is put together."""

    path: Path

    @property
    def mountpoint(self) -> str:
        """Where the folders are mounted."""
        return str(self.path / "mnt")

    @property
    def home(self) -> Path:
        """The home directory of a container."""
        return self.path / "home"

    @property
    def root(self) -> str:
        """An empty directory."""
        return str(self.path / "root")

    def make(self) -> None:
        """Make the directories."""
        for path in (self.path, self.path / "mnt", self.path / "root", self.home):
            private_dir(path)

    def remove(self) -> None:
        """Remove them; what is still mounted stays."""
        shutil.rmtree(self.home, ignore_errors=True)
        for path in (self.path / "mnt", self.path / "root", self.path):
            with suppress(OSError):
                path.rmdir()


def build(plan: Plan, workshop: Workshop) -> None:
    """Put the home directory, the dotfiles and the folders in place; the working directory is home then.

    Raises:
        MountError: something cannot be put where it is wanted.
    """
    try:
        tree = _Tree(workshop)
        if any(_above(path) == "/" for path in (HOME, *(placed.target for placed in plan.folders))):
            tree.cover_root()
        # Now: what lies over their places later may hide them.
        sources = [_open_folder(workshop.mountpoint, placed.source) for placed in plan.folders]
        tree.appear(HOME)
        namespaces.mount("home", HOME, "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, "mode=0755")
        tree.made.add(os.stat(HOME).st_dev)
        write_dotfiles(HOME, plan.dotfiles)
        for placed, fd in sorted(zip(plan.folders, sources, strict=True), key=lambda p: p[0].target):
            tree.appear(placed.target)
            namespaces.bind(fd, placed.target, read_only=placed.read_only)
            os.close(fd)
        if plan.folders:
            with suppress(OSError):  # the home directory may lie over it
                namespaces.detach(workshop.mountpoint)
        os.chdir(HOME)
    except OSError as e:
        raise MountError(f"the home directory cannot be made: {namespaces.explain(e)}") from e


def _above(path: str) -> str:
    """The directory that is there nearest above a path, or the path itself."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _open_folder(mountpoint: str, source: str) -> int:
    try:
        return os.open(os.path.join(mountpoint, source), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountError(f"there is no directory {source}") from None
    except NotADirectoryError:
        raise MountError(f"{source} is not a directory") from None
    except OSError as e:
        raise MountError(f"{source}: {e.strerror}") from e


def write_dotfiles(home: str, dotfiles: Sequence[Dotfile]) -> None:
    """Write them below `home`, an empty directory of ours, each with its permission.

    Raises:
        OSError: the name of one is that of another's directory, or the disk failed.
    """
    for dotfile in dotfiles:
        path = os.path.join(home, dotfile.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(dotfile.data)
            os.fchmod(f.fileno(), dotfile.mode)


class _Tree:
    """The directories of this namespace.

    Attributes:
        made: device numbers of file systems that only this namespace has.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._folders = os.stat(workshop.mountpoint).st_dev
        self.made: set[int] = set()

    def appear(self, path: str) -> None:
        """Have a directory at `path`.

        Raises:
            MountError: it lies in a folder or below a file.
        """
        above = _above(path)
        if not os.path.isdir(above):
            raise MountError(f"no folder can stand at {path}: {above} is not a directory")
        if above == path:
            return
        above = os.path.realpath(above)
        device = os.stat(above).st_dev
        if device not in self.made:
            if device == self._folders:
                raise MountError(f"no folder can stand at {path}: make that directory in the folder above it")
            self._cover(above, above)
        os.makedirs(path, exist_ok=True)

    def cover_root(self) -> None:
        """Put a tmpfs in the root's place. Nothing can lie over it: another is made the root."""
        new = self._workshop.root
        self._cover("/", new)
        namespaces.mount("none", new, flags=namespaces.MS_PRIVATE)
        namespaces.change_root(new)

    def _cover(self, directory: str, at: str) -> None:
        """Mount a tmpfs and put into it what is in a directory, each at its place."""
        below = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces.mount("cover", at, "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, "mode=0755")
        # Or it would become part of what is bound into it, where that is above it.
        namespaces.mount("none", at, flags=namespaces.MS_UNBINDABLE)
        for name in os.listdir(below):
            _put_back(below, name, os.path.join(at, name))
        os.close(below)
        self.made.add(os.stat(at).st_dev)


def _put_back(below: int, name: str, target: str) -> None:
    """One entry of a directory that a tmpfs lies over; what cannot be reached by us is left out."""
    with suppress(OSError):
        kind = os.stat(name, dir_fd=below, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            os.symlink(os.readlink(name, dir_fd=below), target)
            return
        if stat.S_ISDIR(kind):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)
        try:
            namespaces.bind(entry, target, below=True)
        finally:
            os.close(entry)
