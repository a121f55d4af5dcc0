"""``vfsmount logout``: end the session-mode login, here and on the server."""

from __future__ import annotations

import click
import trio

from vfsmount.cli import show
from vfsmount.cli.options import Flags, api_options
from vfsmount.config import load_login_settings
from vfsmount.errors import AuthFailed
from vfsmount.login_file import read_login, remove_login


@click.command("logout")
@show.json_option
@api_options
def command(as_json: bool, flags: Flags) -> None:
    """Forget the session-mode login.

    The stored login is removed even when the server cannot be told; the exit status then says so.
    """
    settings, path = load_login_settings(flags)
    if not path.exists():
        _tell(settings.endpoints[0], False, as_json)
        return
    try:
        login = read_login(path)
        # Loads httpx, so only when there is a login to end.
        from vfsmount.api import session

        trio.run(session.logout, settings, login.cookie)
    except AuthFailed:
        pass  # the server has forgotten the login already, which is what was asked for
    finally:
        remove_login(path)
    _tell(settings.endpoints[0], True, as_json)


def _tell(endpoint: str, ended: bool, as_json: bool) -> None:
    if as_json:
        show.as_json({"endpoint": endpoint, "logged_out": ended})
    else:
        click.echo(f"{'Logged out' if ended else 'Nobody is logged in'} at {endpoint}.")
