"""An upload session: given the last reply, what to do next.

Two servers hide behind one protocol. 23.09 appends whatever comes, wherever it was meant to go, and
keeps what arrived of a request that broke. 26.x refuses a wrong offset and forgets a broken request.
So after anything but a clean reply we ask (HEAD) before we send; on 23.09 until two answers agree,
because the server may still be writing what it had buffered. Bytes that come even later would stand
in the file twice: the next clean reply gives them away, because its offset is then too large, and
until there was one, a second broken request is not built upon; the upload starts over instead.
(Bytes later still than that clean reply would go unnoticed. The caller resets a broken connection
rather than closing it, so that our own kernel does not send them.)

The request that completes the file also ends the session, and its reply may be lost: then the next
answer is "no such session", and only the remote file can tell whether we succeeded.

Pure: replies come in as events, decisions leave as actions; waiting and sending are the caller's.

Source: contract 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

PIECE = 16 << 20  # as the official client; 26.x pays one fsync for each, 1 MiB is 3 times slower
CONFIRMING_PIECE = 1 << 20  # the first after a break on 23.09: its reply tells whether all is well
MAX_FAILURES = 6  # in a row, without a byte more on the server
MAX_REFUSALS = 1  # a 500 may pass, but a directory in the file's place stays
MAX_SESSIONS = 3
SETTLE_S = 0.25  # between two HEADs that must agree; the server's buffers drain in milliseconds
RETRY_WAIT_S = 0.5  # doubled at each failure in a row
MAX_WAIT_S = 8.0
LEASE_WAIT_S = 2.0  # 26.x: another request of ours still holds the 10 s lease


# --- what happened ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """A PATCH was answered with success; ``offset`` is what the server now holds."""

    offset: int


@dataclass(frozen=True, slots=True)
class Holds:
    """A HEAD was answered; ``offset`` is what the server holds."""

    offset: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """409: the server expected another offset. Nothing was written."""


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """409: another request writes this session. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Lost:
    """No usable reply: any part of what was sent may have been written.

    Attributes:
        sent: False where no connection came about, so nothing can have been.
    """

    sent: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """500: crashed on it, most often because the file cannot be put in place."""


@dataclass(frozen=True, slots=True)
class SessionGone:
    """404: finished by a request whose reply we lost, or removed, or expired."""


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """400: the token is too old, and a new one would belong to a new session."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The remote file was looked at; ``ours`` says it is what this upload would have made."""

    ours: bool


Event = Accepted | Holds | Mismatch | LeaseHeld | Lost | Refused | SessionGone | TokenRefused | Compared


# --- what to do ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """PATCH ``length`` bytes from ``offset``; an empty one finishes a complete file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Probe:
    """HEAD, after waiting."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Compare:
    """Look at the remote file."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """Ask for a new upload session and start from 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """The file is in place as far as the server told; verify it."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing more to try.

    Attributes:
        unreachable: it was silence, not a refusal, that ended it.
    """

    reason: str
    unreachable: bool


Action = Send | Probe | Compare | NewSession | Done | GiveUp


class Upload:
    """One file's way to the server, over as many sessions as it takes.

    Args:
        length: bytes of the whole file.
        blind_append: the server ignores offsets (23.09).

    Attributes:
        at_once: send all that is left in one request. The token is checked at a request's start
            only, so the last request may outlive it.
    """

    def __init__(self, length: int, *, blind_append: bool, piece: int = PIECE) -> None:
        assert length >= 0 and piece > 0
        self.length = length
        self.at_once = False
        self._blind = blind_append
        self._piece = piece
        self._sessions = 1
        self._failures = 0
        self._refusals = 0
        self._held = 0  # bytes the server is known to hold
        self._expected = 0  # bytes it will hold once the last PATCH is in
        self._last_seen: int | None = None  # by a HEAD, until a second one agrees
        self._unsettled = False  # part of a PATCH may still be on its way to the disk (23.09)
        self._may_be_complete = False  # a PATCH that would complete the file was sent
        self._sending = False  # the last step was a PATCH with content
        self._broken = 0  # such requests that broke since the last clean reply (23.09)

    def begin(self) -> Action:
        """The first step in a new session."""
        self._forget_session()
        return self._send(0)

    def next(self, happened: Event) -> Action:
        """The step after what happened to the last one."""
        match happened:
            case Accepted(offset):
                return self._accepted(offset)
            case Holds(offset):
                return self._holds(offset)
            case Mismatch():
                return self._failed(0.0)
            case LeaseHeld():
                return self._failed(LEASE_WAIT_S)
            case Lost(sent):
                if sent and self._sending and self._blind:
                    self._broken += 1
                self._unsettled = self._blind
                self._last_seen = None
                return self._failed(self._backoff_s())
            case Refused():
                return self._refused()
            case SessionGone():
                return Compare() if self._may_be_complete else self._start_over("the upload session is gone")
            case TokenRefused():
                if self._may_be_complete:
                    return Compare()
                return self._start_over("the upload takes longer than the server's tokens live")
            case Compared(ours):
                return Done() if ours else self._start_over("the session ended without the file in place")

    def _forget_session(self) -> None:
        self._held = self._expected = self._broken = 0
        self._last_seen = None
        self._unsettled = self._may_be_complete = self._sending = False

    def _accepted(self, offset: int) -> Action:
        self._failures = self._refusals = self._broken = 0
        if offset == self._expected:
            self._held = offset
            return Done() if offset >= self.length else self._send(offset)
        # 23.09 appended more than this request brought: what broke earlier came in late, in the wrong
        # place. On 26.x it cannot happen; either way the content is not what we meant.
        if offset >= self.length:
            return Compare()
        return self._start_over("the server holds bytes twice")

    def _holds(self, offset: int) -> Action:
        if self._unsettled and self._last_seen != offset:
            first, self._last_seen = self._last_seen is None, offset
            return Probe(SETTLE_S) if first else self._failed(SETTLE_S)
        self._last_seen, self._unsettled = None, False
        if not self._held <= offset <= self.length:
            return self._start_over("the server does not hold what was sent")
        if self._broken > 1:
            return self._start_over("the connection broke twice, and the server may hold bytes twice")
        if offset > self._held:
            self._failures = 0
        self._held = offset
        return self._send(offset)

    def _send(self, offset: int) -> Send:
        left = self.length - offset
        piece = min(self._piece, CONFIRMING_PIECE) if self._broken else self._piece
        length = left if self.at_once else min(piece, left)
        self._sending = length > 0
        self._expected = offset + length
        self._may_be_complete = self._may_be_complete or self._expected >= self.length
        return Send(offset, length)

    def _failed(self, wait_s: float) -> Action:
        self._failures += 1
        if self._failures > MAX_FAILURES:
            return GiveUp("the server stopped answering in the middle of an upload", unreachable=True)
        self._sending = False
        return Probe(wait_s)

    def _refused(self) -> Action:
        self._refusals += 1
        self._unsettled = self._blind
        self._last_seen = None
        if self._refusals > MAX_REFUSALS:
            return GiveUp("the server refuses to put the file in place", unreachable=False)
        return self._failed(self._backoff_s())

    def _start_over(self, reason: str) -> Action:
        if self._sessions >= MAX_SESSIONS:
            return GiveUp(reason, unreachable=False)
        self._sessions += 1
        return NewSession()

    def _backoff_s(self) -> float:
        return min(MAX_WAIT_S, RETRY_WAIT_S * 2.0**self._failures)
