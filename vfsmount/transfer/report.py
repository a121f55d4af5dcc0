"""What a transfer did, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vfsmount.errors import VfsError

NOTES = 1000  # kept of each kind; the count goes on
TOUCHED = 500


@dataclass(frozen=True, slots=True)
class Note:
    """Something about one file."""

    path: str
    why: str


class Notes:
    """The first `NOTES` of a kind, and how many there are."""

    def __init__(self) -> None:
        self.first: list[Note] = []
        self.count = 0

    def add(self, path: str, why: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < NOTES:
            self.first.append(Note(path, why))


@dataclass(slots=True)
class Report:
    """What one command did.

    Attributes:
        files, size: put in place, and their bytes.
        carried: bytes of content that went over the line; fewer than `size` where a transfer was resumed.
        unchanged: files that were there as they should be.
        directories: made for themselves, as they have no files.
        deleted: names, by `sync --delete`.
        kept: there already, and `--no-clobber` was given.
        skipped: not for the server, or not for this machine (links, devices): said, and no failure.
        failed: should have been done and was not.
        partial: directories of the folder whose listing may lack names.
        undeleted: names that `sync --delete` left, as something could not be seen.
        touched: directories of the folder in which something changed, for mounts that show it; all of it
            ("") where they are too many.
        error: of the only failure, else None.
    """

    files: int = 0
    size: int = 0
    carried: int = 0
    unchanged: int = 0
    directories: int = 0
    deleted: int = 0
    kept: Notes = field(default_factory=Notes)
    skipped: Notes = field(default_factory=Notes)
    failed: Notes = field(default_factory=Notes)
    partial: Notes = field(default_factory=Notes)
    undeleted: int = 0
    touched: set[str] = field(default_factory=set)
    error: VfsError | None = None

    def touch(self, path: str) -> None:
        """A name in the folder was made, replaced or deleted."""
        self.touched.add(path.rpartition("/")[0])
        if len(self.touched) > TOUCHED:
            self.touched = {""}

    def fail(self, path: str, e: VfsError) -> None:
        """A file's own failure."""
        why = str(e).removeprefix(f"{path}: ")
        self.failed.add(path, why if not e.detail or e.detail in why else f"{why} ({e.detail})")
        self.error = e if self.failed.count == 1 else None


@dataclass(slots=True, eq=False)
class Moving:
    """A file on its way.

    Attributes:
        at: bytes that are there, or were read to be sent.
    """

    path: str
    size: int
    at: int = 0


class Progress:
    """How far a command is; read by who shows it.

    Attributes:
        finding: more files may come to be expected.
        files, size: expected so far, and
        done_files, done_size: of these.
    """

    def __init__(self) -> None:
        self.finding = True
        self.files = self.size = 0
        self.done_files = self.done_size = 0
        self.moving: list[Moving] = []

    @property
    def position(self) -> int:
        """Bytes that are there, of `size`."""
        return self.done_size + sum(m.at for m in self.moving)

    def expect(self, size: int) -> None:
        """One more file is to be carried."""
        self.files += 1
        self.size += size

    @contextmanager
    def file(self, path: str, size: int) -> Iterator[Moving]:
        """A file that was expected is on its way; behind the block it is done, or has failed."""
        moving = Moving(path, size)
        self.moving.append(moving)
        try:
            yield moving
        finally:
            self.moving.remove(moving)
            self.done_files += 1
            self.done_size += size
