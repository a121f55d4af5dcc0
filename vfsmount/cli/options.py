"""Options that say which server to use, shared by every command that talks to one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import click

from vfsmount.cli.completion import kinds
from vfsmount.config_sources import SETTINGS

Flags = Mapping[str, str | None]

_HELP: dict[str, tuple[str, str]] = {
    "endpoint": ("URL[,URL…]", "Address of the manager, or of the webserver in session mode."),
    "endpoint_type": ("api|session", "Sign requests with a key pair, or use a login (vfsmount login)."),
    "access_key": ("KEY", "Access key; the secret key never goes on the command line."),
    "secret_key_file": ("FILE", "File that holds the secret key and nothing else."),
    "domain": ("NAME", "Domain sent with every request."),
    "group": ("NAME", "Project used where a call needs one."),
    "storage_proxy_map": ("FROM=TO[,…]", "Use TO where the server names FROM as a storage-proxy address."),
    "connect_timeout": ("SECONDS", "Limit for connecting."),
    "read_timeout": ("SECONDS", "Limit between received bytes; 0 means none of your own."),
    "profile": ("NAME", "Profile of config.toml (VFSMOUNT_PROFILE, else its default_profile)."),
}
_KINDS = {"secret_key_file": kinds.FILE, "profile": kinds.PROFILE}
OPTION_NAMES = (*_HELP, "insecure")  # of the parameters
_VARIABLES = {s.key: s.name for s in SETTINGS}


def flags_of(params: Mapping[str, Any]) -> Flags:
    """What was given of the options, among the parameters of a command that is not run (completion)."""
    return {key: params.get(key) for key in OPTION_NAMES}


def api_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives what was given as one mapping, ``flags``.

    The mapping is what `config.load_settings` takes. Defaults are not in it: they are the
    weakest source, not the strongest.
    """
    return api_options_but()(function)


def api_options_but(
    *without: str, short: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `api_options`, for a command to which some of the names mean something else.

    Args:
        without: keys that the command takes itself.
        short: key → another spelling of its option.
    """
    keys = [key for key in OPTION_NAMES if key not in without]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collect(*args: Any, **params: Any) -> Any:
            flags: dict[str, str | None] = {key: params.pop(key) for key in keys}
            return function(*args, flags=flags, **params)

        decorated: Callable[..., Any] = click.option(
            "--insecure",
            flag_value="yes",
            default=None,
            help="Do not check TLS certificates. [BACKEND_SKIP_SSLCERT_VALIDATION]",
        )(collect)
        for key in reversed([key for key in keys if key in _HELP]):
            metavar, text = _HELP[key]
            variable = f" [{_VARIABLES[key]}]" if key in _VARIABLES else ""
            names = [*([short[key]] if key in short else []), f"--{key.replace('_', '-')}"]
            option = click.option(
                *names, key, metavar=metavar, type=_KINDS.get(key), default=None, help=text + variable
            )
            decorated = option(decorated)
        return decorated

    return decorate
