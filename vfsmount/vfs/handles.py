"""What the filesystem hands out: attributes, and open files and directories."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from vfsmount.core.inodes import Node
from vfsmount.core.readahead import Readahead
from vfsmount.values import Ino


@dataclass(frozen=True, slots=True)
class Attr:
    """What stat(2) shows, and for how long (seconds) it may be believed without asking again.

    Attributes:
        generation: tells the inode from an earlier one with its number, in this mount or another.
    """

    ino: Ino
    mode: int
    size: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    rdev: int
    generation: int
    attr_ttl_s: float
    entry_ttl_s: float


@dataclass(frozen=True, slots=True)
class Maker:
    """The process that makes a name."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What setattr changes; None leaves a field alone. Times in ns."""

    size: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A new handle, and whether pages the caller still holds of the file are its content."""

    fh: int
    keep_cache: bool


@dataclass(slots=True)
class Handle:
    """One open file.

    Attributes:
        epoch: whose content it reads; see `Node.epoch`.
        met: it has shown bytes or taken some, so it can no longer change over to a newer version.
        made: the file was made by opening it.
    """

    node: Node
    flags: int
    epoch: int
    met: bool = False
    made: bool = False
    ahead: Readahead = field(default_factory=Readahead)

    @property
    def writable(self) -> bool:
        """Whether it changes the file, if only by making or cutting it when it is opened: its close has
        something to record."""
        return bool(self.made or self.flags & os.O_ACCMODE != os.O_RDONLY or self.flags & os.O_TRUNC)


@dataclass(slots=True)
class DirHandle:
    """One open directory: its names, dots included, as they were when it was opened or rewound.

    Attributes:
        restored: a process that was killed has looked at them, and not all of them are known here.
    """

    node: Node
    names: list[bytes] | None = None
    restored: bool = False
