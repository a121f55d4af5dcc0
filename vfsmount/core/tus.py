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
answer is "no such session", and only the remote file's content can tell whether we succeeded.

A session may outlive the process that began it. Who goes on with it knows nothing of the last request
but that it may have broken, so 23.09 has the end of what it holds read back and compared. The same is
done for a second break in a row.

A file that replaces a known version, or nothing, is guarded: the target is looked at before the first
byte and again directly before the request that completes the file, which is therefore a small one.

Pure: replies come in as events, decisions leave as actions; waiting and sending are the caller's.

Source: contract 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfsmount.values import ANY, Base, Validator

PIECE = 16 << 20  # as the official client; 26.x pays one fsync for each, 1 MiB is 3 times slower
CONFIRMING_PIECE = 1 << 20  # the first after a break on 23.09: its reply tells whether all is well
# The most a request carries between a look at the target and its replacement: while it is on the line,
# somebody else's version may come, and they look for it only for a moment afterwards (vfs/settling).
COMMIT_PIECE = 64 << 10
READ_BACK = 2 * PIECE  # of an older session: what one broken request, and some that followed, can spoil
MAX_FAILURES = 6  # in a row, without a byte more on the server
MAX_REFUSALS = 1  # a 500 may pass, but a directory in the file's place stays
MAX_SESSIONS = 3
SETTLE_S = 0.25  # between two HEADs that must agree; the server's buffers drain in milliseconds
RETRY_WAIT_S = 0.5  # doubled at each failure in a row
MAX_WAIT_S = 8.0
LEASE_WAIT_S = 2.0  # 26.x: another request of ours still holds the 10 s lease
USUAL_RATE = 8.0 * (1 << 20)  # bytes/s, taken for an uplink nothing is known of: a guess
RATE_SHARE = 0.3  # of the newest measurement in the mean


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
    """The remote file was compared with our content; ``ours`` says it is the same."""

    ours: bool


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The staged bytes were compared with our content; None where they could not be read."""

    good: bool | None


@dataclass(frozen=True, slots=True)
class Checked:
    """The target still is what our content was made from, or is gone."""


@dataclass(frozen=True, slots=True)
class Conflicting:
    """The target is another version."""


Event = (
    Accepted
    | Holds
    | Mismatch
    | LeaseHeld
    | Lost
    | Refused
    | SessionGone
    | TokenRefused
    | Compared
    | ReadBack
    | Checked
    | Conflicting
)


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
    """Compare the remote file with our content.

    Attributes:
        made: size of the file that the last reply says we have just put in place, spoilt; None where
            we do not know of any. Such a file is no other writer's version.
    """

    made: int | None = None


@dataclass(frozen=True, slots=True)
class Inspect:
    """Compare the staged bytes ``[start, stop)`` with our content."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Check:
    """Compare the target's version with the one our content was made from."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """Ask for a new upload session and start from 0; for the log: why."""

    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The file is in place as far as we know; verify it.

    Attributes:
        litter: the session may still be there.
    """

    litter: bool = False


@dataclass(frozen=True, slots=True)
class Concede:
    """Somebody else's version stands there and stays; ours was not put in place."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing more to try.

    Attributes:
        unreachable: it was silence, not a refusal, that ended it.
        resumable: the session is worth going on with later.
    """

    reason: str
    unreachable: bool
    resumable: bool = True


Action = Send | Probe | Compare | Inspect | Check | NewSession | Done | Concede | GiveUp


