"""Settings, parsed once and frozen.

`load_settings` is what every command calls; `config_sources` knows where the texts come from, this
module what they mean. A text that makes no sense is refused with one sentence that names the
variable and where it was found, and that never repeats a secret.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vfsmount import log
from vfsmount.config_sources import SETTINGS, Found, Places, Setting, Value, read_layers
from vfsmount.errors import AuthFailed, ConfigError

_log = logging.getLogger("vfsmount.config")

TRUE = frozenset({"y", "yes", "t", "true", "1"})
FALSE = frozenset({"n", "no", "f", "false", "0"})
_BY_KEY = {s.key: s for s in SETTINGS}


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How to reach and convince the server.

    Attributes:
        endpoints: absolute URLs without trailing slash; the first that answers is used.
        mode: ``api`` signs each request, ``session`` sends a cookie through a webserver.
        storage_proxy_map: (from, to) pairs; ``from`` is a whole URL or an origin prefix.
        connect_timeout_s, read_timeout_s: TCP connect; between received bytes (0: no limit of the
            user's own, the client still has one).
        cookie_file: where session mode keeps its login, 0600.
    """

    endpoints: tuple[str, ...]
    mode: str = "api"
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    domain: str = "default"
    group: str = "default"
    storage_proxy_map: tuple[tuple[str, str], ...] = ()
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 0.0
    verify_tls: bool = True
    cookie_file: Path | None = None


def load_settings(
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    where: Places | None = None,
) -> ApiSettings:
    """The settings in force: flags, else environment, else profile, else the official client's own.

    Args:
        flags: as `cli.options.api_options` collects them; see `config_sources.read_layers`.

    Raises:
        ConfigError: something is missing, makes no sense or contradicts something else.
        AuthFailed: session mode, and nobody has logged in.
    """
    where = where or Places.of_this_user()
    settings = build(find(flags, environ, where), where.state_dir)
    if settings.cookie_file and not os.path.exists(settings.cookie_file):
        raise AuthFailed(f"nobody is logged in at {settings.endpoints[0]}: run `vfsmount login` first")
    return settings


def load_login_settings(
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    where: Places | None = None,
) -> tuple[ApiSettings, Path]:
    """The settings for logging in or out, and the file for the login, which need not exist.

    Raises:
        ConfigError: as `load_settings`, or the mode is not ``session``.
    """
    where = where or Places.of_this_user()
    found = find(flags, environ, where)
    # Before anything about keys: whoever wants to log in has none.
    if parse_mode(found) == "api":
        raise ConfigError(
            "BACKEND_ENDPOINT_TYPE is api, which signs with a key pair and has no login: "
            "set it to session, and BACKEND_ENDPOINT to the webserver's address"
        )
    settings = build(found, where.state_dir)
    assert settings.cookie_file is not None
    return settings, settings.cookie_file


def find(flags: Mapping[str, str | None] | None, environ: Mapping[str, str], where: Places) -> Found:
    """Read every source and say aloud what is doubtful about them."""
    found = read_layers(flags or {}, environ, where)
    for sentence in found.warnings:
        log.event(_log, logging.WARNING, "config.doubtful", why=sentence)
    return found


def build(found: Found, state_dir: Path) -> ApiSettings:
    """Give the texts their meaning.

    Raises:
        ConfigError: as `load_settings`.
    """
    mode = parse_mode(found)
    refuse_missing(found, mode)
    endpoints = parse_endpoints(found)
    access_key, secret_key = parse_keys(found) if mode == "api" else ("", "")
    return ApiSettings(
        endpoints=endpoints,
        mode=mode,
        access_key=access_key,
        secret_key=secret_key,
        domain=text_of(found, "domain"),
        group=text_of(found, "group"),
        storage_proxy_map=parse_map(found),
        connect_timeout_s=parse_seconds(found, "connect_timeout", zero=False),
        read_timeout_s=parse_seconds(found, "read_timeout", zero=True),
        verify_tls=not parse_flag(found, "insecure"),
        cookie_file=cookie_file(state_dir, endpoints) if mode == "session" else None,
    )


def cookie_file(state_dir: Path, endpoints: tuple[str, ...]) -> Path:
    """Where the login for these endpoints is kept: one file per cluster, so profiles do not collide."""
    name = hashlib.sha256("\n".join(sorted(endpoints)).encode()).hexdigest()[:16]
    return state_dir / "logins" / f"{name}.json"


def get_value(found: Found, key: str) -> Value:
    """What is in force for `key`, defaults included; an empty text where there is nothing."""
    value = found.value(key)
    default = _BY_KEY[key].default
    return value or Value(default or "", "not set" if default is None else "default")


def text_of(found: Found, key: str) -> str:
    """The text in force, fit to be sent in a header.

    Raises:
        ConfigError: it has characters that no header can carry.
    """
    value = get_value(found, key)
    text = value.text.strip()
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{name_of(key, value)} may hold printable ASCII characters only")
    return text


