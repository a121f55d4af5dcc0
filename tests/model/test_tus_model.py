"""Uploads against a model of both servers, with requests cut and replies lost at any point.

The promise: whenever the plan says done, the file on the server is exactly ours; and with a bounded
number of faults it does get done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from vfsmount.core.tus import (
    Accepted,
    Action,
    Compare,
    Compared,
    Done,
    Event,
    GiveUp,
    Holds,
    Inspect,
    LeaseHeld,
    Lost,
    Mismatch,
    NewSession,
    Probe,
    ReadBack,
    Send,
    SessionGone,
    Upload,
)

OLD = b"?"  # what stood there before; never equal to ours in content, sometimes in length


@dataclass
class Fault:
    """What happens to one request.

    Attributes:
        arrives: part of the body that arrives, in percent.
        late: part of that, in percent, which is written later (buffered by a 23.09 server).
        heads: requests from then on before that happens. With more than 3 it could happen after a
            clean reply, and nobody could tell.
        reply_lost: the request was carried out, its reply does not come.
        session_lost: the session vanishes before the request.
    """

    arrives: int = 100
    late: int = 0
    heads: int = 1
    reply_lost: bool = False
    session_lost: bool = False


@dataclass
class ServerModel:
    """The storage-proxy, as contract 4.3 tells it."""

    size: int
    blind: bool
    target: bytes
    version: int = 0
    staged: bytes | None = b""
    pending: bytes = b""  # arrived, not written yet
    patience: int = 0  # requests until it is
    log: list[str] = field(default_factory=list)

    def new_session(self) -> None:
        self.staged, self.pending = b"", b""

    def head(self) -> Event:
        if self.staged is None:
            return SessionGone()
        event = Holds(len(self.staged))
        self._time_passes()
        return event

    def patch(self, offset: int, body: bytes, fault: Fault) -> Event:
        if fault.session_lost:
            self.staged = None
        if self.staged is None:
            return SessionGone()
        self._time_passes()
        whole = fault.arrives >= 100
        arrived = body if whole else body[: len(body) * fault.arrives // 100]
        if self.blind:
            return self._append(arrived, whole, fault)
        if offset != len(self.staged):
            return Mismatch()
        if not whole:
            return Lost()  # the part is discarded
        self.staged += arrived
        return self._reply(fault)

    def _append(self, arrived: bytes, whole: bool, fault: Fault) -> Event:
        assert self.staged is not None
        if not whole:
            late = len(arrived) * fault.late // 100
            self.staged += arrived[: len(arrived) - late]
            self.pending, self.patience = arrived[len(arrived) - late :], fault.heads
            return Lost()  # no completion: the request never came to its end
        self.staged += arrived
        return self._reply(fault)

    def _reply(self, fault: Fault) -> Event:
        assert self.staged is not None
        offset = len(self.staged)
        if offset >= self.size:
            self.target, self.staged, self.version = self.staged, None, self.version + 1
        return Lost() if fault.reply_lost else Accepted(offset)

    def _time_passes(self) -> None:
        assert self.staged is not None
        self.patience -= 1
        if self.patience <= 0:
            self.staged += self.pending
            self.pending = b""


faults = st.builds(
    Fault,
    arrives=st.sampled_from([0, 1, 30, 50, 99, 100, 100, 100]),
    late=st.sampled_from([0, 0, 50, 100]),
    heads=st.sampled_from([1, 1, 2, 3]),
    reply_lost=st.booleans(),
    session_lost=st.sampled_from([False] * 9 + [True]),
)


def run(
    content: bytes, old: int | None, blind: bool, piece: int, script: list[Fault]
) -> tuple[Action, ServerModel]:
    """One upload to its end; requests beyond the script meet no fault.

    Args:
        old: length of what stood there before, None for the same as ours.
    """
    server = ServerModel(len(content), blind, OLD * (len(content) if old is None else old))
    upload = Upload(len(content), blind_append=blind, piece=piece)
    script, before, action = list(script), server.version, upload.begin()
    for _ in range(1000):
        match action:
            case Send(offset, length):
                assert length == 0 or 0 <= offset < offset + length <= len(content)
                body = content[offset : offset + length]
                action = upload.next(server.patch(offset, body, script.pop(0) if script else Fault()))
            case Probe(wait_s):
                assert wait_s >= 0
                action = upload.next(server.head())
            case Compare():
                ours = len(server.target) == len(content) and server.version != before
                action = upload.next(Compared(ours))
            case Inspect(start, stop):
                assert server.staged is not None
                action = upload.next(ReadBack(server.staged[start:stop] == content[start:stop]))
            case NewSession():
                server.new_session()
                action = upload.begin()
            case Done() if len(server.target) != len(content):
                action = upload.next(Compared(False))  # what verification finds
            case Done() | GiveUp():
                return action, server
    raise AssertionError("the upload does not end")


uploads = {
    "content": st.binary(max_size=60).map(lambda b: b.replace(OLD, b"!")),
    "old": st.none() | st.integers(0, 60),
    "blind": st.booleans(),
    "piece": st.integers(1, 40),
}


@settings(max_examples=500)
@given(**uploads, script=st.lists(faults, max_size=25))
def test_done_means_exactly_our_file(
    content: bytes, old: int | None, blind: bool, piece: int, script: list[Fault]
) -> None:
    action, server = run(content, old, blind, piece, script)
    if isinstance(action, Done):
        assert server.target == content
        assert server.version >= 1


@settings(max_examples=300)
@given(**uploads, script=st.lists(faults, max_size=3))
def test_three_faults_are_survived(
    content: bytes, old: int | None, blind: bool, piece: int, script: list[Fault]
) -> None:
    gone = sum(f.session_lost for f in script)
    action, server = run(content, old, blind, piece, script)
    if gone < 2:
        assert action == Done()
        assert server.target == content


@given(**uploads)
def test_without_faults_every_byte_is_sent_once(
    content: bytes, old: int | None, blind: bool, piece: int
) -> None:
    action, server = run(content, old, blind, piece, [])
    assert action == Done()
    assert (server.target, server.version) == (content, 1)


@given(st.lists(st.sampled_from([Lost(), Mismatch(), LeaseHeld(), SessionGone(), Holds(0), Accepted(3)])))
def test_any_replies_end_or_go_on_sanely(events: list[Event]) -> None:
    upload = Upload(50, blind_append=True, piece=7)
    action = upload.begin()
    for event in events:
        if isinstance(action, Done | GiveUp):
            return
        action = upload.begin() if isinstance(action, NewSession) else upload.next(event)
        if isinstance(action, Send):
            assert 0 <= action.offset <= action.offset + action.length <= 50
