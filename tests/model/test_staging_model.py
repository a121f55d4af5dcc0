"""Rows, contents and a server, with processes that die and power that fails, against what was promised.

The machine plays one file. Versions are numbers. What `core.staging` decides is applied literally; the
model only remembers what a program was told: closed (survives the process), synced (survives power).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vfsmount.core.staging import Event, Found, Recovery, State, after, recover


@dataclass(frozen=True)
class Row:
    """What the database holds; `on_disk`: it survives a power cut."""

    state: State
    version: int
    on_disk: bool
    content_synced: bool
    fallback: int = 0  # version acknowledged before that survives a power cut; 0: none


class OneFile(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.clock = 0
        self.server = 0  # version the server has; 0: nothing
        self.row: Row | None = None
        self.old_row: Row | None = None  # what a power cut would leave of the rows
        self.session: int | None = None  # version travelling
        self.contents: dict[int, bool] = {}  # version → its bytes survive a power cut
        self.closed = 0  # newest version a close was told about
        self.synced = 0  # newest version that is to survive a power cut
        self.alive = True
        self.aside: set[int] = set()

    def move(self, event: Event) -> None:
        assert self.row is not None
        state = after(self.row.state, event, session=self.session is not None)
        self.row = replace(self.row, state=state, on_disk=False)

    # --- the mount lives -----------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule()
    def close(self) -> None:
        """A new version is written and closed: content first, then the row."""
        self.clock += 1
        self.contents[self.clock] = False
        old = self.row.state if self.row else None
        state = after(old, Event.ACKNOWLEDGED, session=self.session is not None)
        fallback = 0
        if self.row is not None and self.row.state is not State.SENT:
            fallback = self.row.version if self.row.content_synced else self.row.fallback
        self.row = Row(state, self.clock, on_disk=False, content_synced=False, fallback=fallback)
        self.closed = self.clock
        self.drop_unused()

    @precondition(lambda self: self.alive and self.row is not None)
    @rule()
    def grouped_sync(self) -> None:
        """Contents, then rows."""
        assert self.row is not None
        self.contents = dict.fromkeys(self.contents, True)
        self.row = replace(self.row, on_disk=True, content_synced=True)
        self.old_row = self.row
        self.synced = self.closed
        self.drop_unused()

    @precondition(lambda self: self.alive and self.row is not None)
    @rule()
    def checkpoint(self) -> None:
        """The database may reach the disk on its own, before the contents do."""
        assert self.row is not None
        self.row = replace(self.row, on_disk=True)
        self.old_row = self.row

    @precondition(
        lambda self: self.alive and self.row is not None and self.row.state is not State.SENT
        and self.session is None
    )  # fmt: skip
    @rule()
    def open_session(self) -> None:
        assert self.row is not None
        self.session = self.row.version
        self.move(Event.SESSION)

    @precondition(lambda self: self.session is not None)
    @rule()
    def server_completes(self) -> None:
        """The last piece arrives; whether anybody hears of it is another matter."""
        assert self.session is not None
        self.server = self.session

    @precondition(lambda self: self.alive and self.session is not None and self.server == self.session)
    @rule()
    def read_back(self) -> None:
        assert self.row is not None and self.session is not None
        newest = self.session == self.row.version
        self.session = None
        self.move(Event.READ_BACK if newest else Event.READ_BACK_OLDER)
        self.drop_unused()

    @precondition(lambda self: self.alive and self.session is not None and self.server != self.session)
    @rule()
    def session_lost(self) -> None:
        self.session = None
        self.move(Event.NO_SESSION)
        self.drop_unused()

    @precondition(lambda self: self.alive and self.row is not None and self.row.state is not State.SENT)
    @rule()
    def refused(self) -> None:
        self.move(Event.REFUSED)

    @precondition(lambda self: self.alive and self.row is not None and self.row.state is State.SENT)
    @rule()
    def settled(self) -> None:
        """The row goes, then the content."""
        self.row = self.old_row = None
        self.drop_unused()

    def drop_unused(self) -> None:
        # The row that a power cut would bring back names its content, too.
        rows = [row for row in (self.row, self.old_row) if row]
        needed = {self.session, *(r.version for r in rows), *(r.fallback for r in rows)}
        self.contents = {v: on_disk for v, on_disk in self.contents.items() if v in needed}

    # --- it dies -------------------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule()
    def killed(self) -> None:
        self.alive = False
        self.recovered(power_failed=False)

    @precondition(lambda self: self.alive)
    @rule()
    def power_fails(self) -> None:
        """Rows as they were on the disk; contents that were not synced are torn."""
        self.alive = False
        if self.row is not None and not self.row.on_disk:
            self.row = self.old_row
        self.closed = max(self.synced, self.server)
        self.recovered(power_failed=True)

    def recovered(self, *, power_failed: bool) -> None:
        row = self.row
        if row is not None:
            there = row.version in self.contents
            torn = power_failed and there and not self.contents[row.version]
            found = Found(
                state=row.state,
                size=10,
                sealed=True,
                content=None if not there else (4 if torn else 10),
                durable=row.content_synced or not power_failed,
                shown=True,
                fallback=self.contents.get(row.fallback, False),
            )
            match recover(found):
                case Recovery.SEND_OLDER:
                    assert self.contents[row.fallback], "half a file would be sent"
                    assert torn and row.fallback >= self.synced
                    self.server = max(self.server, row.fallback)
                case Recovery.SEND:
                    assert there and not torn, "half a file would be sent"
                    # What the server has is compared first, then the row's content is sent.
                    self.server = max(self.server, row.version)
                case Recovery.VERIFY:
                    assert self.server >= row.version
                case Recovery.SET_ASIDE:
                    assert row.version > self.synced, "what was promised to survive is not sent"
                    self.aside.add(row.version)
                case Recovery.REPORT_LOST:
                    assert power_failed and row.version > self.synced
                case Recovery.LEAVE:
                    raise AssertionError
        assert self.server >= self.closed, f"{self.closed} was promised, the server has {self.server}"
        self.row = self.old_row = self.session = None
        self.contents = {}
        self.closed = self.synced = self.server
        self.alive = True

    # --- always --------------------------------------------------------------------------------

    @invariant()
    def what_was_closed_is_somewhere(self) -> None:
        here = self.row is not None and self.row.version == self.closed and self.closed in self.contents
        assert here or self.server >= self.closed


OneFile.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
test_one_file = OneFile.TestCase


def test_a_row_that_is_sent_is_not_sent_again_before_it_is_acknowledged_anew() -> None:
    assert after(State.SENT, Event.ACKNOWLEDGED, session=False) is State.WAITING
    for event in (Event.SESSION, Event.READ_BACK, Event.REFUSED):
        try:
            after(State.SENT, event, session=False)
        except ValueError as e:
            assert "sent" in str(e)
        else:
            raise AssertionError(event)


def test_rows_of_other_folders_are_left_alone() -> None:
    for state in State:
        assert recover(Found(state, 10, True, 10, True, shown=False)) is Recovery.LEAVE
