"""Replies of both generations, read tolerantly into our values.

Every field is accepted in the form of either generation and in any mixture: ``mode`` as ``"644"``
or ``33188``, times without a fraction, ``"None"`` for null, ids with and without dashes. What
cannot be an entry of a directory is dropped rather than trusted (contract 3.3, 5; P9 of the design).
Pure: no I/O, no clock.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from vfsmount.errors import PermissionDenied, ProtocolError
from vfsmount.values import NAME_MAX, Folder, HostUsage, Kind, Listing, Quota, RemoteEntry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {"FILE": Kind.FILE, "DIRECTORY": Kind.DIRECTORY, "SYMLINK": Kind.SYMLINK}
_DEFAULT_MODE = {Kind.FILE: 0o644, Kind.DIRECTORY: 0o755, Kind.SYMLINK: 0o777}
_USUAL = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
_INT64 = 1 << 63
_SORTED_MOST = 10_000  # entries; more than any program walks through directories of

Loose = str | int | float | bool | None


class Item(msgspec.Struct):
    """One entry of a list-files reply, as sent."""

    name: str
    type: str = "FILE"
    size: Loose = 0
    mode: Loose = None
    created: Loose = None
    modified: Loose = None


class UsualItem(msgspec.Struct, gc=False):
    """As `Item`, as both generations really send it; a listing of nothing else is read at once."""

    name: str
    type: str
    size: int
    mode: int | str
    created: str
    modified: str


class FolderItem(msgspec.Struct):
    """One entry of the folder list, or a create reply, as sent."""

    id: str
    name: str
    host: str | None = ""
    status: str | None = "ready"
    permission: str | None = "rw"
    is_owner: Loose = None
    ownership_type: str | None = "user"
    usage_mode: str | None = "general"
    cloneable: Loose = False
    created_at: Loose = None
    user_email: str | None = None
    group_name: str | None = None
    creator: str | None = None
    user: str | None = None
    quota_scope_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hosts:
    """Storage hosts the caller may use.

    Attributes:
        default: host of new folders, None where the cluster names none.
        allowed: hosts on which folders may be created or used.
        usage: by host; with nothing in it where the cluster does not expose it.
    """

    default: str | None
    allowed: tuple[str, ...]
    usage: Mapping[str, HostUsage]


def listing(reply: object) -> Listing:
    """One directory, in order of names unless it is very large; `cut` where entries had to be left out.

    Raises:
        ProtocolError: the reply has no list of items.
    """
    items = reply.get("items") if isinstance(reply, dict) else None
    if not isinstance(items, list):
        raise ProtocolError("a listing without items")
    entries: dict[bytes, RemoteEntry] = {}
    modes: set[object] = set()
    for item in _usual_items(items) or map(_item, items):
        entry = _entry(item) if item is not None else None
        if item is not None:
            modes.add(item.mode)
        if entry is not None:
            entries.setdefault(entry.name, entry)
    # A directory with names we cannot show must never pass for empty: removing it removes them too.
    cut, special = len(entries) < len(items), any(map(_is_special, modes))
    # In order of names, not as they lie on the server's disk: so go `ls -R`, `rsync` and `git`, whatever
    # they are given, and `find` and `du` take what comes, so the listings they need next can be foreseen.
    # Whoever lists a hundred thousand names waits for the first of them, and not for a next directory.
    names = sorted(entries) if len(entries) <= _SORTED_MOST else entries
    return Listing(tuple(entries[name] for name in names), len(items), cut, special)


def _usual_items(items: list[object]) -> list[UsualItem] | None:
    """All of them at once, which takes a fifth of the time; None where one is unusual."""
    try:
        return msgspec.convert(items, list[UsualItem])
    except msgspec.ValidationError:
        return None


def _item(raw: object) -> Item | None:
    try:
        return msgspec.convert(raw, Item)
    except msgspec.ValidationError:
        return None


def _is_special(mode: object) -> bool:
    """Whether 26.x says with it that a listed entry is neither a file nor a directory nor a link."""
    return isinstance(mode, int) and mode > 0o7777 and stat.S_IFMT(mode) not in _USUAL


def folder(raw: object) -> Folder | None:
    """One folder of a list or create reply; None where it lacks a usable id or name."""
    try:
        item = msgspec.convert(raw, FolderItem)
    except msgspec.ValidationError:
        return None
    ident = folder_id(item.id)
    if ident is None or not item.name:
        return None
    ownership = item.ownership_type or "user"
    owner = (item.group_name if ownership == "group" else item.user_email) or ""
    if not owner and ownership == "user":
        owner = item.creator or ""  # 26.x leaves user_email empty
    return Folder(
        id=ident,
        name=item.name,
        host=item.host or "",
        status=item.status or "ready",
        permission=item.permission or "rw",
        is_owner=truth(item.is_owner),
        owner="" if owner == "None" else owner,
        ownership=ownership,
        usage_mode=item.usage_mode or "general",
        cloneable=truth(item.cloneable),
        mtime_ns=time_ns(item.created_at),
        unmanaged=not item.host,  # 23.09 shows an unmanaged folder's host as ""
        quota_scope=text(item.quota_scope_id),
    )


def folders(reply: object) -> list[Folder]:
    """Every usable folder of a list reply, in the server's order.

    Raises:
        ProtocolError: the reply is not a list.
    """
    if not isinstance(reply, list):
        raise ProtocolError("a folder list that is no list")
    return [f for f in map(folder, reply) if f is not None]


def folder_id(text: object) -> str | None:
    """32 lower-case hex digits of any spelling of a UUID, None for anything else."""
    if not isinstance(text, str):
        return None
    digits = text.replace("-", "").lower()
    return digits if len(digits) == 32 and set(digits) <= set("0123456789abcdef") else None


def hosts(reply: object) -> Hosts:
    """The hosts reply.

    Raises:
        ProtocolError: the reply is not an object.
    """
    if not isinstance(reply, dict):
        raise ProtocolError("a hosts reply that is no object")
    allowed = reply.get("allowed")
    info = reply.get("volume_info")
    default = reply.get("default")
    return Hosts(
        default=default if isinstance(default, str) and default else None,
        allowed=tuple(str(h) for h in allowed) if isinstance(allowed, list) else (),
        usage={str(k): _usage(v) for k, v in info.items()} if isinstance(info, dict) else {},
    )


def time_ns(value: object) -> int:
    """Nanoseconds since the epoch of an ISO text or a number of seconds; 0 for anything else.

    The fraction may be missing, ``T`` may be a space, a time without zone is UTC.
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0
        return int(value * 1_000_000_000) if abs(value) < 1e10 else 0
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return 0
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    since = parsed - _EPOCH
    return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def mode_bits(value: object, kind: Kind) -> int:
    """Permission bits of ``"644"`` (23.09), ``33188`` (26.x) or, where unreadable, a usual value."""
    if isinstance(value, bool):
        return _DEFAULT_MODE[kind]
    if isinstance(value, int):
        return value & 0o7777 if value >= 0 else _DEFAULT_MODE[kind]
    if isinstance(value, str) and value.isascii() and value.isdigit():
        # three or four octal digits, or a whole st_mode as text
        if len(value) <= 4 and not set(value) & set("89"):
            return int(value, 8)
        return int(value[:10]) & 0o7777
    return _DEFAULT_MODE[kind]


