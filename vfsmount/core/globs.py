"""Which paths of a tree are wanted: ``--include`` and ``--exclude``.

Paths are relative to the top of the tree, ``/``-separated. A pattern without a slash (but for one at
its end) is about names, at any depth; one with a slash is about paths from the top. ``*`` and ``?`` stop
at a slash, ``**`` does not; ``[…]`` as in a shell. A slash at the end makes it a pattern of directories
alone. What matches takes all below it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vfsmount.errors import InvalidRequest


class Filter:
    """Includes and excludes of one command; excludes win. Without includes everything is included."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        """Raises:
        InvalidRequest: an empty pattern, or one that cannot be read.
        """
        self._include = [_Pattern(p) for p in include]
        self._exclude = [_Pattern(p) for p in exclude]

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return not self._include and not self._exclude

    def takes(self, path: str) -> bool:
        """Whether a file, or anything else that is no directory, is wanted."""
        if any(p.covers(path, directory=False) for p in self._exclude):
            return False
        return not self._include or any(p.covers(path, directory=False) for p in self._include)

    def makes(self, path: str) -> bool:
        """Whether an empty directory is wanted."""
        return self.enters(path) and (
            not self._include or any(p.covers(path, directory=True) for p in self._include)
        )

    def enters(self, path: str) -> bool:
        """Whether something below a directory may be wanted."""
        return not any(p.covers(path, directory=True) for p in self._exclude)


class _Pattern:
    def __init__(self, text: str) -> None:
        self._directories_only = text.endswith("/")
        bare = text.strip("/")
        if not bare:
            raise InvalidRequest(f"{text!r} is no pattern")
        self._whole_path = text.startswith("/") or "/" in bare
        self._matches = _compiled(bare).fullmatch

    def covers(self, path: str, *, directory: bool) -> bool:
        """Whether the pattern matches the path, or a directory above it."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            if depth == len(parts) and self._directories_only and not directory:
                return False
            subject = "/".join(parts[:depth]) if self._whole_path else parts[depth - 1]
            if self._matches(subject):
                return True
        return False


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            if pattern[at : at + 2] == "*/":  # "a/**/b" is also "a/b"
                out, at = out + "(?:.*/)?", at + 2
            elif pattern[at : at + 1] == "*":
                out, at = out + ".*", at + 1
            else:
                out += "[^/]*"
        elif c == "?":
            out += "[^/]"
        elif c == "[":
            stop = pattern.find("]", at + 2 if pattern[at : at + 1] in ("!", "^") else at + 1)
            if stop < 0:
                out += r"\["
                continue
            body = pattern[at:stop].replace("\\", r"\\").replace("[", r"\[")
            if body[0] in "!^":
                body = "^/" + body[1:]
            out, at = out + f"[{body}]", stop + 1
        else:
            out += re.escape(c)
    try:
        return re.compile(out, re.DOTALL)
    except re.error as e:
        raise InvalidRequest(f"the pattern {pattern!r} cannot be read: {e}") from e
