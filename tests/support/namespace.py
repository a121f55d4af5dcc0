"""A mount namespace of its own, with programs of ours where mount(8) looks for its helpers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

HELPERS = "/usr/sbin" if Path("/sbin").is_symlink() else "/sbin"


class Namespace:
    """Lives as long as the ``with`` block, and so do the mounts made in it. Needs root.

    Args:
        helpers: name → program; they are all that is to be found in ``/sbin``.
    """

    def __init__(self, helpers: Mapping[str, Path]) -> None:
        links = "".join(f"ln -s '{path}' {HELPERS}/{name}; " for name, path in helpers.items())
        script = f"mount -t tmpfs none {HELPERS}; {links} echo ready; exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout):
            assert pipe is not None
            pipe.close()
        self._holder.wait(20)

    def run(
        self, *command: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        return subprocess.run(
            ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *map(str, command)],
            env=dict(env) if env is not None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd="/",
        )

    def is_mounted(self, path: Path) -> bool:
        """Whether something is mounted exactly there."""
        mounts = Path(f"/proc/{self._holder.pid}/mounts").read_text().splitlines()
        return any(os.fsdecode(line.split()[1]) == str(path) for line in mounts)
