"""Messages between holder and generation: JSON objects, a packet each, over a socket pair (SOCK_SEQPACKET).

``op`` says what it is. From a generation: ``mount`` and ``afresh`` (have it mounted, again), ``answer`` (its
answer to the kernel's first request, to be written), ``standby`` (the same answer, not to be written),
``ready``, ``alive``, ``unmount``, ``draining``, ``ended``, ``notify`` (for the supervisor), ``upgrade``,
``stopped`` and ``busy``. From the holder: ``mounted`` and ``go`` (with the device), ``answered``,
``unmounted``, ``refused``, ``stop`` and ``upgrade-failed``.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

# A holder outlives its daemons, and with it the journal: to be raised when either is read in another way.
PROTOCOL = 1
START = "VFSMOUNT_HOLDER_START"  # what the holder is to do, in its environment
GENERATION = "VFSMOUNT_GENERATION"  # what a generation is told, in its environment
MOST = 65536  # bytes of a message
_MOST_FDS = 2

Message = dict[str, Any]


def send(to: socket.socket, message: Message, fds: Sequence[int] = ()) -> bool:
    """Whether the other side was there to take it."""
    try:
        socket.send_fds(to, [json.dumps(message).encode()], list(fds))
    except OSError:
        return False
    return True


def receive(source: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors; None: the other side is gone.

    Raises:
        BlockingIOError: there is none, of a socket that does not block.
    """
    try:
        data, fds, _, _ = socket.recv_fds(source, MOST, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    return (json.loads(data), fds) if data else None
