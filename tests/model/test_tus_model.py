"""Uploads against a model of both servers: requests cut and replies lost at any point, the uploading
process killed and started again, the target replaced by somebody else.

The promises: whenever the plan says done, the file on the server became exactly ours; a version that
our content was not made from is replaced only where it came between the last look and the commit; one
interruption makes at most one piece go out twice; and with a bounded number of faults it gets done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfsmount.core.tus import (
    Accepted,
    Action,
    Check,
    Checked,
    Compare,
    Compared,
    Concede,
    Conflicting,
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
    TokenRefused,
    Upload,
    is_base,
    may_replace,
)
from vfsmount.values import ANY, Base, Validator

OLD, FOREIGN = b"?", b"#"  # never in our content, whose length they often have


@dataclass
class Fault:
    """What happens around one step of the plan.

    Attributes:
        arrives: part of a PATCH's body that arrives, in percent.
        late: part of that, in percent, which is written later (buffered by a 23.09 server).
        requests: from then on before that happens. With more than 3 it could happen after a clean
            reply, and nobody could tell.
        reply_lost: the request was carried out, its reply does not come.
        slow: with that, requests until the last PATCH puts the file in place.
        session_lost: the session vanishes before the request.
        killed: our process ends, before the step or while its reply is on the way.
        foreign: before the step somebody puts a file of as many bytes in place; -1 of just our length.
    """

    arrives: int = 100
    late: int = 0
    requests: int = 1
    reply_lost: bool = False
    slow: int = 0
    session_lost: bool = False
    killed: str = ""
    foreign: int | None = None

    @property
    def interrupts(self) -> bool:
        """Whether bytes may have to be sent again."""
        return self.arrives < 100 or self.reply_lost or bool(self.killed)


@dataclass
class Version:
    """What stands under the name."""

    content: bytes
    number: int
    ours: bool

    @property
    def validator(self) -> Validator:
        """As a listing shows it."""
        return Validator(self.number * 1_000_000, len(self.content))


@dataclass
class ServerModel:
    """The storage-proxy, as contract 4.3 tells it.

    Attributes:
        received: bytes of our bodies that arrived.
        seen: number of the version seen by a look right before this request (0: none), None without.
        completing: the plan meant the request under way to complete the file.
        accidents: commits of ours that were not our content.
        foreign: versions that somebody else made.
        overwritten: those of them that we replaced although we saw them, or did not look.
    """

    content: bytes
    blind: bool
    target: Version | None
    staged: bytes | None = None
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # (requests until written, bytes)
    versions: int = 1
    received: int = 0
    seen: int | None = None
    completing: bool = False
    accidents: int = 0
    foreign: int = 0
    overwritten: list[Version] = field(default_factory=list)
    committing: int = 0  # requests until a PATCH that nobody waits for any more has done its work

    def new_session(self) -> None:
        self.staged, self.pending = b"", []

    def drop_session(self) -> None:
        self.staged, self.pending, self.committing = None, [], 0

    def replace_by_somebody(self, size: int) -> None:
        self.versions += 1
        self.foreign += 1
        self.target = Version(FOREIGN * size, self.versions, ours=False)

    def look(self) -> Validator | None:
        """What a stat tells; remembered as what the plan knew."""
        self._work_goes_on()
        self.seen = self.target.number if self.target else 0
        return self.target.validator if self.target else None

    def head(self) -> Event:
        self.seen = None
        self._work_goes_on()
        if self.staged is None:
            return SessionGone()
        event = Holds(len(self.staged))
        self._time_passes()
        return event

    def patch(self, offset: int, body: bytes, completing: bool, fault: Fault) -> Event:
        self._work_goes_on()
        if self.staged is None:
            return SessionGone()
        self._time_passes()
        self.completing = completing
        whole = fault.arrives >= 100
        arrived = body if whole else body[: len(body) * fault.arrives // 100]
        self.received += len(arrived)
        if self.blind:
            return self._append(arrived, whole, fault)
        if offset != len(self.staged):
            return Mismatch()
        if not whole:
            self.seen = None
            return Lost()  # the part is discarded
        self.staged += arrived
        return self._reply(fault)

    def _append(self, arrived: bytes, whole: bool, fault: Fault) -> Event:
        assert self.staged is not None
        if not whole:
            self.seen = None
            at_once = len(arrived) - len(arrived) * fault.late // 100
            self.staged += arrived[:at_once]
            self.pending.append((fault.requests, arrived[at_once:]))
            return Lost()  # no completion: the request never came to its end
        self.staged += arrived
        return self._reply(fault)

    def _reply(self, fault: Fault) -> Event:
        assert self.staged is not None
        offset = len(self.staged)
        if offset >= len(self.content):
            if fault.reply_lost and fault.slow:
                self.committing = fault.slow
            else:
                self._commit()
        self.seen = None
        return Lost() if fault.reply_lost else Accepted(offset)

    def _work_goes_on(self) -> None:
        self.committing -= 1
        if self.committing == 0:
            self.completing = False  # whoever came since the look came between look and commit
            self._commit()

    def _commit(self) -> None:
        assert self.staged is not None
        replaced = self.target
        # Who came after the look is lost: the server has no request that looks and replaces.
        unseen = self.seen is not None and replaced is not None and self.seen != replaced.number
        if replaced is not None and not replaced.ours and self.completing and not unseen:
            self.overwritten.append(replaced)
        self.versions += 1
        self.target = Version(self.staged, self.versions, ours=True)
        self.accidents += self.staged != self.content
        self.drop_session()

    def _time_passes(self) -> None:
        assert self.staged is not None
        due = [body for left, body in self.pending if left <= 1]
        self.pending = [(left - 1, body) for left, body in self.pending if left > 1]
        self.staged += b"".join(due)


@dataclass
class Sizes:
    """The pieces of one run."""

    piece: int
    confirming: int
    commit: int


@dataclass
class World:
    """One file's upload over as many processes as it takes."""

    content: bytes
    server: ServerModel
    base: Base
    sizes: Sizes
    script: list[Fault]
    recorded: bool = False  # our records name the server's session

    def __post_init__(self) -> None:
        self.first_base = self.base

    def run(self) -> Action:
        """To the end; steps beyond the script meet no fault."""
        action = self._start()
        for _ in range(1000):
            fault = self.script.pop(0) if self.script else Fault()
            if fault.foreign is not None:
                self.server.replace_by_somebody(len(self.content) if fault.foreign < 0 else fault.foreign)
            if fault.killed == "before":
                action = self._start()
                continue
            if isinstance(action, GiveUp) and action.unreachable:
                action = self._start()
            ended = self._ends(action)
            if ended:
                return action
            action = self._step(action, fault)
            if fault.killed == "within":
                action = self._start()
        raise AssertionError("the upload does not end")

    def _start(self) -> Action:
        self.base = self.first_base
        self.plan = Upload(
            len(self.content),
            blind_append=self.server.blind,
            guarded=self.base is not ANY,
            piece=self.sizes.piece,
            confirming_piece=self.sizes.confirming,
            commit_piece=self.sizes.commit,
        )
        if self.recorded:
            return self.plan.resume()
        self._open()
        return self.plan.begin()

    def _open(self) -> None:
        self.server.new_session()
        self.recorded = True

    def _ends(self, action: Action) -> bool:
        if isinstance(action, Done):
            return self.server.target is not None and len(self.server.target.content) == len(self.content)
        return isinstance(action, Concede | GiveUp)

    def _step(self, action: Action, fault: Fault) -> Action:
        server, content = self.server, self.content
        if fault.session_lost:
            server.drop_session()
        match action:
            case Send(offset, length):
                assert length == 0 or 0 <= offset < offset + length <= len(content)
                assert length <= self.sizes.piece
                completing = offset + length >= len(content)
                if completing and self.base is not ANY and len(content) > self.sizes.commit:
                    assert length <= self.sizes.commit
                body = content[offset : offset + length]
                return self.plan.next(server.patch(offset, body, completing, fault))
            case Probe(wait_s):
                assert wait_s >= 0
                return self.plan.next(server.head())
            case Check():
                found = server.look()
                return self.plan.next(Checked() if may_replace(self.base, found) else Conflicting())
            case Inspect(start, stop):
                staged = server.staged
                good = None if staged is None else staged[start:stop] == content[start:stop]
                return self.plan.next(ReadBack(good))
            case Compare(made):
                return self.plan.next(Compared(self._is_ours(made)))
            case NewSession():
                server.drop_session()
                self._open()
                return self.plan.begin()
            case Done():
                return self.plan.next(Compared(False))  # what verification finds
        raise AssertionError(action)

    def _is_ours(self, made: int | None) -> bool:
        target = self.server.target
        if target is None:
            return False
        found = target.validator
        if target.content == self.content and not is_base(self.base, found):
            return True
        if found.size == made and self.base is not ANY:
            self.base = found
        return False


