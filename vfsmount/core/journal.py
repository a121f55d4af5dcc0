"""What of a mount must outlive its process, as records in memory that does: layout, reading, compaction.

The memory begins with a `HEADER`, which says where the frames begin. A frame is written in one go and
counts as a whole or not at all: who is killed in the middle leaves one whose sum is wrong, and nothing
is behind it. It holds records: a tag, a number and a value, of which the last one counts.

Requests are answered by the one task of the loop that has just written a frame about them, with no
other task in between. So when another frame follows, the answer is out; only what the last frame says
may not have been heard (`Folded.unheard`, `fold`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from zlib import crc32

import msgspec

from vfsmount.values import Folder, Kind, LocalAttrs, Validator

T = TypeVar("T")

MAGIC = b"vfsmjrn1"
_HEADER = struct.Struct("<8sQI")  # magic, where the frames begin, sum of both
HEADER_SIZE = 64
_FRAME = struct.Struct("<II")  # length of what follows, its sum
_RECORD = struct.Struct("<BQI")  # tag, number, length of the value
_RUN = struct.Struct("<QQ")
REST_EVERY = 64 << 10  # bytes: a few milliseconds of reading
_GONE = 0x80

_encode = msgspec.msgpack.Encoder().encode


class Tag(enum.IntEnum):
    """What a record is about, and what its number is."""

    META = 1  # 0
    NODE = 2  # inode
    STAGED = 3  # inode
    RUN = 4  # inode: one more extent of its staged content is here
    HANDLE = 5  # file handle
    DIRECTORY = 6  # handle of an open directory
    NAMES = 7  # the same: its names, frozen
    OPERATION = 8  # counted
    NOTICE = 9  # counted
    SHOWN = 10  # inode


class Heard(enum.IntEnum):
    """Whether a handle was given out."""

    YES = 0
    UNLESS_LAST = 1  # if anything was written since
    MAYBE_NOT = 2  # a killed process wrote it last, and nobody has used it since


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The mount as a whole.

    Attributes:
        area: its staging directory.
        generation: added to `serial`s in what the kernel is told.
        next_serial, next_fh: not used yet.
    """

    area: str
    generation: int
    next_serial: int = 0
    next_fh: int = 0


class NodeRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One inode that the kernel may know, or one above it; see `core.inodes.Node`.

    Attributes:
        parent: 0: none any more.
        validator: (mtime_ns, size).
        known: the kernel was told of it.
        reachable: of a vfolder's top directory: its name leads to it.
    """

    serial: int
    parent: int
    name: bytes
    kind: Kind
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    validator: tuple[int, int] | None = None
    known: bool = True
    recorded: bool = False
    grew: bool = False
    local: LocalAttrs | None = None
    was: tuple[int, bytes] | None = None
    folder: Folder | None = None
    reachable: bool = True


class StagedRecord(msgspec.Struct, frozen=True, array_like=True):
    """Local content of an inode, as far as the records in the database do not have it; see
    `vfs.staged.StagedFile`. How long it is the file itself tells."""

    content: str
    remote_size: int
    sealed: int
    written: tuple[tuple[int, int], ...]
    base: Validator | None
    base_exact: bool
    change: int
    acked: int
    sent: int
    row_id: int
    may_be_there: bool = False
    stopped: tuple[str, int] | None = None


class HandleRecord(msgspec.Struct, frozen=True, array_like=True):
    """One open file; `ino` stands for the version it reads. See `vfs.handles.Handle`.

    Attributes:
        heard: whether somebody was told of it.
    """

    ino: int
    flags: int
    met: bool
    made: bool
    current: bool = True
    heard: Heard = Heard.YES


class DirectoryRecord(msgspec.Struct, frozen=True, array_like=True):
    """One open directory; as of `HandleRecord`."""

    ino: int
    heard: Heard = Heard.YES


class OperationRecord(msgspec.Struct, frozen=True, array_like=True):
    """A change of names that was begun, after all that could have forbidden it was looked at.

    Attributes:
        request: (what, directory, name) and for a rename the new two.
        ino: what it makes, moves or removes.
        target: what a rename replaces; `replaces`: its version on the server.
        fh: the handle that was given out with it.
        done: it is done, and maybe answered.
    """

    request: tuple[str, int, bytes, int, bytes]
    ino: int = 0
    target: int = 0
    replaces: Validator | None = None
    fh: int = 0
    done: bool = False


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """Something the kernel was about to be told to forget: pages of an inode, or (`name`) a name in it.

    Attributes:
        at: seconds of the machine's monotonic clock.
    """

    at: float
    ino: int
    name: bytes


class ShownRecord(msgspec.Struct, frozen=True, array_like=True):
    """See `core.shown.Shown`."""

    end: int
    head: bytes
    tail: bytes


Value = (
    Meta | NodeRecord | StagedRecord | HandleRecord | DirectoryRecord | OperationRecord | Notice | ShownRecord
)


# --- writing -----------------------------------------------------------------------------------


def record(tag: Tag, number: int, value: Value) -> bytes:
    """One record."""
    raw = _encode(value)
    return _RECORD.pack(tag, number, len(raw)) + raw


def raw_record(tag: Tag, number: int, raw: bytes) -> bytes:
    """One record whose value is encoded already."""
    return _RECORD.pack(tag, number, len(raw)) + raw


def gone(tag: Tag, number: int) -> bytes:
    """A record that takes those before it back."""
    return _RECORD.pack(tag | _GONE, number, 0)


def nothing() -> bytes:
    """A record that says nothing: what came before it is answered."""
    return gone(Tag.META, (1 << 64) - 1)


def run_record(ino: int, start: int, stop: int) -> bytes:
    """An extent is here."""
    return _RECORD.pack(Tag.RUN, ino, _RUN.size) + _RUN.pack(start, stop)


def names_record(fh: int, names: Iterable[bytes]) -> bytes:
    """Names of a directory. None of them has a NUL in it."""
    return raw_record(Tag.NAMES, fh, b"\0".join(names))


def frame(records: bytes) -> bytes:
    """What is written in one go."""
    return _FRAME.pack(len(records), crc32(records)) + records


def header(start: int) -> bytes:
    """The beginning of the memory, written in one go, too: frames begin at `start`."""
    begin = MAGIC + start.to_bytes(8, "little")
    return _HEADER.pack(MAGIC, start, crc32(begin)).ljust(HEADER_SIZE, b"\0")


# --- reading -----------------------------------------------------------------------------------


def start_of(head: bytes) -> int | None:
    """Where frames begin; None where nothing was ever written."""
    if len(head) < _HEADER.size:
        return None
    magic, start, total = _HEADER.unpack_from(head)
    return start if magic == MAGIC and total == crc32(head[:16]) else None


def frames(data: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Whole frames, each with the place where it ends; a torn one is the end."""
    at = 0
    while at + _FRAME.size <= len(data):
        length, total = _FRAME.unpack_from(data, at)
        begin, end = at + _FRAME.size, at + _FRAME.size + length
        if not length or end > len(data) or crc32(data[begin:end]) != total:
            return
        yield data[begin:end], end
        at = end


