"""Two mounts of one server: what one does, the other shows within its time of belief.

Ours is the mount that all tests share (--dir-ttl 1); the other one has its own state directory, as on
another machine. Every change meets names in all states of acquaintance.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, wait_out_ttl
from tests.support.looking import Content, cat, look, names, shows
from tests.support.mounting import Mounted, vfsmount

# Its --dir-ttl of 1 s, and the time that listings take on a busy machine. That nothing is believed for longer
# is seen where `wait_out_ttl` is followed by one look.
WITHIN_S = 20.0

# What we know of a name before it changes. "mapped" and "open" are held open meanwhile.
KNOWN = ("unseen", "seen", "read", "open", "mapped")

OLD = b"".join(b"old %06d\n" % n for n in range(40_000))  # several pages, more than one readahead


@pytest.fixture(scope="module")
def other(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A second mount of the same user."""
    directory = tmp_path_factory.mktemp("other")
    with Mounted(directory, site.env, "--sync", "--dir-ttl", "1", "--attr-ttl", "0.5") as mounted:
        yield mounted
    assert not mounted.warnings()


@pytest.fixture
def theirs(site: Site, other: Mounted, folder: Path) -> Path:
    """The test's folder on the other mount, which is told of it."""
    refreshed = vfsmount("refresh", "--state-dir", other.state, env=site.env)
    assert refreshed.returncode == 0, refreshed.stderr
    return other.path / folder.name


def meet(path: Path, known: str, held: ExitStack) -> Callable[[], bytes] | None:
    """Come to know a file; where it stays open, what reads it from its beginning."""
    if known == "unseen":
        return None
    assert look(path)["stat"] == f"file of {len(OLD)}"
    if known == "seen":
        return None
    assert cat(path) == OLD
    if known == "read":
        return None
    file = held.enter_context(path.open("rb", buffering=0))
    if known == "open":
        return lambda: os.pread(file.fileno(), len(OLD) * 2, 0)
    mapped = held.enter_context(mmap.mmap(file.fileno(), len(OLD), prot=mmap.PROT_READ))
    assert mapped[:] == OLD
    return None


def replace(path: Path, content: bytes) -> None:
    """As an editor saves: beside it, then over it."""
    (path.parent / f".{path.name}.tmp").write_bytes(content)
    (path.parent / f".{path.name}.tmp").rename(path)


def write_in_place(path: Path, content: bytes) -> None:
    with path.open("r+b") as f:
        f.write(content)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as f:
        f.write(content)


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"in")


@dataclass(frozen=True)
class Change:
    """Something the other mount does to a file, and what stands under its name (and another) then."""

    act: Callable[[Path], object]
    then: Content
    moved: Content = None


SAME_SIZE = OLD.replace(b"old", b"new")
FILE_CHANGES = {
    "rewrite": Change(lambda p: p.write_bytes(b"rewritten"), b"rewritten"),
    "rewrite, same size": Change(lambda p: p.write_bytes(SAME_SIZE), SAME_SIZE),
    "replace, same size": Change(lambda p: replace(p, SAME_SIZE), SAME_SIZE),
    "overwrite": Change(lambda p: write_in_place(p, b"NEW"), b"NEW" + OLD[3:]),
    "append": Change(lambda p: append(p, b"more"), OLD + b"more"),
    "empty": Change(lambda p: os.truncate(p, 0), b""),
    "cut": Change(lambda p: os.truncate(p, 5000), OLD[:5000]),
    "extend": Change(lambda p: os.truncate(p, len(OLD) + 9000), OLD + bytes(9000)),
    "remove": Change(lambda p: p.unlink(), None),
    "rename": Change(lambda p: p.rename(p.with_suffix(".moved")), None, OLD),
    "become a directory": Change(become_directory, names("inside")),
}


