"""The embedded server as a process beside a mount."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vfsmount.errors import RemoteUnavailable

_START_S = 60.0


@contextmanager
def embedded_server(
    data: Path, *, user: str = "owner", dialect: str = "23.09"
) -> Iterator[Mapping[str, str]]:
    """Run the server while the body runs; yields the user's ``BACKEND_…`` variables.

    It ends when its standard input does, so also when we are killed.
    """
    server = _start(data, dialect)
    assert server.stdin is not None and server.stdout is not None
    try:
        yield _read_env(data / "env" / f"{user}.sh")
    finally:
        server.stdin.close()
        server.stdout.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def start_server(data: Path, *, dialect: str) -> tuple[int, int, dict[str, str]]:
    """As `embedded_server`, for a process that is not ours: two descriptors, and the owner's variables.

    The server ends when every copy of the first is closed, and closes its end of the second then.
    """
    server = _start(data, dialect)
    assert server.stdin is not None and server.stdout is not None
    fds = os.dup(server.stdin.fileno()), os.dup(server.stdout.fileno())
    server.stdin.close()
    server.stdout.close()
    server.returncode = 0  # it is not ours to wait for
    return *fds, _read_env(data / "env" / "owner.sh")


def _start(data: Path, dialect: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "vfsmount",
        "serve",
        "--data",
        str(data),
        "--dialect",
        dialect,
        "--until-eof",
    ]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert server.stdin is not None and server.stdout is not None and server.stderr is not None
    with server.stderr:
        readable = select.select([server.stdout], [], [], _START_S)[0]
        if not readable or not server.stdout.readline():
            server.kill()
            said = server.stderr.read().decode(errors="replace").strip().removeprefix("vfsmount: ")
            server.stdin.close()
            server.stdout.close()
            server.wait()
            raise RemoteUnavailable(f"the embedded server did not start: {said or 'no reason given'}")
    return server


def _read_env(path: Path) -> dict[str, str]:
    """The ``export NAME=value …`` lines of an env file."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["export"]:
            found.update((name, value) for name, _, value in (word.partition("=") for word in words[1:]))
    return {name: value for name, value in found.items() if name.startswith("BACKEND_")}


def default_data_dir(state_dir: Path) -> Path:
    """Where ``--embedded`` keeps its folders when nothing else is said."""
    return Path(os.path.abspath(state_dir / "embedded"))
