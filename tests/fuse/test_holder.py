"""A mount whose daemons come and go: taking over, upgrades, watchdog, bounds, and the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment, vfsmount
from tests.support.supervising import FakeSupervisor
from vfsmount.fuse.device import unmount

DEADLINE_S = 60.0
T = TypeVar("T")


def eventually(look: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """What it sees once that is true."""
    end = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
    return seen


def runs(pid: int) -> bool:
    """Whether there is such a process, and not its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it is buried between open and read
        return False


def daemons(mounted: Mounted) -> set[int]:
    """All daemons of a mount: the one that serves, and the one that stands by."""
    return children(mounted.holder)


def children(pid: int) -> set[int]:
    """Processes that it started."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def another(mounted: Mounted, pid: int) -> int:
    """The daemon that took over from one."""
    return eventually(lambda: mounted.pid if mounted.pid != pid else 0)


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect=request.param) as server:
        server.create_folder("owner", "data")
        yield server


def held(server: Embedded, directory: Path, *options: str, **test: object) -> Mounted:
    """A mount with a holder.

    Args:
        test: what the holder does otherwise than usual.
    """
    env = {**server.env("owner"), "VFSMOUNT_HOLDER_TEST": json.dumps(test)}
    return Mounted(directory, env, *options, holder=True)


def test_daemons_have_no_privilege_and_the_holder_is_small(server: Embedded, tmp_path: Path) -> None:
    with held(server, tmp_path, "--allow-other") as mounted:
        both = eventually(lambda: found if len(found := daemons(mounted)) == 2 else None)
        assert mounted.pid in both
        (mounted.path / "data" / "new").write_bytes(b"written without any privilege")
        for next_one in (lambda: mounted.pid, lambda: another_after_kill(mounted)):
            told = status_of(next_one())
            assert {told[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
            assert told["NoNewPrivs"] == "1"
        assert (mounted.path / "data" / "new").read_bytes() == b"written without any privilege"
        holder = status_of(mounted.holder)
        assert int(holder["RssAnon"].split()[0]) < 10 << 10  # KiB; most of the rest is the interpreter's file
        assert holder["Threads"] == "1"
        secret = server.env("owner")["BACKEND_SECRET_KEY"].encode()
        for pid in (*both, mounted.holder):
            if runs(pid):
                assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not mounted.path.is_mount()


def another_after_kill(mounted: Mounted) -> int:
    """The daemon after the one that serves now."""
    pid = mounted.pid
    os.kill(pid, signal.SIGKILL)
    return another(mounted, pid)


def test_upgrade_goes_on_under_open_files(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.client("owner").ok("GET", "/folders")[0]["id"].replace("-", ""))
    with held(server, tmp_path) as mounted:
        top, pid = mounted.path / "data", mounted.pid
        with (
            open(top / "unsent", "wb", buffering=0) as unsent,
            open(top / "half", "w+b", buffering=0) as half,
        ):
            unsent.write(b"before, ")
            half.write(b"before, ")
            (top / "gone").write_bytes(b"removed, and open")
            with open(top / "gone", "rb") as gone:
                (top / "gone").unlink()
                done = vfsmount("upgrade", mounted.path, "--json", "--state-dir", mounted.state, env={})
                assert done.returncode == 0, done.stderr
                told = json.loads(done.stdout)
                assert told["was"] == pid and told["pid"] == mounted.pid != pid
                assert not runs(pid)
                assert gone.read() == b"removed, and open"
            unsent.write(b"after")
            half.write(b"after")
            half.seek(0)
            assert half.read() == b"before, after"
        assert vfsmount("wait", mounted.path, "--state-dir", mounted.state, env={}).returncode == 0
        log = mounted.log.read_text()
        assert "mount.taken_over generation=3 why=upgrade takeovers=1 resent=0" in log
    assert (disk / "unsent").read_bytes() == (disk / "half").read_bytes() == b"before, after"
    assert not mounted.warnings()


OTHER_ANSWER = """
import sys
sys.path.insert(0, {checkout!r})
from vfsmount.fuse import negotiation
right = negotiation.patch_reply
def patched(offer, reply, options):
    return right(offer, reply, negotiation.InitOptions(max_background=5, congestion_threshold=5))
