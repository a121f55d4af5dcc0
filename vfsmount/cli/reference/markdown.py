"""docs/commands.md."""

from __future__ import annotations

from collections.abc import Iterable

from vfsmount.cli.reference.gather import (
    Entry,
    OptionLine,
    aliases,
    chapters,
    environment,
    server_options,
)

_HEAD = """\
# Commands

Made by `python -m vfsmount.cli.reference` from the commands themselves: change those, not this page.
`man vfsmount` has the same, `vfsmount COMMAND --help` each by itself. What `--json` prints is on
[json.md](json.md), and how commands end on [exit-codes.md](exit-codes.md).

The first word may also be a directory to mount on: `vfsmount MOUNTPOINT` is `vfsmount mount MOUNTPOINT`. A
word that is no directory yet and looks like a command is taken for one that was mistyped; with a slash
(`./new`) it is a directory.
"""


def page() -> str:
    """The whole page."""
    found = chapters()
    parts = [_HEAD]
    for chapter, entries in found.items():
        parts.append(f"## {chapter}\n")
        parts += map(_entry, entries)
    parts += ["## Options that say which server\n", _options(server_options())]
    parts += ["## The official client's spellings\n", _aliases()]
    parts += ["## Environment\n", _environment()]
    return "\n".join(parts)


def _entry(entry: Entry) -> str:
    lines = [f"### `{entry.name}`\n", f"```\n{entry.usage}\n```\n"]
    for paragraph in entry.help:
        lines.append(f"```\n{paragraph.text}\n```\n" if paragraph.fixed else f"{_text(paragraph.text)}\n")
    if entry.options:
        lines.append(_options(entry.options))
    if entry.asks_server:
        lines.append("Also the [options that say which server](#options-that-say-which-server).\n")
    return "\n".join(lines)


def _options(options: Iterable[OptionLine]) -> str:
    return "".join(f"- `{option.names}`: {_text(option.text)}\n" for option in options)


def _aliases() -> str:
    told = ", ".join(f"`{name}`" if name == own else f"`{name}` (`{own}`)" for name, own in aliases())
    return f"`vfsmount vfolder COMMAND` is `vfsmount COMMAND`, for {told}.\n"


def _environment() -> str:
    rows = "".join(f"| `{name}` | {_text(text)} |\n" for name, text in environment())
    more = "[configuration.md](configuration.md) has the settings of the server, and which source wins.\n"
    return f"| variable | meaning |\n|---|---|\n{rows}\n{more}"


def _text(text: str) -> str:
    """Text of ours as Markdown: nothing in it is meant as mark-up."""
    for char in "\\`*_<>[]|":
        text = text.replace(char, f"\\{char}")
    return text
