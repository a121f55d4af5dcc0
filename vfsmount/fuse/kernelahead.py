"""The kernel's own readahead for a mount: how large the pieces are in which it asks for a file.

With its default of 128 KiB a reader of a large file costs twice the CPU of pieces of 1 MiB. Only root
may change it, for each mount in a file of sysfs.
"""

from __future__ import annotations

from vfsmount.holder import kernel


def raise_readahead(mountpoint: str) -> bool:
    """Make it `kernel.READAHEAD_KIB`; False where that is not allowed or there is no such mount."""
    number = kernel.connection(mountpoint)
    return bool(number) and kernel.raise_readahead(number)
