"""Whose dotfiles a command means, and what the server knows of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli.options import Flags, api_options_but
from vfsmount.errors import ConfigError, NotSupported

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.dotfiles import Dotfile, Scope

_OWN_DOMAIN = ""


def scope_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--group``, ``--domain`` and ``--owner``, as parameter `scope`, and the API's options."""

    @functools.wraps(function)
    def collect(*args: Any, **params: Any) -> Any:
        group, domain, owner = (params.pop(key) for key in ("group", "domain", "owner"))
        scope = _scope(params["flags"], group, domain, owner)
        return function(*args, scope=scope, **params)

    decorated = api_options_but("group", "domain")(collect)
    for option in (
        click.option("-g", "--group", metavar="NAME", help="Dotfiles of this project, by name or id."),
        click.option(
            "-d",
            "--domain",
            metavar="[NAME]",
            is_flag=False,
            flag_value=_OWN_DOMAIN,
            help="Dotfiles of a domain (without NAME: of yours; put it last); with --group: the project's.",
        ),
        click.option(
            "-o",
            "--owner",
            "--owner-access-key",
            "owner",
            metavar="KEY",
            help="Dotfiles of the user with this access key; for administrators.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def _scope(flags: Flags, group: str | None, domain: str | None, owner: str | None) -> Scope:
    from vfsmount.api.dotfiles import Scope, ScopeKind
    from vfsmount.config import load_settings

    if group is None and domain is None:
        return Scope(owner_access_key=owner)
    if owner is not None:
        raise ConfigError("--owner is about a user's dotfiles; leave --group and --domain out")
    if group == "":
        raise ConfigError("--group needs the name of a project")
    # The server needs the domain of a project that is named.
    domain = domain or load_settings(flags, os.environ).domain
    return Scope(ScopeKind.DOMAIN if group is None else ScopeKind.GROUP, group=group, domain=domain)


async def known(client: Client, scope: Scope) -> list[Dotfile] | None:
    """All dotfiles of a scope; None where the server does not tell."""
    return None if _mistakes_owner(client, scope) else await client.list_dotfiles(scope)


async def listed(client: Client, scope: Scope) -> list[Dotfile]:
    """All dotfiles of a scope.

    Raises:
        NotSupported: this server would list somebody else's.
    """
    found = await known(client, scope)
    if found is None:
        raise NotSupported(
            "servers of 23.09 list your own dotfiles whoever is named with --owner; "
            "a single one of theirs is told: vfsmount dotfile get PATH --owner KEY"
        )
    return found


def _mistakes_owner(client: Client, scope: Scope) -> bool:
    # Seen in `list_or_get` of the 23.09 manager: without a path it takes the caller's key.
    return scope.owner_access_key is not None and not client.traits.by_id


def described(dotfile: Dotfile) -> dict[str, Any]:
    """The fields that JSON has of a dotfile in a list."""
    size = len(dotfile.data.encode("utf-8", "surrogatepass"))
    return {"path": dotfile.path, "permission": dotfile.permission, "size": size}
