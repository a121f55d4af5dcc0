"""The official client of the 23.09 line, as a program beside ours."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.mounting import clean_environment

BACKENDAI = Path(__file__).parents[1] / "live/backendai"
NOT_INSTALLABLE = 3


class CannotInstall(Exception):
    """The client cannot be installed on this machine; says what is missing."""


@functools.cache
def official_client() -> str:
    """Its command; installed outside the checkout where it is not there yet.

    Raises:
        CannotInstall
        CalledProcessError: the installation failed.
    """
    work = subprocess.run([BACKENDAI / "workdir"], check=True, capture_output=True, text=True).stdout.strip()
    done = subprocess.run([BACKENDAI / "client", work], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode == NOT_INSTALLABLE:
        raise CannotInstall((Path(work) / "log/client-not-installable").read_text().strip())
    done.check_returncode()
    return done.stdout.strip()


class Official:
    """Runs it as one user.

    Attributes:
        home: its home and current directory; its files are here.
    """

    def __init__(self, env: Mapping[str, str], home: Path) -> None:
        self.home = home
        # It walks up from its current directory for a file .env, and keeps state below its home.
        self._env = clean_environment({**env, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")})

    def __call__(self, *words: str, typed: str = "") -> str:
        """What a command that must succeed prints; `typed` is its standard input."""
        done = self.run(*words, typed=typed)
        # Some of its commands tell an error with status 0.
        assert done.returncode == 0 and not set("✗✘") & set(done.stderr + done.stdout), (
            done.stdout + done.stderr
        )
        return done.stdout

    def folders(self, which: str = "list") -> set[str]:
        """Names of the folders that it lists: ``list``, ``list-own``, ``list-invited``."""
        done = self.run("vfolder", which)
        if "NoItems" in done.stdout + done.stderr:  # as it says that there is none
            return set()
        assert done.returncode == 0, done.stdout + done.stderr
        return {word for line in done.stdout.splitlines() for word in line.split()[1:2]}

    def run(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [official_client(), *words],
            env=self._env,
            cwd=self.home,
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
