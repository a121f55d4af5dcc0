"""The block cache against a dict: two mounts of one directory, restarts, damage, and a limit that holds."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.cached import content, key
from tests.support.disks import used
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.store.segments import SEGMENT_BLOCKS, Layout

SIZES = [1, 4097, BLOCK_SIZE, 3 * BLOCK_SIZE - 1, (SEGMENT_BLOCKS + 1) * BLOCK_SIZE]
# Of some, two versions.
KEYS = [
    key(f"f{n}", size, mtime_ns) for n, size in enumerate(SIZES) for mtime_ns in ((1, 2) if n % 2 else (1,))
]
BLOCKS = [(of, no) for of in KEYS for no in range(-(-of.validator.size // BLOCK_SIZE))]
LIMITS = [2 * BLOCK_SIZE, 6 * BLOCK_SIZE, 40 * BLOCK_SIZE]

mounts = st.integers(0, 1)
blocks = st.sampled_from(BLOCKS)
keys = st.sampled_from(KEYS)


class TwoMounts(RuleBasedStateMachine):
    """`kept`: blocks that may be there; only what was evicted may be missing. `sure`: with room for all,
    those that have to be there."""

    @initialize(limit=st.sampled_from(LIMITS))
    def begin(self, limit: int) -> None:
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "cache"
        self.limit = limit
        self.kept: set[tuple[FileKey, int]] = set()
        self.pins: set[FileKey] = set()
        self.mounts = [BlockCache(self.root, limit, 0) for _ in range(2)]

    @property
    def roomy(self) -> bool:
        return self.limit == LIMITS[-1]

    @rule(mount=mounts, block=blocks)
    def write(self, mount: int, block: tuple[FileKey, int]) -> None:
        of, no = block
        if self.mounts[mount].write(of, no, content(of, no)):
            self.kept.add(block)
            assert self.mounts[1 - mount].read(of, no) == content(of, no)
        else:
            assert not self.roomy

    @rule(mount=mounts, block=blocks)
    def read(self, mount: int, block: tuple[FileKey, int]) -> None:
        of, no = block
        found = self.mounts[mount].read(of, no, memoryview(bytearray(BLOCK_SIZE)))
        if found is None:
            assert not (self.roomy and block in self.kept)
            self.kept.discard(block)
        else:
            assert block in self.kept and found == content(of, no)

    @rule(mount=mounts, of=keys)
    def present(self, mount: int, of: FileKey) -> None:
        found = {(of, no) for no in self.mounts[mount].present(of)}
        mine = {block for block in self.kept if block[0] == of}
        assert found == mine if self.roomy else found <= mine

    @rule(mount=mounts, of=keys)
    def drop(self, mount: int, of: FileKey) -> None:
        self.mounts[mount].drop(of)
        self.kept = {block for block in self.kept if block[0] != of}
        self.pins.discard(of)

    @rule(mount=mounts, of=keys)
    def pin(self, mount: int, of: FileKey) -> None:
        if self.mounts[mount].pin(of):
            self.pins.add(of)

    @rule(mount=mounts, of=keys)
    def unpin(self, mount: int, of: FileKey) -> None:
        self.mounts[mount].unpin(of)
        self.pins.discard(of)

    @rule(mount=mounts, block=blocks)
    def pinned_block_stays(self, mount: int, block: tuple[FileKey, int]) -> None:
        of, no = block
        if of in self.pins and self.mounts[mount].read(of, no) is not None:
            bulk = key("bulk", 12 * BLOCK_SIZE)
            for other in range(12):
                self.mounts[mount].write(bulk, other, content(bulk, other))
            assert self.mounts[1 - mount].read(of, no) == content(of, no)
            if not self.roomy:
                self.kept &= {(k, n) for k, n in self.kept for m in self.mounts[:1] if n in m.present(k)}
            self.mounts[mount].drop(bulk)

    @rule(mount=mounts)
    def restart(self, mount: int) -> None:
        self.mounts[mount].close()
        self.mounts[mount] = BlockCache(self.root, self.limit, 0)

    @rule()
    def restart_both(self) -> None:
        for mount in self.mounts:
            mount.close()
        self.mounts = [BlockCache(self.root, self.limit, 0) for _ in range(2)]

    @rule()
    def lose_the_catalogue(self) -> None:
        (self.root / "catalogue.sqlite").unlink()

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), bit=st.integers(0, 8 * BLOCK_SIZE - 1))
    def flip_a_bit(self, data: st.DataObject, bit: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.kept, key=BLOCKS.index)))
        (of, no), (number, slot) = block, divmod(block[1], SEGMENT_BLOCKS)
        layout = Layout.of(of, number)
        path = self.root / "blocks" / layout.name.hex()
        if path.exists():
            at = layout.block_at(slot) + bit // 8 % layout.length(slot)
            with path.open("r+b", buffering=0) as file:
                (byte,) = os.pread(file.fileno(), 1, at) or b"\0"
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), at)
        for mount in self.mounts:
            assert mount.read(of, no) is None
        self.kept.discard(block)

    @rule(mount=mounts)
    def clear(self, mount: int) -> None:
        self.mounts[mount].clear()
        self.kept.clear()
        self.pins.clear()

    @invariant()
    def is_bounded_and_booked(self) -> None:
        if hasattr(self, "mounts"):
            for mount in self.mounts:
                usage = mount.usage()
                assert usage.bytes <= self.limit
                assert usage.pinned_bytes <= usage.bytes
                assert set(mount.pinned()) == self.pins
            assert used(self.root) <= self.limit

    def teardown(self) -> None:
        if hasattr(self, "mounts"):
            checked, bad = self.mounts[0].verify()
            assert bad == 0 and (not self.roomy or checked == len(self.kept))
            for mount in self.mounts:
                mount.close()
            shutil.rmtree(self.root.parent)


def test_two_mounts_say_what_a_dict_says(expect_warnings: list[logging.LogRecord]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        TwoMounts, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
    assert {record.getMessage().split()[0] for record in expect_warnings} <= {"cache.bad_block"}
