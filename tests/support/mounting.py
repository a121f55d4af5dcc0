"""A real mount: the daemon as a process of its own, driven with plain system calls from here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.workers import stacks_of

VFSMOUNT = [sys.executable, "-m", "vfsmount"]
# Mounts that do not say have a holder as users' do; without, a daemon that is killed is a mount that is dead,
# which is what many tests are about.
WITH_HOLDER = os.environ.get("VFSMOUNT_TEST_HOLDER") == "1"


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these server settings and no others."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_"))}
    return {**ours, **variables}


def vfsmount(
    *args: str | Path, env: Mapping[str, str], timeout: float = 60, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run one vfsmount command to its end."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*VFSMOUNT, *map(str, args)],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


class Mounted:
    """One mount for as long as the ``with`` block lasts.

    Args:
        holder: whether one daemon follows another; else the mount ends with its daemon.

    Attributes:
        path: the mountpoint.
        log: the daemon's log at --debug.
    """

    def __init__(
        self, directory: Path, env: Mapping[str, str], *options: str, holder: bool = WITH_HOLDER
    ) -> None:
        self.path = directory / "mnt"
        self.log = directory / "daemon.log"
        self.state = directory / "state"
        self.cache = directory / "cache"
        self._env = env
        self._options = (*options, "--holder" if holder else "--no-holder")

    def start(self) -> None:
        """Mount; fails with what the command said."""
        done = vfsmount(
            self.path,
            "--debug",
            "--log-file",
            self.log,
            "--state-dir",
            self.state,
            "--cache-dir",
            self.cache,
            *self._options,
            env=self._env,
        )
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Mounted:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Unmount and wait for the daemon's end."""
        try:
            # Longer than the daemon may send what is left (60 s), and than any --timeout that a test gives.
            return vfsmount(
                "umount",
                "--lazy",
                self.path,
                "--state-dir",
                self.state,
                *options,
                env=self._env,
                timeout=300,
            )
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"umount waits\n{self._who_has_it()}\n{self.said_lately()}") from e

    @property
    def pid(self) -> int:
        """The daemon's process."""
        import msgspec

        return int(msgspec.json.decode(self.record)["pid"])

    @property
    def record(self) -> bytes:
        """What the mount has written down about itself."""
        (record,) = (self.state / "mounts").glob("*.json")
        return record.read_bytes()

    @property
    def holder(self) -> int:
        """The holder's process; 0: there is none."""
        import msgspec

        return int(msgspec.json.decode(self.record)["holder"])

    def kill(self) -> None:
        """End the daemon as a power cut would."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while _runs(pid):
            assert time.monotonic() < end, "the daemon does not die"
            time.sleep(0.02)

    def _who_has_it(self) -> str:
        """Processes that see the mount, in whatever namespace, and what those of the mount wait for."""
        said = []
        with suppress(ValueError):  # it may have ended meanwhile, and its record with it
            said.append(f"daemon {self.pid}, holder {self.holder}")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.path) in (process / "mountinfo").read_text():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    said.append(f"seen by {process.name}: {command}")
            with suppress(OSError):
                if str(self.state) in (process / "cmdline").read_bytes().decode(errors="replace"):
                    said.append(stacks_of(int(process.name)))
        return "\n".join(said)

    def said_lately(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def refused(self) -> list[str]:
        """The last lines of the log that tell of a failed request."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if " request.failed " in line or " read.failed " in line][-60:]

    def warnings(self) -> list[str]:
        """Lines of the log at WARNING and above."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [
            line for line in lines if any(f" {level} " in line for level in ("WARNING", "ERROR", "CRITICAL"))
        ]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it is buried between open and read
        return False


def run(*command: str | Path, cwd: Path | None = None, timeout: float = 120) -> str:
    """Run a program that must succeed; its standard output."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        errors="surrogateescape",
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
