"""Mount and user namespaces: system calls that Python 3.11 has no name for, and what their refusals mean.

Source: unshare(2), setns(2), mount(2), pivot_root(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from vfsmount.errors import MountError

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE = 1 << 17, 1 << 18, 1 << 19
_MNT_DETACH = 2
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# pivot_root has no function in libc; its number is the same wherever the generic table is used.
_SYS_PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)

_libc = ctypes.CDLL(None, use_errno=True)

_WHY_NOT = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set the sysctl kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "raise the sysctl user.max_user_namespaces"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "set the sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def _check(result: int, what: str) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def isolate() -> None:
    """Give this process a mount namespace of its own, and where that takes it a user namespace too.

    In the latter it keeps its user and group; others are nobody there, and until it runs another
    program it may mount. What is mounted elsewhere later shows here as well, not the other way round.
    Only for a process with one thread.

    Raises:
        MountError: it may not; with what to do about it.
    """
    if _libc.unshare(_CLONE_NEWNS) == -1:
        _user_namespace()
    try:
        mount("none", "/", flags=MS_REC | MS_SLAVE)
    except PermissionError as e:
        raise MountError(f"namespaces have no rights here: {why_no_user_namespace()}") from e


def _user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == -1:
        raise MountError(
            f"no namespace can be made ({os.strerror(ctypes.get_errno())}): {why_no_user_namespace()}"
        )
    try:
        # In this order: an unprivileged group map is only taken from who cannot drop groups any more.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    except OSError as e:
        raise MountError(f"no namespace can be made ({e.strerror}): {why_no_user_namespace()}") from e


def why_no_user_namespace() -> str:
    """What to do where an ordinary user cannot mount in a namespace of their own."""
    for path, value, advice in _WHY_NOT:
        try:
            if Path(path).read_text(encoding="ascii").strip() == value:
                return f"{advice}, or run it as root"
        except OSError:
            continue
    return "in a container, add --cap-add SYS_ADMIN --security-opt apparmor=unconfined; else run it as root"


def open_own() -> list[int]:
    """Descriptors of this process's user and mount namespace, for `join`."""
    return [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "mnt")]


def join(user: int, mnt: int) -> None:
    """Enter namespaces of a child, then a copy of its mounts that only this process changes.

    Raises:
        MountError
    """
    try:
        if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:  # to enter one's own is refused
            _check(_libc.setns(user, _CLONE_NEWUSER), "setns")
        _check(_libc.setns(mnt, _CLONE_NEWNS), "setns")
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        mount("none", "/", flags=MS_REC | MS_SLAVE)
    except OSError as e:
        raise MountError(f"the namespace of the folders cannot be entered: {explain(e)}") from e


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2).

    Raises:
        OSError: with the target's name.
    """
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, flags, data.encode()
    )
    _check(result, target)


def bind(source: int, target: str, *, read_only: bool = False, below: bool = False) -> None:
    """Show the file or directory of an O_PATH descriptor at `target`, `below`: with what is mounted below it.

    Raises:
        OSError
    """
    mount(f"/proc/self/fd/{source}", target, flags=MS_BIND | (MS_REC if below else 0))
    if read_only:  # a bind mount takes its flags from a second call only
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def detach(target: str) -> None:
    """umount(2), though somebody may use it.

    Raises:
        OSError
    """
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), target)


def change_root(new: str) -> None:
    """Make the file system mounted at `new` the root, and let go of the old one.

    Raises:
        OSError
    """
    os.chdir(new)
    _check(_libc.syscall(_SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    detach(".")  # the old root, which lies over the new one now
    os.chdir("/")


def die_with_parent(number: int, parent: int) -> None:
    """Have the kernel send this process a signal when its parent is gone; it may be gone already."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans(on: bool) -> None:
    """Become, or cease to be, the parent of descendants whose parents have died."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def explain(e: OSError) -> str:
    """A refusal as a sentence."""
    where = f"{e.filename}: " if e.filename else ""
    hint = f" ({why_no_user_namespace()})" if e.errno == errno.EPERM else ""
    return f"{where}{e.strerror}{hint}"
