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


class Event(enum.Enum):
    """What happens to a recorded file."""

    ACKNOWLEDGED = "acknowledged"  # a close or fsync recorded its content, for the first time or anew
    SESSION = "session"  # an upload session was opened for it, or for an older content of it
    NO_SESSION = "no-session"  # that session is of no use any more
    READ_BACK = "read-back"  # the server has what was acknowledged last, read back
    READ_BACK_OLDER = "read-back-older"  # the server has an older content, read back
    REFUSED = "refused"  # the server does not take it, and the network is not to blame
    REBASED = "rebased"  # it is to take another version's place, or has another name


# What is not here cannot happen. After READ_BACK nothing is sent before it is acknowledged anew.
_AFTER: dict[tuple[State, Event], State] = {
    **{(state, Event.SESSION): State.SENDING for state in State if state is not State.SENT},
    **{(state, Event.NO_SESSION): State.WAITING for state in State if state is not State.SENT},
    # From any: a session may be found to be completed, and the file there to be ours.
    **{(state, Event.READ_BACK): State.SENT for state in State if state is not State.SENT},
    **{(state, Event.READ_BACK_OLDER): State.WAITING for state in State if state is not State.SENT},
    **{(state, Event.REFUSED): State.PARKED for state in State if state is not State.SENT},
    **{(state, Event.REBASED): State.WAITING for state in State},
}


def after(state: State | None, event: Event, *, session: bool) -> State:
    """The state a row has after an event; `state` None: there is no row yet.

    Args:
        session: whether an upload session is open, of this or of an older content.

    Raises:
        ValueError: that cannot happen to a row in this state.
    """
    if event is Event.ACKNOWLEDGED:
        return State.SENDING if session else State.WAITING
    if state is None or (state, event) not in _AFTER:
        raise ValueError(f"{event.value} of a file that is {state.value if state else 'not recorded'}")
    return _AFTER[state, event]


class Recovery(enum.Enum):
    """What the next mount does with a row of a mount that died."""

    SEND = "send"  # take it up; an open session is resumed
    VERIFY = "verify"  # it was on the server: look whether it still is
    SEND_OLDER = "send-older"  # its bytes may be torn, those acknowledged before it are not
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
        fallback: what was acknowledged before is still here, and whole.
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
    fallback: bool = False


def recover(found: Found) -> Recovery:
    """Decide about one row."""
    if not found.shown:
        return Recovery.LEAVE
    if found.state is State.SENT and found.content is None:
        return Recovery.VERIFY  # let go of, because nobody could have brought it back
    # Sending what is torn could put half a file in a good one's place. Content that is missing was let
    # go of before its row was: by somebody's hand, or by the disk.
    torn = not found.durable or (found.sealed and (found.content or 0) < found.size)
    if found.content is None or torn:
        if found.fallback:
            return Recovery.SEND_OLDER
        return Recovery.REPORT_LOST if found.content is None else Recovery.SET_ASIDE
    return Recovery.VERIFY if found.state is State.SENT else Recovery.SEND