@pytest.mark.parametrize("what", FILE_CHANGES)
def test_change_of_a_file_shows_on_the_other_mount(
    site: Site, folder: Path, disk: Path, theirs: Path, what: str
) -> None:
    change = FILE_CHANGES[what]
    for known in KNOWN:
        (disk / known).write_bytes(OLD)
    wait_out_ttl()
    wanted: dict[str, Content] = {}
    with ExitStack() as held:
        readers = [reader for known in KNOWN if (reader := meet(folder / known, known, held))]
        for known in KNOWN:
            change.act(theirs / known)
            wanted |= {known: change.then, f"{known}.moved": change.moved}
        shows(folder, wanted, WITHIN_S)
        for reader in readers:  # one version, or none
            try:
                assert reader() in (OLD, change.then)
            except OSError as e:
                assert e.errno == errno.ESTALE, site.mounted.said_lately()
    for name, content in wanted.items():
        assert cat(folder / name) == content
    shows(theirs, wanted, WITHIN_S)  # and at once where it was done


def test_new_names_show_on_the_other_mount(folder: Path, theirs: Path) -> None:
    """Also those that were looked for before, and not there."""
    shows(folder, dict.fromkeys(("file", "directory", "moved"), None), 0)
    (theirs / "file").write_bytes(b"f")
    (theirs / "directory" / "deeper").mkdir(parents=True)
    (theirs / "temporary").write_bytes(b"moved here")
    (theirs / "temporary").rename(theirs / "moved")
    wanted = {"file": b"f", "directory": names("deeper"), "moved": b"moved here", "temporary": None}
    shows(folder, wanted, WITHIN_S)


def test_changed_directories_show_on_the_other_mount(folder: Path, disk: Path, theirs: Path) -> None:
    """Renamed, removed, made anew, and turned into files: those we have read and stand in as well."""
    for directory in ("moved", "removed", "anew", "file", "unseen"):
        (disk / directory / "below").mkdir(parents=True)
        (disk / directory / "below" / "f").write_bytes(b"before")
    wait_out_ttl()
    for directory in ("moved", "removed", "anew", "file"):
        assert cat(folder / directory / "below" / "f") == b"before"
    (theirs / "moved").rename(theirs / "elsewhere")
    (theirs / "unseen").rename(theirs / "unseen elsewhere")
    for directory in ("removed", "anew", "file"):
        shutil.rmtree(theirs / directory)
    (theirs / "anew" / "below").mkdir(parents=True)
    (theirs / "anew" / "below" / "g").write_bytes(b"after")
    (theirs / "file").write_bytes(b"a file now")
    wanted: dict[str, Content] = {
        "moved": None,
        "elsewhere": names("below"),
        "elsewhere/below/f": b"before",
        "unseen": None,
        "unseen elsewhere/below/f": b"before",
        "removed": None,
        "anew": names("below"),
        "anew/below": names("g"),
        "anew/below/f": None,
        "anew/below/g": b"after",
        "file": b"a file now",
    }
    shows(folder, wanted, WITHIN_S)
    assert not (folder / "moved" / "below" / "f").exists()
    (theirs / "file").unlink()
    (theirs / "file").mkdir()
    shows(folder, {"file": names()}, WITHIN_S)


# A program that stands in a directory: each line it is sent is a command of its shell.
SHELL = ["sh", "-c", 'while read -r line; do eval "$line" 2>&1; echo "=$?"; done']


