"""sqlite and dbm on a real mount, compared with a local disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both, same_on_server, settle

JOURNALS = ["delete", "truncate", "persist", "memory", "wal"]


def sql(directory: Path, *statements: str) -> str:
    return run_in(directory, "sqlite3", "-bail", "db", "; ".join(statements))


@pytest.mark.parametrize("journal", JOURNALS)
def test_sqlite_transactions(folder: Path, disk: Path, tmp_path: Path, journal: str) -> None:
    """Each statement outside of a transaction is one of its own, with the journal it takes."""

    def work(directory: Path) -> list[str]:
        sql(directory, f"PRAGMA journal_mode={journal}", "CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
        pragma = "PRAGMA journal_mode" + ("" if journal == "wal" else f"={journal}")
        numbers = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<2000)"
        return [
            sql(
                directory,
                pragma,
                f"INSERT INTO t {numbers} SELECT n, printf('row %d of many', n) FROM c",
                *(f"UPDATE t SET v = 'changed {n}' WHERE n = {n}" for n in range(3)),
                *("BEGIN", "DELETE FROM t WHERE n > 10", "ROLLBACK"),
                "SELECT count(*), max(v) FROM t",
            ),
            sql(
                directory,
                pragma,
                *("DELETE FROM t WHERE n % 3 = 0", "CREATE INDEX i ON t (v)", "VACUUM"),
                *("PRAGMA integrity_check", "SELECT count(*) FROM t WHERE v > 'row 5'"),
            ),
        ]

    same_on_both(work, tmp_path / "local", folder, disk, own=["db-journal"])  # which has a random number
    with sqlite3.connect(f"file:{disk / 'db'}?mode=ro&immutable=1", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


WRITER = """
import sqlite3, sys
db = sqlite3.connect("db", timeout=60, isolation_level=None)
for n in range(10):
    db.execute("BEGIN IMMEDIATE")
    (total,) = db.execute("SELECT n FROM t").fetchone()
    db.execute("UPDATE t SET n = ?", (total + 1,))
    db.execute("COMMIT")
db.close()
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_processes_at_once_lose_no_update(folder: Path, disk: Path, journal: str) -> None:
    """In WAL mode they share an index through a writable mapping of one file."""
    assert sql(folder, f"PRAGMA journal_mode={journal}") == f"{journal}\n"
    sql(folder, "CREATE TABLE t (n)", "INSERT INTO t VALUES (0)")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=folder) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0] * 3
    assert sql(folder, "SELECT n FROM t", "PRAGMA integrity_check") == "30\nok\n"
    settle(folder)
    same_on_server(folder, disk)


def test_sqlite_wal_reader_keeps_its_snapshot(folder: Path) -> None:
    sql(folder, "PRAGMA journal_mode=wal", "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")
    reader = sqlite3.connect(folder / "db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT n FROM t").fetchall() == [(1,)]
    sql(folder, "UPDATE t SET n = 2")
    assert reader.execute("SELECT n FROM t").fetchall() == [(1,)]
    reader.execute("COMMIT")
    assert reader.execute("SELECT n FROM t").fetchall() == [(2,)]
    reader.close()


def test_sqlite_interrupted_transaction_is_rolled_back(folder: Path, disk: Path) -> None:
    """What its hot journal is for: the next process to open the database undoes the half transaction."""
    sql(folder, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")
    dying = """
import os, sqlite3
db = sqlite3.connect("db", isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE t SET n = 666")
db.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 300)
os._exit(7)
"""
    died = subprocess.run([sys.executable, "-c", dying], cwd=folder, check=False, timeout=120)
    assert died.returncode == 7
    assert (folder / "db-journal").stat().st_size > 0
    assert (folder / "db").stat().st_size > 500_000
    assert sql(folder, "SELECT n FROM t", "PRAGMA integrity_check") == "1\nok\n"
    settle(folder)
    same_on_server(folder, disk)


def test_sqlite_reads_and_writes_through_a_mapping(folder: Path, disk: Path, tmp_path: Path) -> None:
    def work(directory: Path) -> str:
        return sql(
            directory,
            "PRAGMA mmap_size=10000000",
            "CREATE TABLE t (v)",
            "INSERT INTO t VALUES (hex(zeroblob(200000)))",
            "INSERT INTO t VALUES (hex(zeroblob(100000)))",
            "SELECT sum(length(v)) FROM t",
        )

    same_on_both(work, tmp_path / "local", folder, disk)


def test_dbm(folder: Path, disk: Path, tmp_path: Path) -> None:
    code = """
import dbm.dumb
for n in range(2):
    with dbm.dumb.open("data", "c") as db:
        for key in range(8): db[f"{n}-{key}"] = str(key) * 50
        for key in range(0, 8, 3): del db[f"{n}-{key}"]
with dbm.dumb.open("data") as db: print(sorted(db.keys()), db["1-7"])
"""

    def work(directory: Path) -> str:
        return run_in(directory, sys.executable, "-c", code)

    same_on_both(work, tmp_path / "local", folder, disk)
