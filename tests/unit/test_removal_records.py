"""What is recorded of removed names, by this version and by those before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from vfsmount.store.database import Database
from vfsmount.store.leftovers import leftovers
from vfsmount.store.records import _SCHEMAS, Records
from vfsmount.store.staged import Removal
from vfsmount.store.staging import LOCK
from vfsmount.values import Validator

FOLDER = "f" * 32
ENDED = "1-ended"  # the name of a mount's staging directory
FILE = Removal(FOLDER, b"d", b"f", Validator(7, 9))
DIRECTORY = Removal(FOLDER, b"", b"d", None, directory=True)
BEFORE = (FOLDER, b"d", b"f", ENDED, 7, 9)  # as the versions before it wrote FILE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "staging" / ENDED).mkdir(parents=True)
    (tmp_path / "staging" / ENDED / LOCK).touch()  # that nobody holds
    return tmp_path / "records.sqlite"


def write_as_before(file: Path) -> None:
    """With the statement of the versions before, which say nothing of columns."""
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("insert or replace into removals values (?, ?, ?, ?, ?, ?)", BEFORE)


@pytest.mark.parametrize("done", [FILE, DIRECTORY])
async def test_removals_are_there_until_they_are_done(file: Path, done: Removal) -> None:
    with closing(Records(file)) as records:
        for removal in (FILE, DIRECTORY):
            await records.staged.removed(ENDED, removal, ())
        await records.staged.take_removals_over(ENDED, "next")
        assert not await records.staged.has_any(ENDED)
        assert await records.staged.read_removals("next") == [FILE, DIRECTORY]
        await records.staged.removals_done([done])
        assert await records.staged.read_removals("next") == [r for r in (FILE, DIRECTORY) if r is not done]
        assert await records.staged.has_any("next")


async def test_file_and_directory_of_one_name_are_two_removals(file: Path) -> None:
    both = [FILE, Removal(FILE.folder, FILE.parent, FILE.name, None, directory=True)]
    with closing(Records(file)) as records:
        for removal in both:
            await records.staged.removed(ENDED, removal, ())
        await records.staged.removals_done(both[:1])
        assert await records.staged.read_removals(ENDED) == both[1:]


async def test_mount_of_the_version_before_goes_on_with_a_database_that_was_brought_up_to_date(
    file: Path,
) -> None:
    with closing(Records(file)) as records:
        write_as_before(file)
        assert await records.staged.read_removals(ENDED) == [FILE]


@pytest.mark.parametrize("version", [2, 3])
async def test_removals_of_versions_before_are_found(file: Path, version: int) -> None:
    """By those who bring the database up to date, and by those who only look."""
    Database(file, _SCHEMAS[:version]).close()
    write_as_before(file)
    assert leftovers(file.parent).removals == 1
    with closing(Records(file)) as records:
        assert await records.staged.read_removals(ENDED) == [FILE]


async def test_removed_directories_are_counted_among_what_ended_mounts_left(file: Path) -> None:
    with closing(Records(file)) as records:
        for removal in (FILE, DIRECTORY):
            await records.staged.removed(ENDED, removal, ())
            await records.staged.removed("alive", replace(removal, name=b"other"), ())
    assert leftovers(file.parent).removals == 2
