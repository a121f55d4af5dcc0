"""Facts about this machine, this user and the mounts here; nothing is judged, nothing is changed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vfsmount import health, places
from vfsmount.errors import ConfigError

CAP_SYS_ADMIN = 21
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # <linux/proc_ns.h>, PROC_PID_INIT_INO: that of the machine itself
FUSE_CONF = Path("/etc/fuse.conf")
_ANSWER_S = 3.0

T = TypeVar("T")


@dataclass(slots=True)
class Directory:
    """One directory of ours.

    Attributes:
        option: the option that moves it; "" where there is none.
        mode: permission bits; None: it does not exist (yet).
        free, files_free: bytes and inodes left on its disk (or where it would be made); None: unknown.
        problem: why it cannot be looked at.
        open_below: of what lies in it, names of what others may look into.
    """

    path: str
    option: str
    mode: int | None = None
    is_ours: bool = True
    is_directory: bool = True
    free: int | None = None
    files_free: int | None = None
    problem: str = ""
    open_below: list[str] = field(default_factory=list)


@dataclass(slots=True)
class MountFacts:
    """One mountpoint.

    Attributes:
        kind: type of what is mounted there; None: nothing.
        unwell: why a mount of ours is not well; "" where it is.
        died: its daemon is gone.
        read_ahead_kb: the kernel's own readahead for it; None: unknown.
        device: major:minor.
        is_shared: what is mounted below is seen in other mount namespaces; None: unknown.
    """

    mountpoint: str
    kind: str | None = None
    unwell: str = ""
    died: bool = False
    read_ahead_kb: int | None = None
    device: str | None = None
    is_shared: bool | None = None


@dataclass(slots=True)
class MachineFacts:
    """All of it, as of one moment.

    Attributes:
        may_mount: without help: CAP_SYS_ADMIN.
        is_root: of this machine, container or user namespace.
        within_reach: a setuid helper would have CAP_SYS_ADMIN; False where the bounding set has it not.
        no_new_privileges: setuid programs give no rights.
        apparmor: the profile we are confined by; "" where there is none.
        dev_fuse: errno of opening /dev/fuse; 0: it opens.
        fusermount3: its path; None: not on PATH. `fusermount3_setuid`: it is root's, or has its rights.
        wants_allow_other, user_allow_other: --allow-other is to be used; /etc/fuse.conf permits it.
        is_container: in a mount namespace that is not the machine's.
        open_files: the soft limit of this process.
        memory_limit: bytes, of the control groups we are in; None: none.
        memory_wanted: bytes of --memory.
        cache_floor: bytes that the cache leaves free.
        open_secrets: files with a key or login in them that others may read.
    """

    may_mount: bool = False
    is_root: bool = False
    within_reach: bool = True
    no_new_privileges: bool = False
    apparmor: str = ""
    dev_fuse: int = 0
    fusermount3: str | None = None
    fusermount3_setuid: bool = True
    wants_allow_other: bool = False
    user_allow_other: bool = True
    is_container: bool = False
    open_files: int = 1 << 20
    memory_limit: int | None = None
    memory_wanted: int = 0
    cache_floor: int = 0
    state: Directory | None = None
    cache: Directory | None = None
    runtime: Directory | None = None
    open_secrets: list[str] = field(default_factory=list)
    mounts: list[MountFacts] = field(default_factory=list)
    mountpoint: str | None = None


def gather(
    *,
    mountpoint: str | None,
    state: Path,
    cache: Path,
    cache_floor: int,
    memory: int,
    allow_other: bool,
    secret_key_file: str | None,
) -> MachineFacts:
    """Look around. What cannot be found out is left as it is by default."""
    f = MachineFacts(memory_wanted=memory, cache_floor=cache_floor, wants_allow_other=allow_other)
    nothing: dict[str, str] = {}
    status = _attempt(_own_status, nothing)
    f.may_mount = bool(int(status.get("CapEff", "0"), 16) >> CAP_SYS_ADMIN & 1)
    f.within_reach = "CapBnd" not in status or bool(int(status["CapBnd"], 16) >> CAP_SYS_ADMIN & 1)
    f.no_new_privileges = status.get("NoNewPrivs") == "1"
    f.is_root = os.geteuid() == 0
    f.apparmor = _attempt(_apparmor_profile, "")
    f.dev_fuse = _opens("/dev/fuse")
    f.fusermount3 = shutil.which("fusermount3")
    if f.fusermount3 is not None:
        f.fusermount3_setuid = _has_root_rights(f.fusermount3)
    f.user_allow_other = _attempt(lambda: _has_line(FUSE_CONF, "user_allow_other"), False)
    f.is_container = _is_container()
    f.open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    f.memory_limit = _attempt(_memory_limit, None)
    f.state = _directory(state, "--state-dir")
    f.cache = _directory(cache, "--cache-dir")
    try:
        f.runtime = _directory(places.runtime_dir(), "")
    except ConfigError as e:
        f.runtime = Directory("", "", problem=str(e))
    f.open_secrets = [str(p) for p in _secret_files(state, secret_key_file) if _attempt_open(p)]
    f.mounts = _mounts(mountpoint, state)
    f.mountpoint = f.mounts[0].mountpoint if mountpoint is not None else None
    return f


def _attempt(look: Callable[[], T], otherwise: T) -> T:
    try:
        return look()
    except (OSError, ValueError):
        return otherwise


# --- what mounting needs -------------------------------------------------------------------------


def _own_status() -> dict[str, str]:
    """The fields of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _apparmor_profile() -> str:
    """Its name, without the mode in brackets. Source: apparmor(7), aa_getcon(2)."""
    place = Path("/proc/self/attr/apparmor/current")  # /proc/self/attr/current may be another module's
    name = place.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return name.removesuffix(" (enforce)") if name.endswith(" (enforce)") else ""


