"""File contents that tell which version they are, so that a mix of two is noticed wherever it is read."""

from __future__ import annotations

import functools
import itertools
import zlib
from pathlib import Path

BLOCK = 32
MAX_BLOCKS = 6000  # 188 KiB: several pages, several requests


@functools.lru_cache(256)
def version(name: str, number: int) -> bytes:
    """The whole content of a version; its length follows from its name and number, too."""
    blocks = 1 + zlib.crc32(b"%s %d" % (name.encode(), number)) % (MAX_BLOCKS if number % 3 == 0 else 200)
    return b"".join(_block(name, number, index) for index in range(blocks))


def read_version(path: Path) -> tuple[str, int]:
    """(name, number) of the one version that a whole file holds.

    Raises:
        AssertionError: it holds no version, or more than one.
    """
    return check(path.read_bytes())


def check(found: bytes) -> tuple[str, int]:
    """As `read_version`, of bytes that were read."""
    name, number, _ = _parse(found[:BLOCK])
    whole = version(name, number)
    if found != whole:
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(found, whole, strict=False))
        at = sum(1 for _ in same)
        raise AssertionError(
            f"{len(found)} bytes begin as {name} {number} of {len(whole)}, and differ from {at}: "
            f"{found[at - at % BLOCK :][:96]!r}"
        )
    return name, number


def check_part(found: bytes, offset: int, name: str, number: int) -> None:
    """Bytes from an offset, of the version that the same handle has shown.

    Raises:
        AssertionError: they are of another one.
    """
    should = version(name, number)[offset : offset + len(found)]
    assert found == should, f"{name} {number} at {offset}: {found[:64]!r}, not {should[:64]!r}"


def _block(name: str, number: int, index: int) -> bytes:
    return b"%-12s %8d %8d\n" % (name.encode(), number, index) + b"."


def _parse(block: bytes) -> tuple[str, int, int]:
    try:
        name, number, index = block.decode().rstrip(".").split()
        return name, int(number), int(index)
    except ValueError:
        raise AssertionError(f"no version begins so: {block!r}") from None