def name_of(key: str, value: Value) -> str:
    """How to call a setting in an error message: its variable, and where the text came from."""
    setting: Setting = _BY_KEY[key]
    if value.source == "environment":
        return setting.name
    if value.source == "command line":
        return f"{setting.flag} ({setting.name})"
    return f"{setting.name} (from {value.source})"


def parse_mode(found: Found) -> str:
    """``api`` or ``session``."""
    value = get_value(found, "endpoint_type")
    if value.text not in ("api", "session"):
        raise ConfigError(f"{name_of('endpoint_type', value)} must be api or session, not {value.text!r}")
    return value.text


def refuse_missing(found: Found, mode: str) -> None:
    """Name everything that is missing in one sentence."""
    keys = ("endpoint", "access_key", "secret_key") if mode == "api" else ("endpoint",)
    missing = [key for key in keys if not get_value(found, key).text.strip()]
    if not missing:
        return
    names = [_BY_KEY[key].name for key in missing]
    what = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    hint = "" if "endpoint" in missing or mode == "session" else ", or use BACKEND_ENDPOINT_TYPE=session"
    raise ConfigError(
        f"{what} {'is' if len(names) == 1 else 'are'} not set: set {'it' if len(names) == 1 else 'them'} "
        f"in the environment or in a profile of config.toml{hint} (see `vfsmount config show`)"
    )


def parse_keys(found: Found) -> tuple[str, str]:
    """The key pair, which must not be put together from halves of two pairs.

    The secret may well come from elsewhere than the access key, but where the weaker place holds
    a whole pair of its own, one half of it would be mixed with a stranger.
    """
    access, secret = get_value(found, "access_key"), get_value(found, "secret_key")
    holders = [
        next(i for i, layer in enumerate(found.layers) if key in layer)
        for key in ("access_key", "secret_key")
    ]
    weaker = found.layers[max(holders)]
    if holders[0] != holders[1] and "access_key" in weaker and "secret_key" in weaker:
        raise ConfigError(
            f"BACKEND_ACCESS_KEY is from {access.source} but BACKEND_SECRET_KEY is from {secret.source}, "
            "which has a pair of its own: set both in one place"
        )
    log.add_secret(secret.text.strip())
    return text_of(found, "access_key"), text_of(found, "secret_key")


def parse_endpoints(found: Found) -> tuple[str, ...]:
    """The comma-separated list, in the user's order, each once."""
    value = get_value(found, "endpoint")
    name = name_of("endpoint", value)
    urls = [checked_url(name, part) for part in value.text.split(",") if part.strip()]
    if not urls:
        raise ConfigError(f"{name} holds no address")
    return tuple(dict.fromkeys(urls))


def parse_map(found: Found) -> tuple[tuple[str, str], ...]:
    """``X1=Y1,X2=Y2``; ``{}`` is the official client's spelling of nothing."""
    value = get_value(found, "storage_proxy_map")
    name = name_of("storage_proxy_map", value)
    pairs = []
    for part in value.text.strip().strip("{}").split(","):
        if part.strip():
            old, equals, new = part.partition("=")
            if not equals:
                raise ConfigError(f"{name} must be a list FROM=TO,FROM=TO of addresses, not {part.strip()!r}")
            pairs.append((checked_url(name, old), checked_url(name, new)))
    if len({old for old, _ in pairs}) < len(pairs):
        raise ConfigError(f"{name} maps one address twice")
    return tuple(pairs)


def checked_url(name: str, text: str) -> str:
    """An absolute http or https URL without user, query, fragment and trailing slash.

    Raises:
        ConfigError: anything else. A URL with a password in it is not repeated in the message.
    """
    text = text.strip()
    try:
        url = urlsplit(text)
        _ = url.port  # raises where it is no number
    except ValueError as e:
        raise ConfigError(f"{name}: {text!r} is not an address: {e}") from None
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ConfigError(f"{name} must hold an address without user name, query and fragment")
    if url.scheme not in ("http", "https") or not url.hostname or " " in text or not text.isascii():
        raise ConfigError(f"{name} must be an address such as https://api.example.com, not {text!r}")
    return text.rstrip("/")


def parse_seconds(found: Found, key: str, *, zero: bool) -> float:
    """A finite number of seconds; 0 only where it means "no limit"."""
    value = get_value(found, key)
    try:
        seconds = float(value.text)
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf) or (seconds == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise ConfigError(f"{name_of(key, value)} must be a number of seconds, {least}, not {value.text!r}")
    return seconds


def parse_flag(found: Found, key: str) -> bool:
    """One of the official client's words for yes and no."""
    value = get_value(found, key)
    word = value.text.strip().lower()
    if word not in TRUE | FALSE:
        raise ConfigError(f"{name_of(key, value)} must be yes or no, not {value.text!r}")
    return word in TRUE
