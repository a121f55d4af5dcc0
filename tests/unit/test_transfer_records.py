"""What transfers remember: over processes, restarts of the machine, and beside each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfsmount.errors import Conflict
from vfsmount.store.transfers import Local, Partial, Place, TransferRecords
from vfsmount.values import Grant, Validator

PLACE = Place("http://server", "0" * 32, "a/ü\udcff")
FILE = Local(b"/home/me/\xff", 10, 5, 7)
GRANT = Grant("http://proxy/upload", "secret", 100.0)
VERSION = Validator(12345, 10)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[TransferRecords]:
    found = TransferRecords(tmp_path / "transfers.sqlite")
    yield found
    found.close()


async def test_session_is_kept_until_there_is_none(records: TransferRecords, tmp_path: Path) -> None:
    assert await records.session_for(PLACE) is None
    await records.keep_session(PLACE, FILE, GRANT, durable=True)
    other = TransferRecords(tmp_path / "transfers.sqlite")
    assert await other.session_for(PLACE) == (FILE, GRANT)
    other.close()
    await records.keep_session(PLACE, FILE, None, durable=False)
    assert await records.session_for(PLACE) is None


async def test_what_was_sent_needs_no_session(records: TransferRecords) -> None:
    await records.keep_session(PLACE, FILE, GRANT, durable=False)
    await records.same(PLACE, FILE, VERSION)
    assert await records.session_for(PLACE) is None
    assert await records.known_same([PLACE, PLACE], [FILE.path, b"/other"]) == [(10, 5, 12345), None]
    await records.forget_same([PLACE])
    assert await records.known_same([PLACE], [FILE.path]) == [None]


async def test_expired_sessions_of_one_folder(records: TransferRecords) -> None:
    endless = Place(PLACE.server, PLACE.folder, "b")
    elsewhere = Place(PLACE.server, "1" * 32, "c")
    for place, grant in ((PLACE, GRANT), (endless, Grant("u", "t", 0.0)), (elsewhere, GRANT)):
        await records.keep_session(place, FILE, grant, durable=False)
    assert await records.expired_sessions(PLACE.server, PLACE.folder, 99.0) == []
    assert await records.expired_sessions(PLACE.server, PLACE.folder, 101.0) == [(PLACE.path, GRANT)]


async def test_after_a_restart_only_what_was_synced_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = TransferRecords(tmp_path / "t.sqlite")
    await records.keep_partial(b"/x", Partial(PLACE, VERSION, [(0, 8)]), synced=[(0, 4)])
    assert await records.partial_for(b"/x") == Partial(PLACE, VERSION, [(0, 8)])
    records.close()
    monkeypatch.setattr("vfsmount.store.transfers.boot_id", lambda: "another")
    records = TransferRecords(tmp_path / "t.sqlite")
    assert await records.partial_for(b"/x") == Partial(PLACE, VERSION, [(0, 4)])
    await records.forget_partial(b"/x")
    assert await records.partial_for(b"/x") is None
    records.close()


def test_a_place_is_claimed_by_one_process_at_a_time(records: TransferRecords, tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from vfsmount.errors import Conflict\n"
        "from vfsmount.store.transfers import TransferRecords\n"
        "records = TransferRecords(Path(sys.argv[1]))\n"
        "try:\n"
        "    with records.claim(b'/x'): print('mine')\n"
        "except Conflict: print('taken')\n"
    )

    def asked() -> str:
        command = [sys.executable, "-c", other, str(tmp_path / "transfers.sqlite")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with records.claim(b"/x"):
        assert asked() == "taken"
        with pytest.raises(Conflict), records.claim(b"/x"):
            pass
        with records.claim(b"/y"), records.claim(PLACE):
            pass
    assert asked() == "mine"


def test_part_names_are_the_same_again_and_others_elsewhere(records: TransferRecords, tmp_path: Path) -> None:
    again, elsewhere = TransferRecords(tmp_path / "transfers.sqlite"), TransferRecords(tmp_path / "t.sqlite")
    name = records.part_name(b"/x")
    assert again.part_name(b"/x") == name != records.part_name(b"/y")
    assert elsewhere.part_name(b"/x") != name
    again.close()
    elsewhere.close()
