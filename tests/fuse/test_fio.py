"""fio writes patterns with checksums and verifies them, on a real mount."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.compare import same_on_server, settle
from tests.support.mounting import Mounted, run


def fio(directory: Path, work: Path, name: str, *options: str) -> dict[str, int]:
    """One job on the file `name`; what it wrote and read, in bytes. Fails on what does not verify."""
    out = run(
        *("fio", "--output-format=json", f"--directory={directory}", f"--filename={name}", "--name=job"),
        *("--randseed=7", "--verify_fatal=1", "--verify_state_save=0", *options),
        cwd=work,  # where it would leave files of its own
        timeout=300,
    )
    (job,) = json.loads(out[out.index("{") :])["jobs"]
    assert job["error"] == 0
    return {way: job[way]["io_bytes"] for way in ("read", "write")}


@pytest.fixture
def size(site: Site) -> int:
    """Bytes of a file: every one is sent several times."""
    return 8 << 20 if site.embedded else 2 << 20


JOBS = {
    "random mixed sizes": ["--rw=randwrite", "--ioengine=psync", "--bsrange=4k-64k", "--end_fsync=1"],
    "random unaligned": ["--rw=randwrite", "--ioengine=psync", "--bsrange=512-40k", "--bs_unaligned=1"],
    "mmap": ["--rw=randwrite", "--ioengine=mmap", "--bs=4k", "--end_fsync=1"],
    "sequential": ["--rw=write", "--ioengine=psync", "--bs=128k", "--end_fsync=1"],
    "reads among writes": ["--rw=randrw", "--ioengine=psync", "--bs=8k", "--fsync=200"],
    "threads": ["--rw=randwrite", "--ioengine=libaio", "--iodepth=8", "--bs=16k", "--end_fsync=1"],
}


@pytest.mark.parametrize("job", JOBS)
def test_written_is_what_is_read(folder: Path, disk: Path, tmp_path: Path, size: int, job: str) -> None:
    did = fio(folder, tmp_path, "f", f"--size={size}", "--verify=crc32c", *JOBS[job])
    assert did["write"] >= size // 3
    settle(folder)
    same_on_server(folder, disk)


def test_files_at_once(folder: Path, disk: Path, tmp_path: Path) -> None:
    options = [
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--verify=md5",
        "--nrfiles=4",
        "--size=4M",
        "--openfiles=2",
    ]
    fio(folder, tmp_path, "a:b:c:d", *options)
    settle(folder)
    same_on_server(folder, disk)


def test_verifies_after_a_remount_and_is_overwritten(
    site: Site, folder: Path, disk: Path, tmp_path: Path, size: int
) -> None:
    """Each second job changes a part of a file of which nothing is here yet."""

    def remount() -> None:
        assert mounted.stop().returncode == 0
        mounted.start()

    with Mounted(tmp_path, site.env) as mounted:
        directory = mounted.path / folder.name
        pattern = ["--rw=randwrite", "--bs=16k", "--verify=crc32c"]
        whole = [*pattern, f"--size={size}"]
        part = [*pattern, f"--offset={size // 4}", f"--size={size // 4}", "--randseed=9"]
        fio(directory, tmp_path, "f", *whole)
        remount()
        assert fio(directory, tmp_path, "f", *whole, "--verify_only=1")["read"] == size
        for engine in ("psync", "mmap"):
            remount()
            fio(directory, tmp_path, "f", *part, f"--ioengine={engine}")
            settle(directory)
            same_on_server(directory, disk)
            remount()
            assert fio(directory, tmp_path, "f", *part, "--verify_only=1")["read"] == size // 4
    assert not mounted.warnings()
