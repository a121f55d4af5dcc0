"""The directory to mount on: made, checked, and cleaned of a dead mount."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

from vfsmount.errors import MountError
from vfsmount.fuse.device import unmount

FS_TYPE = "fuse.vfsmount"
_ANSWER_S = 10.0


def mounted_type(mountpoint: str) -> str | None:
    """Type of the filesystem mounted exactly there, None where nothing is."""
    fields = _mountinfo(mountpoint)
    return fields[fields.index("-") + 1] if fields else None


def device_number(mountpoint: str) -> str | None:
    """Number (major:minor) of the filesystem mounted exactly there, found without touching it."""
    fields = _mountinfo(mountpoint)
    return fields[2] if fields else None


def mountpoint_of_device(number: str) -> str | None:
    """Where the filesystem with that number (major:minor) is mounted; of several places the first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return next((unescape(fields[4]) for line in f if (fields := line.split(" "))[2] == number), None)


def _mountinfo(mountpoint: str) -> list[str]:
    found: list[str] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            fields = line.split(" ")
            if unescape(fields[4]) == mountpoint:
                found = fields  # the last one is on top
    return found


def unescape(text: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def real_path(mountpoint: str) -> str:
    """Absolute path without symlinks in its parents, found without touching the directory itself.

    A dead or hung mount fails or blocks whoever asks it anything.
    """
    full = os.path.abspath(mountpoint)
    return os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))


def answer(mountpoint: str, timeout_s: float = _ANSWER_S) -> int | None:
    """Errno with which the mount answers (0: well), None where it does not in time.

    By an attribute that nobody has, which always reaches the daemon: the kernel answers stat itself for a
    while after the daemon's death, and statvfs has the daemon ask how much room there is. Asked from a
    process of its own: ours could not be ended while it waits.
    """
    probe = (
        "import os,sys\ntry: os.getxattr(sys.argv[1], 'user.vfsmount.answers')\n"
        "except OSError as e: sys.exit(e.errno)"
    )
    try:
        done = subprocess.run([sys.executable, "-S", "-c", probe, mountpoint], timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    return 0 if done.returncode in (errno.ENODATA, errno.EOPNOTSUPP) else done.returncode


def prepare(mountpoint: str, *, died: bool = False) -> str:
    """Make the directory usable and return its real path.

    A missing one is made; one with a dead mount of ours is cleaned.

    Args:
        died: our records say that the daemon of the mount there is dead.

    Raises:
        MountError: it is not a directory, not ours to use, or mounted already.
    """
    path = real_path(mountpoint)
    kind = mounted_type(path)
    if kind == FS_TYPE:
        code = answer(path)
        if code == 0:
            raise MountError(f"{path} is mounted already; 'vfsmount umount {path}' takes it away")
        if code is None and not died:
            raise MountError(
                f"the mount on {path} does not answer; 'vfsmount umount --lazy {path}' takes it away"
            )
        unmount(path, lazy=True, hung=code is None)  # left behind by a daemon that died
    elif kind is not None and kind.startswith("fuse") and answer(path) == errno.ENOTCONN:
        raise MountError(f"a dead {kind} mount is on {path}; 'umount -l {path}' takes it away")
    if not os.path.lexists(path):
        _make(path)
    if not os.path.isdir(path):
        raise MountError(f"{path} is not a directory")
    if os.geteuid() != 0 and not os.access(path, os.W_OK | os.X_OK):
        raise MountError(f"{path} is not yours to mount on: you need write permission for it")
    return path


def _make(path: str) -> None:
    try:
        Path(path).mkdir(mode=0o755)
    except OSError as e:
        raise MountError(f"{path} does not exist and cannot be made: {e.strerror}") from e
