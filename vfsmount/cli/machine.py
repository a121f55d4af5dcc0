"""What this machine, or this container, has to give: read for `core.limits` to decide on."""

from __future__ import annotations

import os
from pathlib import Path

from vfsmount.core import limits


def memory_limit() -> int | None:
    """Bytes that the cgroup allows this process and its neighbours; None: no limit, or none that is told."""
    try:
        files = limits.limit_files(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))
    except OSError:
        return None
    texts = []
    for file in files:
        try:
            texts.append(_text(file))
        except OSError:  # the root group has none
            continue
    return limits.least_limit(texts)


def cache_sizes(directory: Path) -> tuple[int, int]:
    """``--cache-size`` and ``--cache-free`` for a cache directory, which need not exist."""
    there = directory
    while not os.path.exists(there) and there != there.parent:  # nor does one that is closed to us
        there = there.parent
    try:
        volume = os.statvfs(there)
    except OSError:
        return limits.CACHE_SIZE, limits.CACHE_FREE
    free, total = volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize
    return limits.default_cache_size(free, _held(directory)), limits.default_cache_free(total)


def _held(directory: Path) -> int:
    """What files below a directory take; 16 MiB each, so there are not many."""
    found = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                found += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:  # gone meanwhile
                continue
    return found


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
