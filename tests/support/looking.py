"""What a program sees under a name, by every way there is to look, and waiting for it to be right."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# What stands under a name: bytes, the names in a directory, or nothing.
Content = bytes | frozenset[str] | None


def names(*found: str) -> frozenset[str]:
    """The content of a directory."""
    return frozenset(found)


def look(path: Path) -> dict[str, Content | str]:
    """What each way of looking finds under a name; a str is one that fits none, and says why."""
    return {"stat": _by_stat(path), "ls": _by_listing(path), "read": _by_reading(path)}


def expected(content: Content) -> dict[str, Content | str]:
    """What `look` finds where everything is right."""
    if content is None:
        return {"stat": None, "ls": None, "read": None}
    if isinstance(content, frozenset):
        return {"stat": "directory", "ls": "listed", "read": content}
    return {"stat": f"file of {len(content)}", "ls": "listed", "read": content}


def shows(directory: Path, wanted: Mapping[str, Content], within_s: float) -> float:
    """Look at names until all show what they should; the seconds that took.

    Raises:
        AssertionError: not within `within_s`; with all that differs.
    """
    began = time.monotonic()
    while True:
        wrong = _wrong(directory, wanted)
        took = time.monotonic() - began
        if not wrong:
            return took
        assert took < within_s, f"after {took:.1f} s: {_short(wrong)}"
        time.sleep(0.02)


def _wrong(directory: Path, wanted: Mapping[str, Content]) -> dict[str, tuple[object, object]]:
    """What differs: how it was seen → (what there is, what there should be)."""
    wrong: dict[str, tuple[object, object]] = {}
    for name, content in wanted.items():
        found = look(directory / name)
        for way, should in expected(content).items():
            if found[way] != should:
                wrong[f"{name} by {way}"] = found[way], should
    files = {n: c for n, c in wanted.items() if isinstance(c, bytes)}
    if wrong or not files:
        return wrong
    mapped = by_mapping([directory / name for name in files])
    return {f"{n} by mmap": (m, c) for (n, c), m in zip(files.items(), mapped, strict=True) if m != c}


MAPPER = """
import mmap, os, pickle, sys
def mapped(path):
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        return mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ)[:] if size else b""
sys.stdout.buffer.write(pickle.dumps([mapped(path) for path in sys.argv[1:]]))
"""


def by_mapping(paths: list[Path]) -> list[bytes | str]:
    """Files as a mapping shows them, read by a process of its own: a page that cannot be had ends it."""
    command = [sys.executable, "-S", "-c", MAPPER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode:
        return [f"the reader ended with {done.returncode}: {done.stderr[-300:]!r}"] * len(paths)
    found = pickle.loads(done.stdout)
    assert isinstance(found, list)
    return found


def cat(path: Path) -> Content:
    """What cat(1) says: a program of its own, which opens the name anew."""
    done = subprocess.run(["cat", "--", path], capture_output=True, check=False, timeout=60)
    if done.returncode == 0:
        return done.stdout
    assert b"No such file" in done.stderr or b"Is a directory" in done.stderr, done.stderr
    return frozenset(os.listdir(path)) if b"Is a directory" in done.stderr else None


def _by_stat(path: Path) -> Content | str:
    try:
        found = os.lstat(path)
    except OSError as e:
        return _nothing(e)
    return "directory" if stat.S_ISDIR(found.st_mode) else f"file of {found.st_size}"


def _by_listing(path: Path) -> Content | str:
    try:
        return "listed" if path.name in os.listdir(path.parent) else None
    except OSError as e:
        return _nothing(e)


def _by_reading(path: Path) -> Content | str:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        return _names_in(path)
    except OSError as e:
        return _nothing(e)


def _names_in(path: Path) -> Content | str:
    try:
        return frozenset(os.listdir(path))
    except OSError as e:
        return _nothing(e)


def _nothing(e: OSError) -> str | None:
    return None if e.errno == errno.ENOENT else errno.errorcode[e.errno or 0]


def _short(wrong: Mapping[str, tuple[object, object]]) -> str:
    def cut(value: object) -> str:
        text = repr(value)
        return text if len(text) < 60 else f"{text[:50]}… ({len(text)})"

    return "; ".join(f"{what}: {cut(now)}, not {cut(should)}" for what, (now, should) in wrong.items())
