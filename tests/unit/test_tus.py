"""The decisions of an upload, one story each."""

from __future__ import annotations

from vfsmount.core.tus import (
    MAX_FAILURES,
    MAX_SESSIONS,
    SETTLE_S,
    Accepted,
    Compare,
    Compared,
    Done,
    GiveUp,
    Holds,
    LeaseHeld,
    Lost,
    Mismatch,
    NewSession,
    Probe,
    Refused,
    Send,
    SessionGone,
    TokenRefused,
    Upload,
)


def started(length: int, *, blind: bool = True, piece: int = 10) -> Upload:
    upload = Upload(length, blind_append=blind, piece=piece)
    upload.begin()
    return upload


def test_pieces_one_after_the_other() -> None:
    upload = Upload(25, blind_append=True, piece=10)
    assert upload.begin() == Send(0, 10)
    assert upload.next(Accepted(10)) == Send(10, 10)
    assert upload.next(Accepted(20)) == Send(20, 5)
    assert upload.next(Accepted(25)) == Done()


def test_empty_file_is_one_empty_request() -> None:
    upload = Upload(0, blind_append=False)
    assert upload.begin() == Send(0, 0)
    assert upload.next(Accepted(0)) == Done()


def test_blind_server_is_asked_until_two_answers_agree() -> None:
    upload = started(100, blind=True)
    assert isinstance(upload.next(Lost()), Probe)
    assert upload.next(Holds(3)) == Probe(SETTLE_S)
    assert upload.next(Holds(7)) == Probe(SETTLE_S)
    assert upload.next(Holds(7)) == Send(7, 10)


def test_strict_server_is_asked_once() -> None:
    upload = started(100, blind=False)
    assert isinstance(upload.next(Lost()), Probe)
    assert upload.next(Holds(0)) == Send(0, 10)


def test_offset_conflict_is_answered_by_asking() -> None:
    upload = started(100, blind=False)
    assert isinstance(upload.next(Mismatch()), Probe)
    assert upload.next(Holds(10)) == Send(10, 10)
    assert isinstance(upload.next(LeaseHeld()), Probe)


def test_everything_arrived_but_the_end_was_not_seen() -> None:
    upload = started(10, blind=True)
    upload.next(Lost())
    upload.next(Holds(10))
    assert upload.next(Holds(10)) == Send(10, 0), "an empty request completes what is whole"


def test_no_session_after_the_last_piece_means_look() -> None:
    upload = started(10)
    upload.next(Lost())
    assert upload.next(SessionGone()) == Compare()
    assert upload.next(Compared(True)) == Done()


def test_no_session_before_the_last_piece_means_start_over() -> None:
    upload = started(20)
    assert upload.next(SessionGone()) == NewSession()
    assert upload.begin() == Send(0, 10)


def test_doubled_bytes_are_noticed() -> None:
    upload = started(100)
    assert upload.next(Accepted(13)) == NewSession()
    upload.begin()
    assert upload.next(Holds(5)) == Send(5, 10)
    assert upload.next(Accepted(120)) == Compare(made=120)


def test_server_that_lost_bytes_is_not_trusted() -> None:
    upload = started(100, blind=False)
    upload.next(Accepted(10))
    upload.next(Lost())
    assert upload.next(Holds(3)) == NewSession()


def test_progress_forgives_failures() -> None:
    upload = started(10_000, blind=False)
    for n in range(50):
        assert isinstance(upload.next(Lost()), Probe)
        assert upload.next(Holds(n * 10 + 5)) == Send(n * 10 + 5, 10)


def test_silence_ends() -> None:
    upload = started(100)
    for _ in range(MAX_FAILURES):
        assert isinstance(upload.next(Lost()), Probe)
    assert upload.next(Lost()) == GiveUp("the server stopped answering in the middle of an upload", True)


def test_refusal_is_tried_once_more() -> None:
    upload = started(10)
    assert isinstance(upload.next(Refused()), Probe)
    upload.next(Holds(10))
    assert upload.next(Holds(10)) == Send(10, 0)
    action = upload.next(Refused())
    assert isinstance(action, GiveUp) and not action.unreachable


def test_sessions_are_limited() -> None:
    upload = started(100)
    for _ in range(MAX_SESSIONS - 1):
        assert upload.next(TokenRefused()) == NewSession()
        upload.begin()
    assert isinstance(upload.next(TokenRefused()), GiveUp)


def test_last_request_may_outlive_the_token() -> None:
    upload = started(1000)
    upload.at_once = True
    assert upload.next(Accepted(10)) == Send(10, 990)
