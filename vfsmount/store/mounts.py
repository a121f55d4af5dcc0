"""Which daemon serves which mountpoint, and how it ended: small files that ``umount`` reads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from vfsmount.errors import ConfigError


def unusable(state_dir: Path, error: OSError) -> ConfigError:
    """What to say of a state directory in which nothing can be read or made."""
    return ConfigError(
        f"the state directory {state_dir} cannot be used: {error.strerror}. It has to be yours, "
        "also where it is a volume; --state-dir or XDG_STATE_HOME name another"
    )


class MountRecord(msgspec.Struct, frozen=True):
    """One mount of this user on this machine.

    Attributes:
        pid: the daemon's process.
        started: the daemon's start time as in /proc/PID/stat, so that a reused pid is not taken for it.
        ended: the daemon has finished.
        unsent: (name, where it is kept) of what could not be sent.
        socket: where it answers questions (vfs.control); "": it does not.
        passed: somebody else mounted, and has to unmount.
        holder, holder_started: the process behind which daemons change (`vfsmount.holder`), as `pid` and
            `started`; 0: the mount ends with its daemon.
    """

    mountpoint: str
    pid: int
    started: str
    ended: bool = False
    unsent: tuple[tuple[str, str], ...] = ()
    socket: str = ""
    passed: bool = False
    holder: int = 0
    holder_started: str = ""

    @property
    def lasting(self) -> tuple[int, str]:
        """The process with which the mount ends, and when it started."""
        return (self.holder, self.holder_started) if self.holder else (self.pid, self.started)


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" where there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


class MountRecords:
    """The records, one file for each mountpoint, below the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir / "mounts"

    def _file(self, mountpoint: str) -> Path:
        return self._dir / f"{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]}.json"

    def write(self, record: MountRecord) -> None:
        """Replace the record of its mountpoint."""
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._file(record.mountpoint)
        temporary = target.with_suffix(f".{os.getpid()}")
        unsent = tuple((_text(name), _text(kept_at)) for name, kept_at in record.unsent)
        told = msgspec.structs.replace(
            record, mountpoint=_text(record.mountpoint), unsent=unsent, socket=_text(record.socket)
        )
        temporary.write_bytes(msgspec.json.encode(told))
        temporary.replace(target)

    def read(self, mountpoint: str) -> MountRecord | None:
        """The record of a mountpoint, None where there is none that can be read."""
        return _read(self._file(mountpoint))

    def read_all(self) -> list[MountRecord]:
        """All records, by mountpoint; their mountpoints are spelt out for a human.

        Raises:
            ConfigError: the state directory is closed to us.
        """
        try:
            files = list(self._dir.glob("*.json"))
        except OSError as e:
            raise unusable(self._dir.parent, e) from e
        found = [record for file in files if (record := _read(file)) is not None]
        return sorted(found, key=lambda record: record.mountpoint)

    def is_of(self, mountpoint: str, pid: int) -> bool:
        """Whether the record is of this daemon. While one sends what is left, another may have mounted."""
        record = self.read(mountpoint)
        return record is not None and record.pid == pid

    def has_died(self, mountpoint: str) -> bool:
        """Whether the daemon of a record is gone without having ended."""
        record = self.read(mountpoint)
        return record is not None and not record.ended and not is_alive(record)

    def remove(self, mountpoint: str) -> None:
        """Forget a mountpoint."""
        self._file(mountpoint).unlink(missing_ok=True)


def _read(file: Path) -> MountRecord | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=MountRecord)
    except (OSError, msgspec.DecodeError):
        return None


def _text(path: str) -> str:
    """A path as JSON can hold it; bytes that are not UTF-8 are spelt out for a human."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_alive(record: MountRecord) -> bool:
    """Whether the daemon of a record still runs, or the holder that will have another."""
    pid, started = record.lasting
    return not record.ended and bool(started) and start_time(pid) == started
