"""The states of a recorded file, the legal moves between them, and what recovery does with each.

A row exists from the moment content is acknowledged (close, fsync) until the server's version was
read back and has stood for a while. docs/crash-safety.md shows the table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """What a row says of its content."""

    WAITING = "waiting"  # acknowledged; nothing of it was sent, or what was sent does not count
    SENDING = "sending"  # an upload session was opened for the content named in the row
    SENT = "sent"  # on the server, read back; watched for a moment in case somebody overwrites it blindly
    PARKED = "parked"  # the server refuses it; tried again rarely, and when it changes


MOVES: dict[State, frozenset[State]] = {
    # To SENT: the session was gone because it had been completed, and the file there is ours.
    State.WAITING: frozenset({State.WAITING, State.SENDING, State.SENT, State.PARKED}),
    # Acknowledged anew while it is being sent: the session still belongs to the older content.
    State.SENDING: frozenset({State.WAITING, State.SENDING, State.SENT, State.PARKED}),
    # Changed and acknowledged again, or found to be overwritten: it has to be sent (elsewhere).
    State.SENT: frozenset({State.WAITING}),
    State.PARKED: frozenset({State.WAITING, State.SENDING, State.PARKED}),
}


class Recovery(enum.Enum):
    """What the next mount does with a row of a mount that died."""

    SEND = "send"  # take it up; an open session is resumed
    VERIFY = "verify"  # it was on the server: look whether it still is
    SET_ASIDE = "set-aside"  # its bytes may be torn: keep them where a human finds them, send nothing
    REPORT_LOST = "report-lost"  # the content's file is gone; nothing can be done but to say so
    LEAVE = "leave"  # not ours to decide: its folder is not one this mount shows


@dataclass(frozen=True, slots=True)
class Found:
    """What is found of a row at the start.

    Attributes:
        size: bytes that were acknowledged.
        sealed: they were not to be changed in place (a close), while an fsync only promises that
            they are on the disk, for programs that know how to go on from there.
        content: bytes of the content's file, None where it is missing.
        durable: the content was flushed to the disk before the row's claim, or the machine has not
            been restarted since.
        shown: the row's folder is one of those the mount shows.
    """

    state: State
    size: int
    sealed: bool
    content: int | None
    durable: bool
    shown: bool


def recover(found: Found) -> Recovery:
    """Decide about one row."""
    if not found.shown:
        return Recovery.LEAVE
    if found.content is None:
        # Content is let go of only after the row; so this is somebody's hand, or the disk's failure.
        return Recovery.REPORT_LOST
    if not found.durable or (found.sealed and found.content < found.size):
        # Sending it could put half a file in a good one's place.
        return Recovery.SET_ASIDE
    return Recovery.VERIFY if found.state is State.SENT else Recovery.SEND
