"""``vfsmount run -m NAME -- COMMAND``: a session's home directory here, for root and for anybody."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment
from tests.support.ordinary import CAN_MOUNT, NOBODY, ordinary_user, their_python

SEES = 'pwd; echo "$HOME"; id -u; stat -c "%n %a %F" .vimrc data other .cache-torch; cat .vimrc data/there'


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("server"), dialect=getattr(request, "param", "26")) as server:
        for name in ("data", "other", ".cache-torch", "not-asked-for"):
            (server.folder_dir(server.create_folder("owner", name)) / "there").write_text(f"in {name}\n")
        dotfile = {"path": ".vimrc", "permission": "640", "data": "set ruler\n"}
        server.client("owner").ok("POST", "/user-config/dotfiles", dotfile)
        yield server
        server.clear_faults()


@pytest.fixture(params=["root", "nobody"])
def who(request: pytest.FixtureRequest) -> str:
    if (request.param == "root") != (os.geteuid() == 0) and os.geteuid():
        pytest.skip("only root can be root")
    return str(request.param)


class Runs:
    """The command line of one user; `command` begins with what makes us that user."""

    def __init__(self, server: Embedded, who: str, home: Path) -> None:
        self.server, self.home, self.state = server, home, home / "state"
        (home / "tmp").mkdir(mode=0o777)
        python, paths = their_python(home) if who == "nobody" else (VFSMOUNT[0], {})
        prefix = ordinary_user(home) if who == "nobody" else []
        own = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": "",
            "XDG_CACHE_HOME": "",
        }
        if who == "root" and os.geteuid() == 0:
            os.chown(home, 0, 0)
            os.chown(home / "run", 0, 0)
        self.env = clean_environment({**server.env("owner"), **own, **paths})
        if who == "nobody":
            can = subprocess.run(
                [*prefix, "unshare", "-Urm", python, "-c", CAN_MOUNT],
                env=self.env, cwd=home, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if can.returncode:
                pytest.skip(f"an ordinary user cannot mount here: {can.stderr.strip()[-300:]}")
        self.command = [*prefix, python, "-m", "vfsmount", "run", "--state-dir", str(self.state)]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.env,
            cwd=self.home,
            text=True,
            stdout=subprocess.PIPE,
            **options,
        )

    def disk(self, name: str) -> Path:
        (found,) = [f["id"] for f in self.server.client("owner").ok("GET", "/folders") if f["name"] == name]
        return self.server.folder_dir(found)


@pytest.fixture
def runs(server: Embedded, who: str, home: Path) -> Iterator[Runs]:
    server.clear_faults()
    before = machine(home)
    runs = Runs(server, who, home)
    yield runs
    assert machine(home) == before  # not even an empty directory
    assert list((home / "run").glob("vfsmount/run-*")) == []


def machine(home: Path) -> Mapping[str, object]:
    """What a run may not change."""
    mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "mounts": [line for line in mountinfo if str(home) in line or "/home" in line],
        "/": sorted(os.listdir("/")),
        "/home": sorted(os.listdir("/home")),
    }


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("vfsmount: ")
    return line


@pytest.mark.unprivileged
@pytest.mark.parametrize("server", ["23.09", "26"], indirect=True)
def test_folders_and_dotfiles_stand_where_a_session_has_them(runs: Runs, who: str) -> None:
    done = runs("--rm", "-m", "data", "-m", "other:here:ro", "--", "sh", "-c", SEES.replace("other", "here"))
    assert (done.returncode, done.stderr) == (0, "")
    uid = NOBODY if who == "nobody" and os.geteuid() == 0 else os.geteuid()
    assert done.stdout.splitlines() == [
        "/home/work",
        "/home/work",
        str(uid),
        ".vimrc 640 regular file",
        "data 755 directory",
        "here 755 directory",
        ".cache-torch 755 directory",  # as on the cluster: its name begins with a dot
        "set ruler",
        "in data",
    ]
    done = runs("-m", "data", "--", "sh", "-c", 'ls -A; touch scratch; ls /home | sort | tr "\\n" " "')
    assert done.stdout.split() == [".cache-torch", ".vimrc", "data", *sorted({*os.listdir("/home"), "work"})]


@pytest.mark.unprivileged
def test_what_is_written_is_on_the_server_when_the_command_has_ended(runs: Runs) -> None:
    disk = runs.disk("data")
    (disk / "new").unlink(missing_ok=True)
    done = runs("-m", "data", "-m", "other:/srv/in/put:ro", "-e", "WORD=hello", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    script = (
        'echo "$WORD" >data/new; cat /srv/in/put/there; touch /srv/in/put/no; echo x >>/home/work/data/new'
    )
    done = runs("-m", "data", "-m", "other:/srv/in/put:ro", "-e", "WORD=hello", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert done.stdout == "in other\n"
    assert "Read-only file system" in done.stderr
    assert (disk / "new").read_text() == "hello\nx\n"
    assert os.listdir(runs.disk("other")) == ["there"]


@pytest.mark.unprivileged
def test_path_may_be_anywhere_and_all_else_stays(runs: Runs) -> None:
    script = "cat /no-such-place/below/there /etc/hostname; ls -d /usr/bin; readlink /no-such-link || true"
    done = runs("-m", "data:/no-such-place/below", "-m", "other/", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"in data\n{Path('/etc/hostname').read_text()}/usr/bin\n"


@pytest.mark.unprivileged
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-m", "nowhere", "--", "true"], 7, "no folder 'nowhere'"),
        (["-m", "data/nowhere", "--", "true"], 5, "no directory data/nowhere"),
        (["-m", "data/there", "--", "true"], 5, "data/there is not a directory"),
        (
            ["-m", "data", "-m", "other:data/in", "--", "true"],
            5,
            "make that directory in the folder above it",
        ),
        (["-m", "data:/etc/hostname/x", "--", "true"], 5, "/etc/hostname is not a directory"),
        (["-m", "data:x", "-m", "other:y", "-m", "data/:x", "--", "true"], 2, "mounted twice"),
        (["-m", "data", "--", "no-such-command"], 127, "no-such-command: no such command"),
        (["-m", "data", "--", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
@pytest.mark.parametrize("who", ["root" if os.geteuid() == 0 else "nobody"], indirect=True)
def test_what_cannot_be_is_one_sentence(runs: Runs, arguments: list[str], status: int, says: str) -> None:
    done = runs(*arguments)
    assert says in one_sentence(done)
    assert done.returncode == status


@pytest.mark.unprivileged
@pytest.mark.parametrize(("exits", "status"), [(0, 6), (3, 3)])
def test_what_cannot_be_sent_is_named_and_the_next_mount_sends_it(
    runs: Runs, who: str, exits: int, status: int, tmp_path: Path
) -> None:
    disk, name = runs.disk("data"), f"late-{who}-{exits}"
    runs.server.faults(
        {"rules": [{"action": "status", "path": "/folders/*/request-upload", "status": 503, "times": None}]}
    )
    done = runs(
        "--drain-timeout", "0", "-m", "data", "--", "sh", "-c", f"echo precious >data/{name}; exit {exits}"
    )
    assert done.returncode == status
    assert f"not on the server: data/{name}" in done.stderr
    assert not (disk / name).exists()
    runs.server.clear_faults()
    assert runs("-m", "data", "--", "cat", f"data/{name}").stdout == "precious\n"
    assert (disk / name).read_text() == "precious\n"


@pytest.mark.unprivileged
def test_signals_reach_the_command(runs: Runs) -> None:
    script = 'trap "echo heard >data/heard; exit 7" TERM; echo ready; while :; do sleep 0.1; done'
    running = runs.start("-m", "data", "--", "sh", "-c", script)
    assert running.stdout is not None
    with running, running.stdout as said:
        assert said.readline() == "ready\n"
        os.kill(pid_of_run(running), signal.SIGTERM)
        assert running.wait(60) == 7
    assert (runs.disk("data") / "heard").read_text() == "heard\n"
    (runs.disk("data") / "heard").unlink()


def pid_of_run(running: subprocess.Popen[str]) -> int:
    """The process of `vfsmount run`: what makes us somebody else has become it."""
    assert b"vfsmount" in Path(f"/proc/{running.pid}/cmdline").read_bytes()
    return running.pid


@pytest.mark.unprivileged
def test_ctrl_c_is_for_the_command_and_everything_is_sent(runs: Runs) -> None:
    master, slave = pty.openpty()
    script = 'trap "echo stopped >data/stopped; exit 9" INT; echo ready; while :; do sleep 0.1; done'
    ours = f"import os,fcntl,termios; os.setsid(); fcntl.ioctl({slave}, termios.TIOCSCTTY, 0); "
    become = ours + "import sys; os.execvp(sys.argv[1], sys.argv[1:])"
    running = subprocess.Popen(
        ["python3", "-c", become, *runs.command, "-m", "data", "--", "sh", "-c", script],
        env=runs.env, cwd=runs.home, stdin=slave, stdout=slave, stderr=slave, pass_fds=(slave,),
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 1000)
    os.write(master, b"\x03")
    assert running.wait(60) == 9
    os.close(master)
    assert (runs.disk("data") / "stopped").read_text() == "stopped\n"
    (runs.disk("data") / "stopped").unlink()


@pytest.mark.unprivileged
def test_what_the_command_leaves_running_is_ended(runs: Runs) -> None:
    stubborn = 'setsid sh -c "trap : TERM; sleep 1000 & wait" &'
    # Whose number is there has become a session of its own.
    left = (
        'setsid sh -c "echo \\$\\$ >pid; exec sleep 1000" & until [ -s pid ]; do sleep 0.05; done; cat pid;'
    )
    script = f"{left} {stubborn} exit 0"
    done = runs("-m", "data", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{int(done.stdout)}").exists()


@pytest.mark.unprivileged
def test_command_ends_with_a_run_that_is_killed_and_what_it_wrote_is_sent(runs: Runs) -> None:
    running = runs.start("-m", "data", "--", "sh", "-c", "echo kept >data/kept; echo $$; exec sleep 1000")
    assert running.stdout is not None
    with running, running.stdout as said:
        command = int(said.readline())
        os.kill(pid_of_run(running), signal.SIGKILL)
        running.wait(10)
        eventually(lambda: not Path(f"/proc/{command}").exists())
    eventually(lambda: (runs.disk("data") / "kept").exists() and not list((runs.state / "mounts").glob("*")))
    (runs.disk("data") / "kept").unlink()
    for left in (runs.home / "run").glob("vfsmount/run-*"):  # nobody was there to remove it
        shutil.rmtree(left)


@pytest.mark.unprivileged
def test_daemon_that_dies_is_told_of_and_nothing_is_lost(runs: Runs, tmp_path: Path) -> None:
    script = "echo kept >data/survives; sync data/survives; echo ready; read line"
    running = runs.start(
        "-m", "data", "--", "sh", "-c", script, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None and running.stdin is not None and running.stderr is not None
    with running:
        assert running.stdout.readline() == "ready\n"
        mounted = Mounted(runs.home, runs.env)
        os.kill(mounted.pid, signal.SIGKILL)
        time.sleep(0.2)
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.wait(60) in (5, 6)
        assert "the process of the mount has died" in running.stderr.read()
    assert runs("-m", "data", "--", "true").returncode == 0
    assert (runs.disk("data") / "survives").read_text() == "kept\n"
    (runs.disk("data") / "survives").unlink()
