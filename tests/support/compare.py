"""One program's work on a local disk and on a mount, compared: on the mount and on the server's disk."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.mounting import run

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class Entry:
    """What is compared of one name.

    Attributes:
        content: a file's size and digest, a link's target, empty for others.
        mtime_ns: None where it is of the last hour, so that no program had set it.
    """

    kind: str
    content: str
    mode: int | None
    mtime_ns: int | None


def settle(folder: Path) -> None:
    """Return once what was closed under `folder` is on the server."""
    os.setxattr(folder, "user.vfsmount.wait", b"1")


def same_on_both(
    work: Callable[[Path], object],
    local: Path,
    folder: Path,
    disk: Path,
    *,
    own: Sequence[str] = (),
) -> None:
    """Let `work` run in a local directory and on the mount; it must say and leave the same.

    Args:
        work: gets an empty directory; what it returns is compared too.
        local: where to make the local directory.
        own: patterns of paths whose content differs from run to run; it still has to reach the server.
    """
    local.mkdir()
    said = work(local)
    assert work(folder) == said
    settle(folder)
    same_tree(tree(local), tree(folder), own=own)
    same_on_server(folder, disk)


def same_tree(wanted: dict[str, Entry], found: dict[str, Entry], *, own: Sequence[str] = ()) -> None:
    """Fail, naming every difference, unless two trees are alike."""
    for pattern in own:
        for entries in (wanted, found):
            for name in fnmatch.filter(entries, pattern):
                entries[name] = replace(entries[name], content="")
    differences = [
        f"{name}: wanted {wanted.get(name)}, found {found.get(name)}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    assert not differences, "\n".join(differences)


def same_on_server(folder: Path, disk: Path) -> None:
    """Fail unless the server's disk has the files and directories of `folder`, and nothing else."""
    shown = {
        name: replace(entry, mode=None, mtime_ns=None)  # the server keeps neither
        for name, entry in tree(folder, verbatim=True).items()
        if entry.kind in ("file", "directory")
    }
    there = {
        name: replace(entry, mode=None, mtime_ns=None)
        for name, entry in tree(disk, verbatim=True).items()
        if name.split("/")[0] != ".upload"
    }
    same_tree(shown, there)


def tree(root: Path, *, verbatim: bool = False) -> dict[str, Entry]:
    """Everything below `root`, by path.

    Args:
        verbatim: otherwise the path of `root` in a file or link, which some programs write, is taken out.
    """
    entries = {}
    recent_ns = time.time_ns() - 3600 * 10**9
    for where, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(where, name)
            shown = path.lstat()
            kind = KINDS[stat.S_IFMT(shown.st_mode)]
            content = b""
            if kind == "file":
                content = read_afresh(path)
                assert len(content) == shown.st_size, f"{path}: {len(content)} bytes, size {shown.st_size}"
            elif kind == "link":
                content = os.fsencode(path.readlink())
            if not verbatim:
                content = content.replace(bytes(root), b"")
            entries[str(path.relative_to(root))] = Entry(
                kind,
                f"{len(content)} {hashlib.sha256(content).hexdigest()[:16]}" if content else "",
                None if kind == "link" else stat.S_IMODE(shown.st_mode),
                shown.st_mtime_ns if shown.st_mtime_ns < recent_ns else None,
            )
    return entries


def read_afresh(path: Path) -> bytes:
    """A file's content from the file system, not from what the kernel remembers of it."""
    with path.open("rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return f.read()


def run_in(directory: Path, *command: str | Path, timeout: float = 120) -> str:
    """Run a program in a directory; its output without that directory's path."""
    return run(*command, cwd=directory, timeout=timeout).replace(str(directory), "")
