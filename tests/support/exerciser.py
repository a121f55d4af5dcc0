"""Random operations on the files of one directory, each read compared with a model in memory.

For long runs by hand:

    python -m tests.support.exerciser DIR --ops 100000 --seed 7 --files 3 --remount 'umount …; vfsmount …'

The same seed, number of files and of operations give the same run. What is written tells which operation
wrote it and for which offset, so a wrong byte says where it comes from.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_SIZE = 4 << 20
MAX_LENGTH = 256 << 10

# How often each is chosen. What may wait until a server has the whole file is rare.
WEIGHTS = {
    "read": 300,
    "read_uncached": 40,
    "read_elsewhere": 4,
    "read_mapped": 120,
    "write": 300,
    "append": 50,
    "append_elsewhere": 4,
    "write_mapped": 120,
    "write_mapped_and_sync": 2,
    "cut": 25,
    "extend": 25,
    "cut_by_name": 2,
    "sync": 2,
    "reopen": 3,
    "reopen_emptied": 0.5,
    "replace": 2,
    "remount": 0.5,
}


class Mismatch(AssertionError):
    """The file system shows something else than was written, or refuses."""


class Exerciser:
    """Files ``f0`` … in a directory, what they must hold, and what was done to them.

    Attributes:
        counts: operations done, by name.
    """

    def __init__(
        self, directory: Path, *, seed: int, files: int = 1, remount: Callable[[], object] | None = None
    ) -> None:
        self.counts = {kind: 0 for kind in WEIGHTS if kind != "remount" or remount}
        self._directory = directory
        self._seed = seed
        self._random = random.Random(seed)
        self._again = remount
        self._models = {f"f{n}": bytearray() for n in range(files)}
        self._handles: dict[str, int] = {}
        self._number = 0
        self._last: deque[str] = deque(maxlen=20)

    def run(self, ops: int) -> None:
        """Do `ops` operations, then close the files and read each once more.

        Raises:
            Mismatch: with the seed, the last operations and where the difference is.
        """
        weights = [WEIGHTS[kind] for kind in self.counts]
        try:
            for name in self._models:
                self._open(name, os.O_CREAT | os.O_TRUNC)
            for kind in self._random.choices(list(self.counts), weights, k=ops):
                self._number += 1
                self.counts[kind] += 1
                getattr(self, kind)(self._random.choice(list(self._models)))
            self._close_all()
            self.check_all()
        except OSError as e:
            raise Mismatch(self._story(f"{type(e).__name__}: {e}")) from e
        finally:
            for fd in self._handles.values():
                os.close(fd)

    def check_all(self) -> None:
        """Read every file whole through a descriptor of its own and compare.

        Raises:
            Mismatch: as `run`.
        """
        for name, model in self._models.items():
            self._compare(name, 0, (self._directory / name).read_bytes(), model)

    def leave_expected(self, directory: Path) -> None:
        """Write what each file must hold into another directory."""
        for name, model in self._models.items():
            (directory / name).write_bytes(model)

    # --- operations, each named in WEIGHTS -----------------------------------------------------

    def read(self, name: str) -> None:
        offset, length = self._range(name)
        self._did(name, "read", offset, length)
        self._compare_read(name, self._handles[name], offset, length)

    def read_uncached(self, name: str) -> None:
        """After the kernel dropped its clean pages, so that the file system is asked."""
        os.posix_fadvise(self._handles[name], 0, 0, os.POSIX_FADV_DONTNEED)
        self.read(name)

    def read_elsewhere(self, name: str) -> None:
        """Through a descriptor that comes and goes beside the first."""
        offset, length = self._range(name)
        self._did(name, "read through another descriptor", offset, length)
        with (self._directory / name).open("rb", buffering=0) as f:
            self._compare_read(name, f.fileno(), offset, length)

    def read_mapped(self, name: str) -> None:
        if self._models[name]:
            offset, length = self._range_inside(name)
            self._did(name, "read mapped", offset, length)
            with self._mapped(name, offset, length, mmap.ACCESS_READ) as (mapping, at):
                found = mapping[at : at + length]
            self._compare(name, offset, found, self._models[name][offset : offset + length])

    def write(self, name: str) -> None:
        offset, length = self._range(name)
        length = min(length, MAX_SIZE - offset)
        data = self._data(name, "write", offset, length)
        self._write_all(self._handles[name], data, offset)
        self._wrote(name, offset, data)

    def append(self, name: str) -> None:
        offset = len(self._models[name])
        data = self._data(name, "append", offset, min(self._length(), MAX_SIZE - offset))
        self._write_all(self._handles[name], data, offset)
        self._wrote(name, offset, data)

    def append_elsewhere(self, name: str) -> None:
        """Through an O_APPEND descriptor that comes and goes beside the first."""
        offset = len(self._models[name])
        data = self._data(name, "write O_APPEND", offset, min(self._length(), MAX_SIZE - offset))
        with (self._directory / name).open("ab", buffering=0) as f:
            self._write_all(f.fileno(), data)
        self._wrote(name, offset, data)

    def write_mapped(self, name: str, *, sync: bool = False) -> None:
        if self._models[name]:
            offset, length = self._range_inside(name)
            data = self._data(name, "write mapped" + ", msync" * sync, offset, length)
            with self._mapped(name, offset, length, mmap.ACCESS_WRITE) as (mapping, at):
                mapping[at : at + length] = data
                if sync:
                    mapping.flush()
            self._wrote(name, offset, data)

    def write_mapped_and_sync(self, name: str) -> None:
        self.write_mapped(name, sync=True)

    def cut(self, name: str) -> None:
        self._resize(name, self._handles[name], self._random.randint(0, len(self._models[name])))

    def cut_by_name(self, name: str) -> None:
        self._resize(name, self._directory / name, self._random.randint(0, len(self._models[name])))

    def extend(self, name: str) -> None:
        size = len(self._models[name]) + self._random.randint(0, MAX_LENGTH)
        self._resize(name, self._handles[name], min(size, MAX_SIZE))

    def sync(self, name: str) -> None:
        self._did(name, "fsync")
        os.fsync(self._handles[name])

    def reopen(self, name: str) -> None:
        self._did(name, "close, open")
        self._close(name)
        self._open(name)

    def reopen_emptied(self, name: str) -> None:
        self._did(name, "close, open O_TRUNC")
        self._close(name)
        self._open(name, os.O_TRUNC)
        self._models[name].clear()

    def replace(self, name: str) -> None:
        """Rename over it another file of ours, or a new one; who has it open keeps what was there."""
        others = [other for other in self._models if other != name]
        source = self._random.choice([*others, "new"])
        self._did(name, f"replaced by {source}")
        if source == "new":
            self._new(source)
        os.rename(self._directory / source, self._directory / name)
        old = self._handles.pop(name)
        self._compare(f"{name}, as it was,", 0, os.pread(old, 2 * MAX_SIZE, 0), self._models[name])
        os.close(old)
        self._models[name] = self._models.pop(source)
        if source in self._handles:
            self._handles[name] = self._handles.pop(source)
        else:
            self._open(name)
        if source != "new":
            self._models[source] = bytearray()
            self._open(source, os.O_CREAT | os.O_EXCL)

    def remount(self, name: str) -> None:
        assert self._again is not None
        self._did(name, "all closed, mounted anew")
        self._close_all()
        self._again()
        self.check_all()
        for each in self._models:
            self._open(each)

    # --- their parts ---------------------------------------------------------------------------

    def _new(self, name: str) -> None:
        """A new file, which stays open in half of the cases."""
        self._models[name] = bytearray()
        self._open(name, os.O_CREAT | os.O_EXCL)
        data = self._data(name, "write", 0, self._length())
        self._write_all(self._handles[name], data, 0)
        self._wrote(name, 0, data)
        if self._random.random() < 0.5:
            self._close(name)

    def _open(self, name: str, flags: int = 0) -> None:
        self._handles[name] = os.open(self._directory / name, os.O_RDWR | flags, 0o644)

    def _close(self, name: str) -> None:
        os.close(self._handles.pop(name))

    def _close_all(self) -> None:
        for name in list(self._handles):
            self._close(name)

    def _length(self) -> int:
        """As many short ones as long ones on a scale of powers of two."""
        return int(2 ** self._random.uniform(0, MAX_LENGTH.bit_length() - 1))

    def _range(self, name: str) -> tuple[int, int]:
        """Where to read or write: mostly inside, at times on a page's edge or past the end."""
        offset = self._random.randint(0, len(self._models[name]))
        chance = self._random.random()
        if chance < 0.3:
            offset -= offset % mmap.PAGESIZE
        elif chance < 0.35:
            offset += self._length()
        return min(offset, MAX_SIZE - 1), self._length()

    def _range_inside(self, name: str) -> tuple[int, int]:
        """Where to use a mapping: pages past the end would be a SIGBUS."""
        size = len(self._models[name])
        offset = self._random.randrange(size)
        return offset, min(self._length(), size - offset)

    @contextmanager
    def _mapped(self, name: str, offset: int, length: int, access: int) -> Iterator[tuple[mmap.mmap, int]]:
        """A mapping around a range, and where in it the range starts."""
        at = offset % mmap.PAGESIZE
        with mmap.mmap(self._handles[name], at + length, access=access, offset=offset - at) as mapping:
            yield mapping, at

    def _data(self, name: str, what: str, offset: int, length: int) -> bytes:
        """Content that tells its operation and offset every 16 bytes, as in ``0000123@00ff000;``."""
        self._did(name, what, offset, length)
        start = offset - offset % 16
        stamps = (b"%07d@%07x;" % (self._number, at) for at in range(start, offset + length, 16))
        return b"".join(stamps)[offset - start :][:length]

    def _write_all(self, fd: int, data: bytes, offset: int | None = None) -> None:
        wrote = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
        if wrote != len(data):
            raise Mismatch(self._story(f"wrote {wrote} of {len(data)} bytes"))

    def _wrote(self, name: str, offset: int, data: bytes) -> None:
        model = self._models[name]
        model.extend(bytes(max(0, offset - len(model))))
        model[offset : offset + len(data)] = data

    def _resize(self, name: str, target: int | Path, size: int) -> None:
        self._did(name, "ftruncate" if isinstance(target, int) else "truncate", size)
        os.truncate(target, size)
        model = self._models[name]
        del model[size:]
        model.extend(bytes(size - len(model)))

    def _compare_read(self, name: str, fd: int, offset: int, length: int) -> None:
        model = self._models[name]
        self._compare(name, offset, os.pread(fd, length, offset), model[offset : offset + length])
        if (size := os.fstat(fd).st_size) != len(model):
            raise Mismatch(self._story(f"{name} has size {size} instead of {len(model)}"))

    def _compare(self, name: str, offset: int, found: bytes, wanted: bytes | bytearray) -> None:
        if found == wanted:
            return
        says = f"{name}: read {len(found)} bytes at {offset} instead of {len(wanted)}"
        wrong = [i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
        if wrong:
            shown = slice(wrong[0], wrong[0] + 48)
            says = (
                f"{name}: {len(wrong)} bytes differ in [{offset + wrong[0]}, {offset + wrong[-1] + 1})\n"
                f"  wanted {bytes(wanted[shown])!r}\n  found  {found[shown]!r}\n{says}"
            )
        raise Mismatch(self._story(says))

    def _did(self, name: str, what: str, *numbers: int) -> None:
        size = len(self._models[name])
        self._last.append(f"{self._number}: {name} (size {size}) {what} {' '.join(map(str, numbers))}")

    def _story(self, says: str) -> str:
        lines = "\n  ".join(self._last)
        return f"seed {self._seed}, operation {self._number}: {says}\nthe last operations:\n  {lines}"


def main() -> int:
    """Run from the command line; 1 after a mismatch, which is printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.exerciser", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--ops", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--remount", metavar="COMMAND", help="shell command that mounts the directory anew")
    parser.add_argument("--ask", action="store_true", help="print `remount` and wait for a line instead")
    parser.add_argument("--expected", type=Path, help="where to leave what the files must hold at the end")
    asked = parser.parse_args()

    def ask() -> None:
        print("remount", flush=True)
        sys.stdin.readline()

    def command() -> None:
        subprocess.run(asked.remount, shell=True, check=True)

    remount = ask if asked.ask else command if asked.remount else None
    exerciser = Exerciser(asked.directory, seed=asked.seed, files=asked.files, remount=remount)
    started = time.monotonic()
    try:
        exerciser.run(asked.ops)
    except Mismatch as e:
        print(e)
        return 1
    finally:
        if asked.expected:
            exerciser.leave_expected(asked.expected)
    print(f"{asked.ops} operations in {time.monotonic() - started:.1f} s, seed {asked.seed}")
    print(" ".join(f"{kind}={count}" for kind, count in exerciser.counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
