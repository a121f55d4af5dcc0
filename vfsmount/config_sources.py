"""Where settings come from: named layers, the strongest first, each key → text with its origin.

Order: command line, environment, profile in ``config.toml``, then what the official client keeps:
the ``.env`` above the current directory, and ``~/.backend.ai/{config,credentials}.toml``. Nothing
is judged here but whether a file may be read; `config` gives the texts their meaning.

One difference from the official client is on purpose: there a ``.env`` beats the process
environment. A mount outlives the shell that started it, and which server it writes to should not
hang on a file that happened to lie above the current directory; see docs/configuration.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dotenv

from vfsmount import places
from vfsmount.errors import ConfigError

PROFILE_VARIABLE = "VFSMOUNT_PROFILE"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under all its names.

    Attributes:
        key: in ``config.toml`` and in the mapping of flags.
        variable: in the environment, without the ``BACKEND_`` or ``SORNA_`` before it.
        default: text used when no layer has one; None where there can be none.
        alias: another spelling of the variable, used when the first is not set.
        official: key in the official client's ``config.toml`` or ``credentials.toml``.
    """

    key: str
    variable: str
    flag: str
    default: str | None = None
    alias: str = ""
    official: str = ""

    @property
    def name(self) -> str:
        """The name to use when talking to a user."""
        return f"BACKEND_{self.variable}"


# Source of names and defaults: contract 1.1. The official client's default endpoint, its public
# cloud, is not taken over: sending a key there because a line was forgotten helps nobody.
SETTINGS = (
    Setting("endpoint", "ENDPOINT", "--endpoint", official="endpoint"),
    Setting("endpoint_type", "ENDPOINT_TYPE", "--endpoint-type", "api", official="endpoint_type"),
    Setting("access_key", "ACCESS_KEY", "--access-key", official="access_key"),
    Setting("secret_key", "SECRET_KEY", "--secret-key-file", official="secret_key"),
    Setting("domain", "DOMAIN", "--domain", "default"),
    Setting("group", "GROUP", "--group", "default"),
    Setting("storage_proxy_map", "OVERRIDE_STORAGE_PROXY", "--storage-proxy-map", ""),
    Setting("connect_timeout", "CONNECTION_TIMEOUT", "--connect-timeout", "10.0"),
    Setting("read_timeout", "READ_TIMEOUT", "--read-timeout", "0"),
    Setting(
        "insecure",
        "SKIP_SSLCERT_VALIDATION",
        "--insecure",
        "no",
        # The official client does not read this spelling; it is the one people type.
        alias="SKIP_SSLCERT_VERIFICATION",
        official="skip_ssl_verification",
    ),
)


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's text, before it is given a meaning.

    Attributes:
        source: for a user's eyes: ``environment``, ``profile lab in /…/config.toml`` …
    """

    text: str = field(repr=False)
    source: str


Layer = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Places:
    """The files to look into, so that a test can point elsewhere.

    Attributes:
        directory: where the search for ``.env`` starts; None where there is none to search.
        official: the official client's ``~/.backend.ai``.
    """

    config_file: Path
    state_dir: Path
    official: Path
    directory: Path | None

    @classmethod
    def of_this_user(cls) -> Places:
        """The user's own places, and the current directory if it still exists."""
        try:
            directory = Path.cwd()
        except FileNotFoundError:
            directory = None
        home = Path(os.path.expanduser("~"))
        return cls(places.config_file(), places.state_dir(), home / ".backend.ai", directory)


@dataclass(frozen=True, slots=True)
class Found:
    """All layers, the strongest first.

    Attributes:
        profile: name of the profile in use, None without one.
        warnings: sentences a user should see before relying on the settings.
        notes: sentences for someone who asks where a value comes from.
    """

    layers: tuple[Layer, ...]
    profile: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def value(self, key: str) -> Value | None:
        """The strongest layer's value for `key`."""
        return next((layer[key] for layer in self.layers if key in layer), None)


def read_layers(flags: Mapping[str, str | None], environ: Mapping[str, str], where: Places) -> Found:
    """Read every layer.

    Args:
        flags: by `Setting.key`, None and "" meaning not given; also ``profile`` and ``secret_key_file``.

    Raises:
        ConfigError: a file is unreadable, not what it should be, or open to others while it
            holds a secret; the named profile does not exist.
    """
    warnings: list[str] = []
    command_line = flag_layer(flags, warnings)
    environment = variable_layer(environ, "environment")
    profile, from_profile = profile_layer(flags.get("profile"), environ, where.config_file)
    dotenv_path, from_dotenv = dotenv_layer(where.directory, warnings)
    official = official_layer(where.official, warnings)
    if flags.get("profile"):
        warnings += [
            f"{s.name} from the environment is used instead of the one in profile {profile}"
            for s in SETTINGS
            if differs(environment, from_profile, s.key) and s.key not in command_line
        ]
    notes = [
        f"{s.name} in {dotenv_path} is not used: here the environment wins, unlike in the official client"
        for s in SETTINGS
        if differs(environment, from_dotenv, s.key)
    ]
    layers = (command_line, environment, from_profile, from_dotenv, official)
    return Found(layers, profile, tuple(warnings), tuple(notes))


def differs(strong: Layer, weak: Layer, key: str) -> bool:
    """Whether both layers have `key`, with different texts."""
    return key in strong and key in weak and strong[key].text != weak[key].text


