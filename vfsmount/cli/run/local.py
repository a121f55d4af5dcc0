"""``vfsmount run -m NAME -- COMMAND``: on this machine, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfsmount.cli.options import Flags
from vfsmount.core.mountspec import MountSpec
from vfsmount.errors import ConfigError


def run_local(
    mounts: Sequence[MountSpec],
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    image: str | None,
    flags: Flags,
) -> int:
    """Run `command` in namespaces of its own; its exit status.

    Args:
        image: run it in a container of this image instead.
    """
    raise ConfigError("a command on this machine is not supported by this version; name an IMAGE")
