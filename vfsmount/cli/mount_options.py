"""``-o a,b=c``, as mount(8) and fstab write options."""

from __future__ import annotations

from dataclasses import dataclass, field

from vfsmount.errors import ConfigError

# Values of linux/mount.h; stated here so that `vfsmount --help` need not load the FUSE layer.
_KERNEL = {"noexec": 8, "noatime": 1024, "nodiratime": 2048, "sync": 16, "dirsync": 128}
# Always so here, or without meaning for us: accepted because fstab lines carry them.
_ACCEPTED = frozenset(
    {"defaults", "rw", "nosuid", "nodev", "exec", "async", "atime", "default_permissions", "nonempty"}
    | {"auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"}
    | {"relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "diratime"}
    | {"_netdev", "nofail", "silent", "loud"}
)
_ACCEPTED_WITH_VALUE = frozenset({"user", "comment"})  # mount(8) adds who mounts
_NUMBERS = {"uid": 10, "gid": 10, "umask": 8}
_LARGEST = {"uid": 2**32 - 2, "gid": 2**32 - 2, "umask": 0o777}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What ``-o`` said.

    Attributes:
        numbers: of uid, gid and umask, as far as given.
        kernel_flags: for mount(2).
        sync: every close waits for the server.
    """

    read_only: bool = False
    allow_other: bool = False
    kernel_flags: int = 0
    sync: bool = False
    numbers: dict[str, int] = field(default_factory=dict)


def parse_mount_options(text: str) -> MountOptions:
    """Parse a comma list.

    Raises:
        ConfigError: an option nobody knows, or a value that is no number; the sentence names it.
    """
    read_only = allow_other = False
    flags, numbers = 0, {}
    for option in filter(None, (o.strip() for o in text.split(","))):
        name, has_value, value = option.partition("=")
        if name in _NUMBERS:
            try:
                numbers[name] = int(value, _NUMBERS[name])
            except ValueError:
                raise ConfigError(f"-o {option}: {name} needs a number") from None
            if not 0 <= numbers[name] <= _LARGEST[name]:
                raise ConfigError(f"-o {option}: {name} is out of range")
        elif name in ("ro", "rw") and not has_value:
            read_only = name == "ro"
        elif name == "allow_other" and not has_value:
            allow_other = True
        elif name in _KERNEL and not has_value:
            flags |= _KERNEL[name]
        elif has_value and name in _ACCEPTED_WITH_VALUE:
            continue
        elif option not in _ACCEPTED and not name.startswith(("x-", "X-")):
            raise ConfigError(f"-o {option}: unknown option; 'vfsmount mount --help' lists those there are")
    return MountOptions(read_only, allow_other, flags, bool(flags & _KERNEL["sync"]), numbers)