class Upload:
    """One file's way to the server, over as many sessions as it takes.

    Args:
        length: bytes of the whole file.
        blind_append: the server ignores offsets (23.09).
        guarded: the target must still be what our content was made from.

    Attributes:
        at_once: send all that is left in one request. The token is checked at a request's start
            only, so the last request may outlive it.
    """

    def __init__(
        self,
        length: int,
        *,
        blind_append: bool,
        guarded: bool = False,
        piece: int = PIECE,
        confirming_piece: int = CONFIRMING_PIECE,
        commit_piece: int = COMMIT_PIECE,
    ) -> None:
        assert length >= 0 and piece > 0 and confirming_piece > 0 and commit_piece > 0
        self.length = length
        self.at_once = False
        self._blind = blind_append
        self._guarded = guarded
        self._piece = piece
        self._confirming_piece = min(confirming_piece, piece)
        self._commit_piece = commit_piece
        self._sessions = 1
        self._failures = 0
        self._refusals = 0
        self._fitting = piece  # what the way to a strict server lets through in one request
        self._forget_session()

    def _forget_session(self) -> None:
        self._held = 0  # bytes the server is known to hold
        self._sure = 0  # the part of them that is known to be the right ones
        self._expected = 0  # bytes it will hold once the last PATCH is in
        self._last_seen: int | None = None  # by a HEAD, until a second one agrees
        self._unsettled = False  # part of a PATCH may still be on its way to the disk (23.09)
        self._inherited = False  # an earlier process filled the session, we do not know how (23.09)
        self._may_be_complete = False  # a PATCH that would complete the file was sent
        self._sending = False  # the last step was a PATCH with content
        self._broken = 0  # such requests that broke since the last clean reply (23.09)
        self._looked = False  # at the target, since the session was begun or taken up
        self._conflict = False  # and the target was another version

    def begin(self) -> Action:
        """The first step in a new session."""
        self._forget_session()
        return self._go_on(0)

    def resume(self) -> Action:
        """The first step in a session of an earlier try, whose last request may have broken."""
        self._forget_session()
        self._may_be_complete = True
        self._unsettled = self._inherited = self._blind
        self._broken = 1 if self._blind else 0
        return Probe(0.0)

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
                if sent and self._sending:
                    self._request_broke()
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
                return self._compared(ours)
            case ReadBack(good):
                return self._read_back(good)
            case Checked():
                return self._send(self._held)
            case Conflicting():
                if not self._may_be_complete:
                    return Concede()
                # What stands there may be ours: a request that completes the file was sent, and its
                # reply, or the process that waited for it, was lost.
                self._conflict = True
                return Compare()

    def _request_broke(self) -> None:
        if self._blind:
            self._broken += 1
        else:
            # It has forgotten all of the request: on a line that is cut every few seconds only small
            # ones ever get through.
            self._fitting = max(self._confirming_piece, self._fitting // 2)

    def _accepted(self, offset: int) -> Action:
        self._failures = self._refusals = self._broken = 0
        self._fitting = min(self._piece, 2 * self._fitting)
        if offset == self._expected:
            self._held = self._sure = offset
            return Done() if offset >= self.length else self._go_on(offset)
        # 23.09 appended more than this request brought: what broke earlier came in late, in the wrong
        # place. On 26.x it cannot happen; either way the content is not what we meant.
        if offset >= self.length:
            return Compare(made=offset)
        return self._start_over("the server holds bytes twice")

    def _holds(self, offset: int) -> Action:
        if self._unsettled and self._last_seen != offset:
            first, self._last_seen = self._last_seen is None, offset
            return Probe(SETTLE_S) if first else self._failed(SETTLE_S)
        self._last_seen, self._unsettled = None, False
        if not self._held <= offset <= self.length:
            return self._start_over("the server does not hold what was sent")
        if self._inherited:
            self._sure = max(self._sure, offset - READ_BACK)
        if offset > self._held:
            self._failures = 0
        self._held = offset
        if (self._inherited or self._broken > 1) and offset > self._sure:
            return Inspect(self._sure, offset)
        return self._go_on(offset)

    def _read_back(self, good: bool | None) -> Action:
        if good is False or (good is None and self._broken > 1):
            return self._start_over("the connection broke, and the server holds other bytes than ours")
        self._sure = self._held
        self._broken = min(self._broken, 1)  # what broke may still come: the next piece has to confirm
        return self._go_on(self._held)

    def _compared(self, ours: bool) -> Action:
        if ours:
            return Done(litter=self._conflict)
        return (
            Concede() if self._conflict else self._start_over("the session ended without our file in place")
        )

    def _go_on(self, offset: int) -> Action:
        self._held, self._inherited = offset, False
        if self._guarded and (not self._looked or offset + self._next_length(offset) >= self.length):
            self._looked = True
            return Check()
        return self._send(offset)

    def _send(self, offset: int) -> Send:
        length = self._next_length(offset)
        self._sending = length > 0
        self._expected = offset + length
        self._may_be_complete = self._may_be_complete or self._expected >= self.length
        return Send(offset, length)

    def _next_length(self, offset: int) -> int:
        left = self.length - offset
        if self.at_once:
            return left
        length = min(self._confirming_piece if self._broken else self._fitting, left)
        if self._guarded and length == left > self._commit_piece:
            # The time between the look at the target and its replacement is this request's.
            return left - self._commit_piece
        return length

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
            return GiveUp(reason, unreachable=False, resumable=False)
        self._sessions += 1
        return NewSession(reason)

    def _backoff_s(self) -> float:
        return min(MAX_WAIT_S, RETRY_WAIT_S * 2.0**self._failures)


# --- the target's version, and time -----------------------------------------------------------------


def may_replace(base: Base, found: Validator | None) -> bool:
    """Whether a content made from ``base`` may take the place of what was found (None: nothing).

    A version that somebody removed is no conflict: there is nothing that could be lost.
    """
    return found is None or base is ANY or is_base(base, found)


def is_base(base: Base, found: Validator) -> bool:
    """Whether what was found is the very version that ``base`` names, perhaps as a listing had it."""
    return isinstance(base, Validator) and base.matches_listing(found.size, found.mtime_ns)


class Rate:
    """The mean speed of uploads, newer ones counting more."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None

    def add(self, sent: int, seconds: float) -> None:
        """Count ``sent`` bytes that left, and arrived, in this time."""
        now = sent / max(seconds, 1e-6)
        before = self.bytes_per_s
        self.bytes_per_s = now if before is None else before + RATE_SHARE * (now - before)


def rate_needed(left: int, seconds_left: float, measured: float | None) -> float | None:
    """The bytes/s that an upload needs to end in time, None where we expect to be that fast."""
    needed = left / max(seconds_left, 1.0)
    return needed if needed > (USUAL_RATE if measured is None else measured) else None
