"""/dev/fuse, mount(2), fusermount3 and what sysfs says of a mount."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import socket
import struct
import time

MS_RDONLY = 1
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
TYPE = "fuse.vfsmount"
# One request: 1 MiB of data and its header; the kernel refuses a read with less room.
REQUEST_ROOM = (1 << 20) + 4096
INIT_TIMEOUT_S = 20.0
READAHEAD_KIB = 1024  # the largest piece the kernel asks for at once
_HELPER_S = 30.0
_PR_SET_PDEATHSIG = 1
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # <asm-generic/unistd.h>, the same everywhere; Linux 5.2

# FUSE_NOTIFY_RESEND (7): the kernel puts what was read and not answered at the head of its queue again.
# Since Linux 6.9, which offers it in INIT: bit 39, the eighth of flags2.
_RESEND = struct.pack("=IiQ", 16, 7, 0)
_INIT_EXT, _HAS_RESEND = 1 << 30, 1 << 7
_FLAGS_AT, _REPLY_UNIQUE_AT = 52, 8

# What fusermount3 says → what to do.
_HINTS = {
    "user_allow_other": "add user_allow_other to /etc/fuse.conf",
    "could not determine username": f"user {os.getuid()} needs a line in /etc/passwd",
    "Operation not permitted": "in a container it needs --cap-add SYS_ADMIN, and no no-new-privileges",
}

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """It could not be done; the sentence says why and what to do."""


def mount(mountpoint: str, source: str, data: str, flags: int) -> int:
    """Mount on an existing directory; the device's descriptor, close-on-exec.

    Tries mount(2), then fusermount3, the setuid helper for ordinary users.

    Args:
        data: mount(2)'s options but for ``fd=``.

    Raises:
        Refused
    """
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused(
            "/dev/fuse is missing: load the fuse module, or give the container --device /dev/fuse"
        ) from None
    except PermissionError:
        if os.geteuid() == 0:
            raise Refused("/dev/fuse may not be opened: give the container --device /dev/fuse") from None
        return _mount_by_helper(mountpoint, source, data, flags)
    options = f"fd={fd},{data}".encode()
    if _libc.mount(source.encode(), os.fsencode(mountpoint), TYPE.encode(), flags, options) == 0:
        return fd
    code = ctypes.get_errno()
    os.close(fd)
    # To root's helper the same would happen; AppArmor's way of saying no is EACCES.
    if code in (errno.EPERM, errno.EACCES) and os.geteuid() == 0:
        raise Refused(
            f"root may not mount here ({os.strerror(code)}): give the container --cap-add SYS_ADMIN, and "
            "--security-opt apparmor=unconfined where AppArmor is on; or use 'unshare -Urm'"
        )
    if code == errno.EPERM:
        return _mount_by_helper(mountpoint, source, data, flags)
    raise Refused(f"mounting on {mountpoint} failed: {os.strerror(code)}")


def _mount_by_helper(mountpoint: str, source: str, data: str, flags: int) -> int:
    """Have fusermount3 mount and send us the descriptor."""
    helper = _helper()
    if helper is None:
        raise Refused("mounting needs root, or fusermount3: install the package fuse3")
    wanted = [f"fsname={source}", "subtype=vfsmount", "default_permissions"]
    wanted += ["allow_other"] if "allow_other" in data.split(",") else []
    wanted += ["ro"] if flags & MS_RDONLY else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        theirs.set_inheritable(True)
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        status, said = _run([helper, "-o", ",".join(wanted), "--", mountpoint], environment)
        theirs.close()
        if status:
            hint = next((f"; {advice}" for words, advice in _HINTS.items() if words in said), "")
            raise Refused(f"fusermount3: {said or 'failed'}{hint}")
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: fds.itemsize])
    if not fds:
        raise Refused("fusermount3 sent no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _helper() -> str | None:
    import shutil  # with many modules behind it, which a holder with the right to mount does without

    return shutil.which("fusermount3")


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and stderr of a program that ends soon; -1: it did not."""
    read_end, write_end = os.pipe()
    pid = os.posix_spawn(command[0], command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 2)])
    os.close(write_end)
    give_up, said = time.monotonic() + _HELPER_S, b""
    try:
        while select.select([read_end], [], [], max(0.0, give_up - time.monotonic()))[0]:
            piece = os.read(read_end, 4096)
            if not piece:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode(errors="replace").strip()
            said += piece
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return -1, "it does not end"
    finally:
        os.close(read_end)


