"""``vfsmount run IMAGE …`` on both dialects: sessions of the embedded server."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from vfsmount.cli import main

IMAGE = "python:3.9"


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server that runs commands, in either dialect."""
    data = tmp_path_factory.mktemp("server")
    with Embedded(data, dialect=request.param, sessions=True) as embedded:
        yield embedded


@pytest.fixture
def folder(server: Embedded) -> tuple[str, Path]:
    """(name, directory on the server) of a new folder."""
    name = f"f{secrets.token_hex(4)}"
    return name, server.folder_dir(server.create_folder("owner", name))


class Command:
    """Runs ``vfsmount run …`` in this process."""

    def __init__(
        self, server: Embedded, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]
    ) -> None:
        self.server, self._patch, self._capture = server, patch, capture
        self.err = ""

    def __call__(self, *words: str, stdin: bytes = b"", status: int = 0) -> str:
        for name, value in self.server.env("owner").items():
            self._patch.setenv(name, value)
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        found = main(["run", *words])
        out, err = self._capture.readouterr()
        self.err = err.decode()
        assert found == status, self.err
        return out.decode()


@pytest.fixture
def run(
    server: Embedded,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> Iterator[Command]:
    """The command; with --rm, and whatever happens, it leaves no session behind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield Command(server, monkeypatch, capsysbinary)
    assert homes(server) == []
    server.clear_faults()


def homes(server: Embedded) -> list[str]:
    """Home directories of the sessions there are."""
    return os.listdir(server.data / "sessions")


def waiting(server: Embedded) -> str:
    """A beginning for a script: with `wait(n)` it goes on when it was asked n more times for its output."""
    return f"""
import json, time, urllib.request

def asked():
    with urllib.request.urlopen({server.url + "/__calls"!r}) as reply:
        calls = json.load(reply)["calls"]
    return sum(c["count"] for c in calls if (c["method"], c["route"]) == ("POST", "/session/{{session}}"))

def wait(count):
    enough, end = asked() + count, time.monotonic() + 60
    while asked() < enough:
        assert time.monotonic() < end, "nobody asks"
        time.sleep(0.05)

"""


def test_folder_stands_in_the_home_directory(run: Command, folder: tuple[str, Path]) -> None:
    name, directory = folder
    (directory / "in.txt").write_text("from the folder")
    out = run("--rm", "-m", name, IMAGE, "sh", "-c", f"cat {name}/in.txt; echo made > {name}/out.txt")
    assert out == "from the folder"
    assert (directory / "out.txt").read_text() == "made\n"


def test_output_is_separated_and_the_status_passed_on(run: Command) -> None:
    out = run("--rm", "-q", IMAGE, "sh", "-c", "echo out; echo err >&2; printf 'ü no end'; exit 7", status=7)
    assert out == "out\nü no end" and run.err == "err\n"


def test_signal_is_told_as_a_shell_tells_it(run: Command) -> None:
    run("--rm", IMAGE, "sh", "-c", "kill -9 $$", status=137)


def test_output_comes_while_the_command_runs(run: Command) -> None:
    script = waiting(run.server) + "print('a'); wait(2); print('b'); wait(2); print('c')"
    assert run("--rm", IMAGE, sys.executable, "-u", "-c", script) == "a\nb\nc\n"


def test_words_reach_the_command_as_they_are(run: Command) -> None:
    words = ["a b", "$HOME", "'q'", '"', "*", "", "ü", "--rm"]
    script = "import sys; print(sys.argv[1:])"
    assert run("--rm", IMAGE, sys.executable, "-c", script, *words) == f"{words}\n"


def test_shell_line_and_environment(run: Command) -> None:
    assert run("--rm", "-e", "WHO=me=you", "--exec", 'echo "$WHO" | tr m w', IMAGE) == "we=you\n"
    assert os.environ["BACKEND_SECRET_KEY"] not in run("--rm", "--exec", "env", IMAGE)


@pytest.mark.parametrize(
    "spelling", ["{}:sub/place", "{}=/home/work/sub/place", "source={},target=sub/place"]
)
def test_folder_at_another_path(run: Command, folder: tuple[str, Path], spelling: str) -> None:
    name, directory = folder
    (directory / "in.txt").write_text("here")
    assert run("--rm", "-m", spelling.format(name), IMAGE, "cat", "sub/place/in.txt") == "here"


def test_directory_of_a_folder(run: Command, folder: tuple[str, Path]) -> None:
    name, directory = folder
    (directory / "d").mkdir()
    (directory / "d" / "x").write_text("deep")
    assert run("--rm", "-m", f"{name}/d:place", IMAGE, "cat", "place/x") == "deep"


def test_permission_is_a_matter_of_the_dialect(run: Command, folder: tuple[str, Path]) -> None:
    name, directory = folder
    (directory / "x").write_text("x")
    old = run.server.dialect == "23.09"
    run("--rm", "-m", f"{name}:place:ro", IMAGE, "cat", "place/x", status=1 if old else 0)
    if old:
        assert "23.09" in run.err and "leave :ro out" in run.err
        assert run.server.count("POST", "/session") == 0 or "PENDING" not in run.err


def test_dotfiles_and_dot_folders_are_there(run: Command) -> None:
    owner = run.server.client("owner")
    body = {"path": ".app/config", "data": "dot\r\nfile", "permission": "600"}
    owner.ok("POST", "/user-config/dotfiles", body)
    name = f".d{secrets.token_hex(4)}"
    folder = run.server.folder_dir(run.server.create_folder("owner", name))
    (folder / "x").write_text("auto")
    assert run("--rm", IMAGE, "sh", "-c", f"stat -c %a .app/config; cat .app/config {name}/x") == (
        "600\ndot\r\nfileauto"
    )
    owner.ok("DELETE", "/user-config/dotfiles", params={"path": ".app/config"})


def test_mounts_of_the_environment_are_added(
    run: Command, folder: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, directory = folder
    (directory / "x").write_text("x")
    monkeypatch.setenv("BACKEND_VFOLDER_MOUNTS", name)
    assert run("--rm", IMAGE, "cat", f"{name}/x") == "x"
    assert run("--rm", "-m", f"{name}:place", IMAGE, "cat", "place/x") == "x"


def test_code_asks_for_input(run: Command) -> None:
    code = "import getpass\nname = input('who? ')\nprint('hello', name, len(getpass.getpass('pw? ')))"
    assert run("--rm", "-c", code, IMAGE, stdin=b"you\nsecret\n") == "who? pw? hello you 6\n"


def test_input_that_has_ended_ends_the_run(run: Command) -> None:
    run("--rm", "-c", "input()", IMAGE, status=1)
    assert "stdin has ended" in run.err


def test_unknown_image(run: Command) -> None:
    run("--rm", "no/such:1", "true", status=7)
    assert "no session of no/such:1" in run.err and "Unknown image" in run.err


def test_unknown_folder_makes_no_session(run: Command) -> None:
    run.server.reset_calls()
    run("--rm", "-m", "nosuchfolder", IMAGE, "true", status=7)
    assert "nosuchfolder" in run.err and run.server.count("POST", "/session") == 0


@pytest.mark.parametrize("remove", [["--rm"], []])
def test_session_that_does_not_start_is_taken_back(run: Command, remove: list[str]) -> None:
    run(*remove, "-r", "cpu=100000", "--timeout", "3", IMAGE, "true", status=4)
    assert "did not start within 3 s (PENDING: no-available-instances" in run.err


def test_session_that_fails_to_start_says_why(run: Command, folder: tuple[str, Path]) -> None:
    run("--rm", "-m", f"{folder[0]}/nosuchdir:place", IMAGE, "true", status=1)
    assert "is ERROR before the command could run (creation-failed)" in run.err


def test_session_goes_on_without_rm(run: Command) -> None:
    name = f"keep-{secrets.token_hex(4)}"
    assert run("--name", name, IMAGE, "echo", "x") == "x\n"
    assert f"the session {name} goes on" in run.err
    owner = run.server.client("owner")
    assert owner.ok("GET", f"/session/{name}")["status"] == "RUNNING"
    # Its name is taken: another command must not run in it, nor destroy it.
    run("--rm", "--name", name, IMAGE, "true", status=9)
    owner.ok("DELETE", f"/session/{name}")


def lose_reply(path: str) -> dict[str, object]:
    """A fault: the next POST there is carried out, and nobody hears of it."""
    return {"rules": [{"action": "lose_reply", "path": path, "method": "POST", "times": 1}]}


def test_run_that_may_have_begun_is_not_begun_again(run: Command, folder: tuple[str, Path]) -> None:
    name, directory = folder
    session = f"lost-{secrets.token_hex(4)}"
    run.server.faults(lose_reply("/session/*"))
    # Not --rm: with the session it would end what has begun.
    run("--name", session, "-m", name, "--exec", f"echo x >> {name}/log", IMAGE, status=4)
    log = directory / "log"
    eventually(lambda: log.exists() and log.read_text() != "")
    run.server.client("owner").ok("DELETE", f"/session/{session}")
    assert log.read_text() == "x\n"


def test_run_goes_on_after_a_lost_reply_and_says_so(run: Command) -> None:
    # The command itself orders the fault, so that it hits a reply after the first; when it is asked for the
    # second time from then on, that reply is lost.
    order = f"{run.server.url + '/__faults'!r}, json.dumps({lose_reply('/session/*')!r}).encode()"
    script = f"{waiting(run.server)}urllib.request.urlopen({order}); wait(2); print('end')"
    assert run("--rm", IMAGE, sys.executable, "-c", script) == "end\n"
    assert "some of the output may be missing" in run.err


def test_session_of_unknown_fate_is_looked_for(run: Command) -> None:
    run.server.faults(lose_reply("/session"))
    run("--rm", IMAGE, "true", status=4)
    assert "destroyed" in run.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_destroys_the_session(server: Embedded, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "vfsmount", "run", "--rm", IMAGE, "sh", "-c", "echo on; sleep 600"]
    env = {**os.environ, **server.env("owner"), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "destroyed" in err and "Traceback" not in err
    assert homes(server) == []


def test_reader_that_goes_away_ends_the_run(server: Embedded, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vfsmount", "run", "--rm", "-q", "--exec", "yes", IMAGE]
    env = {**os.environ, **server.env("owner"), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None and process.stderr.read() == b""
    process.stderr.close()
    assert homes(server) == []


def test_server_without_sessions_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Embedded(tmp_path / "data") as plain:
        run = Command(plain, monkeypatch, capsysbinary)
        run("--rm", IMAGE, "true", status=1)
        assert "no such call" in run.err


def test_session_is_taken_back_while_it_is_prepared(run: Command, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("sleep 600")
    # Which takes force.
    run("--timeout", "3", "--bootstrap-script", str(tmp_path / "script"), IMAGE, "true", status=4)
    assert "(PREPARING)" in run.err and "destroyed" in run.err


def test_bootstrap_script_runs_first(run: Command, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("echo made > made")
    assert run("--rm", "--bootstrap-script", str(tmp_path / "script"), IMAGE, "cat", "made") == "made\n"
