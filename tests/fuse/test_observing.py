"""What a mount shows of itself while it works: counters, the access log, stacks, logs of JSON."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, vfsmount

CONTENT = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("observing") / "data", dialect="26") as server:
        server.create_folder("owner", "data")
        (folder,) = server.client("owner").ok("GET", "/folders")
        (server.folder_dir(folder["id"]) / "there").write_bytes(CONTENT)
        yield server


@pytest.fixture
def observed(server: Embedded, tmp_path: Path) -> Iterator[Mounted]:
    """A mount with all that can be watched."""
    options = ("--metrics", "0", "--access-log", str(tmp_path / "access.log"), "--log-format", "json")
    with Mounted(tmp_path, server.env("owner"), *options) as mounted:
        yield mounted
    assert not [line for line in logged(mounted) if line["level"] not in ("DEBUG", "INFO")]


def logged(mounted: Mounted) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mounted.log.read_text().splitlines()]


def eventually(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)
    return found


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    """Samples by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
        text = reply.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"vfsmount_{name}", frozenset(labels.items())), 0)


def port_of(mounted: Mounted) -> int:
    (line,) = [line for line in logged(mounted) if line.get("event") == "metrics.ready"]
    return int(line["fields"]["port"])


def test_prometheus_finds_what_has_happened(observed: Mounted) -> None:
    port = port_of(observed)
    before = scrape(port)
    path = observed.path / "data" / "counted"
    path.write_bytes(CONTENT)
    assert os.getxattr(path, "user.vfsmount.wait") == b"1"
    assert subprocess.run(["cmp", path, "-"], input=CONTENT, check=False).returncode == 0
    with pytest.raises(FileNotFoundError):
        (observed.path / "data" / "missing").stat()
    after = scrape(port)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("written_bytes_total") == grown("uploaded_bytes_total") == len(CONTENT)
    assert grown("operation_seconds_count", operation="create") == 1
    assert grown("operation_errors_total", operation="lookup", errno="ENOENT") >= 1
    sent = {"service": "manager", "method": "POST", "endpoint": "/folders/{vf}/request-upload"}
    assert grown("api_requests_total", **sent, status="2xx") == 1
    assert grown("api_request_seconds_count", **sent) == 1
    assert grown("api_request_seconds_bucket", **sent, le="+Inf") == 1
    assert value(after, "unsent_files") == 0 and value(after, "api_calls_left") > 0
    eventually(lambda: value(scrape(port), "loop_lag_seconds_count") > 0)
    assert ("process_start_time_seconds", frozenset()) in after
    assert "counted" not in repr(after) and "'data'" not in repr(after)
    path.unlink()


def test_clients_that_say_nothing_hold_nobody_up_for_long(observed: Mounted) -> None:
    with socket.create_connection(("127.0.0.1", port_of(observed))):
        assert value(scrape(port_of(observed)), "start_time_seconds") > 0  # once its time is up
        assert (observed.path / "data").is_dir()


