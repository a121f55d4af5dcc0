"""Talking to running mounts: which there are, and one question to one of them.

The wire is `vfs.control`'s.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vfsmount import places
from vfsmount.errors import MountError
from vfsmount.store.mounts import MountRecord, MountRecords, is_alive

# The daemon says something at least every second while it lives (`vfs.control.BEAT_S`).
SILENCE_S = 20.0

Answer = dict[str, Any]


def live_mounts(state_dir: Path) -> list[MountRecord]:
    """Mounts of this user that run now, by mountpoint."""
    return [r for r in MountRecords(state_dir).read_all() if is_alive(r)]


def mount_of(path: str, mounts: list[MountRecord]) -> tuple[MountRecord, str] | None:
    """The mount a path lies on, and the path below its mountpoint; None: it lies on none of these.

    The path's own last component may not exist, and is not followed where it is a link.
    """
    parent, name = os.path.split(os.path.abspath(path))
    full = os.path.join(os.path.realpath(parent), name) if name else os.path.realpath(parent)
    for record in sorted(mounts, key=lambda r: -len(r.mountpoint)):
        if full == record.mountpoint or full.startswith(record.mountpoint + "/"):
            return record, full[len(record.mountpoint) :].strip("/")
    return None


def ask(record: MountRecord, request: Answer, deadline: float | None = None) -> Iterator[Answer]:
    """Put one question to a mount; its answers, one after the other.

    Args:
        deadline: of `time.monotonic`; None: as long as the mount says anything.

    Raises:
        MountError: it cannot be asked, says nothing, or refuses the question.
        TimeoutError: the deadline has come.
    """
    if not record.socket:
        raise MountError(f"the mount on {record.mountpoint} has no control socket; its log says why")
    try:
        connection = places.connect_private(Path(record.socket), SILENCE_S)
    except OSError as e:
        raise MountError(f"the mount on {record.mountpoint} does not answer: {e.strerror or e}") from e
    with connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            while True:
                if deadline is not None:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        raise TimeoutError
                    connection.settimeout(min(SILENCE_S, left_s))
                line = lines.readline()
                if not line:
                    return
                answer = json.loads(line)
                if "error" in answer:
                    raise MountError(f"{record.mountpoint}: {answer['error']}")
                yield answer
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
            raise MountError(f"the mount on {record.mountpoint} has fallen silent") from None
        except (OSError, ValueError) as e:
            raise MountError(f"the mount on {record.mountpoint} ended in the middle of its answer") from e
