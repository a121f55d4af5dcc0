"""Files that are brought into the cache on disk on purpose, and kept there for when the server is away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment, vfsmount

pytestmark = pytest.mark.fuse

MIB = 1 << 20
# An open file's version is asked for by its end where nothing was read of it yet, which would count here.
CALM = ("--attr-ttl", "60")
# Of which a server that says nothing is given a third before a pinned version will do: a busy one answers.
DEADLINE_S = "5"
SIZES = {
    "large": 20 * MIB + 12345,
    "block": MIB,
    "middle": 300_001,
    "empty": 0,
    "sub/below": 2 * MIB + 1,
    "sub/deep/deepest": 70_000,
    **{f"s{n:02}": 1000 * n + 1 for n in range(40)},
}


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    data = tmp_path_factory.mktemp("warmup") / "data"
    with Embedded(data, dialect=request.param) as server:
        server.create_folder("owner", "data")
        yield server


@pytest.fixture
def disk(server: Embedded) -> Iterator[Path]:
    """The folder on the server's disk, empty."""
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    disk = server.folder_dir(folder["id"])
    subprocess.run(f"rm -rf {disk}/*", shell=True, check=True)
    yield disk
    server.clear_faults()


def fill(disk: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_bytes(random.Random(name).randbytes(size))


def wrong(mounted: Mounted, disk: Path, names: list[str] | None = None) -> list[str]:
    """Names of files that do not read as they lie on the server's disk."""
    names = names or sorted(str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file())
    top = mounted.path / "data"
    return [name for name in names if (top / name).read_bytes() != (disk / name).read_bytes()]


def content(path: Path) -> bytes | None:
    """What is in a file; None where the server has not answered in time."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def downloads(server: Embedded) -> int:
    """Replies with bytes of files since the last reset; confirmations of a version have none."""
    calls = [c for c in server.report()["calls"] if c["half"] == "storage" and c["method"] == "GET"]
    return sum(n for c in calls for status, n in c["statuses"].items() if status in ("200", "206"))


def order(mounted: Mounted, server: Embedded, command: str, *args: str | Path) -> dict[str, object]:
    """Carry out a command that must succeed; the mount's last words."""
    done = vfsmount(command, "--json", *args, "--state-dir", mounted.state, env=server.env("owner"))
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert last["done"] is True and last["bytes"] == last["bytes_total"], last
    return last


@contextmanager
def stopped(server: Embedded) -> Iterator[None]:
    """The server neither answers nor refuses."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_reading_what_was_warmed_up_downloads_nothing(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, SIZES)
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        server.reset_calls()
        last = order(mounted, server, "warmup", "-r", mounted.path / "data")
        assert last["files"] == last["files_total"] == len(SIZES)
        assert last["fetched"] == last["bytes_total"] == sum(SIZES.values())
        listings = server.count("GET", "/folders/{vf}/files")
        assert listings == 3  # and no others but for the token:
        assert sum(server.calls("manager").values()) - listings <= 1
        server.reset_calls()
        assert wrong(mounted, disk) == []
        assert downloads(server) == 0
        again = order(mounted, server, "warmup", "-r", mounted.path / "data")
        assert again["fetched"] == 0 and again["bytes"] == last["bytes"]
        assert downloads(server) == 0
    assert not mounted.warnings()


def test_directory_means_its_own_files(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"sub/a": 5000, "sub/b": 2 * MIB, "sub/deep/c": 5000, "d": 5000})
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        last = order(mounted, server, "warmup", mounted.path / "data" / "sub", mounted.path / "data" / "d")
        assert last["files"] == 3
        server.reset_calls()
        assert wrong(mounted, disk, ["sub/a", "sub/b", "d"]) == [] and downloads(server) == 0
        assert wrong(mounted, disk, ["sub/deep/c"]) == []
        assert downloads(server) == (2 if server.dialect == "23.09" else 1)  # confirmed, too
    assert not mounted.warnings()


def test_people_are_told_what_came_of_it(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"a": 5000})
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        options = ("--state-dir", mounted.state)
        file, missing = mounted.path / "data" / "a", mounted.path / "data" / "missing"
        done = vfsmount("warmup", file, *options, env=server.env("owner"))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "1 file, 4.9 KiB; 4.9 KiB fetched\n"
        done = vfsmount("warmup", file, missing, *options, env=server.env("owner"))
        assert done.returncode == 1
        assert f"not in the cache: {missing} (no such file or directory)" in done.stderr
        assert done.stdout == "1 file, 4.9 KiB, 1 failed; 0 B fetched\n"


def test_flipped_bits_are_fetched_again(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"large": 20 * MIB, "small": 50_000})
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        order(mounted, server, "warmup", mounted.path / "data")
        for path in (mounted.cache / "blocks").iterdir():
            with path.open("r+b") as f:
                f.seek(-7, os.SEEK_END)
                byte = f.read(1)
                f.seek(-7, os.SEEK_END)
                f.write(bytes([byte[0] ^ 1]))
        last = order(mounted, server, "warmup", mounted.path / "data")
        assert last["fetched"] == 2 * MIB + 50_000  # the last block of each of the large file's segments
        server.reset_calls()
        assert wrong(mounted, disk) == [] and downloads(server) == 0


def test_present_version_is_taken_not_the_one_listed(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"a": 3 * MIB, "b": 30_000, "gone": 30_000, "gone-too": 3 * MIB})
    with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "3600", *CALM) as mounted:
        os.listdir(mounted.path / "data")
        for name, size in {"a": 2 * MIB + 5, "b": 40_000}.items():
            (disk / "new").write_bytes(random.Random(size).randbytes(size))
            (disk / "new").rename(disk / name)
        (disk / "gone").unlink()
        (disk / "gone-too").unlink()
        order(mounted, server, "warmup", mounted.path / "data")
        server.reset_calls()
        assert wrong(mounted, disk, ["a", "b"]) == [] and downloads(server) == 0


def test_reader_in_the_middle_of_a_warmup(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"large": 40 * MIB})
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        server.faults({"latency_ms": {"storage": 100}})
        command = [
            *VFSMOUNT,
            "warmup",
            "--json",
            str(mounted.path / "data"),
            "--state-dir",
            str(mounted.state),
        ]
        with subprocess.Popen(
            command, env=clean_environment(server.env("owner")), stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert wrong(mounted, disk) == []
            child.stdout.read()
        assert child.returncode == 0
        server.clear_faults()
        server.reset_calls()
        assert order(mounted, server, "warmup", mounted.path / "data")["fetched"] == 0
    assert not mounted.warnings()


def test_client_that_goes_away_ends_it(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {f"f{n}": 1000 for n in range(400)} | {"large": 100 * MIB})
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        server.faults({"latency_ms": {"storage": 400}})
        server.reset_calls()
        command = [*VFSMOUNT, "warmup", str(mounted.path / "data"), "--state-dir", str(mounted.state)]
        environment = clean_environment(server.env("owner"))
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        eventually(lambda: downloads(server) > 5)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
        count, since, give_up = downloads(server), time.monotonic(), time.monotonic() + 60
        while time.monotonic() < since + 1.5:  # what was under way ends, and nothing follows
            assert time.monotonic() < give_up, "it goes on"
            time.sleep(0.1)
            if (now := downloads(server)) != count:
                count, since = now, time.monotonic()
        assert count < 300
        server.clear_faults()
        last = order(mounted, server, "warmup", mounted.path / "data")  # goes on where that stopped
        assert last["files"] == 401
        server.reset_calls()
        assert wrong(mounted, disk) == [] and downloads(server) == 0
    assert not mounted.warnings()


def test_too_small_a_cache_is_told_before_and_after(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {f"f{n}": 6 * MIB for n in range(5)})
    with Mounted(tmp_path, server.env("owner"), "--cache-size", "20", "--cache-free", "0", *CALM) as mounted:
        options = ("--state-dir", mounted.state)
        done = vfsmount("warmup", mounted.path / "data", *options, env=server.env("owner"))
        assert done.returncode == 1
        told, *named = done.stderr.splitlines()
        assert "30 MiB are wanted and the cache has room for 19 MiB" in told and "--cache-size" in told
        left_out = [line.partition(" (")[0].rpartition("/")[2] for line in named]
        assert len(left_out) == 2
        assert "2 failed; 18.0 MiB fetched" in done.stdout
        server.reset_calls()
        assert (
            wrong(mounted, disk, [f for f in os.listdir(disk) if f not in left_out]) == []
            and downloads(server) == 0
        )
        done = vfsmount("pin", mounted.path / "data", *options, env=server.env("owner"))
        assert done.returncode == 1 and "0 B fetched" in done.stdout
    assert not mounted.warnings()


def test_what_is_warmed_up_displaces_what_is_not_used(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {f"old{n}": 20 * MIB for n in range(5)} | {f"new{n}": 6 * MIB for n in range(6)})
    with Mounted(tmp_path, server.env("owner"), "--cache-size", "64", "--cache-free", "0", *CALM) as mounted:
        assert wrong(mounted, disk, [f"old{n}" for n in range(5)]) == []
        new = [mounted.path / "data" / f"new{n}" for n in range(6)]
        order(mounted, server, "warmup", *new)
        server.reset_calls()
        assert wrong(mounted, disk, [path.name for path in new]) == [] and downloads(server) == 0


def test_mount_without_a_cache_says_what_to_do(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"a": 5000})
    with Mounted(tmp_path, server.env("owner"), "--cache-size", "0") as mounted:
        for command in ("warmup", "pin", "unpin"):
            done = vfsmount(
                command, mounted.path / "data", "--state-dir", mounted.state, env=server.env("owner")
            )
            assert done.returncode == 5 and "--cache-size" in done.stderr, done.stderr


def test_unsent_file_is_left_out_and_cannot_be_pinned(server: Embedded, disk: Path, tmp_path: Path) -> None:
    with Mounted(tmp_path, server.env("owner"), "--drain-timeout", "5") as mounted:
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
        (mounted.path / "data" / "mine").write_bytes(b"unsent")
        assert order(mounted, server, "warmup", mounted.path / "data")["files"] == 0
        options = ("--state-dir", mounted.state)
        done = vfsmount("pin", mounted.path / "data" / "mine", *options, env=server.env("owner"))
        assert done.returncode == 1 and "it is not on the server yet" in done.stderr
        server.clear_faults()


def test_pinned_file_survives_a_cache_filled_three_times(
    server: Embedded, disk: Path, tmp_path: Path
) -> None:
    fill(disk, {f"big{n}": 48 * MIB for n in range(4)} | {"kept/large": 17 * MIB, "kept/small": 3000})
    with Mounted(tmp_path, server.env("owner"), "--cache-size", "64", "--cache-free", "0", *CALM) as mounted:
        order(mounted, server, "pin", "-r", mounted.path / "data" / "kept")
        assert wrong(mounted, disk, [f"big{n}" for n in range(4)]) == []
        server.reset_calls()
        assert wrong(mounted, disk, ["kept/large", "kept/small"]) == [] and downloads(server) == 0
        options = ("--state-dir", mounted.state)
        shown = vfsmount("pin", "--list", *options, env=server.env("owner")).stdout
        top = mounted.path / "data" / "kept"
        assert shown == f"{top}/large  17.0 MiB\n{top}/small  2.9 KiB\n"
        done = vfsmount("unpin", top, *options, env=server.env("owner"))
        assert (done.returncode, done.stdout) == (0, "2 files unpinned\n")
        assert vfsmount("pin", "--list", *options, env=server.env("owner")).stdout == ""
    assert not mounted.warnings()


def test_pinned_files_are_read_while_the_server_is_away(server: Embedded, disk: Path, tmp_path: Path) -> None:
    fill(disk, {"kept/large": 18 * MIB, "kept/small": 3000, "kept/none": 0, "other": 3000})
    kept = ["kept/large", "kept/small", "kept/none"]
    times = ("--dir-ttl", "1", "--attr-ttl", "0.5", "--deadline", DEADLINE_S)
    with Mounted(tmp_path, server.env("owner"), *times) as mounted:
        order(mounted, server, "pin", mounted.path / "data" / "kept")
        os.listdir(mounted.path / "data")
        time.sleep(1.1)  # nothing is believed any more
        with stopped(server):
            assert wrong(mounted, disk, kept) == []
            time.sleep(1.1)
            assert wrong(mounted, disk, kept) == []
            with pytest.raises(OSError):
                (mounted.path / "data" / "other").read_bytes()
        (disk / "kept" / "small").write_bytes(b"new")
        eventually(lambda: content(mounted.path / "data" / "kept" / "small") == b"new")
        with stopped(server), pytest.raises(OSError):  # the new version is not pinned
            time.sleep(1.1)
            (mounted.path / "data" / "kept" / "large").read_bytes()
            (mounted.path / "data" / "other").read_bytes()
        time.sleep(6)
        order(mounted, server, "pin", mounted.path / "data" / "kept" / "small")
        pins = vfsmount("pin", "--list", "--json", "--state-dir", mounted.state, env=server.env("owner"))
        found = [json.loads(line) for line in pins.stdout.splitlines()]
        assert {p["path"].rpartition("/")[2]: p["size"] for p in found} == {
            "large": 18 * MIB,
            "none": 0,
            "small": 3,
        }


def test_next_mount_reads_pinned_files_that_it_has_only_listed(
    disk: Path, server: Embedded, tmp_path: Path
) -> None:
    fill(disk, {"large": 18 * MIB, "small": 3000})
    times = ("--dir-ttl", "1", "--attr-ttl", "0.5", "--deadline", DEADLINE_S)
    with Mounted(tmp_path, server.env("owner"), *times) as mounted:
        order(mounted, server, "pin", mounted.path / "data")
    with Mounted(tmp_path, server.env("owner"), *times) as mounted:
        os.listdir(mounted.path / "data")
        time.sleep(1.1)
        with stopped(server):
            assert wrong(mounted, disk) == []


def test_refused_connection_is_away_too(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        fill(disk, {"large": 18 * MIB, "small": 3000, "other": 3000})
        with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "1", "--attr-ttl", "0.5") as mounted:
            top = mounted.path / "data"
            order(mounted, server, "pin", top / "large", top / "small")
            server.kill()
            time.sleep(1.1)
            assert wrong(mounted, disk, ["large", "small"]) == []
            options = ("--state-dir", mounted.state)
            done = vfsmount("warmup", top / "other", *options, env=server.env("owner"))
            assert done.returncode == 4 and "not in the cache" in done.stderr


def test_pinned_file_of_a_directory_that_is_listed_in_part(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", scandir_limit=10) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        fill(disk, {f"f{n}": 3000 for n in range(12)})
        times = ("--dir-ttl", "1", "--attr-ttl", "0.5", "--deadline", DEADLINE_S)
        with Mounted(tmp_path, server.env("owner"), *times) as mounted:
            top = mounted.path / "data"
            order(mounted, server, "pin", *(top / f"f{n}" for n in range(12)))
            done = vfsmount("warmup", top, "--state-dir", mounted.state, env=server.env("owner"))
            assert done.returncode == 0 and "the server may have left names out" in done.stderr
            time.sleep(1.1)
            with stopped(server):
                assert wrong(mounted, disk) == []
