"""``vfsmount doctor``: gather, judge, print."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount import log, places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import FAILED, OK
from vfsmount.cli.options import Flags, api_options

if TYPE_CHECKING:
    from vfsmount.api.probe import ServerFacts
    from vfsmount.cli.doctor.machine import MachineFacts
    from vfsmount.cli.doctor.verdict import Verdict
    from vfsmount.config import ApiSettings

_ALL_S = 18.0  # whatever is broken
_SIGNS = {"ok": ("✓", "ok", "green"), "warn": ("!", "!", "yellow"), "bad": ("✗", "x", "red")}


@click.command("doctor")
@click.argument("mountpoint", required=False, type=kinds.MOUNT)
@show.json_option
@click.option("--allow-other", is_flag=True, help="Check what a mount with --allow-other needs, too.")
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="As given, or to be given, to the mount.",
)
@click.option("--cache-dir", type=click.Path(path_type=Path), help="As given to the mount.")
@click.option(
    "--cache-free",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="As given to the mount.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
@api_options
def command(
    mountpoint: str | None,
    as_json: bool,
    allow_other: bool,
    memory: int,
    cache_dir: Path | None,
    cache_free: int,
    state_dir: Path | None,
    flags: Flags,
) -> int:
    """Find what stands in the way of a mount, and name the command that mends it.

    Looks at this machine, at your settings, at the server with these settings and at the mount on
    MOUNTPOINT (without: at all that are recorded). Changes nothing; asks the server some six calls.
    Ends within 20 seconds. Exit status 0: nothing is in the way, though lines with ! may be worth a
    look; 1: something is.
    """
    from vfsmount.cli.doctor.machine import gather

    log.setup(logging.CRITICAL)

    def look() -> MachineFacts:
        return gather(
            mountpoint=mountpoint,
            state=(state_dir or places.state_dir()).absolute(),
            cache=(cache_dir or places.cache_dir()).absolute(),
            cache_floor=cache_free << 20,
            memory=memory << 20,
            allow_other=allow_other,
            secret_key_file=flags.get("secret_key_file"),
        )

    verdicts = _examine(look, flags)
    if as_json:
        show.as_json({"well": not _is_bad(verdicts), "checks": [_redacted(v) for v in verdicts]})
    else:
        _print(verdicts)
    return FAILED if _is_bad(verdicts) else OK


def _is_bad(verdicts: list[Verdict]) -> bool:
    return any(v.level == "bad" for v in verdicts)


def _examine(look: Callable[[], MachineFacts], flags: Flags) -> list[Verdict]:
    """Machine and server side by side, for a limited time."""
    import trio

    from vfsmount.cli.doctor.machine_checks import check_machine
    from vfsmount.cli.doctor.server_checks import check_server
    from vfsmount.cli.doctor.verdict import bad

    server, settings_verdicts, settings = _settings(flags)
    machine: list[MachineFacts] = []

    async def at_machine() -> None:
        # Given up where a disk hangs: the thread ends with the process.
        machine.append(await trio.to_thread.run_sync(look, abandon_on_cancel=True))

    async def both() -> None:
        from vfsmount.api.probe import probe

        with trio.move_on_after(_ALL_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at_machine)
                if settings is not None:
                    nursery.start_soon(probe, settings, server)

    trio.run(both)
    if machine:
        verdicts = check_machine(machine[0])
        if machine[0].open_secrets:  # one cause, told once
            settings_verdicts = [v for v in settings_verdicts if "open to other users" not in v.says]
    else:
        fix = "df   (does it end? A disk that hangs has to be unmounted: sudo umount -l …)"
        verdicts = [bad("machine", "disk-hangs", "looking at this machine's disks does not end", fix)]
    return [*verdicts, *settings_verdicts, *(check_server(server) if settings is not None else [])]


def _settings(flags: Flags) -> tuple[ServerFacts, list[Verdict], ApiSettings | None]:
    """(where the server's facts are to go, what is to be said of the settings, and the settings, if
    there is any use in them)."""
    from vfsmount import config
    from vfsmount.api.probe import ServerFacts
    from vfsmount.cli.doctor.verdict import bad, ok, warn
    from vfsmount.config_sources import Places, read_layers
    from vfsmount.errors import AuthFailed, ConfigError

    show_all = "vfsmount config show"
    where, said = Places.of_this_user(), []
    try:
        found = read_layers(flags, os.environ, where)
        said = [
            warn("settings", "settings-doubtful", sentence, show_all)
            for sentence in found.warnings
            if "other users can read it" not in sentence  # `machine_checks.secrets` says it
        ]
        settings = config.build(found, where.state_dir)
    except ConfigError as e:
        return ServerFacts(), [*said, bad("settings", "settings", str(e), show_all)], None
    log.add_secret(settings.secret_key)
    facts = ServerFacts()
    if settings.cookie_file is not None and not settings.cookie_file.exists():
        at = settings.endpoints[0]
        return (
            facts,
            [bad("login", "login-expired", f"nobody is logged in at {at}", "vfsmount login")],
            None,
        )
    try:
        if settings.cookie_file is not None:
            from vfsmount.login_file import read_login

            read_login(settings.cookie_file)
    except (AuthFailed, ConfigError) as e:
        return facts, [bad("login", "login-expired", str(e), "vfsmount login")], None
    ways = "a login" if settings.mode == "session" else "a key pair"
    return facts, said or [ok("settings", f"{ways} for {', '.join(settings.endpoints)}")], settings


# --- on paper ------------------------------------------------------------------------------------


def _redacted(v: Verdict) -> dict[str, str]:
    return {key: log.redact(value) for key, value in asdict(v).items()}


def _print(verdicts: list[Verdict]) -> None:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    plain = encoding != "utf8"
    colours = not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for v in verdicts:
        mark, plain_mark, colour = _SIGNS[v.level]
        sign = plain_mark if plain else mark
        said = _redacted(v)
        cause = f"  [{said['cause']}]" if v.cause else ""
        line = _ascii(f"{said['check']}: {said['says']}{cause}", plain)
        if width:
            line = textwrap.fill(line, width - 3, subsequent_indent="  ", break_long_words=False)
        click.echo(f"{click.style(sign, fg=colour) if colours else sign} {line}")
        if v.fix:
            click.echo(f"    {_ascii(said['fix'], plain)}")  # in one piece, for who copies it


def _ascii(text: str, plain: bool) -> str:
    text = show.printable(text)
    if not plain:
        return text
    for fine, rough in (("…", "..."), ("“", '"'), ("”", '"')):
        text = text.replace(fine, rough)
    return text.encode("ascii", "replace").decode()
