"""What a mount says of itself: the commands, the attributes, and that neither ever hangs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment, vfsmount

STALLED = {"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]}
REFUSED = {"rules": [{"action": "status", "path": "/folders/*/request-upload", "status": 403, "times": None}]}


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("status") / "data", dialect=request.param) as server:
        server.create_folder("owner", "data")
        yield server


@pytest.fixture
def mounted(request: pytest.FixtureRequest, server: Embedded, tmp_path: Path) -> Iterator[Mounted]:
    server.clear_faults()
    drain_s = getattr(request, "param", "5")
    with Mounted(tmp_path, server.env("owner"), "--drain-timeout", drain_s) as mounted:
        os.listdir(mounted.path / "data")
        yield mounted
        server.clear_faults()


def status(mounted: Mounted, server: Embedded) -> tuple[int, dict[str, object], str]:
    """(exit status, the mount's own part, what people are shown)"""
    options = ("--state-dir", mounted.state)
    done = vfsmount("status", "--json", *options, env=server.env("owner"))
    (mount,) = json.loads(done.stdout)["mounts"]
    shown = vfsmount("status", mounted.path, *options, env=server.env("owner"))
    assert shown.returncode == done.returncode and shown.stderr == done.stderr == ""
    return done.returncode, mount, shown.stdout


def wait(mounted: Mounted, server: Embedded, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return vfsmount("wait", *args, "--state-dir", mounted.state, env=server.env("owner"))


def is_asked(mounted: Mounted) -> bool:
    """Whether anybody is connected to the mount's control socket."""
    name = control_socket(mounted).stem  # bound under another suffix
    connected = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(fields[5] == "03" and name in fields[-1] for fields in connected)


def control_socket(mounted: Mounted) -> Path:
    (record,) = (mounted.state / "mounts").glob("*.json")
    return Path(json.loads(record.read_text())["socket"])


def state_of(path: Path) -> str:
    return os.getxattr(path, "user.vfsmount.state").decode()


def test_what_is_unsent_is_shown_until_it_is_sent(server: Embedded, mounted: Mounted) -> None:
    assert status(mounted, server)[0] == 0
    assert "everything is on the server" in status(mounted, server)[2]
    server.faults(STALLED)
    (mounted.path / "data" / "slow [1].txt").write_text("not there yet")
    code, mount, shown = status(mounted, server)
    assert code == 6
    assert (mount["unsent_files"], mount["unsent_bytes"]) == (1, 13)
    assert "data/slow [1].txt" in shown and "1 file not on the server yet" in shown
    assert state_of(mounted.path / "data" / "slow [1].txt") in ("waiting", "uploading 0%")
    done = wait(mounted, server, mounted.path / "data", "--timeout", "1")
    assert done.returncode == 6 and "time is up: 1 file, 13 bytes not on the server" in done.stderr
    server.clear_faults()
    done = wait(mounted, server, mounted.path / "data" / "slow [1].txt")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert state_of(mounted.path / "data" / "slow [1].txt") == "clean"
    assert status(mounted, server)[0] == 0


def test_budget_of_calls_is_shown(server: Embedded, mounted: Mounted) -> None:
    server.faults({"switches": {"rate_limit": 10_000}})
    top = mounted.path / "data" / "budget"
    top.mkdir()
    _, before, _ = status(mounted, server)
    for n in range(120):
        (top / f"d{n}").mkdir()
    _, after, shown = status(mounted, server)
    assert isinstance(before["calls_left"], int) and isinstance(after["calls_left"], int)
    assert 0 < after["calls_left"] < before["calls_left"] <= 0.8 * 10_000
    told = re.search(r"(\d+) manager calls left", shown)
    assert told and after["calls_left"] <= int(told[1]) <= 0.8 * 10_000
    shutil.rmtree(top)
    assert wait(mounted, server).returncode == 0


def test_what_the_server_refuses_is_named_with_its_reason(server: Embedded, mounted: Mounted) -> None:
    server.faults(REFUSED)
    path = mounted.path / "data" / "refused.txt"
    path.write_text("no")
    done = wait(mounted, server)
    assert done.returncode == 6
    assert "data/refused.txt" in done.stderr and "vfsmount: not on the server" in done.stderr
    assert state_of(path) == "parked"
    with pytest.raises(PermissionError):
        os.setxattr(path, "user.vfsmount.wait", b"1")
    _, mount, shown = status(mounted, server)
    (unsent,) = mount["unsent"]  # type: ignore[misc]
    assert unsent["state"] == "parked" and unsent["reason"] and "parked" in shown
    server.clear_faults()
    path.write_text("yes, now")
    os.setxattr(mounted.path / "data", "user.vfsmount.wait", b"1")
    assert state_of(path) == "clean"


def test_conflicts_and_local_names_are_listed(server: Embedded, mounted: Mounted) -> None:
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    on_disk = server.folder_dir(folder["id"]) / "both"
    os.symlink("target", mounted.path / "data" / "link")
    server.faults(STALLED)
    (mounted.path / "data" / "both").write_text("ours")
    on_disk.write_text("theirs")
    server.clear_faults()
    assert wait(mounted, server).returncode == 0
    code, mount, shown = status(mounted, server)
    assert code == 0
    (conflict,) = mount["conflicts"]  # type: ignore[misc]
    assert conflict["path"] == "data/both" and conflict["kept_as"].startswith("both.conflict-")
    assert conflict["kept_as"] in shown and mount["local_only"] == 1
    assert on_disk.read_text() == "theirs"
    assert on_disk.with_name(conflict["kept_as"]).read_text() == "ours"


def test_our_attributes_are_not_listed_and_tell_the_version(server: Embedded, mounted: Mounted) -> None:
    path = mounted.path / "data" / "f"
    path.write_text("x")
    assert os.getxattr(path, "user.vfsmount.wait") == b"1" and state_of(path) == "clean"
    assert os.listxattr(path) == []
    assert os.getxattr(path, "user.vfsmount.validator")
    assert os.getxattr(mounted.path / "data", "user.vfsmount.partial") == b"0"
    with pytest.raises(OSError) as e:
        os.setxattr(path, "user.vfsmount.state", b"clean")
    assert e.value.errno == errno.EPERM


def test_what_a_dead_mount_left_is_named_and_not_taken_for_sent(server: Embedded, mounted: Mounted) -> None:
    server.faults(STALLED)
    (mounted.path / "data" / "left.txt").write_text("unsent")
    mounted.kill()
    options, env = ("--state-dir", mounted.state), server.env("owner")
    done = vfsmount("status", *options, env=env)
    assert done.returncode == 6
    assert f"{mounted.path}: the process of this mount has died" in done.stdout
    assert "1 unsent file of mounts that ended" in done.stdout and "left.txt" in done.stdout
    report = json.loads(vfsmount("status", "--json", *options, env=env).stdout)
    (left,) = report["left_behind"]["unsent"]
    assert (left["name"], left["size"]) == ("left.txt", 6)
    assert Path(left["kept_at"]).read_text() == "unsent"
    # Nothing runs that could send it, so nothing is to be waited for; and yet it is not there.
    done = wait(mounted, server)
    assert done.returncode == 6 and "mount again" in done.stderr
    done = wait(mounted, server, mounted.path / "data")
    assert done.returncode == 5 and "has died" in done.stderr
    server.clear_faults()
    mounted.start()
    assert wait(mounted, server).returncode == 0
    assert json.loads(vfsmount("status", "--json", *options, env=env).stdout)["everything_sent"] is True


def test_a_daemon_that_dies_is_a_sentence_not_a_hang(server: Embedded, mounted: Mounted) -> None:
    server.faults(STALLED)
    (mounted.path / "data" / "f").write_text("x")
    command = [*VFSMOUNT, "wait", "--state-dir", str(mounted.state)]
    with subprocess.Popen(
        command, env=clean_environment(server.env("owner")), stderr=subprocess.PIPE, text=True
    ) as waiting:
        eventually(lambda: is_asked(mounted))
        mounted.kill()
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 5
    assert "ended in the middle of its answer" in said and "Traceback" not in said
    server.clear_faults()
    mounted.start()


def test_daemon_that_is_stopped_is_a_sentence_too(server: Embedded, mounted: Mounted) -> None:
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        done = wait(mounted, server, mounted.path, "--timeout", "2")
    finally:
        os.kill(mounted.pid, signal.SIGCONT)
    assert done.returncode == 6 and "time is up: it has not answered" in done.stderr


def test_paths_that_are_on_no_mount_are_refused(server: Embedded, mounted: Mounted, tmp_path: Path) -> None:
    done = wait(mounted, server, tmp_path)
    assert done.returncode == 5 and "is not on a running mount" in done.stderr
    done = vfsmount("status", tmp_path, "--state-dir", mounted.state, env=server.env("owner"))
    assert done.returncode == 5 and "is not a running mount" in done.stderr


def test_path_on_a_mount_of_another_state_directory_is_waited_for(
    server: Embedded, mounted: Mounted, tmp_path: Path
) -> None:
    """As in a container that sees the mount and not its records."""
    path = mounted.path / "data" / "seen"
    path.write_text("x")
    done = vfsmount("wait", path, "--state-dir", tmp_path / "elsewhere", env=server.env("owner"))
    assert (done.returncode, done.stderr) == (0, "")
    assert state_of(path) == "clean"


def test_control_socket_is_for_its_user_only(server: Embedded, mounted: Mounted) -> None:
    socket = control_socket(mounted)
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert mounted.stop().returncode == 0
    assert not socket.exists()


def test_names_reach_people_and_programs_whole(server: Embedded, mounted: Mounted) -> None:
    server.faults(STALLED)
    name = "esc \x1b[31m [bold] " + "long" * 50
    (mounted.path / "data" / name).write_text("x")
    code, mount, shown = status(mounted, server)
    assert code == 6
    assert mount["unsent"][0]["name"] == f"data/{name}"  # type: ignore[index]
    # On one line, and nothing in it steers the terminal.
    assert "data/" + name.replace("\x1b", "\\x1b") in shown and "\x1b" not in shown


def test_removals_are_waited_for(server: Embedded, mounted: Mounted) -> None:
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    on_disk = server.folder_dir(folder["id"]) / "old"
    path = mounted.path / "data" / "old"
    path.write_text("x")
    assert wait(mounted, server, path).returncode == 0 and on_disk.exists()
    server.faults({"rules": [{"action": "stall", "path": "/folders/*/delete-files", "times": None}]})
    path.unlink()
    code, mount, shown = status(mounted, server)
    assert (code, mount["removals"]) == (6, ["data/old"]) and "1 names removed here" in shown
    assert wait(mounted, server, path, "--timeout", "1").returncode == 6
    server.clear_faults()
    assert wait(mounted, server, path).returncode == 0
    assert not on_disk.exists()


@pytest.mark.parametrize("mounted", ["120"], indirect=True)  # longer than the looks at it take
def test_waiting_goes_on_while_the_mount_sends_what_is_left(server: Embedded, mounted: Mounted) -> None:
    server.faults(STALLED)
    (mounted.path / "data" / "last").write_text("x")
    command = [*VFSMOUNT, "wait", str(mounted.path / "data"), "--state-dir", str(mounted.state)]
    with subprocess.Popen(
        command, env=clean_environment(server.env("owner")), stderr=subprocess.PIPE, text=True
    ) as waiting:
        eventually(lambda: is_asked(mounted))
        subprocess.run(["umount", "-l", mounted.path], check=True)
        eventually(lambda: bool(status(mounted, server)[1]["draining"]))
        assert "unmounted and sending what is left" in status(mounted, server)[2]
        server.clear_faults()
        _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (0, "")


def test_what_is_unsent_at_the_end_is_told_to_who_waits_and_who_unmounts(
    server: Embedded, mounted: Mounted
) -> None:
    server.faults(STALLED)
    (mounted.path / "data" / "late").write_text("x")
    command = [*VFSMOUNT, "wait", "--state-dir", str(mounted.state)]
    with subprocess.Popen(
        command, env=clean_environment(server.env("owner")), stderr=subprocess.PIPE, text=True
    ) as waiting:
        eventually(lambda: is_asked(mounted))
        done = mounted.stop()
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 6 and "ended with 1 file unsent" in said
    assert done.returncode == 6 and "data/late" in done.stderr and "the next mount" in done.stderr
    server.clear_faults()
    mounted.start()
    assert wait(mounted, server).returncode == 0


def test_a_path_that_was_removed_and_a_link_to_the_mount_are_waited_for(
    server: Embedded, mounted: Mounted, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(mounted.path / "data")
    server.faults(STALLED)
    (mounted.path / "data" / "linked").write_text("x")
    assert wait(mounted, server, mounted.path / "data" / "never there").returncode == 0
    done = wait(mounted, server, tmp_path / "link", "--timeout", "1")
    assert done.returncode == 6 and "time is up" in done.stderr
    server.clear_faults()
    assert wait(mounted, server, tmp_path / "link").returncode == 0


def test_waiting_in_band_has_its_timeout_and_its_reason(
    server: Embedded, mounted: Mounted, tmp_path: Path
) -> None:
    options, env = ("--state-dir", tmp_path / "elsewhere"), server.env("owner")
    path = mounted.path / "data" / "in-band"
    server.faults(STALLED)
    path.write_text("x")
    done = vfsmount("wait", path, "--timeout", "1", *options, env=env)
    assert done.returncode == 6 and "time is up" in done.stderr
    server.clear_faults()
    server.faults(REFUSED)
    path.write_text("y")
    done = vfsmount("wait", path, *options, env=env)
    assert done.returncode == 6 and "Permission denied" in done.stderr
