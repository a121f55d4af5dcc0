"""How much memory and disk to take where nobody said: from what the machine, or the container, has.

Sizes are bytes.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max), cgroup-v1/memory.rst
(memory.limit_in_bytes), cgroups(7) (/proc/PID/cgroup, cgroup namespaces), proc(5) (mountinfo).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

MEMORY = 256 << 20
CACHE_SIZE = 10 << 30
CACHE_FREE = 1 << 30
# The kernel counts a container's page cache, the programs beside us and our interpreter (60 MiB) as well.
MEMORY_PART = 4
_LEAST_MEMORY = 16 << 20  # a few blocks for a few readers; less makes every reader fetch twice
_UNLIMITED = 1 << 60  # v1 has a number near 2**63 for "no limit"


def limit_files(cgroup: str, mountinfo: str) -> list[str]:
    """Files with a limit of the memory of this process's group, and of the groups above it.

    Args:
        cgroup: text of /proc/self/cgroup.
        mountinfo: text of /proc/self/mountinfo.
    """
    found: list[str] = []
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            kind, name = "cgroup2", "memory.max"
        elif "memory" in controllers.split(","):
            kind, name = "cgroup", "memory.limit_in_bytes"
        else:
            continue
        for root, mountpoint in _hierarchies(mountinfo, kind):
            found += [posixpath.join(directory, name) for directory in _upwards(root, mountpoint, path)]
    return list(dict.fromkeys(found))


def _hierarchies(mountinfo: str, kind: str) -> Iterator[tuple[str, str]]:
    """(directory of the hierarchy, where it is mounted) of its mounts; of v1 the one with memory."""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, last = before.split(" "), after.split(" ")
        has_memory = kind == "cgroup2" or "memory" in last[-1].split(",")
        if dash and len(fields) > 4 and last[0] == kind and has_memory:
            yield fields[3], fields[4]


def _upwards(root: str, mountpoint: str, path: str) -> Iterator[str]:
    """Directories of a group and those above it, as far as they are mounted.

    In a container the path may be the machine's, with nothing of it mounted but the container's own
    group: then that is at the mountpoint.
    """
    below = "" if path.startswith("/..") else posixpath.relpath(path, root)
    while below not in (".", "") and not below.startswith(".."):
        yield posixpath.join(mountpoint, below)
        below = posixpath.dirname(below)
    yield mountpoint


def least_limit(texts: Iterable[str]) -> int | None:
    """The limit in force, of the contents of `limit_files`; None: there is none."""
    limits = [int(text) for text in (t.strip() for t in texts) if text.isdigit()]
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def default_memory(limit: int | None) -> int:
    """``--memory`` where nobody said."""
    return MEMORY if limit is None else max(_LEAST_MEMORY, min(MEMORY, limit // MEMORY_PART))


def default_cache_size(free: int, held: int) -> int:
    """``--cache-size`` where nobody said: at most half of what the disk has for it.

    Args:
        free: of the volume.
        held: what the cache takes there already.
    """
    return min(CACHE_SIZE, (free + held) // 2)


def default_cache_free(total: int) -> int:
    """``--cache-free`` where nobody said: a GiB, of a small volume a tenth."""
    return min(CACHE_FREE, total // 10)
