"""What the facts of this machine mean: a small function for each thing, and no other input."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator

from vfsmount.cli import show
from vfsmount.cli.doctor.machine import Directory, MachineFacts, MountFacts
from vfsmount.cli.doctor.verdict import Verdict, bad, ok, warn

LEAST_OPEN_FILES = 1024  # what systems give; each unsent file that is open may take several
LEAST_FREE = 64 << 20  # for unsent data
LEAST_FILES = 1000
READ_AHEAD_KB = 1024  # `fuse.kernelahead.KIB`: the largest piece the kernel asks for at once
FS_TYPE = "fuse.vfsmount"
# What engines put containers under (docker, podman, containerd): each refuses mount(2).
DENYING_PROFILES = ("docker-default", "containers-default", "cri-containerd.apparmor.d")


def check_machine(f: MachineFacts) -> list[Verdict]:
    """All of them."""
    checks = [
        dev_fuse(f),
        fusermount3(f),
        privilege(f),
        allow_other(f),
        open_files(f),
        memory(f),
        *directories(f),
        secrets(f),
        *(v for m in f.mounts for v in mount(m, f)),
        propagation(f),
    ]
    return [verdict for verdict in checks if verdict is not None]


def dev_fuse(f: MachineFacts) -> Verdict:
    """The device that all of FUSE goes through."""
    if not f.dev_fuse:
        return ok("/dev/fuse", "can be opened")
    container = "start the container with: docker run --device /dev/fuse --cap-add SYS_ADMIN …"
    if f.dev_fuse in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        says = "missing" if f.dev_fuse == errno.ENOENT else "there, but no driver is behind it"
        return bad("/dev/fuse", "no-dev-fuse", says, container if f.is_container else "sudo modprobe fuse")
    says = f"may not be opened: {os.strerror(f.dev_fuse)}"
    # Its mode is the machine's, in a container as well; what a container lacks altogether is EPERM.
    if f.is_container and f.dev_fuse != errno.EACCES:
        return bad("/dev/fuse", "dev-fuse-denied", says, container)
    fix = "sudo chmod 666 /dev/fuse" + ("   (on the host, before the container starts)" * f.is_container)
    return bad("/dev/fuse", "dev-fuse-denied", says, fix)


def fusermount3(f: MachineFacts) -> Verdict:
    """The helper with which ordinary users mount."""
    if f.fusermount3 is None:
        fix = "sudo apt install fuse3   (Fedora, RHEL: sudo dnf install fuse3)"
        if f.may_mount:
            return warn("fusermount3", "no-fusermount3", "not on PATH; you mount without, others cannot", fix)
        return bad("fusermount3", "no-fusermount3", "not on PATH, and only root mounts without", fix)
    if not f.fusermount3_setuid and not f.may_mount:
        says = f"{f.fusermount3} has not root's rights, so that it cannot mount for you"
        return bad(
            "fusermount3", "fusermount3-powerless", says, f"sudo chmod u+s {shlex.quote(f.fusermount3)}"
        )
    return ok("fusermount3", f.fusermount3)


def privilege(f: MachineFacts) -> Verdict:
    """What is kept from us, so that neither mount(2) nor the helper could mount."""
    own = "unshare -Urm   (a namespace of your own, where that is allowed)"
    if not f.may_mount and (f.is_root or not f.within_reach):
        who = "root may not mount here" if f.is_root else "fusermount3 may not mount for you either"
        added = "start the container with: docker run --device /dev/fuse --cap-add SYS_ADMIN …"
        return bad(
            "privilege", "no-sys-admin", f"{who}: CAP_SYS_ADMIN is missing", added if f.is_container else own
        )
    if not f.may_mount and f.no_new_privileges:
        allowed = (
            "start the container without --security-opt no-new-privileges (Kubernetes: "
            "allowPrivilegeEscalation: true)"
        )
        return bad(
            "privilege",
            "no-new-privileges",
            "fusermount3 cannot become root for you: no-new-privileges is set",
            allowed if f.is_container else own,
        )
    if f.apparmor.startswith(DENYING_PROFILES):
        fix = "start the container with: docker run --security-opt apparmor=unconfined …"
        return bad("privilege", "apparmor", f"AppArmor's profile {f.apparmor} refuses mounts", fix)
    return ok("privilege", "enough to mount")


def allow_other(f: MachineFacts) -> Verdict | None:
    """Whether --allow-other would be permitted; only where it is wanted."""
    if not f.wants_allow_other:
        return None
    if f.may_mount or f.user_allow_other:
        return ok("--allow-other", "permitted")
    return bad(
        "--allow-other",
        "no-allow-other",
        "/etc/fuse.conf does not permit it to ordinary users",
        "echo user_allow_other | sudo tee -a /etc/fuse.conf",
    )


def open_files(f: MachineFacts) -> Verdict:
    """RLIMIT_NOFILE."""
    if 0 <= f.open_files < LEAST_OPEN_FILES:
        return warn(
            "open files",
            "few-open-files",
            f"a process may have {f.open_files} files open; many unsent files need more",
            "ulimit -n 4096   (of a systemd service: LimitNOFILE=4096)",
        )
    return ok("open files", "no limit" if f.open_files < 0 else f"up to {f.open_files}")


def memory(f: MachineFacts) -> Verdict:
    """The control group's limit against --memory."""
    if f.memory_limit is None:
        return ok("memory", "no limit is set for us")
    limit, wanted = show.size(f.memory_limit), show.size(f.memory_wanted)
    if f.memory_limit < f.memory_wanted:
        least = max(1, (f.memory_limit * 3 // 4) >> 20)
        return bad(
            "memory",
            "memory-limit",
            f"the control group allows {limit}, a mount may use {wanted}: the kernel would kill it",
            f"mount with --memory {least}, or raise the limit (docker run --memory …, MemoryMax=)",
        )
    return ok("memory", f"{limit} allowed, a mount uses up to {wanted}")


def directories(f: MachineFacts) -> Iterator[Verdict]:
    """Where unsent data, sockets and the cache lie: whose, and how much room there is."""
    if f.state is not None:
        yield _ownership("state directory", "state-dir", f.state) or _room_for_unsent(f.state)
    if f.runtime is not None:
        yield _ownership("runtime directory", "runtime-dir", f.runtime) or ok(
            "runtime directory", f.runtime.path
        )
    if f.cache is not None:
        yield _ownership("cache directory", "cache-dir", f.cache) or _room_for_cache(f.cache, f.cache_floor)


def _ownership(check: str, cause: str, d: Directory) -> Verdict | None:
    path = shlex.quote(d.path)
    instead = f", or give another {d.option}" if d.option else ""
    if d.problem:
        return bad(check, f"{cause}-unusable", f"{d.path}: {d.problem}".lstrip(": "), f"ls -ld {path}")
    if d.mode is None:
        return None
    if not d.is_directory:
        return bad(check, f"{cause}-unusable", f"{d.path} is no directory", f"ls -ld {path}{instead}")
    if not d.is_ours:
        return bad(
            check,
            f"{cause}-foreign",
            f"{d.path} belongs to another user",
            f'sudo chown -R "$(id -u)" {path}{instead}',
        )
    if d.mode & 0o022:
        says = f"other users may change {d.path} (mode {d.mode:04o})"
        return bad(check, f"{cause}-open", says, f"chmod 700 {path}")
    if d.mode & 0o055 and d.open_below:
        says = f"other users may look into {d.path}, at {', '.join(d.open_below[:5])}"
        return bad(check, f"{cause}-open", says, f"chmod 700 {path}")
    return None


def _room_for_unsent(d: Directory) -> Verdict:
    scarce = d.free is not None and d.free < LEAST_FREE
    if scarce or (d.files_free is not None and d.files_free < LEAST_FILES):
        what = f"{show.size(d.free or 0)} free" if scarce else f"{d.files_free} inodes free"
        return bad(
            "state directory",
            "state-disk-full",
            f"{what} on the disk of {d.path}: what is written on a mount has no room",
            f"df -h {shlex.quote(d.path)}   (remove something there, or mount with another --state-dir)",
        )
    return ok("state directory", f"{d.path}, {_free(d)}")


def _room_for_cache(d: Directory, floor: int) -> Verdict:
    if d.free is not None and d.free < floor:
        return warn(
            "cache directory",
            "cache-disk-full",
            f"{show.size(d.free)} free on the disk of {d.path}, where the cache leaves {show.size(floor)}: "
            "what is read is not kept",
            f"vfsmount cache clear --cache-dir {shlex.quote(d.path)}   "
            "(or mount with another --cache-dir, or a smaller --cache-free)",
        )
    return ok("cache directory", f"{d.path}, {_free(d)}")


def _free(d: Directory) -> str:
    return "room unknown" if d.free is None else f"{show.size(d.free)} free"


def secrets(f: MachineFacts) -> Verdict:
    """Files that hold keys and that others may read."""
    if f.open_secrets:
        return bad(
            "secrets",
            "secret-open",
            f"other users may read {', '.join(f.open_secrets)}",
            f"chmod 600 {' '.join(map(shlex.quote, f.open_secrets))}",
        )
    return ok("secrets", "no file with a key or login is open to others")


# --- mounts --------------------------------------------------------------------------------------


def mount(m: MountFacts, f: MachineFacts) -> Iterator[Verdict]:
    """One mountpoint: alive, and served in large pieces."""
    path = shlex.quote(m.mountpoint)
    if m.kind is None:
        yield ok(m.mountpoint, "nothing is mounted there")
        return
    if m.kind != FS_TYPE:
        yield ok(m.mountpoint, f"on it is a {m.kind} mount, none of vfsmount")
        return
    if m.died:
        yield bad(
            m.mountpoint,
            "dead-mount",
            "a mount whose daemon has died (“Transport endpoint is not connected”)",
            f"vfsmount umount --lazy {path}   (or mount again, which does it)",
        )
        return
    if m.unwell:
        yield bad(m.mountpoint, "mount-hangs", m.unwell, f"vfsmount umount --lazy {path}")
        return
    yield ok(m.mountpoint, "mounted, and its daemon answers")
    if m.read_ahead_kb is not None and m.read_ahead_kb < READ_AHEAD_KB:
        yield warn(
            "kernel readahead",
            "readahead-small",
            f"{m.read_ahead_kb} KiB for {m.mountpoint}: reads of large files cost twice the CPU",
            f"echo {READ_AHEAD_KB} | sudo tee /sys/class/bdi/{m.device}/read_ahead_kb   (until unmounted)",
        )
    elif m.read_ahead_kb is not None:
        yield ok("kernel readahead", f"{m.read_ahead_kb} KiB")


def propagation(f: MachineFacts) -> Verdict | None:
    """Whether others see what is mounted in a container."""
    if f.mountpoint is None or not f.is_container or not f.mounts or f.mounts[0].is_shared is None:
        return None
    if f.mounts[0].is_shared:
        return ok("propagation", "what is mounted here is seen by the host")
    path = shlex.quote(os.path.dirname(f.mountpoint))
    return warn(
        "propagation",
        "mount-private",
        "in this container only: neither the host nor other containers see what is mounted here",
        f"docker run -v {path}:{path}:rshared …   (on the host first: sudo mount --make-rshared {path})",
    )
