"""What directories hold in all, added up while a tree is walked in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sum:
    """One directory and everything below it.

    Attributes:
        size: bytes of the files, as listings tell them.
        files: files and links; directories do not count.
        partial: something is missing: a listing that may be cut, or failed.
    """

    path: str
    depth: int
    size: int = 0
    files: int = 0
    partial: bool = False


class Sums:
    """Give it each directory before those below it, and each of them with all below before the next.

    That is the order of `ls -R`. Sums come back as soon as they are whole: a directory after those in it.
    """

    def __init__(self) -> None:
        self._open: list[Sum] = []

    def enter(self, path: str, size: int, files: int, *, partial: bool = False) -> list[Sum]:
        """Go on with a directory whose own files are these; what became whole by that."""
        whole = []
        while self._open and not _is_below(path, self._open[-1].path):
            whole.append(self._close())
        self._open.append(Sum(path, len(self._open), size, files, partial))
        return whole

    def end(self) -> list[Sum]:
        """What was still open, the top last."""
        whole = []
        while self._open:
            whole.append(self._close())
        return whole

    def _close(self) -> Sum:
        done = self._open.pop()
        if self._open:
            above = self._open[-1]
            above.size += done.size
            above.files += done.files
            above.partial = above.partial or done.partial
        return done


def _is_below(path: str, directory: str) -> bool:
    return not directory or path.startswith(f"{directory}/")
