"""The command line of podman or docker for ``run --local-image IMAGE``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfsmount.cli.run.plan import Placed, Plan
from vfsmount.core.mountspec import HOME
from vfsmount.errors import ConfigError

ENGINES = ("podman", "docker")


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs containers here.

    Attributes:
        path: the program, podman's or docker's or one that stands for it.
    """

    name: str
    path: str

    @property
    def is_a_daemon(self) -> bool:
        """Whether a process of root's makes the mounts, not the caller."""
        return self.name == "docker"


def find_engine() -> Engine:
    """The first that is installed.

    Raises:
        ConfigError: none is.
    """
    for name in ENGINES:
        path = shutil.which(name)
        if path is not None:
            return Engine(name, path)
    raise ConfigError("--local-image needs podman or docker, and neither is installed")


def needs_allow_other(engine: Engine) -> bool:
    """Whether others than who mounts are to be let in: root for docker, and any user of root's container."""
    return engine.is_a_daemon or os.geteuid() == 0


def container_command(
    engine: Engine,
    image: str,
    command: Sequence[str],
    plan: Plan,
    *,
    mountpoint: str,
    home: Path,
    environment: Mapping[str, str],
    terminal: bool,
) -> list[str]:
    """The whole command line.

    Args:
        home: a directory on this machine that is /home/work in the container.
        terminal: the command is to have one.
    """
    words = [engine.path, "run", "--rm", "--interactive", *(["--tty"] if terminal else [])]
    words += ["--workdir", HOME, "--env", f"HOME={HOME}"]
    for name, value in environment.items():
        words += ["--env", f"{name}={value}"]
    words += ["--mount", f"type=bind,source={_quoted(str(home))},target={HOME}"]
    for placed in sorted(plan.folders, key=lambda placed: placed.target):
        words += ["--mount", _bind(placed, mountpoint)]
    return [*words, image, *command]


def _bind(placed: Placed, mountpoint: str) -> str:
    source = _quoted(os.path.join(mountpoint, placed.source))
    # rslave: should the mount be made anew while the container runs, it is seen there as well.
    text = f"type=bind,source={source},target={_quoted(placed.target)},bind-propagation=rslave"
    return text + (",readonly" if placed.read_only else "")


def _quoted(path: str) -> str:
    """A value of ``--mount``, which is a line of CSV: no comma, quote or line break means what it is.

    Raises:
        ConfigError: it cannot be written so that both engines read it.
    """
    if any(character in path for character in ',"\n\r'):
        raise ConfigError(f"{path!r} cannot be mounted in a container: a comma or a quote is in it")
    return path
