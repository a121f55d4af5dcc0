"""The stored login of session mode: a cookie, which is as good as the password while it lasts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from vfsmount import log, places
from vfsmount.errors import AuthFailed, ConfigError


@dataclass(frozen=True, slots=True)
class Login:
    """What ``vfsmount login`` stores.

    Attributes:
        endpoint: the first of the endpoints it was made for.
        cookie: value of the webserver's ``AIOHTTP_SESSION``.
        username: for ``vfsmount config show``.
    """

    endpoint: str
    cookie: str = field(repr=False)
    username: str = ""


def write_login(path: Path, login: Login) -> None:
    """Store `login`, 0600, replacing an earlier one in one step.

    Raises:
        ConfigError: the state directory cannot be used.
    """
    places.write_private(path, msgspec.json.encode(login).decode())


def read_login(path: Path) -> Login:
    """The stored login. Its cookie is struck out of all later log lines.

    Raises:
        AuthFailed: there is none, or it cannot be read as one.
        ConfigError: other users may read the file, so the cookie may be in wrong hands.
    """
    try:
        if places.open_to_others(path):
            raise ConfigError(
                f"{path} holds a login and is open to other users: "
                "run `vfsmount logout`, then `vfsmount login`"
            )
        login = msgspec.json.decode(path.read_bytes(), type=Login)
    except FileNotFoundError:
        raise AuthFailed("nobody is logged in: run `vfsmount login` first") from None
    except (OSError, msgspec.DecodeError) as e:
        raise AuthFailed(f"the login stored in {path} cannot be read: run `vfsmount login` again") from e
    log.add_secret(login.cookie)
    return login


def remove_login(path: Path) -> None:
    """Forget the login; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        path.unlink()
