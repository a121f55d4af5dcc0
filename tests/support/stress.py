"""One process of a stress: random operations on names in one directory, with a model of what is its own.

    python -m tests.support.stress DIR --who p3 --seconds 120 --seed 7

Names that begin with `who` belong to this process alone, so it knows what must stand under each. Names
that begin with ``shared-`` are everybody's: what is seen there is one whole version that somebody wrote,
and what is refused is refused with an errno that the others can be blamed for. At the end it prints, as
JSON, how many operations it did and the model of its own names.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import stat
import sys
import time
from collections import Counter
from pathlib import Path

from tests.support.versions import check, version

OWN = 12
SHARED = 6
# How often each is chosen.
WEIGHTS = {
    "create": 20,
    "rewrite": 8,
    "append": 6,
    "truncate": 4,
    "rename": 20,
    "unlink": 15,
    "stat": 30,
    "read": 15,
    "readdir": 6,
    "mkdir": 4,
    "rmdir": 4,
    "shared_create": 12,
    "shared_rename": 8,
    "shared_unlink": 6,
    "shared_read": 20,
}
# What the others may have done to a shared name between two of our calls.
SHARED_ERRORS = frozenset({errno.ENOENT, errno.ESTALE, errno.EEXIST})


class Wrong(AssertionError):
    """The directory shows something that cannot be."""


class Stress:
    """One process.

    Attributes:
        model: own name → its bytes, None for a directory.
    """

    def __init__(self, directory: Path, who: str, seed: int) -> None:
        self.model: dict[str, bytes | None] = {}
        self.counts: Counter[str] = Counter()
        self._directory = directory
        self._who = who
        self._random = random.Random(f"{who} {seed}")
        self._number = 0
        self._last = ""

    def run(self, seconds: float) -> None:
        """Do operations for so long, then look at all own names once more.

        Raises:
            Wrong: with the operation.
        """
        end = time.monotonic() + seconds
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        while time.monotonic() < end:
            (kind,) = self._random.choices(kinds, weights)
            self._number += 1
            self._last = kind
            try:
                getattr(self, f"_{kind}")()
            except (OSError, AssertionError) as e:
                raise Wrong(f"{self._who}, operation {self._number}: {self._last}: {e!r}") from e
            self.counts[kind] += 1
        for n in range(OWN):
            self._look(self._name(n))

    # --- own names -----------------------------------------------------------------------------

    def _name(self, n: int) -> str:
        return f"{self._who}-{n}"

    def _any(self, *, free: bool = False, directory: bool = False) -> str | None:
        """One of the own names that are free, or files, or directories."""
        names = [self._name(n) for n in range(OWN)]
        if free:
            names = [n for n in names if n not in self.model]
        else:
            names = [n for n in names if n in self.model and (self.model[n] is None) == directory]
        name = self._random.choice(names) if names else None
        self._last += f" {name}"
        return name

    def _create(self) -> None:
        name = self._any(free=True)
        if name is None:
            return
        content = version(name, self._number)
        fd = os.open(self._directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with os.fdopen(fd, "wb") as f:
            f.write(content)
        self.model[name] = content

    def _rewrite(self) -> None:
        name = self._any()
        if name is not None:
            self.model[name] = version(name, self._number)
            (self._directory / name).write_bytes(version(name, self._number))

    def _append(self) -> None:
        name = self._any()
        if name is not None:
            more = b"more %d" % self._number
            with (self._directory / name).open("ab") as f:
                f.write(more)
            self.model[name] = (self.model[name] or b"") + more

    def _truncate(self) -> None:
        name = self._any()
        if name is not None:
            content = self.model[name] or b""
            size = self._random.randrange(len(content) + 500)
            os.truncate(self._directory / name, size)
            self.model[name] = content[:size].ljust(size, b"\0")

    def _rename(self) -> None:
        """Files over free names and over files, directories over free names and over directories."""
        is_directory = self._random.random() < 0.2
        old = self._any(directory=is_directory)
        new = self._any(free=self._random.random() < 0.5, directory=is_directory)
        if old is not None and new is not None and old != new:
            (self._directory / old).rename(self._directory / new)
            self.model[new] = self.model.pop(old)

    def _unlink(self) -> None:
        name = self._any()
        if name is not None:
            (self._directory / name).unlink()
            del self.model[name]

    def _mkdir(self) -> None:
        name = self._any(free=True)
        if name is not None:
            (self._directory / name).mkdir()
            self.model[name] = None

    def _rmdir(self) -> None:
        name = self._any(directory=True)
        if name is not None:
            (self._directory / name).rmdir()
            del self.model[name]

    def _stat(self) -> None:
        self._look(self._name(self._random.randrange(OWN)), read=False)

    def _read(self) -> None:
        self._look(self._name(self._random.randrange(OWN)))

    def _look(self, name: str, read: bool = True) -> None:
        self._last += f" {name}"
        try:
            found = os.lstat(self._directory / name)
        except FileNotFoundError:
            if name in self.model:
                raise Wrong(f"{name} is missing") from None
            return
        if name not in self.model:
            raise Wrong(f"{name} is there")
        content = self.model[name]
        if stat.S_ISDIR(found.st_mode) != (content is None):
            raise Wrong(f"{name} is of the wrong kind")
        if content is not None and found.st_size != len(content):
            raise Wrong(f"{name} has {found.st_size} bytes, not {len(content)}")
        if content is not None and read and (self._directory / name).read_bytes() != content:
            raise Wrong(f"{name} has another content")

    def _readdir(self) -> None:
        found = os.listdir(self._directory)
        if len(found) != len(set(found)):
            raise Wrong(f"twice: {[n for n, times in Counter(found).items() if times > 1]}")
        own = {name for name in found if name.startswith(f"{self._who}-")}
        if own != set(self.model):
            raise Wrong(f"too many: {own - set(self.model)}, missing: {set(self.model) - own}")

    # --- everybody's names ---------------------------------------------------------------------

    def _shared(self) -> Path:
        name = f"shared-{self._random.randrange(SHARED)}"
        self._last += f" {name}"
        return self._directory / name

    def _may_fail(self, act: object, *args: object) -> None:
        try:
            act(*args)  # type: ignore[operator]
        except OSError as e:
            if e.errno not in SHARED_ERRORS:
                raise
            self.counts[f"refused {errno.errorcode[e.errno or 0]}"] += 1

    def _shared_create(self) -> None:
        """Beside it, then over it, so that nobody can meet a half-written one."""
        target = self._shared()
        beside = self._directory / f"{self._who}.tmp"
        beside.write_bytes(version(self._who, self._number))
        self._may_fail(beside.rename, target)
        if beside.exists():  # refused
            beside.unlink()

    def _shared_rename(self) -> None:
        self._may_fail(self._shared().rename, self._shared())

    def _shared_unlink(self) -> None:
        self._may_fail(self._shared().unlink)

    def _shared_read(self) -> None:
        path = self._shared()
        self._may_fail(lambda: check(path.read_bytes()))


def main() -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--who", required=True)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stress = Stress(args.directory, args.who, args.seed)
    try:
        stress.run(args.seconds)
    except Wrong as e:
        sys.exit(str(e))
    model = {name: None if data is None else data.decode("latin-1") for name, data in stress.model.items()}
    json.dump({"counts": stress.counts, "model": model}, sys.stdout)


if __name__ == "__main__":
    main()
