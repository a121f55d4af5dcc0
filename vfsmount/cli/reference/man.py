"""docs/man/vfsmount.1, in roff with the macros of man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vfsmount import __version__
from vfsmount.cli.reference.gather import (
    Entry,
    OptionLine,
    aliases,
    chapters,
    environment,
    server_options,
    summary,
)

_FILES = [
    ("~/.config/vfsmount/config.toml", "Profiles of settings."),
    (
        "~/.local/state/vfsmount/",
        "Files that are not on the server yet, logins, the log of background mounts.",
    ),
    ("~/.cache/vfsmount/", "What was read, and can be fetched again."),
]


def page(exit_codes: str) -> str:
    """The whole page.

    Args:
        exit_codes: docs/exit-codes.md.
    """
    lines = [
        '.\\" Made by python -m vfsmount.cli.reference from the commands themselves.',
        f'.TH VFSMOUNT 1 "" "vfsmount {__version__}" "User Commands"',
        ".SH NAME",
        "vfsmount \\- mount Backend.AI virtual folders as ordinary directories",
        ".SH SYNOPSIS",
        ".B vfsmount",
        ".I MOUNTPOINT",
        "[\\fIOPTIONS\\fR]",
        ".br",
        ".B vfsmount",
        ".I COMMAND",
        "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _text(
            "Every folder that you may access, your own and those shared with you, is a directory below one "
            "mountpoint. The commands work with folders, files in them and mounts. The first word may be a "
            "directory to mount on; one that is not there yet and looks like a command needs a slash (./new)."
        ),
        ".SH COMMANDS",
    ]
    found = chapters()
    for chapter, entries in found.items():
        lines += [".SS " + _text(chapter)]
        for entry in entries:
            if " " not in entry.name:
                lines += [".TP", f"\\fB{_words(entry.name)}\\fR", _text(summary(entry.name))]
    for entries in found.values():
        for entry in entries:
            lines += _entry(entry)
    lines += [".SH OPTIONS THAT SAY WHICH SERVER", *_options(server_options())]
    lines += [".SH THE OFFICIAL CLIENT'S SPELLINGS", _text(_aliases())]
    lines += [".SH EXIT STATUS", *_exit_status(exit_codes)]
    lines += [".SH ENVIRONMENT", *_listed(environment())]
    lines += [".SH FILES", *_listed(_FILES)]
    lines += [".SH SEE ALSO", ".BR fusermount3 (1),", ".BR mount (8)"]
    return "\n".join(lines) + "\n"


def _entry(entry: Entry) -> list[str]:
    lines = [f'.SH "{_words(f"vfsmount {entry.name}").upper()}"', f"\\fB{_words(entry.usage)}\\fR"]
    for paragraph in entry.help:
        if paragraph.fixed:
            lines += [".PP", ".nf", *(_text(line) for line in paragraph.text.split("\n")), ".fi"]
        else:
            lines += [".PP", _text(paragraph.text)]
    lines += _options(entry.options)
    if entry.asks_server:
        lines += [".PP", "Also the options that say which server; see below."]
    return lines


def _options(options: Iterable[OptionLine]) -> list[str]:
    return _listed((option.names, option.text) for option in options)


def _listed(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in rows for line in (".TP", f"\\fB{_words(name)}\\fR", _text(text))]


def _aliases() -> str:
    told = ", ".join(name if name == own else f"{name} ({own})" for name, own in aliases())
    return f"vfsmount vfolder COMMAND is vfsmount COMMAND, for {told}."


def _exit_status(exit_codes: str) -> list[str]:
    rows = re.findall(r"^\| (\d+) \| (.*?) \| .*\|$", exit_codes, re.MULTILINE)
    return _listed((number, _plain(meaning)) for number, meaning in rows)


def _plain(markdown: str) -> str:
    """Text of a Markdown table's cell."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown).replace("\\|", "|").replace("`", "")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _words(text: str) -> str:
    """Text whose hyphens are typed as such."""
    return _text(text).replace("-", "\\-")


def _text(text: str) -> str:
    """Text of ours as roff: nothing in it is a request, nor needs an encoding."""
    text = text.replace("\\", "\\e")
    text = "".join(char if ord(char) < 128 else f"\\[u{ord(char):04X}]" for char in text)
    # Typed as they are printed: quotes and tildes of commands that somebody copies.
    text = text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text