faults = st.builds(
    Fault,
    arrives=st.sampled_from([0, 1, 30, 50, 99, 100, 100, 100]),
    late=st.sampled_from([0, 0, 50, 100]),
    requests=st.sampled_from([1, 1, 2, 3]),
    reply_lost=st.booleans(),
    slow=st.sampled_from([0, 0, 1, 2, 3]),
    session_lost=st.sampled_from([False] * 9 + [True]),
    killed=st.sampled_from([""] * 6 + ["before", "within"]),
    foreign=st.sampled_from([None] * 12 + [-1, 0, 7]),
)
rough = st.builds(
    Fault,
    arrives=st.sampled_from([50, 80, 100]),
    late=st.sampled_from([0, 50, 100]),
    requests=st.sampled_from([1, 2, 3]),
    killed=st.sampled_from(["", "", "within"]),
)
calm = st.builds(
    Fault,
    arrives=st.sampled_from([0, 30, 99, 100, 100]),
    reply_lost=st.booleans(),
    killed=st.sampled_from([""] * 3 + ["before", "within"]),
)
# No byte twice: one that stands in the wrong place is a wrong byte.
ours = st.integers(0, 60).map(lambda n: bytes(range(65, 65 + n)))
sizes = st.integers(1, 40).flatmap(
    lambda piece: st.builds(
        Sizes, piece=st.just(piece), confirming=st.integers(1, piece), commit=st.integers(1, 40)
    )
)


