"""``vfsmount serve``: the embedded server in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vfsmount.errors import ConfigError

_MISSING = (
    "The embedded server needs aiohttp and PyJWT, which are not installed: "
    "install vfsmount with its extra, pip install 'vfsmount[embedded]'."
)


@click.command("serve")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Directory of all its data.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, help="Port of the manager; 0 takes a free one.")
@click.option("--storage-port", default=0, help="Port of the storage-proxy; 0 takes a free one.")
@click.option("--dialect", type=click.Choice(["23.09", "26"]), default="23.09", show_default=True)
@click.option(
    "--scandir-limit",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Entries after which a listing is silently cut; 0 for all.",
)
@click.option(
    "--rate-limit",
    type=click.IntRange(min=1),
    default=30000,
    show_default=True,
    help="Manager calls per key in any --rate-window.",
)
@click.option(
    "--rate-window",
    type=click.IntRange(min=1),
    default=900,
    show_default=True,
    metavar="SECONDS",
    help="How long a call counts; for tests.",
)
@click.option(
    "--token-life", type=float, default=86400.0, show_default=True, help="Seconds a transfer token lives."
)
@click.option("--latency-ms", type=click.FloatRange(min=0), default=0.0, help="Added to every reply.")
@click.option("--otp", multiple=True, metavar="USER=CODE", help="Ask USER for a one-time password at login.")
@click.option("--invited-create", is_flag=True, help="26: let invited users create and upload.")
@click.option(
    "--sessions",
    is_flag=True,
    help="Let users run commands here, as you (vfsmount run); for demonstration and tests.",
)
@click.option("--faults", is_flag=True, help="Offer the fault control endpoint; for tests only.")
@click.option("--until-eof", is_flag=True, help="End when standard input ends.")
def command(data: Path, dialect: str, otp: tuple[str, ...], until_eof: bool, **options: Any) -> None:
    """Run a Backend.AI-compatible server on this machine.

    When it is ready it says so on one line and has written DIR/env/<user>.sh for the users
    owner, friend and admin. Folder contents are plain files below DIR/folders/.
    """
    try:
        from vfsmount.server.app import run
        from vfsmount.server.dialect import DIALECTS
        from vfsmount.server.settings import ServerSettings
    except ModuleNotFoundError as e:
        if e.name not in ("aiohttp", "jwt"):
            raise
        raise ConfigError(_MISSING) from None
    demanded = dict(_user_and_code(pair) for pair in otp)
    settings = ServerSettings(
        data=data.absolute(),
        dialect=DIALECTS[dialect],
        otp=demanded,
        host=options["host"],
        port=options["port"],
        storage_port=options["storage_port"],
        scandir_limit=options["scandir_limit"],
        rate_limit=options["rate_limit"],
        rate_window=options["rate_window"],
        token_life_s=options["token_life"],
        latency_ms=options["latency_ms"],
        invited_create=options["invited_create"],
        sessions=options["sessions"],
        faults=options["faults"],
    )
    try:
        run(settings, until_eof=until_eof)
    except OSError as e:
        raise ConfigError(
            f"The embedded server cannot start: {e.strerror or e} ({e.filename or settings.host})."
        ) from e


def _user_and_code(pair: str) -> tuple[str, str]:
    user, equals, code = pair.partition("=")
    if not equals or not code:
        raise click.BadParameter(f"{pair!r} is not USER=CODE", param_hint="--otp")
    return user, code
