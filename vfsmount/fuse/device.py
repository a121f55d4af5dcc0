"""/dev/fuse, mount(2) and fusermount3.

We open the device and mount ourselves, because libfuse's own mount hides most of what FUSE
negotiates: `attach` answers the kernel's first request.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import shutil
import socket
import subprocess
from dataclasses import dataclass

from vfsmount.errors import MountError

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 1, 2, 4, 8, 1024
_MNT_FORCE = 1
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

# One request: 1 MiB of data and its header; the kernel refuses a read with less room.
_REQUEST_ROOM = (1 << 20) + 4096
_INIT_TIMEOUT_S = 20.0

# What fusermount3 says → what to do.
_HINTS = {
    "user_allow_other": "add user_allow_other to /etc/fuse.conf",
    "could not determine username": f"user {os.getuid()} needs a line in /etc/passwd",
    "Operation not permitted": "in a container it needs --cap-add SYS_ADMIN, and no no-new-privileges",
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """What mount(2) is told; the daemon's own options never reach the kernel otherwise."""

    source: str = "vfsmount"
    allow_other: bool = False
    flags: int = MS_NOSUID | MS_NODEV

    def data(self, fd: int) -> str:
        """The option string of mount(2). Permission bits are always checked by the kernel."""
        text = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
        return text + (",allow_other" if self.allow_other else "")


def mount(mountpoint: str, options: KernelOptions) -> int:
    """Mount on an existing directory; return the device's descriptor, close-on-exec.

    Tries mount(2), then fusermount3, the setuid helper for ordinary users.

    Raises:
        MountError: with what to do about it.
    """
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountError(
            "/dev/fuse is missing: load the fuse module, or give the container --device /dev/fuse"
        ) from None
    except PermissionError:
        if os.geteuid() == 0:
            raise MountError("/dev/fuse may not be opened: give the container --device /dev/fuse") from None
        return _mount_by_helper(mountpoint, options)
    data = options.data(fd).encode()
    done = _libc.mount(
        options.source.encode(), os.fsencode(mountpoint), b"fuse.vfsmount", options.flags, data
    )
    if done == 0:
        return fd
    code = ctypes.get_errno()
    os.close(fd)
    # To root's helper the same would happen; AppArmor's way of saying no is EACCES.
    if code in (errno.EPERM, errno.EACCES) and os.geteuid() == 0:
        raise MountError(
            f"root may not mount here ({os.strerror(code)}): give the container --cap-add SYS_ADMIN, and "
            "--security-opt apparmor=unconfined where AppArmor is on; or use 'unshare -Urm'"
        )
    if code == errno.EPERM:
        return _mount_by_helper(mountpoint, options)
    raise MountError(f"mounting on {mountpoint} failed: {os.strerror(code)}")


def _mount_by_helper(mountpoint: str, options: KernelOptions) -> int:
    """Have fusermount3 mount and send us the descriptor."""
    helper = shutil.which("fusermount3")
    if helper is None:
        raise MountError("mounting needs root, or fusermount3: install the package fuse3")
    wanted = ["fsname=" + options.source, "subtype=vfsmount", "default_permissions"]
    wanted += ["allow_other"] if options.allow_other else []
    wanted += ["ro"] if options.flags & MS_RDONLY else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", ",".join(wanted), "--", mountpoint],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            stderr=subprocess.PIPE,
            text=True,
            timeout=_INIT_TIMEOUT_S,
            check=False,
        )
        theirs.close()
        if done.returncode:
            hint = next((f"; {advice}" for said, advice in _HINTS.items() if said in done.stderr), "")
            raise MountError(f"fusermount3: {done.stderr.strip() or 'failed'}{hint}")
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: fds.itemsize])
    if not fds:
        raise MountError("fusermount3 sent no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def unmount(mountpoint: str, *, lazy: bool, hung: bool = False) -> None:
    """Take a mount away; `lazy`: from the tree at once, though programs still use it.

    Args:
        hung: its daemon is dead, and the kernel has not noticed: who waits for an answer gets an error.
            (A daemon that is killed while it has the kernel forget a name may be waiting there for a lock
            of somebody who waits for it; such a thread does not die, and keeps the device open.)

    Raises:
        MountError: it is busy, or not ours to unmount.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0) | (_MNT_FORCE if hung else 0)
    if _libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return
    code = ctypes.get_errno()
    helper = shutil.which("fusermount3")
    if code == errno.EPERM and helper is not None:
        command = [helper, "-u", *(["-z"] if lazy else []), "--", mountpoint]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        if done.returncode == 0:
            return
        raise MountError(done.stderr.strip() or f"{mountpoint} could not be unmounted")
    if code == errno.EBUSY:
        raise MountError(
            f"{mountpoint} is in use: leave it (cd out, close files) and try again, or add --lazy"
        )
    raise MountError(f"{mountpoint}: {os.strerror(code)}")


def read_init(fd: int) -> bytes:
    """The kernel's INIT request, the first thing a new mount says.

    Raises:
        MountError, OSError: nothing came, or the mount is gone already.
    """
    if not select.select([fd], [], [], _INIT_TIMEOUT_S)[0]:
        raise MountError("the kernel did not begin to speak FUSE")
    try:
        return os.read(fd, _REQUEST_ROOM)
    except PermissionError:
        raise MountError("nothing is mounted with it") from None
