"""Small frozen values that cross layers."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from typing import NewType

import msgspec

Ino = NewType("Ino", int)
ROOT_INO = Ino(1)

NAME_MAX = 255  # bytes of one name component, as the storage-proxy's filesystem has it


class Kind(enum.Enum):
    """What stands under a name."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"  # one that a session made on the server
    # The server has no form for these: they exist on this machine, in the records, and nowhere else.
    LOCAL_LINK = "local-link"
    FIFO = "fifo"
    SOCKET = "socket"
    CHAR_DEVICE = "char-device"
    BLOCK_DEVICE = "block-device"

    @property
    def is_local(self) -> bool:
        """Whether the server knows nothing of such a name."""
        return self not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)


@dataclass(frozen=True, slots=True)
class LocalAttrs:
    """What a program set and the server cannot keep; None: not set.

    Attributes:
        mode: permission bits, setuid, setgid and sticky included.
        mtime_ns, atime_ns: ns since the epoch.
        xattrs: extended attributes, (name with its ``user.``, value).
        target: where a local symlink points.
        ino: the inode number it had, where that is not the usual one; in records only.
        rdev: number of a device, as the kernel writes it.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""
    ino: int | None = None
    rdev: int = 0

    def updated(
        self,
        *,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        mtime_ns: int | None,
        atime_ns: int | None,
    ) -> LocalAttrs:
        """These attributes with the changes that are not None."""
        return replace(
            self,
            mode=self.mode if mode is None else mode,
            uid=self.uid if uid is None else uid,
            gid=self.gid if gid is None else gid,
            mtime_ns=self.mtime_ns if mtime_ns is None else mtime_ns,
            atime_ns=self.atime_ns if atime_ns is None else atime_ns,
        )


NO_ATTRS = LocalAttrs()


def without_number(attrs: LocalAttrs) -> LocalAttrs:
    """The attributes alone; `NO_ATTRS` itself where there are none."""
    alone = attrs if attrs.ino is None else replace(attrs, ino=None)
    return NO_ATTRS if alone == NO_ATTRS else alone


_ETAG = re.compile(r'^(?:W/)?"?([0-9a-f]+)-([0-9a-f]+)"?$')


@dataclass(frozen=True, slots=True)
class Validator:
    """Names one version of a remote file.

    The storage-proxy's ETag is ``"<mtime_ns in hex>-<size in hex>"``, so it carries the exact size
    (bytes) and modification time (ns) as well.

    Source: contract 4.2.
    """

    mtime_ns: int
    size: int

    @classmethod
    def from_etag(cls, etag: str) -> Validator | None:
        """Parse an ETag header; None where it has another form."""
        m = _ETAG.match(etag.strip())
        return cls(int(m[1], 16), int(m[2], 16)) if m else None

    @property
    def etag(self) -> str:
        """The header value, quotes included, for ``If-Match`` and ``If-None-Match``."""
        return f'"{self.mtime_ns:x}-{self.size:x}"'

    def matches_listing(self, size: int, mtime_ns: int) -> bool:
        """Whether a listing entry can be this version.

        Listings round to a microsecond, by way of a float, so one microsecond is allowed.

        Source: contract 5.
        """
        return self.size == size and abs(self.mtime_ns - mtime_ns) <= 1500


class AnyBase(enum.Enum):
    """The one value that stands for "whatever is there"."""

    ANY = "any"


ANY = AnyBase.ANY
# What stood under a name when a content was made: a version, nothing, or it does not matter.
Base = Validator | None | AnyBase


# A Struct, because there may be 100,000 of them at a time.
class RemoteEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a listing: a name with the attributes the server knows.

    Attributes:
        name: as the kernel wants it; names that are not UTF-8 keep their bytes.
        mode: permission bits only (0o000-0o7777).
        size: bytes; meaningless for directories.
        mtime_ns, ctime_ns: ns since the epoch, microsecond resolution.
    """

    name: bytes
    kind: Kind
    size: int
    mode: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One directory as the server listed it.

    Attributes:
        entries: in order of names unless there are very many, ``.upload`` included.
        count: entries as the server sent them; those that could not be shown are left out.
        cut: entries may be missing, so a name that is not here is unknown.
        special: there are FIFOs, sockets or devices among them, which look like files (26.x tells).
    """

    entries: tuple[RemoteEntry, ...]
    count: int
    cut: bool
    special: bool = False

    @property
    def unfit(self) -> int:
        """Entries that were left out."""
        return self.count - len(self.entries)


@dataclass(frozen=True, slots=True)
class Folder:
    """A vfolder as the caller may use it.

    Attributes:
        id: 32 hex digits; the identity. Names may be shared and change.
        name: as the server has it; may be unfit for a directory entry on 26.x.
        host: ``proxy:volume``.
        status: ``ready``, ``mounted``, ``performing``, ``cloning``, ``delete-pending`` …
        permission: ``ro``, ``rw`` or ``wd``, as granted to the caller.
        owner: e-mail or name of the owner or project where the server tells it, else "".
        ownership: ``user`` or ``group``.
        mtime_ns: creation time; the server knows no better for a folder's root.
        quota_scope: whose room on the host it takes: ``user:…`` or ``project:…``; "" where that is not told.
    """

    id: str
    name: str
    host: str
    status: str
    permission: str
    is_owner: bool
    owner: str = ""
    ownership: str = "user"
    usage_mode: str = "general"
    cloneable: bool = False
    mtime_ns: int = 0
    unmanaged: bool = False
    quota_scope: str = ""

    @property
    def writable(self) -> bool:
        """Whether writes are worth sending. The owner always may, whatever the column says.

        Source: contract 6.6.
        """
        return self.is_owner or self.permission in ("rw", "wd")


@dataclass(frozen=True, slots=True)
class CallBudget:
    """Calls that the manager allows.

    Attributes:
        left: how many may go now; None where the server tells no limit.
        limit: how many of the key's the server allows in `window_s` seconds; we leave some to others.
        waiting: calls of ours that have no turn yet.
    """

    left: int | None
    limit: int | None
    window_s: float
    waiting: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to transfer: the storage-proxy's address and a token, which is a secret.

    Attributes:
        url: without query, already mapped through the storage-proxy address map.
        expires_at: seconds since the epoch, from the token's ``exp``; 0 where it has none.
    """

    url: str
    token: str = field(repr=False)
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class RangeReply:
    """Bytes of one version of a file, from ``start``; shorter than asked for only at its end."""

    start: int
    data: bytes
    validator: Validator


@dataclass(frozen=True, slots=True)
class HostUsage:
    """How full a storage host, or a quota scope, says it is; None where the cluster does not expose it.

    Attributes:
        available: bytes that may be had, where those are told apart from what is not used.
    """

    used: int | None = None
    total: int | None = None
    percentage: float | None = None
    available: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What an owner, or a project, may store on one host, and stores there; bytes."""

    limit: int
    used: int
