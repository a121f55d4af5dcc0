"""Whether a file here and one on a server are the same, as far as can be told without reading them."""

from __future__ import annotations

from vfsmount.values import Validator

Known = tuple[int, int, int]


def is_unchanged(size: int, mtime_ns: int, there_size: int, there_mtime_ns: int, known: Known | None) -> bool:
    """Whether neither has changed since one was made from the other.

    Args:
        mtime_ns: of the file here; a download leaves the server's time on it.
        there_mtime_ns: as a listing tells it, to the microsecond.
        known: (size, time here, time there) when they were the same: an upload cannot set the server's.
    """
    if size != there_size:
        return False
    if Validator(mtime_ns, size).matches_listing(there_size, there_mtime_ns):
        return True
    if known is None or known[:2] != (size, mtime_ns):
        return False
    return Validator(known[2], size).matches_listing(there_size, there_mtime_ns)