class Standing:
    """A shell whose working directory is on the mount."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            SHELL, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def say(self, command: str) -> tuple[int, str]:
        """(exit status, what it said)"""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        said = []
        for line in self.process.stdout:
            if line.startswith("="):
                return int(line[1:]), "".join(said)
            said.append(line)
        raise AssertionError("the shell has ended")


def test_directory_somebody_stands_in(folder: Path, disk: Path, theirs: Path) -> None:
    for directory in ("changed", "removed", "moved"):
        (disk / directory).mkdir()
        (disk / directory / "f").write_bytes(b"before")
    wait_out_ttl()
    with ExitStack() as stack:
        changed, removed, moved = (
            stack.enter_context(Standing(folder / d)) for d in ("changed", "removed", "moved")
        )
        for shell in (changed, removed, moved):
            assert shell.say("cat f; ls; ls missing") == (
                2,
                "beforef\nls: cannot access 'missing': No such file or directory\n",
            )
        (theirs / "changed" / "f").write_bytes(b"after!\n")
        (theirs / "changed" / "missing").write_bytes(b"there")
        shutil.rmtree(theirs / "removed")
        (theirs / "moved").rename(theirs / "moved away")
        shows(
            folder,
            {"changed": names("f", "missing"), "removed": None, "moved": None, "moved away": names("f")},
            WITHIN_S,
        )
        shows(folder / "changed", {"f": b"after!\n", "missing": b"there"}, WITHIN_S)
        assert changed.say("cat f; ls; cat missing; echo; pwd -P") == (
            0,
            f"after!\nf\nmissing\nthere\n{folder}/changed\n",
        )
        for shell in (removed, moved):
            for command in ("cat f", "ls missing", "echo x >new"):
                code, said = shell.say(command)
                assert code and ("No such file" in said or "nonexistent" in said or "Stale" in said), said
        assert not (disk / "removed").exists() and not (disk / "moved").exists()
        # A directory of that name is another one; who stands in the old one does not come to be in it.
        (theirs / "removed").mkdir()
        (theirs / "removed" / "g").write_bytes(b"another")
        shows(folder, {"removed": names("g")}, WITHIN_S)
        assert os.path.ismount(folder.parent)


WRITER = """
import os, sys
for line in sys.stdin:
    exec(line, {"os": os, "Path": __import__("pathlib").Path, "top": __import__("pathlib").Path(sys.argv[1])})
    print(flush=True)
"""


def test_own_changes_show_at_once(site: Site, folder: Path, tmp_path: Path) -> None:
    """To other processes, whatever they knew of the name before, however long listings are believed."""
    steps: list[tuple[str, dict[str, Content]]] = [
        ("(top / 'f').write_bytes(b'one')", {"f": b"one"}),
        ("(top / 'f').write_bytes(b'two')", {"f": b"two"}),
        ("(top / 'f').open('ab').write(b' and more')", {"f": b"two and more"}),
        ("os.truncate(top / 'f', 3)", {"f": b"two"}),
        ("(top / 'd').mkdir()", {"d": names()}),
        ("os.rename(top / 'f', top / 'd' / 'g')", {"f": None, "d/g": b"two", "d": names("g")}),
        ("os.rename(top / 'd', top / 'e')", {"d": None, "e/g": b"two"}),
        ("(top / 'd').write_bytes(b'a file')", {"d": b"a file"}),
        ("os.rename(top / 'e' / 'g', top / 'd')", {"d": b"two", "e/g": None, "e": names()}),
        ("(top / 'd').unlink()", {"d": None}),
        ("os.rmdir(top / 'e')", {"e": None}),
        ("(top / 'e').write_bytes(b'was a directory')", {"e": b"was a directory"}),
        ("(top / 'e').unlink(); (top / 'e').mkdir()", {"e": names()}),
    ]
    with Mounted(tmp_path, site.env, "--dir-ttl", "3600", "--attr-ttl", "3600") as mounted:
        top = mounted.path / folder.name
        assert shows(top, dict.fromkeys("fde", None), 0) < 60
        command = [sys.executable, "-c", WRITER, str(top)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdin is not None and writer.stdout is not None
            for step, wanted in steps:
                writer.stdin.write(f"{step}\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == "\n", step
                shows(top, wanted, 0)
            writer.stdin.close()
        assert writer.returncode == 0
        os.setxattr(top, "user.vfsmount.wait", b"1")
    assert not mounted.warnings()
