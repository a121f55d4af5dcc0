"""Coming and going: what the command says, and what is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.disks import contents
from tests.support.embedded import Embedded, eventually
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment, run, vfsmount
from tests.support.ordinary import ordinary_user, their_python
from tests.support.workers import stacks_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server")) as server:
        server.create_folder("owner", "data")
        yield server
        server.clear_faults()


@pytest.fixture
def env(server: Embedded) -> dict[str, str]:
    server.clear_faults()
    return server.env("owner")


def is_mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def gone(mounted: Mounted) -> None:
    """Wait until a mount has ended by itself."""
    end = time.monotonic() + 20
    while is_mounted(mounted.path) or list((mounted.state / "mounts").glob("*.json")):
        assert time.monotonic() < end, "the daemon has not ended"
        time.sleep(0.05)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vfsmount: ")
    return line


def test_mount_ends_as_it_should_although_its_records_fail(tmp_path: Path) -> None:
    """What cannot be recorded is refused, and nothing else."""
    with Embedded(tmp_path / "server") as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        (disk / "sub").mkdir()
        (disk / "f").write_bytes(b"content")
        mounted = Mounted(tmp_path, server.env("owner"))
        mounted.start()
        folder = mounted.path / "data"
        (folder / "new").write_bytes(b"new")
        with closing(sqlite3.connect(mounted.state / "records.sqlite", isolation_level=None)) as db:
            db.execute("drop table removals")
            db.execute("drop table removed_directories")
        with pytest.raises(OSError) as refused:
            (folder / "f").unlink()
        assert refused.value.errno == errno.EIO
        assert (folder / "f").read_bytes() == b"content"
        (folder / "sub").rmdir()  # by itself, which records nothing
        (folder / "more").write_bytes(b"more")
        done = mounted.stop()
        assert (done.returncode, done.stderr) == (0, "")
        assert contents(disk) == {"f": b"content", "new": b"new", "more": b"more"}
        assert "Traceback" not in mounted.log.read_text()


def test_mount_answers_when_the_command_returns(env: dict[str, str], tmp_path: Path) -> None:
    with Mounted(tmp_path, env) as mounted:
        assert os.listdir(mounted.path) == ["data"]
        assert is_mounted(mounted.path)
    assert not is_mounted(mounted.path)
    assert list((mounted.state / "staging").iterdir()) == []


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_system_tools_unmount(env: dict[str, str], tmp_path: Path, command: list[str]) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    (mounted.path / "data" / "f").write_text("x")
    run(*command, mounted.path)
    gone(mounted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts(env: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    os.kill(mounted.pid, number)
    gone(mounted)


def test_foreground_serves_until_interrupted(env: dict[str, str], tmp_path: Path) -> None:
    daemon = subprocess.Popen(
        [*VFSMOUNT, tmp_path / "mnt", "-f", "--state-dir", tmp_path / "state"],
        env=clean_environment(env),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert daemon.stderr is not None
    while "mounted on" not in (line := daemon.stderr.readline()):
        assert line, "ended before it was ready"
    assert os.listdir(tmp_path / "mnt") == ["data"]
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait(20) == 0
    daemon.stderr.close()
    assert not is_mounted(tmp_path / "mnt")


def test_dead_mount_is_recognised_and_cleaned(env: dict[str, str], tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    mounted.kill()
    with pytest.raises(OSError, check=lambda e: e.errno in (errno.ENOTCONN, errno.ECONNABORTED)):
        os.listdir(mounted.path)
    with mounted:
        assert os.listdir(mounted.path) == ["data"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may see where threads wait, and end connections")
@pytest.mark.parametrize("by", ["umount", "the next mount"])
def test_mount_that_hangs_with_a_dead_daemon_is_ended(tmp_path: Path, by: str) -> None:
    """Killed while the kernel was being told to forget a name, under the lock of who waits for an answer."""
    with Embedded(tmp_path / "data") as server:
        env = server.env("owner")
        (server.folder_dir(server.create_folder("owner", "data")) / "d").mkdir()
        mounted = Mounted(tmp_path, env)
        mounted.start()
        directory = mounted.path / "data" / "d"
        (directory / "known").touch()
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/mkdir", "times": None}]})
        with subprocess.Popen(["mkdir", directory / "new"], stderr=subprocess.PIPE) as waiting:
            eventually(lambda: server.count("POST", "/folders/{vf}/mkdir") == 1)
            assert vfsmount("refresh", "--state-dir", mounted.state, env=env).returncode == 0
            eventually(lambda: "inval_entry" in stacks_of(mounted.pid))
            mounted.kill()
            server.clear_faults()
            assert waiting.poll() is None
            try:
                if by == "umount":
                    assert mounted.stop().returncode == 0
                else:
                    mounted.start()
            except BaseException:  # or we wait for it for ever
                subprocess.run(["umount", "-f", "-l", mounted.path], check=False)
                raise
            assert waiting.wait(10) and b"mkdir" in waiting.stderr.read()
        if by != "umount":
            assert "known" in os.listdir(directory)
            mounted.stop()
        assert not is_mounted(mounted.path)


def test_content_of_a_dead_mount_is_kept(env: dict[str, str], tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    with pytest.raises(OSError), (mounted.path / "data" / "unfinished").open("wb", buffering=0) as f:
        f.write(b"not closed yet")
        os.sync()  # the kernel holds it for some seconds otherwise, and it is lost as in any page cache
        mounted.kill()
    mounted.start()
    assert mounted.stop().returncode == 0
    (kept,) = (mounted.state / "unsent").glob("crashed/*unfinished")
    assert kept.read_bytes() == b"not closed yet"
    assert any(str(kept) in line for line in mounted.warnings())


def test_second_mount_on_the_same_place_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    with Mounted(tmp_path, env) as mounted:
        done = vfsmount(mounted.path, env=env)
        assert done.returncode == 5
        assert "mounted already" in one_sentence(done)
        assert os.listdir(mounted.path) == ["data"]


def test_unmounting_a_busy_mount_says_so(env: dict[str, str], tmp_path: Path) -> None:
    with Mounted(tmp_path, env) as mounted:
        done = vfsmount(
            "umount", mounted.path, "--state-dir", mounted.state, env=env, cwd=mounted.path / "data"
        )
        assert done.returncode == 5
        assert "in use" in one_sentence(done)


REFUSED = {"rules": [{"action": "status", "path": "/folders/*/request-upload", "status": 503, "times": None}]}


def on_the_server(server: Embedded, name: str) -> Path:
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    return server.folder_dir(folder["id"]) / name


def test_umount_names_what_could_not_be_sent_and_the_next_mount_sends_it(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path, env, "--deadline", "10", "--drain-timeout", "30")
    mounted.start()
    server.faults(REFUSED)
    (mounted.path / "data" / "late.txt").write_text("precious")
    done = mounted.stop()
    assert done.returncode == 6
    assert "data/late.txt" in done.stderr
    (kept,) = (mounted.state / "staging").glob("*/*late.txt")
    assert str(kept) in done.stderr
    assert kept.read_text() == "precious"
    assert not on_the_server(server, "late.txt").exists()
    mounted.start()  # the server is as it was: what is unsent is there all the same
    assert (mounted.path / "data" / "late.txt").read_text() == "precious"
    assert any("data/late.txt" in line for line in mounted.warnings())
    server.clear_faults()
    done = mounted.stop()
    assert (done.returncode, done.stderr) == (0, "")
    assert on_the_server(server, "late.txt").read_text() == "precious"
    assert list((mounted.state / "staging").iterdir()) == []


@contextmanager
def used_elsewhere(mounted: Mounted) -> Iterator[None]:
    """A container that was started meanwhile has a copy of the mount, and uses it."""
    how = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    inside = ["sh", "-c", f"exec 3<{mounted.path}/data/a.txt; echo ready; exec cat"]
    command = ["unshare", *how, "--propagation", "private", *inside]
    # It has copies of all other mounts as well: it ends with its standard input, and so with us.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
        try:
            assert container.stdout is not None and container.stdout.readline() == b"ready\n"
            yield
        finally:
            container.kill()


@pytest.mark.parametrize("lazy", [False, True], ids=["", "lazy"])
def test_umount_does_not_wait_for_another_namespace(
    server: Embedded, env: dict[str, str], tmp_path: Path, lazy: bool
) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    (mounted.path / "data" / "a.txt").write_text("precious")
    with used_elsewhere(mounted):
        options = ["--lazy", "--timeout", "3"] if lazy else []
        done = vfsmount("umount", *options, mounted.path, "--state-dir", mounted.state, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert not is_mounted(mounted.path)
        assert on_the_server(server, "a.txt").read_text() == "precious"


def test_umount_asks_again_where_a_daemon_says_nothing_for_a_while(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    """With a copy elsewhere, which it goes on serving until it is told to end."""
    mounted = Mounted(tmp_path, env)
    mounted.start()
    (mounted.path / "data" / "a.txt").write_text("precious")
    daemon = mounted.pid
    with used_elsewhere(mounted):
        command = [*VFSMOUNT, "umount", str(mounted.path), "--state-dir", str(mounted.state)]
        os.kill(daemon, signal.SIGSTOP)
        with subprocess.Popen(command, env=clean_environment(env)) as umount:
            try:
                time.sleep(8)  # it has been asked once by now, or has even given up to ask
                assert umount.poll() is None
                os.kill(daemon, signal.SIGCONT)
                assert umount.wait(60) == 0
            except BaseException:
                umount.kill()
                mounted.kill()
                raise
        assert on_the_server(server, "a.txt").read_text() == "precious"


def test_umount_tells_of_a_daemon_that_dies_while_it_sends(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    server.faults(REFUSED)
    (mounted.path / "data" / "dying.txt").write_text("precious")
    command = [*VFSMOUNT, "umount", str(mounted.path), "--state-dir", str(mounted.state)]
    with subprocess.Popen(command, env=clean_environment(env), stderr=subprocess.PIPE, text=True) as umount:
        eventually(lambda: not is_mounted(mounted.path))
        mounted.kill()
        assert umount.stderr is not None
        said = umount.stderr.read()
    assert umount.returncode == 5
    assert "died before everything was sent" in said
    server.clear_faults()
    mounted.start()
    assert mounted.stop().returncode == 0
    assert on_the_server(server, "dying.txt").read_text() == "precious"


def test_second_signal_ends_the_sending_and_names_what_is_left(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path, env, "--drain-timeout", "600")
    mounted.start()
    server.faults(REFUSED)
    (mounted.path / "data" / "hurried.txt").write_text("precious")
    pid = mounted.pid
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not is_mounted(mounted.path) and "mount.signal" in mounted.log.read_text())
    time.sleep(1)  # it is sending, and would for ten minutes
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: b"data/hurried.txt" in mounted.record)
    assert mounted.log.read_text().count("mount.signal signal=SIGTERM") == 2
    server.clear_faults()
    mounted.start()
    assert mounted.stop().returncode == 0
    assert on_the_server(server, "hurried.txt").read_text() == "precious"


def test_what_was_closed_survives_the_daemons_death(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path, env)
    mounted.start()
    server.faults(REFUSED)
    (mounted.path / "data" / "closed.txt").write_text("precious")
    with pytest.raises(OSError), (mounted.path / "data" / "synced.txt").open("w") as f:
        f.write("too")
        f.flush()
        os.fsync(f.fileno())
        mounted.kill()
    server.clear_faults()
    mounted.start()
    assert (mounted.path / "data" / "closed.txt").read_text() == "precious"
    assert mounted.stop().returncode == 0
    assert on_the_server(server, "closed.txt").read_text() == "precious"
    assert on_the_server(server, "synced.txt").read_text() == "too"


@pytest.mark.parametrize("option", ["--sync", "--fsync=remote", "-osync"])
def test_whoever_asks_for_the_server_is_told_of_its_errors(
    server: Embedded, env: dict[str, str], tmp_path: Path, option: str
) -> None:
    with Mounted(tmp_path, env, "--deadline", "10", option) as mounted:
        server.faults(REFUSED)
        with pytest.raises(OSError), (mounted.path / "data" / "later.txt").open("w") as f:
            f.write("precious")
            f.flush()
            os.fsync(f.fileno())
        assert (mounted.path / "data" / "later.txt").read_text() == "precious"
        server.clear_faults()
        with (mounted.path / "data" / "at once.txt").open("w") as f:
            f.write("there")
            f.flush()
            os.fsync(f.fileno())
            assert on_the_server(server, "at once.txt").read_text() == "there"
        assert mounted.stop().returncode == 0
    assert on_the_server(server, "later.txt").read_text() == "precious"


@pytest.mark.parametrize("half", ["manager", "storage"])
def test_silent_server_gives_errors_not_hangs(
    server: Embedded, env: dict[str, str], tmp_path: Path, half: str
) -> None:
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    (server.folder_dir(folder["id"]) / "there.txt").write_text("x")
    with Mounted(tmp_path, env, "--deadline", "2", "--dir-ttl", "0", "--attr-ttl", "0") as mounted:
        os.listdir(mounted.path / "data")
        server.faults({"rules": [{"action": "stall", "half": half, "times": None}]})
        codes = []
        for code in (
            "open(sys.argv[1] + '/there.txt').read()",
            "open(sys.argv[1] + '/new.txt', 'w').write('x')",
            "os.mkdir(sys.argv[1] + '/newdir' )",
            "os.rename(sys.argv[1] + '/there.txt', sys.argv[1] + '/t2')",
        ):
            done = subprocess.run(
                ["python3", "-c", f"import os,sys\n{code}", mounted.path / "data"],
                capture_output=True,
                text=True,
                timeout=40,
                check=False,
            )
            codes.append(done.returncode)
            in_time = f"[Errno {errno.ETIMEDOUT}]", f"[Errno {errno.EIO}]", "TimeoutError"
            assert done.returncode == 0 or any(error in done.stderr for error in in_time), done.stderr
        assert any(codes)
        server.clear_faults()
        assert (mounted.path / "data" / "there.txt").exists() or (mounted.path / "data" / "t2").exists()


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"BACKEND_SECRET_KEY": "x" * 40}, 3, "BACKEND_SECRET_KEY"),
        ({"BACKEND_ENDPOINT": "http://127.0.0.1:9"}, 4, "BACKEND_ENDPOINT"),
        ({"BACKEND_ENDPOINT": "http://no-such-host.invalid"}, 4, "no-such-host.invalid"),
        ({"BACKEND_ENDPOINT": "not a url"}, 2, "BACKEND_ENDPOINT"),
        ({"BACKEND_ACCESS_KEY": ""}, 2, "BACKEND_ACCESS_KEY"),
        ({"BACKEND_ENDPOINT_TYPE": "session"}, 3, "vfsmount login"),
        ({"BACKEND_ENDPOINT_TYPE": "other"}, 2, "BACKEND_ENDPOINT_TYPE"),
    ],
)
def test_wrong_settings_are_one_sentence(
    env: dict[str, str], tmp_path: Path, change: dict[str, str], status: int, says: str
) -> None:
    done = vfsmount(tmp_path / "mnt", env={**env, **change, "XDG_STATE_HOME": str(tmp_path)})
    assert done.returncode == status
    assert says in one_sentence(done)
    assert not is_mounted(tmp_path / "mnt")


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed: run scripts/setup")
def test_clock_that_is_off_is_one_sentence(env: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["faketime", "-f", "+20m", *VFSMOUNT, tmp_path / "mnt"],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "20 minutes" in one_sentence(done)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["-o", "nonsense"], 2, "nonsense"),
        (["-o", "uid=x"], 2, "uid"),
        (["--data", "/tmp/x"], 2, "--embedded"),
    ],
)
def test_wrong_options_are_one_sentence(
    env: dict[str, str], tmp_path: Path, options: list[str], status: int, says: str
) -> None:
    done = vfsmount(tmp_path / "mnt", *options, env=env)
    assert done.returncode == status
    assert says in one_sentence(done)


def test_mountpoint_that_is_a_file_is_one_sentence(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mnt").write_text("x")
    done = vfsmount(tmp_path / "mnt", env=env)
    assert done.returncode == 5
    assert "not a directory" in one_sentence(done)


def test_owner_and_modes_follow_the_options(env: dict[str, str], tmp_path: Path) -> None:
    with Mounted(tmp_path, env, "--uid", "1234", "--umask", "077", "-o", "gid=4321") as mounted:
        shown = (mounted.path / "data").stat()
        assert (shown.st_uid, shown.st_gid, shown.st_mode & 0o777) == (1234, 4321, 0o700)


def test_embedded_server_comes_and_goes_with_the_mount(tmp_path: Path) -> None:
    for _ in range(2):  # the second time on the same data
        done = vfsmount(
            tmp_path / "mnt",
            "--embedded",
            "--data",
            tmp_path / "data",
            "--state-dir",
            tmp_path / "state",
            env={},
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "mnt" / "kept").mkdir(exist_ok=True)
        with (tmp_path / "mnt" / "kept" / "log").open("a") as f:
            f.write("once\n")
        done = vfsmount("umount", tmp_path / "mnt", "--state-dir", tmp_path / "state", env={})
        assert done.returncode == 0, done.stderr
    assert [p.read_text() for p in (tmp_path / "data" / "folders").glob("*/log")] == ["once\nonce\n"]
    serving = subprocess.run(
        ["pgrep", "-f", f"serve --data {tmp_path / 'data'}"], capture_output=True, check=False
    )
    assert serving.stdout == b""


def test_no_secret_is_shown_anywhere(server: Embedded, env: dict[str, str], tmp_path: Path) -> None:
    server.faults({"rules": [{"action": "refuse_token", "half": "storage", "times": 1}]})
    with Mounted(tmp_path, env) as mounted:
        (mounted.path / "data" / "secretive").write_text("content")
        assert (mounted.path / "data" / "secretive").read_text() == "content"
        (mounted.path / "data" / "secretive").unlink()
        shown = Path(f"/proc/{mounted.pid}/cmdline").read_bytes().decode()
        limits = Path(f"/proc/{mounted.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
    log = mounted.log.read_text()
    assert "request-upload" in log  # it is the log of what was done
    for secret in (env["BACKEND_SECRET_KEY"], "token=", "eyJ", "signMethod"):
        assert secret not in log
        assert secret not in shown


def test_background_mount_leaves_its_warnings_in_a_log(
    server: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    done = vfsmount(tmp_path / "mnt", "--state-dir", state, "--sync", "--deadline", "2", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (state / "vfsmount.log").read_text() == ""
    server.faults(REFUSED)
    with pytest.raises(OSError):
        (tmp_path / "mnt" / "data" / "pending").write_text("x")
    server.clear_faults()
    assert vfsmount("umount", tmp_path / "mnt", "--state-dir", state, env=env).returncode == 0
    log = (state / "vfsmount.log").read_text()
    assert "WARNING" in log
    assert env["BACKEND_SECRET_KEY"] not in log
    assert (state / "vfsmount.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else, who is not let in")
@pytest.mark.parametrize(
    ("words", "status"), [(["MNT", "-f"], 2), (["status"], 2), (["health"], 1), (["umount", "MNT"], 5)]
)
def test_state_of_somebody_else_is_one_sentence(
    env: dict[str, str], home: Path, words: list[str], status: int
) -> None:
    """As of a volume of the wrong owner in a container."""
    (home / "closed").mkdir(mode=0o700)
    python, paths = their_python(home)
    command = [*ordinary_user(home), python, "-m", "vfsmount"]
    command += [str(home / "mnt") if word == "MNT" else word for word in words]
    places = {"HOME": "/root", "XDG_RUNTIME_DIR": str(home / "run"), "XDG_STATE_HOME": str(home / "closed")}
    places["XDG_CACHE_HOME"] = str(home / "closed")
    done = subprocess.run(
        command, env=clean_environment({**env, **places, **paths}),
        cwd=home, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("vfsmount: ")


# Kubernetes' own; docker's 10 s, which --drain-timeout 6 is for, leave a busy machine nothing. To send
# everything takes more than a minute, eight at a time.
GRACE_S = 30.0


def test_termination_within_the_grace_period_names_what_is_unsent_and_the_next_mount_sends_it(
    tmp_path: Path,
) -> None:
    """As Kubernetes and docker end a container: SIGTERM, and SIGKILL when the time is up."""
    with Embedded(tmp_path / "server") as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        command = [
            *VFSMOUNT,
            tmp_path / "mnt",
            "-f",
            "--state-dir",
            tmp_path / "state",
            "--drain-timeout",
            "6",
        ]
        env = clean_environment(server.env("owner"))
        daemon = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert daemon.stderr is not None
        while "mounted on" not in (line := daemon.stderr.readline()):
            assert line, "ended before it was ready"
        server.faults({"latency_ms": {"storage": 1000}})
        for n in range(500):
            (tmp_path / "mnt" / "data" / f"f{n}").write_text(f"content of {n}")
        (tmp_path / "mnt" / "data" / "f0").open().close()
        daemon.send_signal(signal.SIGTERM)
        said = daemon.communicate(timeout=GRACE_S)[1]
        assert daemon.returncode == 6
        assert not is_mounted(tmp_path / "mnt")
        named = {
            line.split("data/", 1)[1].split(" ")[0].rstrip(";")
            for line in said.splitlines()
            if " not on " in line
        }
        arrived = {path.name for path in disk.iterdir() if path.name != ".upload"}
        everything = {f"f{n}" for n in range(500)}
        assert named and named | arrived == everything, everything - named - arrived
        server.clear_faults()
        mounted = Mounted(tmp_path, server.env("owner"))
        mounted.start()
        # Which may take longer than a daemon goes on at its end.
        done = vfsmount(
            "wait", mounted.path, "--state-dir", mounted.state, env=server.env("owner"), timeout=600
        )
        assert (done.returncode, done.stderr) == (0, "")
        done = mounted.stop()
        assert (done.returncode, done.stderr) == (0, "")
        for n in range(500):
            assert (disk / f"f{n}").read_text() == f"content of {n}"