def unmount(mountpoint: str, *, lazy: bool, hung: bool = False) -> None:
    """Take a mount away; `lazy`: from the tree at once, though programs still use it.

    Args:
        hung: whoever waits for an answer of its daemon gets an error.

    Raises:
        Refused: it is busy, or not ours to unmount.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0) | (MNT_FORCE if hung else 0)
    if _libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return
    code = ctypes.get_errno()
    helper = _helper()
    if code == errno.EPERM and helper is not None:
        command = [helper, "-u", *(["-z"] if lazy else []), "--", mountpoint]
        status, said = _run(command, dict(os.environ))
        if status:
            raise Refused(said or f"{mountpoint} could not be unmounted")
        return
    if code == errno.EBUSY:
        raise Refused(f"{mountpoint} is in use: leave it (cd out, close files) and try again, or add --lazy")
    raise Refused(f"{mountpoint}: {os.strerror(code)}")


def read_init(fd: int) -> bytes:
    """The kernel's INIT request, the first thing a new mount says.

    Raises:
        Refused, OSError: nothing came, or the mount is gone already.
    """
    if not select.select([fd], [], [], INIT_TIMEOUT_S)[0]:
        raise Refused("the kernel did not begin to speak FUSE")
    try:
        return os.read(fd, REQUEST_ROOM)
    except PermissionError:
        raise Refused("nothing is mounted with it") from None


# --- what is said on the device ----------------------------------------------------------------


def can_resend(init: bytes) -> bool:
    """Whether the kernel of this INIT request sends again what a dead daemon had read."""
    if len(init) < _FLAGS_AT + 8:
        return False
    flags, flags2 = struct.unpack_from("=II", init, _FLAGS_AT)
    return bool(flags & _INIT_EXT and flags2 & _HAS_RESEND)


def resend(fd: int) -> None:
    """Have the kernel send again what was read and not answered. Nobody may read the device meanwhile.

    Raises:
        OSError: the mount is gone, or the kernel cannot do it.
    """
    os.write(fd, _RESEND)


def answer_as_before(init: bytes, reply: bytes) -> bytes:
    """The reply that was given to an earlier INIT of this machine, for another one."""
    return reply[:_REPLY_UNIQUE_AT] + init[8:16] + reply[_REPLY_UNIQUE_AT + 8 :]


# --- what sysfs says of a mount ----------------------------------------------------------------


def connection(mountpoint: str) -> str:
    """The number of the connection of what is mounted there, as sysfs has it; "" where nothing is."""
    spelt, found = os.fsencode(mountpoint), ""
    escapes = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\"))
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            fields = line.split(b" ")
            at = fields[4]
            for escape, char in escapes:
                at = at.replace(escape, char)
            if at == spelt:
                found = fields[2].decode()  # the last one is on top
    return found.partition(":")[2]


def waiting(number: str) -> int | None:
    """Requests that are not answered yet; None: that is not to be seen."""
    try:
        with open(f"{_connections()}/{number}/waiting", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def abort(number: str) -> bool:
    """Have everybody who waits for an answer get an error; False: not that way."""
    try:
        with open(f"{_connections()}/{number}/abort", "w", encoding="ascii") as f:
            f.write("1")
    except OSError:
        return False
    return True


_fusectl = -1


def _connections() -> str:
    """A directory with one for each connection: where it is mounted, or a mount of our own that is nowhere in
    the tree, as in a container.

    Raises:
        OSError: neither, for want of privilege or in an old kernel.
    """
    global _fusectl
    usual = "/sys/fs/fuse/connections"
    if os.listdir(usual):
        return usual
    if _fusectl < 0:
        configured = _libc.syscall(_FSOPEN, b"fusectl", 1)
        if configured < 0:
            raise OSError(ctypes.get_errno(), "fsopen")
        _libc.syscall(_FSCONFIG, configured, 6, None, None, 0)
        _fusectl = _libc.syscall(_FSMOUNT, configured, 1, 0)
        os.close(configured)
        if _fusectl < 0:
            raise OSError(ctypes.get_errno(), "fsmount")
    return f"/proc/self/fd/{_fusectl}"


def raise_readahead(number: str) -> bool:
    """Have the kernel ask for large pieces; False where that is not allowed.

    With its default of 128 KiB a reader of a large file costs twice the CPU of pieces of 1 MiB.
    """
    setting = f"/sys/class/bdi/0:{number}/read_ahead_kb"
    try:
        with open(setting, encoding="ascii") as f:
            now = int(f.read())
        if now < READAHEAD_KIB:
            with open(setting, "w", encoding="ascii") as f:
                f.write(str(READAHEAD_KIB))
    except (OSError, ValueError):
        return False
    return True


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
