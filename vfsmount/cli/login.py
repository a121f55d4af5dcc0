"""``vfsmount login``: trade a password for a cookie, for session mode."""

from __future__ import annotations

import click
import trio

from vfsmount.cli import show
from vfsmount.cli.ask import ask
from vfsmount.cli.options import Flags, api_options
from vfsmount.config import ApiSettings, load_login_settings
from vfsmount.errors import OtpRequired
from vfsmount.login_file import Login, write_login


@click.command("login")
@click.option("--user", metavar="ID", help="User id, mostly an e-mail address. [BACKEND_USER]")
@show.json_option
@api_options
def command(user: str | None, as_json: bool, flags: Flags) -> None:
    """Log in through a webserver (session mode) and keep the login for mounts.

    The password is asked for, or taken from BACKEND_PASSWORD; a one-time password is asked for
    where the account needs one. The login is kept in the state directory, readable by you only.
    """
    settings, path = load_login_settings(flags)
    username = user or ask("User ID", "BACKEND_USER")
    cookie = fetch_cookie(settings, username, ask("Password", "BACKEND_PASSWORD", hidden=True))
    write_login(path, Login(settings.endpoints[0], cookie, username))
    if as_json:
        show.as_json({"endpoint": settings.endpoints[0], "user": username})
    else:
        click.echo(f"Logged in at {settings.endpoints[0]} as {username}.")


def fetch_cookie(settings: ApiSettings, username: str, password: str) -> str:
    """Log in, asking for a one-time password where the server wants one.

    Raises:
        AuthFailed: the server refuses the name, the password or the one-time password.
        RemoteUnavailable: no usable reply.
    """
    # Loads httpx, so only now: `login --help` and a missing setting answer without it.
    from vfsmount.api import session

    try:
        return trio.run(session.login, settings, username, password)
    except OtpRequired:
        otp = ask("One-time password", hidden=True)
        return trio.run(session.login, settings, username, password, otp)
