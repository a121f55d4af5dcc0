"""The storage chapter of the official client's manual, typed at a shell line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.terminal import on_terminal

CHECKOUT = Path(__file__).parents[2]
_VFSMOUNT = f'#!/bin/sh\nexec {sys.executable} -m vfsmount "$@"\n'


class Typist:
    """Types lines at ``sh``, in a directory of its own, with ``vfsmount`` on PATH."""

    def __init__(self, env: Mapping[str, str], work: Path) -> None:
        self.here = work / "here"
        for directory in (self.here, work / "bin", work / ".aws"):
            directory.mkdir(parents=True, exist_ok=True)
        program = work / "bin/vfsmount"
        program.write_text(_VFSMOUNT)
        program.chmod(0o755)
        (work / ".aws/config").write_text("[default]\nregion = eu-central-1\n")
        own = {
            "HOME": str(work),
            "XDG_STATE_HOME": str(work / "state"),
            "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
        }
        self.env = {**env, **own}

    def type(self, line: str) -> str:
        """What a line that has to succeed says, on stdout and stderr."""
        done = subprocess.run(
            ["sh", "-c", line],
            env=self.env,
            cwd=self.here,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def type_and_agree(self, line: str) -> str:
        """The same on a terminal, where the question that it asks is answered with y."""
        status, shown = on_terminal(["sh", "-c", line], self.env, cwd=self.here, typed={"[y/N]": "y\n"})
        assert status == 0, shown
        return shown


def storage_chapter(typist: Typist, group: str, name: str, host: str) -> None:
    """Every line of the chapter, and that each did what it says.

    Args:
        group: "vfsmount", or "vfsmount vfolder" as fingers trained on the original type it.
        name: for a folder; nobody has it.
    """
    here = typist.here
    (here / "bigdata.csv").write_bytes(os.urandom(3 << 20))

    typist.type(f"{group} list")
    typist.type(f"{group} create {name} {host}")
    assert name in typist.type(f"{group} list")
    assert host in typist.type(f"{group} list-hosts")
    typist.type(f"{group} upload {name} ./bigdata.csv")
    assert "bigdata.csv" in typist.type(f"{group} ls {name} .")
    # A result as a session leaves it there.
    (here / "bigresult.txt").write_bytes(os.urandom(1 << 20))
    typist.type(f"{group} upload {name} ./bigresult.txt")
    expected = (here / "bigresult.txt").read_bytes()
    (here / "bigresult.txt").unlink()
    typist.type(f"{group} download {name} ./bigresult.txt")
    assert (here / "bigresult.txt").read_bytes() == expected
    typist.type(f"{group} rm {name} ./bigdata.csv")
    listed = typist.type(f"{group} ls {name} .")
    assert "bigdata.csv" not in listed and "bigresult.txt" in listed

    typist.type("vfsmount dotfile create .aws/config < ~/.aws/config")
    try:
        assert typist.type("vfsmount dotfile get .aws/config") == "[default]\nregion = eu-central-1\n"
    finally:
        typist.type("vfsmount dotfile delete -y .aws/config")

    assert name in typist.type_and_agree(f"{group} delete {name}")
    assert name not in typist.type(f"{group} list")
