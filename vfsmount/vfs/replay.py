"""Changes of names, each of which is done once however often it is asked for.

A process that is killed between the doing and the answer leaves a request that the kernel sends again.
The journal names what was begun, after everything was looked at that could have forbidden it. So a
request that comes again finds out whether it is done, and only then is done anew.
"""

from __future__ import annotations

from types import TracebackType

from msgspec.structs import replace

from vfsmount.core.inodes import Node
from vfsmount.core.journal import OperationRecord
from vfsmount.values import Validator
from vfsmount.vfs.notes import Notes

Request = tuple[str, int, bytes, int, bytes]


class Operation:
    """One change of names; a context in which it fails or succeeds.

    Attributes:
        before: what a process that was killed has said of this very request, which has come again.
    """

    before: OperationRecord | None = None

    def __enter__(self) -> Operation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begins(
        self, node: Node | None = None, target: Node | None = None, replaces: Validator | None = None
    ) -> None:
        """Nothing forbids it, and the next step cannot be taken back.

        Args:
            node: what is made, moved or removed.
            target: what a rename replaces, of which the server has the version `replaces`.
        """

    def done(self, fh: int = 0) -> None:
        """It is done; nothing is waited for from here to the answer."""


NO_OPERATION = Operation()  # where nobody goes on when we are killed


class _Noted(Operation):
    def __init__(self, notes: Notes, number: int, request: Request, before: OperationRecord | None) -> None:
        self.before = before
        self._notes = notes
        self._number = number
        self._value = before or OperationRecord(request)
        self._begun = self._done = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if not self._done:
                self.done()
        elif self._begun and not self._done:
            self._notes.no_operation(self._number)

    def begins(
        self, node: Node | None = None, target: Node | None = None, replaces: Validator | None = None
    ) -> None:
        self._begun = True
        with self._notes.together():
            if node is not None:
                self._notes.place(node)
            self._value = replace(
                self._value,
                ino=0 if node is None else node.ino,
                target=0 if target is None else target.ino,
                replaces=replaces,
            )
            self._notes.operation(self._number, self._value)

    def done(self, fh: int = 0) -> None:
        self._done = True
        self._notes.operation(self._number, replace(self._value, fh=fh, done=True))


class Operations:
    """The changes that are under way, and those that a killed process had under way."""

    def __init__(self, notes: Notes | None) -> None:
        self._notes = notes
        self._next = 1
        self._before: dict[Request, tuple[int, OperationRecord]] = {}

    def take(self, found: dict[int, OperationRecord]) -> None:
        """Go on with those of a process that was killed; they are unanswered until they come again."""
        assert self._notes is not None
        self._next = max([self._next - 1, *found]) + 1
        for number, value in found.items():
            if value.done:  # else whatever is written next would say that the answer was heard
                value = replace(value, done=False)
                self._notes.operation(number, value)
            self._before[value.request] = number, value

    def all_came(self) -> None:
        """Nobody asks again for what is left: it was answered, or who asked is gone."""
        left, self._before = self._before, {}
        for number, _ in left.values():
            assert self._notes is not None
            self._notes.no_operation(number)

    def of(
        self,
        again: bool,
        what: str,
        directory: int,
        name: bytes,
        new_directory: int = 0,
        new_name: bytes = b"",
    ) -> Operation:
        """One request; `again`: it may be one that a killed process had begun."""
        notes = self._notes
        if notes is None:
            return NO_OPERATION
        request = (what, directory, name, new_directory, new_name)
        known = self._before.pop(request, None) if again else None
        if known is not None:
            return _Noted(notes, known[0], request, known[1])
        self._next += 1
        return _Noted(notes, self._next - 1, request, None)