@st.composite
def worlds(draw: st.DrawFn, script: st.SearchStrategy[list[Fault]]) -> World:
    """A file, what stood in its place, and what our content was made from."""
    content = draw(ours | st.just(bytes(range(65, 125))))
    old = draw(st.sampled_from([None, len(content), 0, 13]))
    target = None if old is None else Version(OLD * old, 1, ours=False)
    server = ServerModel(content, draw(st.booleans()), target)
    guarded = draw(st.sampled_from([True, True, False]))
    base: Base = (target.validator if target else None) if guarded else ANY
    return World(content, server, base, draw(sizes), draw(script))


def late_commit(blind: bool) -> World:
    """Our own file comes in place just when we look whether we may put it there."""
    script = [Fault(), Fault(reply_lost=True, slow=3 if blind else 2)]
    return World(b"abc", ServerModel(b"abc", blind, None), None, Sizes(9, 9, 9), script)


@settings(max_examples=1200)
@given(worlds(st.lists(faults, max_size=25) | st.lists(rough, min_size=5, max_size=25)))
def test_done_means_exactly_our_file(world: World) -> None:
    action, server = world.run(), world.server
    if isinstance(action, Done):
        assert server.target is not None
        # Somebody may have replaced it a moment ago; otherwise it is ours to the last byte.
        assert server.target.content == world.content or (server.foreign and not server.target.ours)


@settings(max_examples=700)
@given(worlds(st.lists(faults, max_size=25)))
@example(late_commit(blind=True))
@example(late_commit(blind=False))
def test_foreign_version_that_was_seen_is_never_replaced(world: World) -> None:
    action, server = world.run(), world.server
    if world.first_base is not ANY:
        assert all(may_replace(world.first_base, v.validator) for v in server.overwritten)
        if not server.foreign and not server.accidents:
            assert not isinstance(action, Concede), "our own file is no conflict"
    if isinstance(action, Concede):
        assert world.first_base is not ANY
        assert server.target is not None and not may_replace(world.first_base, server.target.validator)


@settings(max_examples=400)
@given(worlds(st.lists(calm, max_size=12)))
def test_one_interruption_sends_at_most_one_piece_again(world: World) -> None:
    interruptions = sum(f.interrupts for f in world.script)
    action, server = world.run(), world.server
    assert isinstance(action, Done)
    assert server.received <= len(world.content) + interruptions * world.sizes.piece
    if server.blind:
        assert server.received == len(world.content), "what a 23.09 server has, it keeps"


@settings(max_examples=300)
@given(worlds(st.lists(faults, max_size=3)))
def test_three_faults_are_survived(world: World) -> None:
    gone = sum(f.session_lost for f in world.script)
    action, server = world.run(), world.server
    if gone < 2 and not server.foreign and not server.accidents:
        assert isinstance(action, Done)
        assert server.target is not None and server.target.content == world.content


@settings(max_examples=200)
@given(worlds(st.just([])))
@example(World(b"", ServerModel(b"", True, None), None, Sizes(1, 1, 1), []))
def test_without_faults_every_byte_is_sent_once(world: World) -> None:
    assert world.run() == Done()
    server = world.server
    assert server.target is not None and server.target.content == world.content
    assert (server.received, server.versions) == (len(world.content), 2)


replies: list[Event] = [
    Lost(),
    Mismatch(),
    LeaseHeld(),
    SessionGone(),
    TokenRefused(),
    Holds(0),
    Holds(3),
    Accepted(3),
    Accepted(50),
    Compared(False),
    ReadBack(False),
    ReadBack(None),
    Checked(),
    Conflicting(),
]


@given(st.lists(st.sampled_from(replies)), st.booleans(), st.booleans())
def test_any_replies_end_or_go_on_sanely(events: list[Event], guarded: bool, resumed: bool) -> None:
    upload = Upload(50, blind_append=True, guarded=guarded, piece=7)
    action = upload.resume() if resumed else upload.begin()
    for event in events:
        if isinstance(action, Done | GiveUp | Concede):
            return
        action = upload.begin() if isinstance(action, NewSession) else upload.next(event)
        if isinstance(action, Send):
            assert 0 <= action.offset <= action.offset + action.length <= 50
