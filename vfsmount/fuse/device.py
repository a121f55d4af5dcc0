"""/dev/fuse, mount(2) and fusermount3.

We open the device and mount ourselves, because libfuse's own mount hides most of what FUSE
negotiates: `attach` answers the kernel's first request. How it is done stands in `holder.kernel`, which the
holder of a mount uses, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vfsmount.errors import MountError
from vfsmount.holder import kernel

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 1, 2, 4, 8, 1024


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """What mount(2) is told; the daemon's own options never reach the kernel otherwise."""

    source: str = "vfsmount"
    allow_other: bool = False
    flags: int = MS_NOSUID | MS_NODEV

    def data(self) -> str:
        """The option string of mount(2) but for the descriptor. Permission bits are always checked by the
        kernel."""
        text = f"rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
        return text + (",allow_other" if self.allow_other else "")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except kernel.Refused as e:
        raise MountError(str(e)) from None


def mount(mountpoint: str, options: KernelOptions) -> int:
    """Mount on an existing directory; return the device's descriptor, close-on-exec.

    Tries mount(2), then fusermount3, the setuid helper for ordinary users.

    Raises:
        MountError: with what to do about it.
    """
    with _told():
        return kernel.mount(mountpoint, options.source, options.data(), options.flags)


def unmount(mountpoint: str, *, lazy: bool, hung: bool = False) -> None:
    """Take a mount away; `lazy`: from the tree at once, though programs still use it.

    Args:
        hung: its daemon is dead, and the kernel has not noticed: who waits for an answer gets an error.
            (A daemon that is killed while it has the kernel forget a name may be waiting there for a lock
            of somebody who waits for it; such a thread does not die, and keeps the device open.)

    Raises:
        MountError: it is busy, or not ours to unmount.
    """
    with _told():
        kernel.unmount(mountpoint, lazy=lazy, hung=hung)


def read_init(fd: int) -> bytes:
    """The kernel's INIT request, the first thing a new mount says.

    Raises:
        MountError, OSError: nothing came, or the mount is gone already.
    """
    with _told():
        return kernel.read_init(fd)
