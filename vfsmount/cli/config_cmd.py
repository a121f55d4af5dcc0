"""``vfsmount config show``: the settings in force, where each is from, secrets masked."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vfsmount import log
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.show import as_json as print_json
from vfsmount.cli.show import json_option
from vfsmount.config import ApiSettings, build, get_value
from vfsmount.config_sources import SETTINGS, Found, Places, read_layers
from vfsmount.errors import AuthFailed, ConfigError
from vfsmount.login_file import read_login

# How much of each secret may be seen: enough to tell two keys apart, never enough to use one.
SHOWN = {"access_key": (6, 4), "secret_key": (0, 2)}


@click.group("config", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show the settings in force."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=False)


@command.command("show")
@json_option
@api_options
def show(as_json: bool, flags: Flags) -> None:
    """Show every setting with its value and where it comes from; secrets are masked.

    Shows what there is even when something is missing or wrong, and then says what, with exit
    status 2.
    """
    where = Places.of_this_user()
    found = read_layers(flags, os.environ, where)
    problem = ""
    settings: ApiSettings | None = None
    try:
        settings = build(found, where.state_dir)
    except ConfigError as e:
        problem = str(e)
    report = describe(found, where.config_file, problem, settings)
    if as_json:
        print_json(report)
    else:
        click.echo(as_lines(report))
    if problem:
        raise ConfigError(problem)


def describe(
    found: Found, config_file: Path, problem: str, settings: ApiSettings | None
) -> dict[str, object]:
    """Everything worth showing, free of secrets."""
    values = {s.key: get_value(found, s.key) for s in SETTINGS}
    idle = " (not used in session mode)" if values["endpoint_type"].text == "session" else ""
    return {
        "config_file": str(config_file),
        "config_file_exists": config_file.exists(),
        "profile": found.profile,
        "login": login_of(settings),
        "settings": {
            s.key: {
                "value": shown(s.key, values[s.key].text),
                "source": values[s.key].source + (idle if s.key in SHOWN else ""),
                "variable": s.name,
            }
            for s in SETTINGS
        },
        "notes": [*found.warnings, *found.notes],
        "problem": problem or None,
    }


def shown(key: str, text: str) -> str:
    """The text of a setting as it may be seen; also without a password that stands in a URL."""
    return mask(text, *SHOWN[key]) if key in SHOWN else log.redact(text)


def login_of(settings: ApiSettings | None) -> str | None:
    """Who is logged in, in session mode; None in api mode."""
    if settings is None or settings.cookie_file is None:
        return None
    try:
        return read_login(settings.cookie_file).username or "somebody"
    except (AuthFailed, ConfigError) as e:
        return str(e)


def mask(secret: str, head: int, tail: int) -> str:
    """`secret` as stars with a few characters at its ends; stars alone where it is short.

    The number of stars is fixed, so the length is not told either.
    """
    if not secret:
        return ""
    if len(secret) < 2 * (head + tail):
        head = tail = 0
    return secret[:head] + "*" * 12 + secret[len(secret) - tail :]


def as_lines(report: dict[str, object]) -> str:
    """The report for people."""
    settings, notes = report["settings"], report["notes"]
    assert isinstance(settings, dict)
    assert isinstance(notes, list)
    exists = "" if report["config_file_exists"] else " (not there)"
    lines = [f"config file   {report['config_file']}{exists}", f"profile       {report['profile'] or '-'}"]
    if report["login"]:
        lines.append(f"logged in as  {report['login']}")
    lines.append("")
    rows = [(entry["variable"], entry["value"] or "-", entry["source"]) for entry in settings.values()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines += [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    return "\n".join([*lines, *(f"\nnote: {note}" for note in notes)])
