"""The decisions of an upload, one story each."""

from __future__ import annotations

import pytest

from vfsmount.core.tus import (
    CONFIRMING_PIECE,
    MAX_FAILURES,
    MAX_SESSIONS,
    PIECE,
    READ_BACK,
    SETTLE_S,
    USUAL_RATE,
    Accepted,
    Check,
    Checked,
    Compare,
    Compared,
    Concede,
    Conflicting,
    Done,
    GiveUp,
    Holds,
    Inspect,
    LeaseHeld,
    Lost,
    Mismatch,
    NewSession,
    Probe,
    Rate,
    ReadBack,
    Refused,
    Send,
    SessionGone,
    TokenRefused,
    Upload,
    is_base,
    may_replace,
    rate_needed,
)
from vfsmount.values import ANY, Validator


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


def test_strict_server_is_sent_less_at_once_on_a_line_that_breaks() -> None:
    upload = Upload(100 * PIECE, blind_append=False)
    upload.begin()
    for size in (PIECE // 2, PIECE // 4):
        upload.next(Lost())
        assert upload.next(Holds(0)) == Send(0, size)
    upload.next(Lost(sent=False))
    assert upload.next(Holds(0)) == Send(0, PIECE // 4), "what never left says nothing"
    assert upload.next(Accepted(PIECE // 4)) == Send(PIECE // 4, PIECE // 2)


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


# --- going on with an older session -------------------------------------------------------------


def resumed(length: int, *, blind: bool = True, guarded: bool = False) -> Upload:
    upload = Upload(length, blind_append=blind, guarded=guarded)
    assert upload.resume() == Probe(0.0)
    return upload


def test_older_session_of_a_blind_server_is_read_back_and_confirmed() -> None:
    upload = resumed(100 * PIECE)
    offset = 3 * PIECE + 5
    assert upload.next(Holds(offset)) == Probe(SETTLE_S)
    assert upload.next(Holds(offset)) == Inspect(offset - READ_BACK, offset)
    assert upload.next(ReadBack(True)) == Send(offset, CONFIRMING_PIECE)
    offset += CONFIRMING_PIECE
    assert upload.next(Accepted(offset)) == Send(offset, PIECE)


def test_older_session_with_other_bytes_is_given_up() -> None:
    upload = resumed(100)
    upload.next(Holds(50))
    assert upload.next(Holds(50)) == Inspect(0, 50)
    assert upload.next(ReadBack(False)) == NewSession()
    assert upload.begin() == Send(0, 100)


def test_older_session_that_nobody_may_read_back_is_trusted() -> None:
    upload = resumed(100)
    upload.next(Holds(50))
    upload.next(Holds(50))
    assert upload.next(ReadBack(None)) == Send(50, 50)


def test_older_session_of_a_strict_server_goes_on_where_it_is() -> None:
    upload = resumed(10 * PIECE, blind=False)
    assert upload.next(Holds(PIECE)) == Send(PIECE, PIECE)


@pytest.mark.parametrize("gone", [SessionGone(), TokenRefused()])
def test_older_session_that_is_gone_may_have_been_finished(gone: SessionGone | TokenRefused) -> None:
    upload = resumed(10)
    assert upload.next(gone) == Compare()
    assert upload.next(Compared(True)) == Done()
    upload = resumed(10)
    upload.next(gone)
    assert upload.next(Compared(False)) == NewSession()


def test_second_break_is_read_back_instead_of_starting_over() -> None:
    upload = started(1000)
    upload.next(Accepted(10))
    for held in (12, 15):
        upload.next(Lost())
        upload.next(Holds(held))
        action = upload.next(Holds(held))
    assert action == Inspect(10, 15), "what was never confirmed"
    assert upload.next(ReadBack(True)) == Send(15, 10)
    upload.next(Lost())
    upload.next(Holds(15))
    assert upload.next(Holds(15)) == Send(15, 10), "nothing came since it was read back"


def test_session_with_spoilt_bytes_is_not_worth_keeping() -> None:
    upload = started(1000)
    for _ in range(MAX_SESSIONS - 1):
        assert upload.next(Accepted(13)) == NewSession()
        upload.begin()
    action = upload.next(Accepted(13))
    assert isinstance(action, GiveUp) and not action.resumable


# --- guarding what stands there -----------------------------------------------------------------


def guarded(length: int) -> Upload:
    return Upload(length, blind_append=True, guarded=True, piece=10, commit_piece=4)


def test_target_is_looked_at_before_the_first_byte_and_before_the_last_request() -> None:
    upload = guarded(25)
    assert upload.begin() == Check()
    assert upload.next(Checked()) == Send(0, 10)
    assert upload.next(Accepted(10)) == Send(10, 10)
    assert upload.next(Accepted(20)) == Send(20, 1), "the last request is a small one"
    assert upload.next(Accepted(21)) == Check()
    assert upload.next(Checked()) == Send(21, 4)
    assert upload.next(Accepted(25)) == Done()


def test_target_of_a_small_file_is_looked_at_once() -> None:
    upload = guarded(4)
    assert upload.begin() == Check()
    assert upload.next(Checked()) == Send(0, 4)
    assert upload.next(Accepted(4)) == Done()


def test_other_version_stays() -> None:
    upload = guarded(25)
    upload.begin()
    assert upload.next(Conflicting()) == Concede()


def test_other_version_may_be_ours_once_the_last_request_was_sent() -> None:
    for is_ours, end in ((True, Done(litter=True)), (False, Concede())):
        upload = guarded(4)
        upload.begin()
        upload.next(Checked())
        upload.next(Lost())
        upload.next(Holds(4))
        assert upload.next(Holds(4)) == Check()
        assert upload.next(Conflicting()) == Compare()
        assert upload.next(Compared(is_ours)) == end


def test_target_is_looked_at_again_after_every_failure() -> None:
    upload = guarded(4)
    upload.begin()
    upload.next(Checked())
    upload.next(Lost(sent=False))
    upload.next(Holds(0))
    assert upload.next(Holds(0)) == Check()


def test_what_may_be_replaced() -> None:
    base, other = Validator(5_000_000, 7), Validator(6_000_000, 7)
    rounded = Validator(5_000_900, 7)  # the same one, as a listing has it
    assert may_replace(base, base) and may_replace(base, rounded) and may_replace(base, None)
    assert not may_replace(base, other) and not may_replace(base, Validator(5_000_000, 8))
    assert may_replace(None, None) and not may_replace(None, other)
    assert may_replace(ANY, other) and may_replace(ANY, None)
    assert is_base(base, rounded) and not is_base(base, other)
    assert not is_base(None, other) and not is_base(ANY, other)


# --- time ---------------------------------------------------------------------------------------


def test_rate_is_a_mean_that_follows() -> None:
    rate = Rate()
    assert rate.bytes_per_s is None
    rate.add(100, 2.0)
    assert rate.bytes_per_s == 50
    rate.add(100, 1.0)
    assert 50 < rate.bytes_per_s < 100


def test_upload_that_will_not_be_done_in_time_is_known_beforehand() -> None:
    hour = 3600.0
    assert rate_needed(100 << 30, hour, 10 << 20) == pytest.approx((100 << 30) / hour)
    assert rate_needed(100 << 30, hour, 100 << 20) is None
    assert rate_needed(int(USUAL_RATE * hour) + 3600, hour, None) is not None
    assert rate_needed(int(USUAL_RATE * hour) - 3600, hour, None) is None
    assert rate_needed(0, -5.0, None) is None
