"""Files that are renamed, replaced and removed the moment they are written, while they are being sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.compare import same_on_both


def put(path: Path, text: str, flags: int = os.O_EXCL) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    os.write(fd, text.encode())
    os.close(fd)


def replace_by_a_lock_file(directory: Path, n: int) -> None:
    """As git writes its configuration."""
    put(directory / "config.lock", f"version {n}")
    os.rename(directory / "config.lock", directory / "config")
    assert (directory / "config").read_text() == f"version {n}"


def rename_what_was_just_written(directory: Path, n: int) -> None:
    put(directory / "new", f"version {n}")
    (directory / "new").chmod(0o600)
    os.rename(directory / "new", directory / f"kept {n}")


def rewrite(directory: Path, n: int) -> None:
    put(directory / "f", f"version {n}" * (n % 7), os.O_TRUNC)


def append(directory: Path, n: int) -> None:
    put(directory / "f", f"line {n}\n", os.O_APPEND)


def remove_and_make_again(directory: Path, n: int) -> None:
    (directory / "f").unlink(missing_ok=True)
    put(directory / "f", f"version {n}")


def rotate(directory: Path, n: int) -> None:
    """As logs are."""
    for k in (2, 1, 0):
        if (directory / f"log.{k}").exists():
            os.rename(directory / f"log.{k}", directory / f"log.{k + 1}")
    put(directory / "log.0", f"version {n}")


def keep_the_old_as_a_backup(directory: Path, n: int) -> None:
    """As vim and dbm do."""
    if n:
        os.rename(directory / "f", directory / "f~")
    put(directory / "f", f"version {n}")


def rename_the_directory(directory: Path, n: int) -> None:
    (directory / "d").mkdir()
    put(directory / "d" / "f", f"version {n}")
    os.rename(directory / "d", directory / f"kept {n}")


def swap(directory: Path, n: int) -> None:
    put(directory / ("a" if n % 2 else "b"), f"version {n}", os.O_TRUNC)
    if n:
        os.rename(directory / "a", directory / "c")
        os.rename(directory / "b", directory / "a")
        os.rename(directory / "c", directory / "b")


@pytest.mark.parametrize(
    "step",
    [
        replace_by_a_lock_file,
        rename_what_was_just_written,
        rewrite,
        append,
        remove_and_make_again,
        rotate,
        keep_the_old_as_a_backup,
        rename_the_directory,
        swap,
    ],
)
def test_renames_overtake_uploads(
    site: Site, folder: Path, disk: Path, tmp_path: Path, step: Callable[[Path, int], None]
) -> None:
    def work(directory: Path) -> None:
        if step is swap:
            put(directory / "a", "first")
        for n in range(40 if site.embedded else 12):
            step(directory, n)

    same_on_both(work, tmp_path / "local", folder, disk)