def _opens(path: str) -> int:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        return e.errno or errno.EIO
    return 0


def _has_root_rights(program: str) -> bool:
    try:
        info = os.stat(program)
        if info.st_uid == 0 and info.st_mode & stat.S_ISUID:
            return True
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def _has_line(path: Path, wanted: str) -> bool:
    return any(line.strip() == wanted for line in path.read_text(encoding="utf-8").splitlines())


def _is_container() -> bool:
    # The files are docker's and podman's; containerd, as in most clusters, leaves none.
    if any(os.path.exists(p) for p in ("/.dockerenv", "/run/.containerenv")):
        return True
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            return True
        return os.readlink("/proc/1/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError:  # init is not ours to look at: as on any machine
        return "container" in os.environ  # as systemd-nspawn and podman set it


# --- limits --------------------------------------------------------------------------------------


def _memory_limit() -> int | None:
    """The least limit of our control groups, in bytes; of either version of them."""
    limits = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            text = _attempt((place / name).read_text, "").strip()
            if text.isdigit() and int(text) < 1 << 60:  # the old version's way to say "none"
                limits.append(int(text))
            if place == root:
                break
    return min(limits, default=None)


# --- directories and files -----------------------------------------------------------------------


def _directory(path: Path, option: str) -> Directory:
    found = Directory(str(path), option)
    try:
        info = os.lstat(path)
        found.mode = stat.S_IMODE(info.st_mode)
        found.is_ours = info.st_uid == os.geteuid()
        found.is_directory = stat.S_ISDIR(info.st_mode)
        if found.is_directory and found.is_ours:
            found.open_below = _open_below(path)
    except FileNotFoundError:
        pass
    except OSError as e:
        found.problem = e.strerror or str(e)
    above = next((p for p in (path, *path.parents) if os.path.exists(p)), Path("/"))
    try:
        disk = os.statvfs(above)
    except OSError:
        return found
    found.free = disk.f_bavail * disk.f_frsize
    found.files_free = disk.f_favail if disk.f_files else None
    return found


def _open_below(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        kept = [e for e in entries if not e.name.endswith((".lock", ".TAG"))]  # nothing in them
    return sorted(e.name for e in kept if stat.S_IMODE(e.stat(follow_symlinks=False).st_mode) & 0o077)


def _secret_files(state: Path, secret_key_file: str | None) -> list[Path]:
    """Files that would hold a key or a login, if they hold one."""
    from vfsmount.config_sources import Places, ancestry

    where = Places.of_this_user()
    dotenv = next((p for d in ancestry(where.directory) if os.path.isfile(p := d / ".env")), None)
    found = [where.config_file, where.official / "credentials.toml", where.official / "config.toml"]
    found += [p for p in (dotenv, Path(secret_key_file) if secret_key_file else None) if p is not None]
    kept = [p for p in found if _attempt(lambda p=p: _holds_secret(p, secret_key_file), False)]  # type: ignore[misc]
    none: list[Path] = []
    return kept + _attempt(lambda: sorted((state / "logins").glob("*.json")), none)


def _holds_secret(path: Path, secret_key_file: str | None) -> bool:
    if str(path) == secret_key_file:
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip().removeprefix("export ").lower() for line in text.splitlines()]
    names = ("secret_key", "backend_secret_key", "sorna_secret_key")
    return any(line.partition("=")[0].strip() in names for line in lines if "=" in line)


def _attempt_open(path: Path) -> bool:
    return _attempt(lambda: places.open_to_others(path), False)


# --- mounts --------------------------------------------------------------------------------------


def _mounts(mountpoint: str | None, state: Path) -> list[MountFacts]:
    """The mountpoint asked about, or all of ours that are recorded or seen here."""
    from vfsmount.fuse.mountpoint import FS_TYPE, real_path

    table = _mount_table()
    if mountpoint is not None:
        return [_mount_facts(real_path(mountpoint), state, table)]
    here = [fields["at"] for fields in table if fields["kind"] == FS_TYPE]
    recorded = [r["mountpoint"] for r in health.read_records(str(state))]
    return [_mount_facts(at, state, table) for at in dict.fromkeys(recorded) if at in here]


def _mount_facts(mountpoint: str, state: Path, table: list[dict[str, Any]]) -> MountFacts:
    from vfsmount.fuse.mountpoint import FS_TYPE, answer

    found = MountFacts(mountpoint)
    there = [fields for fields in table if fields["at"] == mountpoint]
    above = [fields for fields in table if f"{mountpoint}/".startswith(f"{fields['at'].rstrip('/')}/")]
    if above:
        found.is_shared = max(above, key=lambda fields: len(fields["at"]))["is_shared"]
    if not there:
        return found
    found.kind, found.device = there[-1]["kind"], there[-1]["device"]
    if found.kind != FS_TYPE:
        return found
    found.unwell = health.check(mountpoint, str(state), _ANSWER_S)
    if found.unwell:
        code = answer(mountpoint, _ANSWER_S)
        found.died = code in (errno.ENOTCONN, errno.ECONNABORTED)
        if code == 0:
            found.unwell = ""  # of another state directory, or one without a control socket
    setting = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
    found.read_ahead_kb = _attempt(lambda: int(setting.read_text()), None)
    return found


def _mount_table() -> list[dict[str, Any]]:
    """/proc/self/mountinfo, the fields we look at."""
    from vfsmount.fuse.mountpoint import unescape

    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            found.append(
                {
                    "at": unescape(fields[4]),
                    "device": fields[2],
                    "kind": after.split(" ")[0],
                    "is_shared": any(tag.startswith("shared:") for tag in fields[6:]),
                }
            )
    return found