negotiation.patch_reply = patched
from vfsmount.__main__ import main
raise SystemExit(main())
"""


OTHER_PROTOCOL = """
import sys
sys.path.insert(0, {checkout!r})
from vfsmount.holder import wire
wire.PROTOCOL += 1
from vfsmount.__main__ import main
raise SystemExit(main())
"""

OTHER_SERVER = """
import os, sys
sys.path.insert(0, {checkout!r})
os.environ["BACKEND_ENDPOINT"] = "http://127.0.0.1:1"
from vfsmount.__main__ import main
raise SystemExit(main())
"""


def test_upgrade_to_what_cannot_go_on_is_refused(server: Embedded, tmp_path: Path) -> None:
    checkout = str(Path(__file__).parents[2])
    (tmp_path / "other.py").write_text(OTHER_ANSWER.format(checkout=checkout))
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    (tmp_path / "elsewhere.py").write_text(OTHER_SERVER.format(checkout=checkout))
    (tmp_path / "later.py").write_text(OTHER_PROTOCOL.format(checkout=checkout))
    with held(server, tmp_path) as mounted:
        pid = mounted.pid
        (mounted.path / "data" / "a").write_bytes(b"as it was")
        for script, why in (
            ("other.py", "another answer to the kernel"),
            ("broken.py", "before it could take over"),
            ("later.py", "cannot go on with this mount"),
            ("elsewhere.py", "the settings say http://127.0.0.1:1 now"),
        ):
            asked = {"op": "upgrade", "command": [sys.executable, str(tmp_path / script)]}
            assert why in ask(mounted, asked)["error"]
            assert mounted.pid == pid and (mounted.path / "data" / "a").read_bytes() == b"as it was"
        assert another_after_kill(mounted) != pid  # by one of the version that is served


def ask(mounted: Mounted, request: dict[str, object]) -> dict[str, str]:
    """The last word of a mount to a request."""
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(json.loads(mounted.record)["socket"])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile() as lines:
            *_, last = lines
    answer: dict[str, str] = json.loads(last)
    return answer


def test_upgrade_waits_for_what_is_in_hand_or_goes_back(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.client("owner").ok("GET", "/folders")[0]["id"].replace("-", ""))
    (disk / "slow").write_bytes(b"x" * 100)
    with held(server, tmp_path, "--deadline", "4") as mounted:
        pid = mounted.pid
        os.listdir(mounted.path / "data")
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-download", "times": None}]})
        read: list[bytes] = []
        errors: list[OSError] = []

        def reads() -> None:
            try:
                read.append((mounted.path / "data" / "slow").read_bytes())
            except OSError as e:
                errors.append(e)

        reader = threading.Thread(target=reads)
        reader.start()
        time.sleep(0.5)
        upgrade = subprocess.Popen(
            [*VFSMOUNT, "upgrade", mounted.path, "--state-dir", mounted.state],
            env=clean_environment({}),
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        server.clear_faults()
        _, said = upgrade.communicate(timeout=60)
        reader.join(60)
        if upgrade.returncode == 0:
            assert mounted.pid != pid
        else:
            assert "took longer than the deadline" in said and mounted.pid == pid
        assert os.listdir(mounted.path / "data") == ["slow"]
        assert (mounted.path / "data" / "slow").read_bytes() == b"x" * 100


def test_daemon_that_hangs_is_killed(server: Embedded, tmp_path: Path) -> None:
    with held(server, tmp_path, watchdog_s=2) as mounted:
        (mounted.path / "data" / "a").write_bytes(b"there")
        pid = mounted.pid
        os.kill(pid, signal.SIGSTOP)
        assert (mounted.path / "data" / "a").read_bytes() == b"there"  # waits, and is answered
        assert another(mounted, pid) and not runs(pid)
        assert "the daemon says nothing for 2 s and is killed" in mounted.log.read_text()


def test_daemons_that_die_at_once_are_given_up(server: Embedded, tmp_path: Path) -> None:
    mounted = held(server, tmp_path, deaths=3)
    mounted.start()
    holder = mounted.holder
    for _ in range(3):
        another_after_kill(mounted)
    reader = os.open(mounted.path / "data", os.O_RDONLY)
    os.kill(mounted.pid, signal.SIGKILL)
    eventually(lambda: not runs(holder))
    with pytest.raises(OSError):  # and not never
        os.listdir(reader)
    os.close(reader)
    assert not mounted.path.is_mount()
    assert "the daemon died 4 times within a minute" in mounted.log.read_text()
    with held(server, tmp_path) as again:  # with the same state
        assert os.listdir(again.path) == ["data"]


def test_where_nobody_can_take_over_callers_get_an_error_in_time(server: Embedded, tmp_path: Path) -> None:
    settings = tmp_path / "config" / "vfsmount" / "config.toml"
    settings.parent.mkdir(parents=True)

    def points_to(endpoint: str) -> None:
        """Whoever begins from now on finds that server, and does not go on with the mount of another."""
        told = {**server.env("owner"), "BACKEND_ENDPOINT": endpoint}
        names = ("endpoint", "access_key", "secret_key")
        lines = [f'{name} = "{told[f"BACKEND_{name.upper()}"]}"' for name in names]
        settings.write_text("\n".join(["[profiles.lab]", *lines, ""]))
        settings.chmod(0o600)

    points_to(server.url)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "VFSMOUNT_PROFILE": "lab"}
    mounted = Mounted(tmp_path, env, "--deadline", "4", holder=True)
    mounted.start()
    both = eventually(lambda: found if len(found := daemons(mounted)) == 2 else None)
    holder, serving = mounted.holder, mounted.pid
    waiting = os.open(mounted.path / "data", os.O_RDONLY)
    points_to("http://127.0.0.1:1")
    (standby,) = both - {serving}
    os.kill(standby, signal.SIGKILL)
    eventually(lambda: "no daemon can take over" in mounted.log.read_text())
    os.kill(serving, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(OSError):
        os.listdir(waiting)
    assert time.monotonic() - began < DEADLINE_S
    os.close(waiting)
    eventually(lambda: not runs(holder))
    assert "nobody could take over within 4 s" in mounted.log.read_text()
    assert not mounted.path.is_mount()
    points_to(server.url)
    with mounted:
        assert os.listdir(mounted.path) == ["data"]


def test_older_kernel_has_the_mount_made_again(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.client("owner").ok("GET", "/folders")[0]["id"].replace("-", ""))
    (disk / "below").mkdir()
    (disk / "below" / "seen").touch()
    with held(server, tmp_path, resend=False) as mounted:
        (mounted.path / "data" / "closed").write_bytes(b"not lost")
        kept = os.open(mounted.path / "data" / "closed", os.O_RDONLY)
        device = mounted.path.stat().st_dev
        os.listdir(mounted.path / "data")
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/files", "times": None}]})
        before = server.count("GET", "/folders/{vf}/files")
        errors: list[OSError] = []

        def reads() -> None:
            try:
                os.listdir(mounted.path / "data" / "below")
            except OSError as e:
                errors.append(e)

        reader = threading.Thread(target=reads)
        reader.start()
        # It is in the daemon's hands, who waits for the server.
        eventually(lambda: server.count("GET", "/folders/{vf}/files") > before)
        pid = mounted.pid
        os.kill(pid, signal.SIGKILL)
        server.clear_faults()
        reader.join(DEADLINE_S)
        assert not reader.is_alive() and errors, "who waited has an error, and not never"
        another(mounted, pid)
        assert mounted.path.stat().st_dev != device
        assert (mounted.path / "data" / "closed").read_bytes() == b"not lost"
        assert os.listdir(mounted.path / "data" / "below") == ["seen"]
        with pytest.raises(OSError):
            os.statvfs(kept)
        with suppress(OSError):  # the kernel asks about that, too
            os.close(kept)
    assert (disk / "closed").read_bytes() == b"not lost"


def test_older_kernel_goes_on_where_nothing_was_in_hand(server: Embedded, tmp_path: Path) -> None:
    (disk_of(server) / "a").write_bytes(b"there")  # by the mount its end might be in hand still
    with held(server, tmp_path, resend=False) as mounted, open(mounted.path / "data" / "a", "rb") as kept:
        another_after_kill(mounted)
        assert kept.read() == b"there"


def test_foreground_mount_ends_with_its_signal(server: Embedded, tmp_path: Path) -> None:
    with FakeSupervisor(tmp_path) as supervisor:
        process = subprocess.Popen(
            [*VFSMOUNT, tmp_path / "mnt", "-f", "--state-dir", tmp_path / "state"],
            env=clean_environment({**server.env("owner"), **supervisor.environment(10)}),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            ready = supervisor.wait_for(lambda m: "READY" in m)
            assert ready["MAINPID"] == str(process.pid)
            (record,) = (tmp_path / "state" / "mounts").glob("*.json")
            told = json.loads(record.read_bytes())
            assert told["holder"] == process.pid != told["pid"]
            (tmp_path / "mnt/data/a").write_bytes(b"sent at the end")
            os.kill(told["pid"], signal.SIGKILL)
            eventually(lambda: json.loads(record.read_bytes())["pid"] != told["pid"])
            supervisor.heard.clear()
            supervisor.wait_for(lambda m: "WATCHDOG" in m)
            assert (tmp_path / "mnt/data/a").read_bytes() == b"sent at the end"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not children_left(told["holder"])
        finally:
            process.kill()
            assert process.stderr is not None
            process.stderr.close()
    assert not (tmp_path / "mnt").is_mount()
    disk = server.folder_dir(server.client("owner").ok("GET", "/folders")[0]["id"].replace("-", ""))
    assert (disk / "a").read_bytes() == b"sent at the end"


def children_left(pid: int) -> set[int]:
    """Daemons of a holder that has ended."""
    try:
        return children(pid)
    except FileNotFoundError:
        return set()


def test_exit_status_is_the_daemons(server: Embedded, tmp_path: Path) -> None:
    options = ["--state-dir", tmp_path / "state", "--drain-timeout", "0", "--deadline", "10"]
    with Mounted(
        tmp_path, server.env("owner"), "--drain-timeout", "0", "--deadline", "10", holder=True
    ) as mounted:
        assert mounted.holder
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
        (mounted.path / "data" / "unsent").write_bytes(b"kept")
        holder = mounted.holder
        done = mounted.stop()
        assert done.returncode == 6 and "not on the server: data/unsent" in done.stderr
        assert not runs(holder)
        server.clear_faults()
    refused = vfsmount(
        tmp_path / "mnt", *options, env={**server.env("owner"), "BACKEND_SECRET_KEY": "wrong" * 8}
    )
    assert refused.returncode == 3 and not (tmp_path / "mnt").is_mount()


def test_holder_that_dies_takes_the_daemons_with_it(server: Embedded, tmp_path: Path) -> None:
    mounted = held(server, tmp_path)
    mounted.start()
    both = eventually(lambda: found if len(found := daemons(mounted)) == 2 else None)
    (mounted.path / "data" / "a").write_bytes(b"not lost")
    os.kill(mounted.holder, signal.SIGKILL)
    eventually(lambda: not any(map(runs, both)))
    with pytest.raises(OSError):
        os.listdir(mounted.path / "data")
    with held(server, tmp_path) as again:
        assert (again.path / "data" / "a").read_bytes() == b"not lost"


def test_mount_that_is_gone_takes_no_other_with_it(server: Embedded, tmp_path: Path) -> None:
    """The kernel gives its number to the next mount, whoever still holds its device."""
    ways = tmp_path / "a", tmp_path / "b"
    for way in ways:
        way.mkdir()
    (disk_of(server) / "f").write_bytes(b"here")
    # Silent for as long as it takes to mount the other one.
    with held(server, ways[0], "--deadline=2", watchdog_s=600) as first:
        both = eventually(lambda: found if len(found := daemons(first)) == 2 else None)
        holder, serving, number = first.holder, first.pid, os.stat(first.path).st_dev
        for pid in both:
            os.kill(pid, signal.SIGSTOP)  # or one would say that the mount has ended
        unmount(str(first.path), lazy=True)
        with Mounted(ways[1], server.env("owner"), "--cache-size=0") as second:
            reused = os.stat(second.path).st_dev == number  # where no other mount was quicker
            os.kill(serving, signal.SIGKILL)
            eventually(lambda: not runs(holder))
            with (second.path / "data" / "f").open("rb", buffering=0) as f:
                assert f.read() == b"here", f"number used again: {reused}"


def disk_of(server: Embedded) -> Path:
    """Where the server keeps the folder that every test has."""
    return server.folder_dir(server.client("owner").ok("GET", "/folders")[0]["id"].replace("-", ""))
