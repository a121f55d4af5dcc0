"""``DIR/env/<user>.sh``: what a shell needs to be one of the users."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from vfsmount.server.records import User


def write_env_files(directory: Path, url: str, users: Iterable[User]) -> None:
    """One file per user, readable by its owner only from its first byte on."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for user in users:
        _write(directory / f"{user.name}.sh", _text(user, url))


def _text(user: User, url: str) -> str:
    settings = {
        "BACKEND_ENDPOINT": url,
        "BACKEND_ENDPOINT_TYPE": "api",
        "BACKEND_ACCESS_KEY": user.access_key,
        "BACKEND_SECRET_KEY": user.secret_key,
        # for BACKEND_ENDPOINT_TYPE=session and `vfsmount login`
        "BACKEND_USER": user.email,
        "BACKEND_PASSWORD": user.password,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([f"# {user.email} ({user.role})", *lines, ""])


def _write(path: Path, text: str) -> None:
    # Replaced whole: somebody may source it while we start.
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