def test_mount_starts_where_its_port_is_taken(server: Embedded, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Mounted(tmp_path, server.env("owner"), "--metrics", port) as mounted:
            assert (mounted.path / "data").is_dir()
            (warning,) = mounted.warnings()
            assert "metrics.unavailable" in warning and port in warning


def test_every_operation_has_its_line(observed: Mounted, tmp_path: Path) -> None:
    path = observed.path / "data" / "logged"
    path.mkdir()
    file = path / "file"
    file.write_bytes(CONTENT)
    there = observed.path / "data" / "there"
    # A shell that has looked at the file before it becomes the program that reads it.
    subprocess.run(["sh", "-c", '[ -f "$1" ] && exec cmp "$1" -', "sh", there], input=CONTENT, check=True)
    file.rename(path / "renamed")
    for gone in (file, path / "not UTF-8 \udcff"):
        with pytest.raises(FileNotFoundError):
            gone.stat()
    (path / "renamed").unlink()
    path.rmdir()
    log = tmp_path / "access.log"
    where = "data/logged"

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    eventually(lambda: [line for line in lines() if line["op"] == "rmdir"])
    by_op: dict[str, list[dict[str, Any]]] = {}
    for line in lines():
        by_op.setdefault(line["op"], []).append(line)
        assert line["seconds"] >= 0 and abs(line["time"] - time.time()) < 600
    assert sum(line["length"] for line in by_op["write"]) == len(CONTENT)
    reads = [line for line in by_op["read"] if line["path"] == "data/there"]
    assert sum(line["result"] for line in reads) == len(CONTENT)
    assert {line["comm"] for line in reads} == {"cmp"} and any("network" in line["source"] for line in reads)
    (renamed,) = by_op["rename"]
    assert (renamed["path"], renamed["to"]) == (f"{where}/file", f"{where}/renamed")
    missed = [line for line in by_op["lookup"] if line.get("errno") == "ENOENT"]
    assert {f"{where}/file", f"{where}/not UTF-8 \udcff"} <= {line["path"] for line in missed}
    assert all(line["pid"] == os.getpid() for line in missed[-2:])
    assert by_op["mkdir"][0]["path"] == where and by_op["mkdir"][0]["pid"] == os.getpid()
    assert log.stat().st_mode & 0o777 == 0o600


def test_stacks_come_while_the_mount_works_on(observed: Mounted) -> None:
    stop, errors = threading.Event(), []

    def load(n: int) -> None:
        while not stop.is_set():
            path = observed.path / "data" / f"load-{n}"
            try:
                path.write_bytes(b"x" * 1000)
                assert path.read_bytes() == b"x" * 1000
                path.unlink()
            except OSError as e:
                errors.append(e)

    # From another process's point of view, or the interpreter that waits would be the one that is asked.
    workers = [threading.Thread(target=load, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    try:
        for n in range(1, 4):
            os.kill(observed.pid, signal.SIGUSR1)
            eventually(
                lambda n=n: [line.get("event") for line in logged(observed)].count("stacks.threads") == n
            )
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not errors
    stacks = [line["message"] for line in logged(observed) if line["logger"] == "vfsmount.stacks"]
    tasks = [s for s in stacks if s.startswith("task ")]
    assert any("vfsmount/vfs/uploader.py:" in s and "Uploader.run" in s for s in tasks)
    assert any(s.startswith("thread MainThread") and "trio/_core" in s for s in stacks)
    assert (observed.path / "data").is_dir()


def test_loop_that_is_stuck_is_shown_where_it_stands(server: Embedded, tmp_path: Path) -> None:
    """A daemon whose loop blocks: played by one that sleeps in a look-up until it may go on."""
    code = (
        f"import pathlib, sys, time; top = pathlib.Path({str(tmp_path)!r})\n"
        "from vfsmount.vfs.filesystem import Filesystem\n"
        "from vfsmount.fuse import stacks\n"
        "stacks._PATIENCE_S = 0.5\n"
        "real = Filesystem.lookup\n"
        "async def lookup(self, parent, name):\n"
        "    while name == b'stuck' and not (top / 'go').exists(): (top / 'here').touch(); time.sleep(0.05)\n"
        "    return await real(self, parent, name)\n"
        "Filesystem.lookup = lookup\n"
        "from vfsmount.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    mountpoint, log = tmp_path / "mnt", tmp_path / "log"
    env = {**os.environ, **server.env("owner")}
    options = [
        "--no-holder",
        "--state-dir",
        tmp_path / "state",
        "--cache-dir",
        tmp_path / "cache",
        "--log-file",
        log,
    ]
    done = subprocess.run([sys.executable, "-c", code, mountpoint, *options], env=env, check=False)
    assert done.returncode == 0
    try:
        (record,) = (tmp_path / "state" / "mounts").glob("*.json")
        pid = json.loads(record.read_text())["pid"]
        with subprocess.Popen(["stat", mountpoint / "stuck"], stderr=subprocess.DEVNULL) as stuck:
            try:
                eventually((tmp_path / "here").exists)
                os.kill(pid, signal.SIGUSR1)
                eventually(lambda: "<string>:7 lookup" in log.read_text())
                assert "stacks.loop_stuck" in log.read_text()
            finally:
                (tmp_path / "go").touch()
        assert stuck.returncode == 1
    finally:
        vfsmount("umount", "--lazy", mountpoint, "--state-dir", tmp_path / "state", env=server.env("owner"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "0.0.0.0:9400"], "only a loopback address"),
        (["--metrics", "example.com:9400"], "neither a port nor ADDRESS:PORT"),
        (["--metrics", "127.0.0.1:http"], "is no port"),
        (["--access-log", "/dev/null"], "is no regular file"),
        (["--access-log", "/nowhere/log"], "cannot open /nowhere/log"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_mounted(
    server: Embedded, tmp_path: Path, options: list[str], said: str
) -> None:
    rest = ("--state-dir", tmp_path / "state", "--cache-dir", tmp_path / "cache")
    done = vfsmount(tmp_path / "mnt", *options, *rest, env=server.env("owner"))
    assert done.returncode == 2 and said in done.stderr
    assert not os.path.ismount(tmp_path / "mnt")
