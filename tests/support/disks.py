"""What lies on a disk where a server or a daemon may still be at work: names may vanish while one looks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

# Where a storage-proxy keeps what is being uploaded.
UPLOADS = ".upload"


def below(top: Path) -> Iterator[Path]:
    """Everything below a directory, parents first; `Path.rglob` fails where a directory vanishes."""
    for where, directories, files in os.walk(top):
        directories.sort()
        yield from (Path(where, name) for name in sorted((*directories, *files)))


def tree_on_disk(disk: Path) -> dict[str, bytes | None]:
    """Path → content, None for a directory; without what the server keeps for itself."""
    found: dict[str, bytes | None] = {}
    for path in below(disk):
        name = path.relative_to(disk)
        if UPLOADS in name.parts:
            continue
        with contextlib.suppress(FileNotFoundError):
            found[name.as_posix()] = None if path.is_dir() else path.read_bytes()
    return found


def lay_out(disk: Path, tree: Mapping[str, bytes | None]) -> None:
    """Make what `tree_on_disk` would find; what files lie in is made as well."""
    for path, data in tree.items():
        if data is None:
            (disk / path).mkdir(parents=True)
        else:
            (disk / path).parent.mkdir(parents=True, exist_ok=True)
            (disk / path).write_bytes(data)


def contents(disk: Path) -> dict[str, bytes]:
    """Files by path, without what the server keeps for itself."""
    return {name: content for name, content in tree_on_disk(disk).items() if content is not None}


def used(top: Path) -> int:
    """Bytes of disk below a directory and of itself, as du(1) counts them."""
    total = 0
    for path in (top, *below(top)):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total