_mode_bits = lru_cache(typed=True)(mode_bits)  # few different ones


def truth(value: object) -> bool:
    """A boolean that may come as text or number."""
    if isinstance(value, str):
        return value.lower() in ("true", "1", "yes", "on")
    return bool(value)


def number(value: object) -> int | None:
    """A count or size that may come as text; None for null, ``"None"`` and nonsense."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) < _INT64 else None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return None


def text(value: object) -> str:
    """Text, "" for null and for the ``"None"`` that 23.09 writes instead."""
    return "" if value is None or value == "None" else str(value)


def sequence(value: object) -> Iterable[object]:
    """The elements of a list, nothing for anything else."""
    return value if isinstance(value, list) else ()


def _entry(item: Item | UsualItem) -> RemoteEntry | None:
    try:
        name = item.name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    size = item.size if type(item.size) is int else number(item.size)
    if size is None or not 0 <= size < _INT64 or not _fit_for_a_directory(name):
        return None
    kind = _KINDS.get(item.type, Kind.FILE)
    mtime_ns = time_ns(item.modified)
    ctime_ns = mtime_ns if item.created == item.modified else time_ns(item.created)
    return RemoteEntry(name, kind, size, _mode_bits(item.mode, kind), mtime_ns, ctime_ns)


def _fit_for_a_directory(name: bytes) -> bool:
    return 0 < len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def quota(reply: object) -> Quota | None:
    """What a reply to the query for a quota scope tells; None where there is no limit, or no usage.

    A plain filesystem tells null for both, and for no limit there are null, 0 and -1. A limit without a usage
    is that of a policy, for a scope that the volume has not met: nothing says that it holds there.

    Raises:
        PermissionDenied: it is not told; with GraphQL's reason, which comes with status 200.
    """
    scope = _member(_member(reply, "data"), "quota_scope")
    if not isinstance(scope, dict):
        first = next(iter(sequence(_member(reply, "errors"))), None)
        raise PermissionDenied("the quota is not told", detail=text(_member(first, "message")))
    details = _member(scope, "details")
    limit, used = number(_member(details, "hard_limit_bytes")), number(_member(details, "usage_bytes"))
    if limit is None or limit <= 0 or used is None or used < 0:
        return None
    return Quota(limit, used)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _usage(info: object) -> HostUsage:
    usage = info.get("usage") if isinstance(info, dict) else None
    if not isinstance(usage, dict):
        return HostUsage()
    percentage = usage.get("percentage")
    return HostUsage(
        used=number(usage.get("used")),
        total=number(usage.get("total")),
        percentage=float(percentage) if isinstance(percentage, int | float) else None,
    )
