"""``vfsmount cache``: what is kept on this machine's disk of what was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show

if TYPE_CHECKING:
    from vfsmount.store.blockcache import BlockCache

_directory = click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="As given to the mount. [~/.cache/vfsmount/blocks]"
)


@click.group("cache")
def command() -> None:
    """Look at, empty or check the cache on disk of what was read.

    Mounts may be running: they share the cache with these commands.
    """


@command.command("info")
@_directory
@show.json_option
def info(cache_dir: Path | None, as_json: bool) -> None:
    """Show where the cache is, how much is in it and how much may be."""
    with _opened(cache_dir) as (root, cache):
        report = _report(root, cache)
    if as_json:
        show.as_json(report)
    else:
        click.echo(_as_lines(report))


@command.command("clear")
@_directory
@show.json_option
def clear(cache_dir: Path | None, as_json: bool) -> None:
    """Remove everything from the cache, what is pinned included.

    What is read next is fetched again. Nothing that waits to be sent is touched.
    """
    with _opened(cache_dir) as (_, cache):
        freed = cache.clear() if cache else 0
    if as_json:
        show.as_json({"freed": freed})
    else:
        click.echo(f"{_mib(freed)} freed")


@command.command("verify")
@_directory
@show.json_option
def verify(cache_dir: Path | None, as_json: bool) -> None:
    """Read the whole cache and remove blocks whose checksums do not fit.

    A mount does the same with each block it reads, so this is never needed for its sake.
    """
    with _opened(cache_dir) as (_, cache):
        checked, bad = cache.verify() if cache else (0, 0)
    if as_json:
        show.as_json({"checked": checked, "bad": bad})
    else:
        click.echo(f"{checked} blocks checked, {bad} bad{' and removed' if bad else ''}")


@contextmanager
def _opened(cache_dir: Path | None) -> Iterator[tuple[Path, BlockCache | None]]:
    """The directory and the cache in it; None: nothing was ever kept there."""
    from vfsmount.store.blockcache import BlockCache

    root = (cache_dir or places.cache_dir()).absolute()
    cache = BlockCache.existing(root)
    try:
        yield root, cache
    finally:
        if cache:
            cache.close()


def _report(root: Path, cache: BlockCache | None) -> dict[str, Any]:
    from vfsmount.store.blockcache import NO_LIMIT

    report: dict[str, Any] = {"cache_dir": str(root), "exists": cache is not None}
    if cache is None:
        return report | {"bytes": 0, "limit": None, "files": 0, "pinned_bytes": 0, "pinned": []}
    usage = cache.usage()
    return report | {
        "bytes": usage.bytes,
        "limit": usage.limit if usage.limit < NO_LIMIT else None,
        "files": usage.files,
        "pinned_bytes": usage.pinned_bytes,
        "pinned": [{"folder": key.folder_id, "path": key.path} for key in cache.pinned()],
    }


def _as_lines(report: dict[str, Any]) -> str:
    """The report for people."""
    limit = _mib(report["limit"]) if report["limit"] else "not known"
    lines = [
        f"cache directory  {show.printable(report['cache_dir'])}{'' if report['exists'] else ' (not there)'}",
        f"in it            {_mib(report['bytes'])} of {_plural(report['files'], 'file')}",
        f"limit            {limit}",
    ]
    if report["pinned"]:
        lines.append(f"pinned           {_mib(report['pinned_bytes'])} here, of:")
        lines += [f"  {pin['folder']}/{show.printable(pin['path'])}" for pin in report["pinned"]]
    return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
