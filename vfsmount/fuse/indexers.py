"""Programs that read every file there is, and that nobody waits for."""

from __future__ import annotations

from cachetools import TTLCache

# As the kernel has their names, of which it keeps 15 characters.
_NAMES = frozenset(
    name[:15]
    for name in (
        *("updatedb", "updatedb.mlocat", "updatedb.plocat", "mlocate", "plocate-build"),
        *("tracker-miner-fs", "tracker-miner-fs-3", "tracker-extract", "tracker-extract-3", "localsearch-3"),
        *("localsearch", "localsearch-extractor-3", "baloo_file", "baloo_file_extractor", "recollindex"),
        *("beagled", "strigidaemon", "tumblerd", "totem-video-thumbnailer", "evince-thumbnailer"),
        *("gnome-thumbnail-font", "gdk-pixbuf-thumbnailer", "ffmpegthumbnailer", "thumbnail.so", "mandb"),
    )
)
_KNOWN: TTLCache[int, bool] = TTLCache(1024, 30.0)  # by process id, which is used again some day


def is_indexer(pid: int) -> bool:
    """Whether a request's process is one of them. What cannot be told is none: 0 stands for processes
    of other containers.

    Args:
        pid: as the kernel gives it, which is the thread's; most of these programs work in threads, and
            those have names of their own.
    """
    if not pid:
        return False
    known = _KNOWN.get(pid)
    if known is None:
        known = _KNOWN[pid] = name_of(pid) in _NAMES or name_of(_process_of(pid)) in _NAMES
    return known


def _process_of(thread: int) -> int:
    """The process of a thread; 0 where that cannot be told."""
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("Tgid:")), 0)
    except OSError:
        return 0


def name_of(pid: int) -> str:
    """What the kernel calls a process, at most 15 characters; "" where it has none that we can see."""
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return ""
