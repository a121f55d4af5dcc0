"""Calls about dotfiles, which every session of a user, project or domain starts with.

Source: contract 3.9.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from vfsmount.api import shapes
from vfsmount.api.manager import Manager
from vfsmount.errors import NotFound, ProtocolError


class ScopeKind(enum.Enum):
    """Whose dotfiles."""

    USER = "user"
    GROUP = "group"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose dotfiles, exactly.

    Attributes:
        group, domain: id or name of the project (a name needs ``domain`` too), name of the domain.
        owner_access_key: another user's key, for administrators.
    """

    kind: ScopeKind = ScopeKind.USER
    group: str | None = None
    domain: str | None = None
    owner_access_key: str | None = field(default=None, repr=False)

    @property
    def keys(self) -> dict[str, str]:
        """The parameters that name this scope."""
        named = {"group": self.group, "domain": self.domain, "owner_access_key": self.owner_access_key}
        return {k: v for k, v in named.items() if v}


MINE = Scope()


@dataclass(frozen=True, slots=True)
class Dotfile:
    """One dotfile: path relative to the home directory, three octal digits, text."""

    path: str
    permission: str
    data: str = field(repr=False)


class DotfileCalls:
    """Part of `Client`: dotfiles and the bootstrap script."""

    _manager: Manager

    async def list_dotfiles(self, scope: Scope = MINE) -> list[Dotfile]:
        """All dotfiles of a scope, with their content."""
        reply = await self._manager.call("GET", _path(scope), query=scope.keys, privileged=_privileged(scope))
        found = [_dotfile(raw) for raw in shapes.sequence(reply.json)]
        return [d for d in found if d is not None]

    async def read_dotfile(self, path: str, scope: Scope = MINE) -> Dotfile:
        """One dotfile.

        Raises:
            NotFound: there is none of this path.
        """
        query = {"path": path, **scope.keys}
        reply = await self._manager.call("GET", _path(scope), query=query, privileged=_privileged(scope))
        found = _dotfile(reply.json)
        if found is None:
            raise ProtocolError("a dotfile without path or data", status=reply.status)
        return found

    async def create_dotfile(self, dotfile: Dotfile, scope: Scope = MINE) -> None:
        """Add a dotfile.

        Raises:
            InvalidRequest: reserved path, too large, too many, or the path is taken; 23.09 also for
                an empty one.
        """
        await self._put("POST", dotfile, scope)

    async def update_dotfile(self, dotfile: Dotfile, scope: Scope = MINE) -> None:
        """Replace a dotfile's text and permission.

        Raises:
            NotFound: there is none of this path.
        """
        await self._put("PATCH", dotfile, scope)

    async def delete_dotfile(self, path: str, scope: Scope = MINE) -> None:
        """Remove a dotfile.

        Raises:
            NotFound: there is none of this path.
        """
        query = {"path": path, **scope.keys}
        await self._manager.call(
            "DELETE", _path(scope), query=query, idempotent=False, privileged=_privileged(scope)
        )

    async def read_bootstrap_script(self) -> str:
        """The script that runs first in every session of the user; "" where there is none."""
        try:
            return str((await self._manager.call("GET", "/user-config/bootstrap-script")).json or "")
        except NotFound:
            return ""

    async def write_bootstrap_script(self, script: str) -> None:
        """Replace the script that runs first in every session of the user, at most 64 KiB."""
        await self._manager.call(
            "POST", "/user-config/bootstrap-script", body={"script": script}, idempotent=True
        )

    async def _put(self, method: str, dotfile: Dotfile, scope: Scope) -> None:
        body = {
            "path": dotfile.path,
            "data": dotfile.data,
            "permission": dotfile.permission,
            **scope.keys,
        }
        await self._manager.call(
            method, _path(scope), body=body, idempotent=method == "PATCH", privileged=_privileged(scope)
        )


def _path(scope: Scope) -> str:
    return f"/{scope.kind.value}-config/dotfiles"


def _privileged(scope: Scope) -> bool:
    return scope.kind is not ScopeKind.USER or scope.owner_access_key is not None


def _dotfile(raw: object) -> Dotfile | None:
    if not isinstance(raw, Mapping):
        return None
    path, data = raw.get("path"), raw.get("data")
    if not (isinstance(path, str) and isinstance(data, str)):
        return None
    # The list says `permission`, a single one says `perm`.
    return Dotfile(path, shapes.text(raw.get("permission", raw.get("perm"))) or "755", data)
