"""Who serves which mountpoint."""

from __future__ import annotations

import os
from pathlib import Path

from vfsmount.store.mounts import MountRecord, MountRecords, is_alive, start_time


def test_record_is_read_back_and_removed(tmp_path: Path) -> None:
    records = MountRecords(tmp_path)
    assert records.read("/mnt/a") is None
    record = MountRecord("/mnt/a", 123, "456", ended=True, unsent=(("f/x", "/kept"),))
    records.write(record)
    records.write(MountRecord("/mnt/\udcff", 1, "2"))
    assert records.read("/mnt/a") == record
    records.remove("/mnt/a")
    records.remove("/mnt/a")
    assert records.read("/mnt/a") is None and records.read("/mnt/\udcff") is not None


def test_torn_record_is_no_record(tmp_path: Path) -> None:
    records = MountRecords(tmp_path)
    records.write(MountRecord("/mnt", 1, "2"))
    records._file("/mnt").write_bytes(b'{"mountpoint": "/m')
    assert records.read("/mnt") is None


def test_reused_pid_is_not_taken_for_the_daemon() -> None:
    mine = start_time(os.getpid())
    assert mine.isdigit()
    assert is_alive(MountRecord("/mnt", os.getpid(), mine))
    assert not is_alive(MountRecord("/mnt", os.getpid(), mine + "0"))
    assert not is_alive(MountRecord("/mnt", os.getpid(), mine, ended=True))
    assert not is_alive(MountRecord("/mnt", 2**22 + 1, ""))
