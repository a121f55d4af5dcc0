"""Which errno a system call gives, and which of several: the same as on this machine's own disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

LONG = "n" * 256
CREATE = os.O_CREAT | os.O_WRONLY


def furnish(d: Path) -> None:
    """f, a file; full/x; empty/; deep/er/; links to f, to nothing and to itself; a FIFO."""
    (d / "f").write_text("content")
    (d / "g").write_text("another")
    for name in ("full", "empty", "deep/er"):
        (d / name).mkdir(parents=True)
    (d / "full" / "x").write_text("x")
    (d / "link").symlink_to("f")
    (d / "dangling").symlink_to("nothing")
    (d / "loop").symlink_to("loop")
    (d / "todir").symlink_to("full")
    os.mkfifo(d / "fifo")


def opening(name: str, flags: int) -> Callable[[Path], None]:
    return lambda d: os.close(os.open(f"{d}/{name}", flags, 0o644))


def renaming(old: str, new: str, flags: int = 0) -> Callable[[Path], None]:
    return lambda d: renameat2(f"{d}/{old}", f"{d}/{new}", flags)


def on(call: Callable[[str], object], name: str) -> Callable[[Path], object]:
    return lambda d: call(f"{d}/{name}")


def truncating(name: str, size: int) -> Callable[[Path], None]:
    return lambda d: os.truncate(f"{d}/{name}", size)


def cut_by_a_reader(d: Path) -> None:
    with (d / "f").open("rb") as f:
        os.ftruncate(f.fileno(), 0)


def written_by_a_reader(d: Path) -> None:
    with (d / "f").open("rb") as f:
        os.write(f.fileno(), b"x")


def read_by_a_writer(d: Path) -> None:
    with (d / "f").open("ab") as f:
        os.read(f.fileno(), 1)


def read_as_a_file(d: Path) -> None:
    fd = os.open(d / "full", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


def read_by_path_only(d: Path) -> None:
    fd = os.open(d / "f", os.O_PATH)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


def searched_past_its_end(d: Path) -> None:
    with (d / "f").open("rb") as f:
        os.lseek(f.fileno(), 8, os.SEEK_DATA)


# What is tried → what it must give, on a local disk as well.
CASES: dict[str, tuple[int, Callable[[Path], object]]] = {
    # names
    "mkdir-taken-by-file": (errno.EEXIST, on(os.mkdir, "f")),
    "mkdir-taken-by-directory": (errno.EEXIST, on(os.mkdir, "full")),
    "mkdir-taken-by-dangling-link": (errno.EEXIST, on(os.mkdir, "dangling")),
    "mkdir-dot": (errno.EEXIST, on(os.mkdir, "full/.")),
    "mkdir-missing-parent": (errno.ENOENT, on(os.mkdir, "none/d")),
    "mkdir-below-file": (errno.ENOTDIR, on(os.mkdir, "f/d")),
    "mkdir-long-name": (errno.ENAMETOOLONG, on(os.mkdir, LONG)),
    "mkdir-through-loop": (errno.ELOOP, on(os.mkdir, "loop/d")),
    "mkfifo-taken": (errno.EEXIST, on(os.mkfifo, "f")),
    "mkfifo-long-name": (errno.ENAMETOOLONG, on(os.mkfifo, LONG)),
    "mknod-taken": (errno.EEXIST, on(os.mknod, "f")),
    "symlink-taken": (errno.EEXIST, on(lambda p: os.symlink("f", p), "dangling")),
    "symlink-long-name": (errno.ENAMETOOLONG, on(lambda p: os.symlink("f", p), LONG)),
    "symlink-empty-target": (errno.ENOENT, on(lambda p: os.symlink("", p), "new")),
    "symlink-long-target": (errno.ENAMETOOLONG, on(lambda p: os.symlink("t" * 4096, p), "new")),
    "readlink-of-file": (errno.EINVAL, on(os.readlink, "f")),
    "readlink-of-directory": (errno.EINVAL, on(os.readlink, "full")),
    "stat-long-name": (errno.ENAMETOOLONG, on(os.stat, LONG)),
    "stat-long-name-below-file": (errno.ENOTDIR, on(os.stat, f"f/{LONG}")),
    "stat-below-file": (errno.ENOTDIR, on(os.stat, "f/x")),
    "stat-file-with-slash": (errno.ENOTDIR, on(os.stat, "f/")),
    "stat-loop": (errno.ELOOP, on(os.stat, "loop")),
    "stat-dangling": (errno.ENOENT, on(os.stat, "dangling")),
    "stat-empty-name": (errno.ENOENT, lambda d: os.stat("")),
    "chmod-long-name": (errno.ENAMETOOLONG, on(lambda p: os.chmod(p, 0o600), LONG)),
    "chmod-missing": (errno.ENOENT, on(lambda p: os.chmod(p, 0o600), "none")),
    "chdir-file": (errno.ENOTDIR, on(os.chdir, "f")),
    "listdir-file": (errno.ENOTDIR, on(os.listdir, "f")),
    "listdir-missing": (errno.ENOENT, on(os.listdir, "none")),
    # removing
    "unlink-missing": (errno.ENOENT, on(os.unlink, "none")),
    "unlink-directory": (errno.EISDIR, on(os.unlink, "empty")),
    "unlink-file-with-slash": (errno.ENOTDIR, on(os.unlink, "f/")),
    "unlink-link-to-directory-with-slash": (errno.ENOTDIR, on(os.unlink, "todir/")),
    "unlink-below-file": (errno.ENOTDIR, on(os.unlink, "f/x")),
    "unlink-long-name": (errno.ENAMETOOLONG, on(os.unlink, LONG)),
    "rmdir-full": (errno.ENOTEMPTY, on(os.rmdir, "full")),
    "rmdir-with-directory-inside": (errno.ENOTEMPTY, on(os.rmdir, "deep")),
    "rmdir-file": (errno.ENOTDIR, on(os.rmdir, "f")),
    "rmdir-link-to-directory": (errno.ENOTDIR, on(os.rmdir, "todir")),
    "rmdir-missing": (errno.ENOENT, on(os.rmdir, "none")),
    "rmdir-dot": (errno.EINVAL, on(os.rmdir, "empty/.")),
    "rmdir-dot-dot": (errno.ENOTEMPTY, on(os.rmdir, "deep/er/..")),
    "rmdir-long-name": (errno.ENAMETOOLONG, on(os.rmdir, LONG)),
    # moving
    "rename-missing": (errno.ENOENT, renaming("none", "new")),
    "rename-missing-onto-directory": (errno.ENOENT, renaming("none", "full")),
    "rename-missing-to-long-name": (errno.ENOENT, renaming("none", LONG)),
    "rename-to-missing-parent": (errno.ENOENT, renaming("f", "none/new")),
    "rename-to-below-file": (errno.ENOTDIR, renaming("g", "f/new")),
    "rename-long-name": (errno.ENAMETOOLONG, renaming("f", LONG)),
    "rename-file-onto-empty-directory": (errno.EISDIR, renaming("f", "empty")),
    "rename-file-onto-full-directory": (errno.EISDIR, renaming("f", "full")),
    "rename-directory-onto-file": (errno.ENOTDIR, renaming("empty", "f")),
    "rename-directory-onto-fifo": (errno.ENOTDIR, renaming("empty", "fifo")),
    "rename-directory-onto-link-to-directory": (errno.ENOTDIR, renaming("empty", "todir")),
    "rename-directory-onto-full-directory": (errno.ENOTEMPTY, renaming("empty", "full")),
    "rename-into-itself": (errno.EINVAL, renaming("deep", "deep/new")),
    "rename-into-below-itself": (errno.EINVAL, renaming("deep", "deep/er/new")),
    "rename-onto-its-parent": (errno.ENOTEMPTY, renaming("deep/er", "deep")),
    "rename-dot": (errno.EBUSY, renaming("empty/.", "new")),
    "rename-to-dot-dot": (errno.EBUSY, renaming("f", "deep/er/..")),
    "rename-file-with-slash": (errno.ENOTDIR, renaming("f/", "new")),
    "rename-file-to-name-with-slash": (errno.ENOTDIR, renaming("f", "new/")),
    "rename-no-replace-onto-file": (errno.EEXIST, renaming("f", "g", RENAME_NOREPLACE)),
    "rename-no-replace-onto-itself": (errno.EEXIST, renaming("f", "f", RENAME_NOREPLACE)),
    "rename-no-replace-onto-directory": (errno.EEXIST, renaming("empty", "full", RENAME_NOREPLACE)),
    "rename-exchange-and-no-replace": (errno.EINVAL, renaming("f", "g", RENAME_NOREPLACE | RENAME_EXCHANGE)),
    # opening
    "open-missing": (errno.ENOENT, opening("none", os.O_RDONLY)),
    "open-long-name": (errno.ENAMETOOLONG, opening(LONG, CREATE)),
    "open-exclusive-taken": (errno.EEXIST, opening("f", CREATE | os.O_EXCL)),
    "open-exclusive-directory": (errno.EEXIST, opening("full", CREATE | os.O_EXCL)),
    "open-exclusive-dangling-link": (errno.EEXIST, opening("dangling", CREATE | os.O_EXCL)),
    "open-create-below-file": (errno.ENOTDIR, opening("f/x", CREATE)),
    "open-create-missing-parent": (errno.ENOENT, opening("none/x", CREATE)),
    "open-create-with-slash": (errno.EISDIR, opening("new/", CREATE)),
    "open-create-directory": (errno.EISDIR, opening("full", CREATE)),
    "open-directory-to-write": (errno.EISDIR, opening("full", os.O_WRONLY)),
    "open-directory-to-cut": (errno.EISDIR, opening("full", os.O_RDONLY | os.O_TRUNC)),
    "open-file-as-directory": (errno.ENOTDIR, opening("f", os.O_RDONLY | os.O_DIRECTORY)),
    "open-file-with-slash": (errno.ENOTDIR, opening("f/", os.O_RDONLY)),
    "open-link-no-follow": (errno.ELOOP, opening("link", os.O_RDONLY | os.O_NOFOLLOW)),
    "open-link-no-follow-create": (errno.ELOOP, opening("dangling", CREATE | os.O_NOFOLLOW)),
    "open-link-no-follow-directory": (
        errno.ENOTDIR,
        opening("todir", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY),
    ),
    "open-loop": (errno.ELOOP, opening("loop", os.O_RDONLY)),
    "open-loop-create": (errno.ELOOP, opening("loop", CREATE)),
    "open-fifo-without-reader": (errno.ENXIO, opening("fifo", os.O_WRONLY | os.O_NONBLOCK)),
    "read-directory": (errno.EISDIR, read_as_a_file),
    "read-path-only": (errno.EBADF, read_by_path_only),
    "read-by-writer": (errno.EBADF, read_by_a_writer),
    "write-by-reader": (errno.EBADF, written_by_a_reader),
    "seek-data-past-the-end": (errno.ENXIO, searched_past_its_end),
    # sizes
    "truncate-directory": (errno.EISDIR, truncating("full", 0)),
    "truncate-missing": (errno.ENOENT, truncating("none", 0)),
    "truncate-negative": (errno.EINVAL, truncating("f", -1)),
    "truncate-fifo": (errno.EINVAL, truncating("fifo", 0)),
    "truncate-long-name": (errno.ENAMETOOLONG, truncating(LONG, 0)),
    "ftruncate-by-reader": (errno.EINVAL, cut_by_a_reader),
    # extended attributes
    "xattr-missing": (errno.ENODATA, on(lambda p: os.getxattr(p, "user.none"), "f")),
    "xattr-remove-missing": (errno.ENODATA, on(lambda p: os.removexattr(p, "user.none"), "f")),
    "xattr-replace-missing": (
        errno.ENODATA,
        on(lambda p: os.setxattr(p, "user.none", b"x", os.XATTR_REPLACE), "f"),
    ),
    "xattr-long-name": (errno.ERANGE, on(lambda p: os.setxattr(p, "user." + "n" * 251, b"x"), "f")),
    "xattr-large-value": (errno.E2BIG, on(lambda p: os.setxattr(p, "user.x", bytes((64 << 10) + 1)), "f")),
    "xattr-no-namespace": (errno.EOPNOTSUPP, on(lambda p: os.setxattr(p, "colour", b"x"), "f")),
    "xattr-user-on-fifo": (errno.EPERM, on(lambda p: os.setxattr(p, "user.x", b"x"), "fifo")),
    "xattr-user-on-link": (
        errno.EPERM,
        on(lambda p: os.setxattr(p, "user.x", b"x", follow_symlinks=False), "link"),
    ),
}


def errno_of(attempt: Callable[[Path], object], d: Path) -> str:
    try:
        attempt(d)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return "no error"


def names_below(d: Path) -> list[str]:
    return sorted(str(p.relative_to(d)) for p in d.rglob("*"))


def test_errno_is_that_of_a_local_disk(folder: Path, tmp_path: Path) -> None:
    """One directory for all cases: each leaves everything as it was."""
    furnish(folder)
    furnish(tmp_path)
    before = names_below(tmp_path)
    expected = {case: errno.errorcode[code] for case, (code, _) in CASES.items()}
    local = {case: errno_of(attempt, tmp_path) for case, (_, attempt) in CASES.items()}
    if local["xattr-missing"] == "EOPNOTSUPP":  # /tmp of older kernels keeps none
        local |= {case: code for case, code in expected.items() if case.startswith("xattr")}
    assert local == expected
    assert {case: errno_of(attempt, folder) for case, (_, attempt) in CASES.items()} == expected
    assert names_below(folder) == before
    assert (folder / "f").read_text() == "content"
    assert (folder / "g").read_text() == "another"


# What a local disk can and we cannot; see docs/semantics.md.
REFUSED: dict[str, tuple[int, Callable[[Path], object]]] = {
    "link": (errno.EPERM, on(lambda p: os.link(f"{p}", f"{p}2"), "f")),
    "link-taken": (errno.EEXIST, on(lambda p: os.link(p, p.removesuffix("f") + "g"), "f")),
    "link-missing": (errno.ENOENT, on(lambda p: os.link(p, f"{p}2"), "none")),
    "rename-exchange": (errno.EINVAL, renaming("f", "g", RENAME_EXCHANGE)),
    "rename-whiteout": (errno.EINVAL, renaming("f", "new", RENAME_WHITEOUT)),
    "tmpfile": (errno.EOPNOTSUPP, opening("full", os.O_TMPFILE | os.O_RDWR)),
    "xattr-trusted": (errno.EOPNOTSUPP, on(lambda p: os.setxattr(p, "trusted.x", b"x"), "f")),
    "xattr-acl": (
        errno.EOPNOTSUPP,
        on(lambda p: os.setxattr(p, "system.posix_acl_access", bytes.fromhex("02000000")), "f"),
    ),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="trusted.* attributes are EPERM for users")
def test_what_is_refused_has_an_errno_programs_know(folder: Path) -> None:
    furnish(folder)
    before = names_below(folder)
    expected = {case: errno.errorcode[code] for case, (code, _) in REFUSED.items()}
    assert {case: errno_of(attempt, folder) for case, (_, attempt) in REFUSED.items()} == expected
    assert names_below(folder) == before


def test_xattr_needs_room(folder: Path) -> None:
    f = folder / "f"
    f.write_text("x")
    os.setxattr(f, "user.x", b"value", os.XATTR_CREATE)
    with pytest.raises(OSError) as e:
        os.setxattr(f, "user.x", b"other", os.XATTR_CREATE)
    assert e.value.errno == errno.EEXIST
    os.setxattr(f, "user.x", b"value", os.XATTR_REPLACE)
    largest = os.urandom(64 << 10)
    os.setxattr(f, "user.large", largest)
    with pytest.raises(OSError) as e:
        os.setxattr(f, "user.larger", largest)
    assert e.value.errno == errno.ENOSPC
    assert os.getxattr(f, "user.x") == b"value"
    assert os.getxattr(f, "user.large") == largest
    assert sorted(os.listxattr(f)) == ["user.large", "user.x"]


def test_all_names_of_attributes_can_be_listed(folder: Path) -> None:
    (folder / "f").write_text("x")
    names = [f"user.{n:03d}{'n' * 240}" for n in range(300)]
    with pytest.raises(OSError) as e:
        for name in names:
            os.setxattr(folder / "f", name, b"")
    assert e.value.errno == errno.ENOSPC
    shown = os.listxattr(folder / "f")
    assert sorted(shown) == names[: len(shown)]
    assert len(shown) > 250


def test_trailing_slashes_are_taken_of_directories(folder: Path) -> None:
    os.mkdir(f"{folder}/made/")
    os.rename(f"{folder}/made/", f"{folder}/moved/")
    assert stat.S_ISDIR(os.stat(f"{folder}/moved/").st_mode)
    (folder / "link").symlink_to("moved")
    assert stat.S_ISDIR(os.lstat(f"{folder}/link/").st_mode)
    os.rmdir(f"{folder}/moved///")
    assert os.listdir(folder) == ["link"]


def test_names_may_have_255_bytes(folder: Path, disk: Path) -> None:
    name = "\N{EURO SIGN}" * 85
    assert len(name.encode()) == 255
    (folder / name).write_text("x")
    (folder / name).rename(folder / ("y" * 255))
    assert (disk / ("y" * 255)).read_text() == "x"
