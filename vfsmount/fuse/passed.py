"""``vfsmount /dev/fd/N``: a descriptor of /dev/fuse on which somebody else has mounted.

As libfuse has it: a helper with the right to mount opens the device, mounts, and starts us with the
descriptor inherited. We answer the kernel's first request and all others, and need no privilege. What
mount(2) was told is decided by then, and to unmount is the helper's affair too.
"""

from __future__ import annotations

import os
import re
import stat

from vfsmount.errors import MountError
from vfsmount.fuse.mountpoint import mountpoint_of_device

_FUSE_DEVICE = (10, 229)  # Linux, Documentation/admin-guide/devices.txt


def passed_descriptor(mountpoint: str) -> int | None:
    """N where the mountpoint is written ``/dev/fd/N``, else None.

    Raises:
        MountError: N is not an open descriptor of /dev/fuse.
    """
    found = re.fullmatch(r"/dev/fd/(\d{1,9})", mountpoint)
    if found is None:
        return None
    fd = int(found[1])
    try:
        info = os.fstat(fd)
    except OSError:
        raise MountError(f"{mountpoint}: descriptor {fd} is not open; vfsmount has to inherit it") from None
    number = (os.major(info.st_rdev), os.minor(info.st_rdev))
    if not stat.S_ISCHR(info.st_mode) or number != _FUSE_DEVICE:
        raise MountError(f"{mountpoint}: descriptor {fd} is not one of /dev/fuse")
    os.set_inheritable(fd, False)  # a copy in a child would keep a dead mount hanging
    return fd


def place_of(fd: int) -> str | None:
    """Where that mount is; None where the kernel does not tell, or it is in another mount namespace.

    By the number of the connection, which Linux tells since 6.17.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as f:
            found = re.search(r"^fuse_connection:\s*(\d+)$", f.read(), re.MULTILINE)
    except OSError:
        return None
    return mountpoint_of_device(f"0:{found[1]}") if found else None


def shown_name(fd: int) -> str:
    """What to call the mount in records and messages."""
    return place_of(fd) or f"/dev/fd/{fd} of process {os.getpid()}"