@dataclass(slots=True)
class Folded:
    """What counts of all records.

    Attributes:
        values: by tag and number, as they were written.
        runs: extents since the last STAGED of an inode.
        last: handles in the last frame.
        size: bytes of all whole frames.
    """

    values: dict[int, dict[int, bytes]] = field(default_factory=lambda: {tag: {} for tag in Tag})
    runs: dict[int, list[bytes]] = field(default_factory=dict)
    last: set[tuple[int, int]] = field(default_factory=set)
    size: int = 0

    def decoded(self, tag: Tag, kind: type[T]) -> dict[int, T]:
        """Values of one tag."""
        decode = msgspec.msgpack.Decoder(kind).decode
        return {number: decode(raw) for number, raw in self.values[tag].items()}

    def written(self, ino: int) -> list[tuple[int, int]]:
        """Extents that came after the last STAGED of an inode."""
        return [_run(raw) for raw in self.runs.get(ino, ())]

    def unheard(self, tag: Tag, number: int, heard: Heard) -> bool:
        """Whether a handle may not have been given out, of which its record says this."""
        if heard is Heard.UNLESS_LAST:
            return (tag, number) in self.last
        return heard is Heard.MAYBE_NOT

    def names(self, fh: int) -> list[bytes] | None:
        """Frozen names of an open directory."""
        raw = self.values[Tag.NAMES].get(fh)
        return None if raw is None else raw.split(b"\0")

    def records(self) -> bytes:
        """As few records as say the same."""
        parts = [
            raw_record(Tag(tag), number, raw)
            for tag, values in self.values.items()
            for number, raw in values.items()
        ]
        parts += [raw_record(Tag.RUN, ino, raw) for ino, runs in self.runs.items() for raw in runs]
        return b"".join(parts)


def _run(raw: bytes) -> tuple[int, int]:
    start, stop = _RUN.unpack(raw)
    return int(start), int(stop)


def fold(data: memoryview, rest: Callable[[], None] | None = None) -> Folded:
    """Read everything. An operation that is done counts only where nothing was written after it.

    Args:
        rest: called now and then, to let others go on.
    """
    folded = Folded()
    values, runs = folded.values, folded.runs
    done: list[int] = []
    rested = 0
    for payload, end in frames(data):
        if rest is not None and end - rested > REST_EVERY:
            rested = end
            rest()
        for number in done:
            if _is_done(values[Tag.OPERATION].get(number, b"")):
                del values[Tag.OPERATION][number]
        done, folded.last, folded.size = [], set(), end
        at = 0
        while at < len(payload):
            tag, number, length = _RECORD.unpack_from(payload, at)
            at += _RECORD.size
            if tag & _GONE:
                tag &= ~_GONE
                if tag in values:
                    values[tag].pop(number, None)
                if tag == Tag.STAGED:
                    runs.pop(number, None)
                elif tag == Tag.DIRECTORY:
                    values[Tag.NAMES].pop(number, None)
                elif tag == Tag.NODE:
                    values[Tag.SHOWN].pop(number, None)
                continue
            raw = bytes(payload[at : at + length])
            at += length
            if tag == Tag.RUN:
                runs.setdefault(number, []).append(raw)
                continue
            if tag not in values:
                continue  # of a newer version, which knows what else it wrote
            if tag == Tag.STAGED:
                runs.pop(number, None)
            elif tag == Tag.OPERATION and _is_done(raw):
                done.append(number)
            values[tag][number] = raw
            if tag in (Tag.HANDLE, Tag.DIRECTORY):
                folded.last.add((tag, number))
    return folded


def _is_done(raw: bytes) -> bool:
    return raw[-1:] == _TRUE


_TRUE = _encode(True)
