"""Talking to running mounts: which there are, and one question to one of them.

The wire is `vfs.control`'s.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vfsmount import places
from vfsmount.errors import MountError
from vfsmount.store.mounts import MountRecord, MountRecords, is_alive

# The daemon says something at least every second while it lives (`vfs.control.BEAT_S`).
SILENCE_S = 20.0
# For one daemon to take another one's place behind a holder.
TAKEOVER_S = 5.0
_PAUSE_S = 0.05
# However short the time given: who asks wants to know what is there now.
_LEAST_S = 0.25

Answer = dict[str, Any]


class Declined(MountError):
    """The mount has heard the question, and says why it does not do what it is asked."""


def live_mounts(state_dir: Path) -> list[MountRecord]:
    """Mounts of this user that run now, by mountpoint."""
    return [r for r in MountRecords(state_dir).read_all() if is_alive(r)]


def running_mount(mountpoint: str, state_dir: Path) -> MountRecord:
    """The mount that runs on a mountpoint, which is not touched.

    Raises:
        MountError: there is none.
    """
    from vfsmount.fuse.mountpoint import real_path

    path = real_path(mountpoint)
    record = MountRecords(state_dir).read(path)
    if record is None or not is_alive(record):
        raise MountError(f"{path} is not a running mount of this state directory ({state_dir})")
    return record


def chosen_mount(mountpoint: str | None, state_dir: Path) -> MountRecord:
    """As `running_mount`; None: the only one there is.

    Raises:
        MountError: there is none, or several.
    """
    if mountpoint is not None:
        return running_mount(mountpoint, state_dir)
    running = live_mounts(state_dir)
    if not running:
        raise MountError(f"no mount of yours is running here (state directory {state_dir})")
    if len(running) > 1:
        raise MountError(f"several mounts run here; say which: {', '.join(r.mountpoint for r in running)}")
    return running[0]


def mount_of(path: str, state_dir: Path) -> tuple[MountRecord, str] | None:
    """The running mount a path lies on, and the path below its mountpoint; None: it lies on none.

    The path need not exist.
    """
    found = place_on_mount(path, state_dir)
    return found and (found[0], found[2])


def place_on_mount(path: str, state_dir: Path) -> tuple[MountRecord, str, str] | None:
    """As `mount_of`, with the path's own absolute form in between, links above its last name followed."""
    parent, name = os.path.split(os.path.abspath(path))
    full = os.path.join(os.path.realpath(parent), name)
    # The mountpoint itself is not touched: a mount that hangs would hang us. A link is followed.
    return _mount_above(full, state_dir) or _mount_above(os.path.realpath(path), state_dir)


def _mount_above(full: str, state_dir: Path) -> tuple[MountRecord, str, str] | None:
    records = MountRecords(state_dir)
    for above in (Path(full), *Path(full).parents):
        record = records.read(str(above))
        if record is not None and is_alive(record):
            return record, full, full[len(str(above)) :].strip("/")
    return None


def ask(record: MountRecord, request: Answer, deadline: float | None = None) -> Iterator[Answer]:
    """Put one question to a mount; its answers, one after the other.

    Args:
        deadline: of `time.monotonic`; None: as long as the mount says anything.

    Raises:
        MountError: it cannot be asked, says nothing or no more, or refuses the question.
        TimeoutError: the deadline has come.
    """
    if not record.socket:
        raise MountError(f"the mount on {record.mountpoint} has no control socket; its log says why")
    connection = _connect(record)
    if deadline is not None:
        deadline = max(deadline, time.monotonic() + _LEAST_S)
    with connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            while True:
                if deadline is not None:
                    # Never 0, which would mean not to wait for what is there already.
                    connection.settimeout(min(SILENCE_S, max(0.001, deadline - time.monotonic())))
                answer = json.loads(lines.readline())
                if "error" in answer:
                    raise Declined(f"{record.mountpoint}: {answer['error']}")
                yield answer
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
            raise MountError(f"the mount on {record.mountpoint} has fallen silent") from None
        except (OSError, ValueError) as e:  # ValueError: half a line, or none
            raise MountError(f"the mount on {record.mountpoint} ended in the middle of its answer") from e


def _connect(record: MountRecord) -> socket.socket:
    give_up = time.monotonic() + (TAKEOVER_S if record.holder else 0.0)
    while True:
        try:
            return places.connect_private(Path(record.socket), SILENCE_S)
        except OSError as e:
            if time.monotonic() >= give_up or not is_alive(record):
                raise MountError(
                    f"the mount on {record.mountpoint} does not answer: {e.strerror or e}"
                ) from e
        time.sleep(_PAUSE_S)
