"""The kernel's own readahead for a mount: how large the pieces are in which it asks for a file.

With its default of 128 KiB a reader of a large file costs twice the CPU of pieces of 1 MiB. Only root
may change it, for each mount in a file of sysfs.
"""

from __future__ import annotations

from pathlib import Path

from vfsmount.fuse.mountpoint import device_number

KIB = 1024  # the largest piece the kernel asks for at once


def raise_readahead(mountpoint: str) -> bool:
    """Make it `KIB`; False where that is not allowed or there is no such mount."""
    number = device_number(mountpoint)
    if number is None:
        return False
    setting = Path(f"/sys/class/bdi/{number}/read_ahead_kb")
    try:
        if int(setting.read_text()) < KIB:
            setting.write_text(str(KIB))
    except (OSError, ValueError):
        return False
    return True
