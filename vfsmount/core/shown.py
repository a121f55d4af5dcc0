"""What a file has shown lately, as far as it takes to tell an append from another version.

The server names a version by size and time alone, so a file that a session appends to in place looks
like one that was replaced. It is the same file, grown, if what was shown of it is still there. Only the
two ends of that are kept: a replaced file differs in both as a rule, a database or an archive that is
written in place in its header.
"""

from __future__ import annotations

from vfsmount.core.blockindex import Bytes

HEAD = 1 << 10
TAIL = 4 << 10  # at least a page: what is appended is handed to the kernel from a page's beginning on


class Shown:
    """The beginning, and the bytes before the furthest place, of what was read or written of one version.

    Attributes:
        end: the furthest place.
        lost: it is not known any more what was shown.
    """

    __slots__ = ("_head", "_tail", "end", "lost")

    def __init__(self) -> None:
        self._head = self._tail = b""
        self.end = 0
        self.lost = False

    @classmethod
    def restored(cls, end: int, head: bytes, tail: bytes) -> Shown:
        """As it was in another process."""
        shown = cls()
        shown.end, shown._head, shown._tail = end, head, tail
        return shown

    def read(self, offset: int, data: Bytes) -> None:
        """Bytes of the version were shown."""
        if self.lost:
            self.lost = False
        if offset <= len(self._head) < min(HEAD, offset + len(data)):
            self._head = self._head[:offset] + bytes(data[: HEAD - offset])
        end, known = offset + len(data), self.end - len(self._tail)
        if end < self.end or not data:
            return
        before = self._tail[: offset - known] if known <= offset <= self.end else b""
        self._tail, self.end = (before + bytes(data[-TAIL:]))[-TAIL:], end

    def written(self, offset: int, data: bytes) -> None:
        """Bytes were written here, over what was shown or after it."""
        if self.lost or offset > self.end:
            self.forget()
            return
        end, known = offset + len(data), self.end - len(self._tail)
        if offset <= len(self._head):
            self._head = (self._head[:offset] + data + self._head[end:])[:HEAD]
        if end >= self.end:
            self.read(offset, data)
        elif end > known:
            before, skipped = self._tail[: max(0, offset - known)], max(0, known - offset)
            self._tail = before + data[skipped:] + self._tail[end - known :]

    def forget(self) -> None:
        """It is not known any more."""
        self._head = self._tail = b""
        self.end, self.lost = 0, True

    @property
    def tail(self) -> tuple[int, bytes]:
        """(offset, bytes) before the end."""
        return self.end - len(self._tail), self._tail

    @property
    def head(self) -> bytes:
        """The beginning, as far as the tail does not have it."""
        return self._head[: self.end - len(self._tail)]
