"""What there is to say of each command, free of any mark-up."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import click

from vfsmount.cli.commands import CHAPTERS, COMMANDS, VFOLDER, load
from vfsmount.cli.options import OPTION_NAMES
from vfsmount.config_sources import SETTINGS

_VALUES = {
    "text": "TEXT",
    "path": "PATH",
    "file": "PATH",
    "boolean": "BOOL",
    "integer": "N",
    "integer range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
}


@dataclass(frozen=True, slots=True)
class OptionLine:
    """An option: its spellings with what they take, and what it is for."""

    names: str
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of help; one that is `fixed` keeps its lines."""

    text: str
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One command.

    Attributes:
        name: as it is typed after the program's: "cache info".
        asks_server: it takes the options that say which server to use, besides its own.
    """

    name: str
    usage: str
    help: tuple[Paragraph, ...]
    options: tuple[OptionLine, ...]
    asks_server: bool


def chapters() -> dict[str, list[Entry]]:
    """All commands, each group before what is in it, in the order of ``--help``."""
    return {
        chapter: [entry for name in commands for entry in _entries(name, load(name))]
        for chapter, commands in CHAPTERS.items()
    }


def server_options() -> list[OptionLine]:
    """The options that every command takes that asks a server."""
    return [_option(p) for p in load("list").params if isinstance(p, click.Option) and p.name in OPTION_NAMES]


def aliases() -> list[tuple[str, str]]:
    """Of ``vfsmount vfolder``: its spelling, ours."""
    return list(VFOLDER.items())


def environment() -> list[tuple[str, str]]:
    """Variables that are looked at, and what each is for."""
    found = [(s.name, f"As --{s.key.replace('_', '-')}.") for s in SETTINGS if s.key != "secret_key"]
    found.insert(3, ("BACKEND_SECRET_KEY", "The secret key; never an option, which other users could see."))
    return [
        *found,
        ("VFSMOUNT_PROFILE", "As --profile."),
        ("BACKEND_USER, BACKEND_PASSWORD", "User and password for login, instead of being asked."),
        ("BACKEND_VFOLDER_MOUNTS", "Folders that run adds to every session, separated by commas."),
        ("VISUAL, EDITOR", "The editor of dotfile edit."),
        ("NO_COLOR", "Not empty: no colours. Without a terminal there are none anyway."),
        ("XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME, XDG_RUNTIME_DIR", "Where our own files are."),
        ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "Proxies on the way to the server."),
    ]


def summary(name: str) -> str:
    """The one line of ``--help`` about a command that is no part of a group."""
    return COMMANDS[name][1]


def _entries(name: str, command: click.Command) -> Iterator[Entry]:
    yield _entry(name, command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _entries(f"{name} {below}", found)


def _entry(name: str, command: click.Command) -> Entry:
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    own = [p for p in options if p.name not in OPTION_NAMES]
    asks = any(p.name == "endpoint" for p in options)
    shown = options if not asks else own
    words = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    if isinstance(command, click.Group):
        words = ["COMMAND"]
    usage = " ".join(["vfsmount", name, *(["[OPTIONS]"] if options else []), *words])
    return Entry(name, usage, _paragraphs(command.help or ""), tuple(map(_option, shown)), asks)


def _paragraphs(text: str) -> tuple[Paragraph, ...]:
    found = []
    for block in inspect.cleandoc(text).split("\n\n"):
        fixed = block.startswith("\b")
        block = block.removeprefix("\b").strip("\n")
        if fixed:
            found.append(Paragraph(inspect.cleandoc("\n" + block), fixed=True))
        else:
            found.append(Paragraph(" ".join(block.split())))
    return tuple(found)


def _argument(param: click.Argument) -> str:
    name = param.metavar or (param.name or "").upper()
    if param.metavar is None and isinstance(param.type, click.Choice):
        name = "|".join(map(str, param.type.choices))
    if param.nargs == -1 and not name.endswith("…") and param.metavar is None:
        name += "…"
    return name if param.required or name.startswith("[") else f"[{name}]"


def _option(param: click.Option) -> OptionLine:
    names = ", ".join(param.opts)
    if param.secondary_opts:
        names += " / " + ", ".join(param.secondary_opts)
    if not param.is_flag and param.name is not None:
        names += f" {_value(param)}"
    notes = []
    if param.show_default and isinstance(param.default, str | int | float):
        value = param.default
        if isinstance(value, bool):
            shown = (param.opts if value else param.secondary_opts or ["off"])[-1]
        else:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
        notes.append(f"default: {shown}")
    if param.required:
        notes.append("required")
    end = f" [{'; '.join(notes)}]" if notes else ""
    return OptionLine(names, (param.help or "") + end)


def _value(param: click.Option) -> str:
    if param.metavar:
        return param.metavar
    if isinstance(param.type, click.Choice):
        return "|".join(map(str, param.type.choices))
    return _VALUES.get(param.type.name, param.type.name.upper())
