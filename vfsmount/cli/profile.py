"""``vfsmount profile``: where a mount's time went, from its access log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from vfsmount.cli import show
from vfsmount.errors import ConfigError


@click.command("profile")
@click.argument("log", metavar="ACCESSLOG", type=click.Path(path_type=Path))
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="How many files, directories, programs and requests to show.",
)
@show.json_option
def command(log: Path, top: int, as_json: bool) -> None:
    """Show where a mount's time went: from the log that 'vfsmount mount --access-log ACCESSLOG' writes,
    and its older half ACCESSLOG.1 if there is one. The mount may be running.

    Only what the kernel asked of the mount is counted, not what it knew by itself.
    """
    from vfsmount.cli.access_profile import Profile

    profile = Profile(top)
    profile.add(_lines(log))
    report = profile.report()
    if as_json:
        show.as_json({**report, "from": _utc(report["from"]), "to": _utc(report["to"])})
    elif not report["requests"]:
        show.say(f"{log} has no requests in it: is it an access log, and was the mount used?")
    else:
        _print(report)


def _lines(log: Path) -> Iterator[bytes]:
    older = log.with_name(f"{log.name}.1")
    try:
        for path in [older, log] if older.exists() else [log]:
            with path.open("rb") as file:
                yield from file
    except OSError as e:
        raise ConfigError(f"cannot read {e.filename or log}: {e.strerror}") from e


def _utc(at: float | None) -> str | None:
    return show.utc(int(at * 1e9)) if at is not None else None


def _print(report: dict[str, Any]) -> None:
    began, ended = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report[k])) for k in ("from", "to"))
    click.echo(
        f"{report['requests']} requests from {began} to {ended}; "
        f"{_time(report['seconds'])} of waiting, of all programs together"
    )
    for name, text in (("dropped", "requests are not in the log"), ("unreadable", "lines cannot be read")):
        if report[name]:
            click.echo(f"{report[name]} {text}")
    _operations(report["operations"])
    _reads(report["reads"])
    _section(
        "Slowest files",
        ("FILE", ">TIME", ">WORST", ">OPENS", ">READS", ">READ", ">WRITTEN", "PATTERN"),
        [
            (
                row["path"],
                _time(row["seconds"]),
                _time(row["max_s"]),
                str(row["opens"]),
                str(row["reads"]),
                show.size(row["read_bytes"]),
                show.size(row["written_bytes"]),
                row["pattern"],
            )
            for row in report["files"]
        ],
    )
    _section(
        "Directories",
        ("DIRECTORY", ">TIME", ">REQUESTS", ">OPENS"),
        [
            (row["path"] or "/", _time(row["seconds"]), str(row["count"]), str(row["opens"]))
            for row in report["directories"]
        ],
    )
    _section(
        "Many small reads",
        ("FILE", ">READS", ">TIME", "PATTERN"),
        [
            (row["path"], str(row["count"]), _time(row["seconds"]), row["pattern"])
            for row in report["small_reads"]
        ],
    )
    _section(
        "Programs",
        ("PROGRAM", ">PROCESSES", ">REQUESTS", ">TIME", ">READ", ">WRITTEN"),
        [
            (
                row["comm"],
                str(row["processes"]),
                str(row["count"]),
                _time(row["seconds"]),
                show.size(row["read_bytes"]),
                show.size(row["written_bytes"]),
            )
            for row in report["processes"]
        ],
    )
    _section(
        "Slowest requests",
        ("WHEN", "OPERATION", ">TIME", "ERROR", "PATH"),
        [
            (
                time.strftime("%H:%M:%S", time.localtime(row["time"])),
                row["op"],
                _time(row["seconds"]),
                row["errno"],
                row["path"] or "/",
            )
            for row in report["slowest"]
        ],
    )


def _operations(rows: list[dict[str, Any]]) -> None:
    _section(
        "Operations",
        ("OPERATION", ">COUNT", ">TIME", ">MEDIAN", ">95 %", ">WORST", "ERRORS"),
        [
            (
                row["op"],
                str(row["count"]),
                _time(row["seconds"]),
                _time(row["median_s"]),
                _time(row["p95_s"]),
                _time(row["max_s"]),
                ", ".join(f"{code} {n}" for code, n in sorted(row["errors"].items())),
            )
            for row in rows
        ],
    )


def _reads(reads: dict[str, Any]) -> None:
    rows = [
        (source, str(row["count"]), show.size(row["bytes"]), _time(row["seconds"]))
        for source, row in reads["sources"].items()
    ]
    title = "Reads, by where the bytes were"
    if reads["hit_rate"] is not None:
        title += f" ({reads['hit_rate']:.0%} without waiting for the server)"
    _section(title, ("SOURCE", ">READS", ">BYTES", ">TIME"), rows)


def _section(title: str, titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        click.echo(f"\n{title}")
        show.table(titles, rows)


def _time(seconds: float) -> str:
    """Seconds in the unit that leaves a few digits."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else show.duration(seconds)
