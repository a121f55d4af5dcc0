"""Editors save on a real mount as they do on a local disk, and the server never lacks the file meanwhile."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both, same_on_server, settle

VIM = ["vim", "-N", "-u", "NONE", "-i", "NONE", "-es"]
TEXT = "".join(f"line {n}\n" for n in range(200))


@pytest.mark.parametrize(
    "options",
    [
        "",  # writebackup, no backup, a swap file beside the file: vim's own choice
        "backup backupcopy=yes",  # copies to file~, then writes in place
        "backup backupcopy=no",  # renames to file~, then writes a new file
        "nowritebackup backupcopy=auto fsync",
        "undofile",
    ],
)
def test_vim_saves(folder: Path, disk: Path, tmp_path: Path, options: str) -> None:
    def work(directory: Path) -> list[str]:
        (directory / "notes.sh").write_text(TEXT)
        # The undo file gets its mode by an ACL, which the mount has none of.
        (directory / "notes.sh").chmod(0o644 if options == "undofile" else 0o755)
        for n in range(3):
            edit = ["-c", f"set {options}"] if options else []
            edit += ["-c", f"%s/^line {n}$/changed {n}/", "-c", "w", "-c", "$put ='at the end'", "-c", "wq"]
            run_in(directory, *VIM, *edit, "notes.sh")
        run_in(directory, *VIM, "-c", "0put ='new'", "-c", "wq", "made.txt")
        return sorted(os.listdir(directory))

    same_on_both(work, tmp_path / "local", folder, disk, own=["*.un~"])
    assert (disk / "notes.sh").read_text().startswith("changed 0\nchanged 1\nchanged 2\nline 3\n")


def typed(directory: Path, *command: str, keys: list[tuple[str, str]]) -> None:
    """Run a program on a terminal: wait for each text on the screen, then press its keys."""
    terminal, inside = pty.openpty()
    program = subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "80", "LC_ALL": "C"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    try:
        for text, key in keys:
            screen = b""
            while text.encode() not in screen:
                assert select.select([terminal], [], [], 60)[0], f"{text!r} did not show: {screen!r}"
                screen += os.read(terminal, 4096)
            os.write(terminal, key.encode())
        # What it still draws has to be taken, or it never ends; at its end, reading is an error.
        while select.select([terminal], [], [], 60)[0]:
            try:
                os.read(terminal, 4096)
            except OSError:
                break
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
        os.close(terminal)


@pytest.mark.parametrize("options", [[], ["--backup"]], ids=["in-place", "backup"])
def test_nano_saves(folder: Path, disk: Path, tmp_path: Path, options: list[str]) -> None:
    write_out, leave = "\x0f", "\x18"

    def work(directory: Path) -> None:
        (directory / "notes").write_text("first line\nsecond line\n")
        typed(
            directory,
            *("nano", "--ignorercfiles", *options, "notes"),
            keys=[
                ("second line", f"typed {write_out}"),
                ("Name to Write", "\r"),
                ("Wrote 2 lines", f"more {write_out}"),
                ("Name to Write", "\r"),
                ("Wrote 2 lines", leave),
            ],
        )

    same_on_both(work, tmp_path / "local", folder, disk)
    assert (disk / "notes").read_text() == "typed more first line\nsecond line\n"


class Watcher(threading.Thread):
    """Reads a file on the server's disk again and again, until stopped."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.looks = 0
        self._path = path
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.001):
            try:
                text = self._path.read_text()
            except FileNotFoundError:
                text = "missing"
            self.looks += 1
            if self.seen[-1:] != [text]:
                self.seen.append(text)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def version(n: int) -> str:
    return f"version {n:03}\n" * 5000


@pytest.mark.parametrize("how", ["replace", "in place"])
def test_saved_file_is_never_missing_or_torn_on_the_server(folder: Path, disk: Path, how: str) -> None:
    """As editors save: a new file, fsync, renamed over the old one; or the old one cut and written again."""
    (folder / "notes").write_text(version(0))
    settle(folder)
    watcher = Watcher(disk / "notes")
    watcher.start()
    try:
        n, end = 0, time.monotonic() + 60
        # What was sent lately rests for a while, so of quick saves only the last may follow the first.
        while n < 30 or (len(watcher.seen) <= 2 and time.monotonic() < end):
            n += 1
            target = folder / (".notes.new" if how == "replace" else "notes")
            with target.open("w") as f:
                f.write(version(n))
                f.flush()
                os.fsync(f.fileno())
            if how == "replace":
                os.rename(target, folder / "notes")
        settle(folder)
        end = time.monotonic() + 60
        while watcher.seen[-1] != version(n):
            assert time.monotonic() < end, "the last version did not arrive"
            time.sleep(0.01)
    finally:
        watcher.stop()
    numbers = [int(text.split()[1]) if text != "missing" else text for text in watcher.seen]
    assert numbers == sorted(numbers)
    assert all(text == version(number) for text, number in zip(watcher.seen, numbers, strict=True))
    assert len(numbers) > 2, f"{watcher.looks} looks saw nothing between the first and the last version"
    same_on_server(folder, disk)