def flag_layer(flags: Mapping[str, str | None], warnings: list[str]) -> Layer:
    """What the command line says; the secret key only ever by way of a file.

    A secret among the arguments would show in ``ps`` to every user of the machine.
    """
    layer = {s.key: Value(text, "command line") for s in SETTINGS if (text := flags.get(s.key))}
    layer.pop("secret_key", None)
    if path := flags.get("secret_key_file"):
        text = read_text(Path(path), "--secret-key-file").strip()
        if not text:
            raise ConfigError(f"--secret-key-file: {path} is empty")
        layer["secret_key"] = Value(text, f"file {path}")
        if places.open_to_others(Path(path)):
            warnings.append(f"{path} holds a secret key and other users can read it: chmod 600 {path}")
    return layer


def variable_layer(variables: Mapping[str, str | None], source: str) -> Layer:
    """``BACKEND_X``, else its alias, else the legacy ``SORNA_X``; an empty one counts as not set."""
    layer: dict[str, Value] = {}
    for s in SETTINGS:
        names = [s.name, f"SORNA_{s.variable}"]
        if s.alias:
            names.insert(1, f"BACKEND_{s.alias}")
        for name in names:
            if text := variables.get(name):
                layer[s.key] = Value(text, source if name == s.name else f"{source}, {name}")
                break
    return layer


def profile_layer(asked: str | None, environ: Mapping[str, str], path: Path) -> tuple[str | None, Layer]:
    """The profile asked for by flag, by VFSMOUNT_PROFILE or by ``default_profile``, and its values."""
    document = read_toml(path)
    refuse_if_open_to_others(document, path)
    by, name = next(
        (
            (by, text)
            for by, text in (
                ("--profile", asked),
                (PROFILE_VARIABLE, environ.get(PROFILE_VARIABLE)),
                (f"default_profile in {path}", document.get("default_profile")),
            )
            if text
        ),
        ("", None),
    )
    if name is None:
        return None, {}
    table = profiles(document).get(name)
    if not isinstance(table, dict):
        raise ConfigError(f"{by}: there is no table [profiles.{name}] in {path}")
    source = f"profile {name} in {path}"
    known = {s.key for s in SETTINGS}
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{unknown[0]} in {source} is no setting; settings are {', '.join(sorted(known))}")
    return name, {key: Value(text, source) for key, raw in table.items() if (text := as_text(raw))}


def profiles(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables below ``[profiles]``."""
    tables = document.get("profiles", {})
    return tables if isinstance(tables, dict) else {}


def refuse_if_open_to_others(document: Mapping[str, Any], path: Path) -> None:
    """Refuse, as ssh does, a file of ours that holds a secret and that others may read."""
    secret = any(isinstance(t, dict) and t.get("secret_key") for t in profiles(document).values())
    if secret and places.open_to_others(path):
        raise ConfigError(f"{path} holds a secret_key and is open to other users: chmod 600 {path}")


def dotenv_layer(directory: Path | None, warnings: list[str]) -> tuple[Path | None, Layer]:
    """The first ``.env`` in `directory` or above it, as the official client looks for it.

    One that belongs to another user is left alone: above /tmp or a shared tree it could send our
    requests and files to a server of their choice.
    """
    path = next((p for d in ancestry(directory) if os.path.isfile(p := d / ".env")), None)
    if path is None:
        return None, {}
    if path.stat().st_uid not in (0, os.geteuid()):
        warnings.append(f"{path} belongs to another user and is not read")
        return None, {}
    try:
        return path, variable_layer(dotenv.dotenv_values(path), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {path}: {e}") from e


def ancestry(directory: Path | None) -> list[Path]:
    """`directory` and the directories above it."""
    return [directory, *directory.parents] if directory else []


def official_layer(directory: Path, warnings: list[str]) -> Layer:
    """What ``backend.ai v2 config`` and ``v2 login`` of the 26.x client have stored.

    Source: contract 1.1 (last paragraph); both files use the table ``[backend-ai]``.
    """
    layer: dict[str, Value] = {}
    for path in (directory / "credentials.toml", directory / "config.toml"):
        document = read_toml(path)
        table = document.get("backend-ai", document)
        if not isinstance(table, dict):
            continue
        for s in SETTINGS:
            if s.official and (text := as_text(table.get(s.official))):
                layer.setdefault(s.key, Value(text, str(path)))
        if table.get("secret_key") and places.open_to_others(path):
            warnings.append(f"{path} holds a secret key and other users can read it: chmod 600 {path}")
    return layer


def as_text(raw: object) -> str:
    """A TOML value as the environment would spell it: lists and tables joined by commas."""
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if isinstance(raw, list):
        return ",".join(map(str, raw))
    if isinstance(raw, dict):
        return ",".join(f"{k}={v}" for k, v in raw.items())
    return "" if raw is None else str(raw)


def read_toml(path: Path) -> dict[str, Any]:
    """The document at `path`, empty where there is no such file, or the directory is closed to us.

    The latter as git has it: HOME may still be another user's (setpriv, a container's user).

    Raises:
        ConfigError: it is there and unreadable or no TOML. The message has the parser's position
            but not the line, which may hold a secret.
    """
    if not os.path.exists(path):
        return {}
    try:
        return tomllib.loads(read_text(path, "settings"))
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not valid TOML: {e}") from None


def read_text(path: Path, what: str) -> str:
    """The text at `path`.

    Raises:
        ConfigError: unreadable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{what}: cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text") from None
