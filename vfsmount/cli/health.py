"""``vfsmount health``: an exit status for probes.

`vfsmount.__main__` answers most calls without coming here; this is for ``--help`` and for wrong usage.
"""

from __future__ import annotations

import click

from vfsmount import health
from vfsmount.cli.completion import kinds


@click.command("health")
@click.argument("mountpoint", required=False, type=kinds.MOUNT)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=health.PATIENCE_S,
    show_default=True,
    help="Seconds for the daemon to answer.",
)
@click.option("--state-dir", type=str, help="As given to the mount.")
def command(mountpoint: str | None, timeout: float, state_dir: str | None) -> int:
    """Tell by the exit status whether the mount on MOUNTPOINT is well; nothing else is printed then.

    Exit status 0: its daemon answers and is the one that is mounted there; 1: not, and stderr says why.
    The server is not asked. Without MOUNTPOINT: all mounts of yours, of which there must be one.
    """
    return health.report(health.check(mountpoint, state_dir, timeout))
