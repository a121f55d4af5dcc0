"""Records against a dict of paths: whatever bytes names have, and whichever mount wrote them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsmount.store.records import AttrRecord, Records
from vfsmount.values import Kind, LocalAttrs, Validator

FOLDERS = ["a" * 32, "b" * 32]

# Few, so that they meet: around "/" in byte order, prefixes of one another, not UTF-8.
NAMES = st.sampled_from([b"a", b"a0", b"a.", b"\xff"])
ODD_NAMES = st.binary(min_size=1, max_size=3).filter(lambda n: b"/" not in n and b"\0" not in n)

Path_ = tuple[bytes, ...]
DIRECTORIES = st.lists(NAMES, min_size=1, max_size=2).map(tuple)
PATHS = DIRECTORIES | st.tuples(NAMES, NAMES, NAMES) | st.tuples(NAMES, ODD_NAMES)
VERSIONS = st.none() | st.builds(
    Validator, mtime_ns=st.integers(-(2**63), 2**63 - 1), size=st.integers(0, 2**63 - 1)
)
ATTRS = st.builds(
    LocalAttrs,
    mode=st.none() | st.integers(0, 0o7777),
    uid=st.none() | st.integers(0, 2**32 - 1),
    mtime_ns=st.none() | st.integers(-(2**63), 2**63 - 1),
    xattrs=st.lists(st.tuples(st.binary(), st.binary()), max_size=2).map(tuple),
    target=st.binary(max_size=8),
)
PUTS = st.tuples(st.just("put"), PATHS, st.sampled_from(Kind), VERSIONS, ATTRS)
STEPS = st.one_of(
    PUTS,
    PUTS,
    st.tuples(st.just("remove"), DIRECTORIES),
    st.tuples(st.just("rename"), DIRECTORIES, DIRECTORIES),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("remove_folder")),
    st.tuples(st.just("reopen")),
)


def parent_of(path: Path_) -> bytes:
    return b"/".join(path[:-1])


def below(path: Path_, top: Path_) -> bool:
    """Whether `path` is `top` or lies below it."""
    return path[: len(top)] == top


def by_name(record: AttrRecord) -> bytes:
    return record.name


class TwoMounts:
    """Two `Records` of one file, used in turn, and the dict that says what they must hold."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.mounts = [Records(file), Records(file)]
        self.model: dict[tuple[str, Path_], AttrRecord] = {}

    def close(self) -> None:
        for records in self.mounts:
            records.close()

    async def step(self, which: int, folder: str, step: tuple[object, ...]) -> None:
        records = self.mounts[which]
        match step:
            case ("put", tuple(path), Kind() as kind, version, LocalAttrs() as attrs):
                record = AttrRecord(path[-1], kind, version, attrs)  # type: ignore[arg-type]
                self.model[folder, path] = record
                await records.put(folder, parent_of(path), record)
            case ("remove", tuple(path)):
                self.forget(folder, path)
                await records.remove(folder, parent_of(path), path[-1])
            case ("rename", tuple(old), tuple(new)):
                if below(old, new) or below(new, old):
                    return  # rename(2) does not come here with these
                self.forget(folder, new)
                for at in [p for f, p in self.model if f == folder and below(p, old)]:
                    record, to = self.model.pop((folder, at)), new + at[len(old) :]
                    self.model[folder, to] = AttrRecord(to[-1], record.kind, record.version, record.attrs)
                await records.rename(folder, parent_of(old), old[-1], parent_of(new), new[-1])
            case ("remove_folder",):
                for at in [p for f, p in self.model if f == folder]:
                    del self.model[folder, at]
                await records.remove_folder(folder)
            case _:
                records.close()
                self.mounts[which] = Records(self.file)

    def forget(self, folder: str, top: Path_) -> None:
        for at in [p for f, p in self.model if f == folder and below(p, top)]:
            del self.model[folder, at]

    async def check(self, seen: set[bytes]) -> None:
        for records in self.mounts:
            for folder in FOLDERS:
                for parent in seen:
                    found = await records.read_directory(folder, parent)
                    expected = [
                        r for (f, p), r in self.model.items() if (f, parent_of(p)) == (folder, parent)
                    ]
                    assert sorted(found, key=lambda r: r.name) == sorted(expected, key=lambda r: r.name)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(PUTS, min_size=4, max_size=12),
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(FOLDERS), STEPS), max_size=20),
)
def test_records_say_what_a_dict_of_paths_says(
    first: list[tuple[object, ...]], steps: list[tuple[int, str, tuple[object, ...]]]
) -> None:
    async def run(directory: str) -> None:
        both = TwoMounts(Path(directory) / "records.sqlite")
        seen = {b""}
        try:
            for put in first:
                await both.step(0, FOLDERS[0], put)
            for which, folder, step in steps:
                await both.step(which, folder, step)
                seen |= {parent_of(p) for _, p in both.model}
            seen |= {parent_of(p) for _, p in both.model}
            await both.check(seen)
        finally:
            both.close()

    with tempfile.TemporaryDirectory() as directory:
        trio.run(run, directory)
