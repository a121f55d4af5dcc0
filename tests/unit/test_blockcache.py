"""The disk tier of the read cache: what is kept, what is believed, what goes, and what a bad disk does."""

from __future__ import annotations

import logging
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cached import content, fill, held, key
from tests.support.disks import used
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.errors import ConfigError
from vfsmount.store import blockcache, catalogue
from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.store.segments import SEGMENT_BLOCKS, Layout
from vfsmount.values import Validator

SEGMENT = SEGMENT_BLOCKS * BLOCK_SIZE
Make = Callable[..., BlockCache]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make(root: Path) -> Iterator[Make]:
    """A cache below `root`; several are several mounts."""
    made: list[BlockCache] = []

    def make(limit: int = 8 * SEGMENT, floor: int = 0, **more: Callable[[], int]) -> BlockCache:
        made.append(BlockCache(root, limit, floor, **more))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def file_of(root: Path, of: FileKey, number: int = 0) -> Path:
    return root / "blocks" / Layout.of(of, number).name.hex()


# --- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, BLOCK_SIZE, BLOCK_SIZE + 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT - 7])
def test_what_was_written_is_read_also_after_a_restart(make: Make, size: int) -> None:
    of, cache = key("a", size), make()
    blocks = -(-size // BLOCK_SIZE)
    assert held(cache, of) == []
    assert fill(cache, of) == blocks
    assert held(cache, of) == list(range(blocks))
    assert cache.present(of) == set(range(blocks))
    cache.close()
    again = make()
    assert held(again, of) == list(range(blocks))
    assert again.usage().files == 1


def test_block_is_read_into_the_buffer_given(make: Make) -> None:
    of, cache = key("a", BLOCK_SIZE + 10), make()
    fill(cache, of)
    buffer = bytearray(BLOCK_SIZE)
    found = cache.read(of, 1, memoryview(buffer))
    assert isinstance(found, memoryview) and found.obj is buffer
    assert bytes(found) == content(of, 1) == buffer[:10]


def test_past_the_end_there_is_nothing(make: Make) -> None:
    of, cache = key("a", BLOCK_SIZE), make()
    fill(cache, of)
    assert cache.read(of, 1) is None and cache.read(key("empty", 0), 0) is None
    assert cache.present(key("empty", 0)) == set()
    with pytest.raises(ValueError, match="block 0"):
        cache.write(of, 0, b"short")
    assert cache.read(of, 0, memoryview(bytearray(100))) is None  # too short, and the block is not bad for it
    assert held(cache, of) == [0]


def test_present_of_a_range(make: Make) -> None:
    of, cache = key("a", 4 * SEGMENT), make()
    for no in (3, 17, 40):
        cache.write(of, no, content(of, no))
    assert cache.present(of) == {3, 17, 40}
    assert cache.present(of, 4, 40) == {17}


def test_dropped_file_is_gone_and_the_others_stay(make: Make) -> None:
    a, b, cache = key("a", 3 * BLOCK_SIZE), key("b", 3 * BLOCK_SIZE), make()
    fill(cache, a)
    fill(cache, b)
    cache.drop(a)
    assert held(cache, a) == [] and held(cache, b) == [0, 1, 2]
    assert cache.usage().files == 1


def test_what_one_mount_keeps_another_reads(make: Make) -> None:
    of, one, other = key("a", 20 * BLOCK_SIZE), make(), make()
    assert held(other, of) == []
    fill(one, of)
    assert held(other, of) == list(range(20))
    one.drop(of)
    assert held(other, of) == []
    fill(other, of)
    assert held(one, of) == list(range(20))


def test_closed_cache_holds_nothing(make: Make) -> None:
    of, cache = key("a", 10), make()
    fill(cache, of)
    cache.close()
    assert cache.read(of, 0) is None and not cache.write(of, 0, content(of, 0)) and not cache.present(of)
    cache.close()


def test_threads_share_a_cache_and_its_few_open_files(
    make: Make, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockcache, "_MOST_OPEN", 2)
    before = len(os.listdir("/proc/self/fd"))
    cache = make(2 * SEGMENT)
    files = [key(f"f{n}", 6 * BLOCK_SIZE) for n in range(8)]
    kept = []

    def work(seed: int) -> int:
        chosen, into, found = random.Random(seed), memoryview(bytearray(BLOCK_SIZE)), 0
        for _ in range(300):
            of, no = chosen.choice(files), chosen.randrange(6)
            data = cache.read(of, no, into)
            if data is None:
                # On a busy machine the catalogue may be another's for too long.
                kept.append(cache.write(of, no, content(of, no)))
            else:
                assert data == content(of, no)
                found += 1
            if chosen.random() < 0.03:
                cache.drop(of)
        return found

    with ThreadPoolExecutor(4) as pool:
        assert all(found > 20 for found in pool.map(work, range(4)))
    assert kept.count(True) > len(kept) // 2
    assert used(root) <= 2 * SEGMENT
    # The catalogue with its journal, its lock, `users`, and two cache files.
    assert len(os.listdir("/proc/self/fd")) <= before + 6
    cache.close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- what is believed --------------------------------------------------------------------------


def damage(path: Path, at: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))


@pytest.mark.parametrize("at", [0, 4095, 4096 + 77, BLOCK_SIZE - 1])
def test_flipped_bit_is_noticed_and_healed(
    make: Make, root: Path, at: int, expect_warnings: list[logging.LogRecord]
) -> None:
    of, cache = key("a", 3 * BLOCK_SIZE), make()
    fill(cache, of)
    damage(file_of(root, of), Layout.of(of, 0).block_at(1) + at)
    assert cache.read(of, 1) is None
    assert cache.present(of) == {0, 2}
    before = cache.usage().bytes
    assert cache.write(of, 1, content(of, 1))
    assert held(cache, of) == [0, 1, 2]
    assert cache.usage().bytes == before
    assert [record.getMessage().split()[0] for record in expect_warnings] == ["cache.bad_block"]


def test_damage_anywhere_in_the_header_is_never_believed(
    make: Make, root: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    of, cache = key("a" * 300, 2 * BLOCK_SIZE), make()
    chosen = random.Random(1)
    for _ in range(60):
        fill(cache, of)
        damage(file_of(root, of), chosen.randrange(500), 1 << chosen.randrange(8))
        cache.close()
        cache = make()
        assert set(held(cache, of)) <= {0, 1}  # `held` compares what it finds
    assert fill(cache, of) == 2 and held(cache, of) == [0, 1]


def test_zeroes_are_never_believed(make: Make, root: Path, expect_warnings: list[logging.LogRecord]) -> None:
    of, cache = key("a", 2 * BLOCK_SIZE), make()
    fill(cache, of)
    layout = Layout.of(of, 0)
    # What a power cut may leave: the header and the table, and of the blocks nothing.
    os.truncate(file_of(root, of), layout.header_length)
    os.truncate(file_of(root, of), layout.file_length)
    assert cache.present(of) == {0, 1}
    assert held(cache, of) == []
    fill(cache, of)
    # Or all of its length, and nothing in it.
    os.truncate(file_of(root, of), 0)
    os.truncate(file_of(root, of), layout.file_length)
    cache.close()
    assert held(make(), of) == []


def test_versions_and_files_do_not_mix_even_under_each_others_names(make: Make, root: Path) -> None:
    size = 2 * BLOCK_SIZE
    old = key("a", size, mtime_ns=1)
    others = [
        key("a", size, mtime_ns=2),
        key("b", size),
        key("a", size + 1),
        FileKey("x", "y", "a", old.validator),
    ]
    cache = make()
    fill(cache, old)
    for other in others:
        assert held(cache, other) == []
        # As if the names' hashes were the same.
        file_of(root, other).write_bytes(file_of(root, old).read_bytes())
        assert held(cache, other) == []
        assert fill(cache, other) == len(held(cache, other)) == -(-other.validator.size // BLOCK_SIZE)
    assert held(cache, old) == [0, 1]


def test_block_of_another_place_is_not_believed(
    make: Make, root: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    of, cache = key("a", 2 * BLOCK_SIZE), make()
    fill(cache, of)
    layout = Layout.of(of, 0)
    raw = bytearray(file_of(root, of).read_bytes())
    for at, length in ((layout.entry_at, 16), (layout.block_at, BLOCK_SIZE)):
        raw[at(0) : at(0) + length] = raw[at(1) : at(1) + length]
    file_of(root, of).write_bytes(raw)
    assert held(cache, of) == [1]


@pytest.mark.parametrize(
    "of",
    [
        FileKey("", "", "", Validator(0, 1)),
        FileKey("e", "f", "n\0ul\n \udcff ü", Validator(-(2**63), 2**63)),
        FileKey("e", "f", "x" * 4095, Validator(2**70, 5)),
    ],
)
def test_any_key_is_itself_again(of: FileKey, make: Make) -> None:
    assert FileKey.decoded(of.encoded()) == of
    cache = make()
    data = os.urandom(min(BLOCK_SIZE, of.validator.size))
    assert cache.write(of, 0, data) and cache.read(of, 0) == data


def test_key_that_fits_no_header_is_not_kept(make: Make) -> None:
    of, cache = key("x" * 20_000, 10), make()
    assert fill(cache, of) == 0 and held(cache, of) == []


# --- the bound, and what goes ------------------------------------------------------------------


def test_cache_stays_within_its_limit_and_books_what_it_takes(make: Make, root: Path) -> None:
    limit = 3 * SEGMENT
    cache = make(limit)
    chosen = random.Random(2)
    for n in range(300):
        size = chosen.choice([1, 5000, BLOCK_SIZE - 1, 3 * BLOCK_SIZE, SEGMENT + 100])
        of = key(f"f{n}", size)
        assert fill(cache, of) == -(-size // BLOCK_SIZE)
        assert used(root) <= limit
    usage = cache.usage()
    assert limit * 0.7 < usage.bytes <= limit
    # Booked is what is there, but for a page a file of what a file system may need for itself.
    assert usage.bytes - 4096 * usage.files - (64 << 10) <= used(root / "blocks") <= usage.bytes + (64 << 10)


def test_bulk_read_of_three_times_the_cache_leaves_the_hot_set(make: Make) -> None:
    cache = make(8 * SEGMENT)
    hot = [key(f"hot{n}", SEGMENT) for n in range(3)]
    for of in hot:
        fill(cache, of)
    for of in hot:
        held(cache, of)  # used again
    bulk = key("bulk", 3 * 8 * SEGMENT)
    assert fill(cache, bulk) == 3 * 8 * SEGMENT_BLOCKS
    assert [len(held(cache, of)) for of in hot] == [SEGMENT_BLOCKS] * 3


def test_what_was_read_once_goes_in_its_turn(make: Make) -> None:
    cache = make(4 * SEGMENT)
    files = [key(f"f{n}", SEGMENT) for n in range(8)]
    for of in files:
        fill(cache, of)
    assert held(cache, files[0]) == [] and len(held(cache, files[-1])) == SEGMENT_BLOCKS


def test_what_comes_back_soon_is_not_new(make: Make) -> None:
    cache = make(4 * SEGMENT)
    first = key("first", SEGMENT)
    fill(cache, first)
    for n in range(4):
        fill(cache, key(f"f{n}", SEGMENT))
    assert held(cache, first) == []
    fill(cache, first)
    for n in range(4, 8):
        fill(cache, key(f"f{n}", SEGMENT))
    assert len(held(cache, first)) == SEGMENT_BLOCKS


def test_one_sweep_is_one_use(make: Make) -> None:
    cache = make(4 * SEGMENT)
    of = key("a", SEGMENT)
    fill(cache, of)
    for times in (0, 1, 1):
        assert len(cache._touched) == times
        held(cache, of)  # the third follows too soon


@pytest.mark.parametrize("wanted", [True, False])
def test_what_somebody_asked_to_have_here_pushes_out_what_was_used(make: Make, wanted: bool) -> None:
    cache = make(limit=12 * SEGMENT)
    used = [key(f"used{n}", SEGMENT) for n in range(11)]
    for of in used:
        fill(cache, of)
        held(cache, of)
        held(cache, of)
    asked_for = [key(f"asked{n}", SEGMENT) for n in range(6)]
    for of in asked_for:
        for no in range(SEGMENT_BLOCKS):
            assert cache.write(of, no, content(of, no), wanted=wanted)
    whole = sum(len(cache.present(of)) == SEGMENT_BLOCKS for of in asked_for)
    assert whole == 6 if wanted else whole < 6


def test_capacity_is_what_the_limit_and_the_disk_leave_beside_pins(make: Make) -> None:
    cache = make(limit=8 * SEGMENT)
    assert 7 * SEGMENT < cache.capacity() < 8 * SEGMENT
    fill(cache, key("a", 3 * SEGMENT))
    assert 7 * SEGMENT < cache.capacity() < 8 * SEGMENT
    assert cache.pin(key("b", 2 * SEGMENT))
    assert 5 * SEGMENT < cache.capacity() < 6 * SEGMENT
    assert make(floor=4 * SEGMENT, free_bytes=lambda: 3 * SEGMENT).capacity() == 0


def test_room_of_what_goes_is_free_at_once_though_others_have_it_open(make: Make, root: Path) -> None:
    of, one, other = key("a", SEGMENT), make(), make()
    fill(one, of)
    held(other, of)  # has it open now
    one.drop(of)
    open_files = {
        os.readlink(f"/proc/self/fd/{fd}"): fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_gone(fd)
    }
    assert open_files and all(os.fstat(fd).st_blocks == 0 for fd in open_files.values())


def _is_gone(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)") and "blocks" in os.readlink(
            f"/proc/self/fd/{fd}"
        )
    except FileNotFoundError:
        return False


def test_block_written_into_a_removed_file_is_not_kept(make: Make) -> None:
    of, one, other = key("a", SEGMENT), make(), make()
    one.write(of, 0, content(of, 0))
    with one._opened(of, 0) as file:
        assert file is not None
        other.drop(of)
        # Its room was booked, and given back, before it is written.
        assert not file.file.write(1, content(of, 1))
        assert os.fstat(file.file.fd).st_blocks == 0
    assert one.write(of, 1, content(of, 1))
    assert held(one, of) == held(other, of) == [1]


def test_floor_of_free_space_is_kept(make: Make) -> None:
    free = [20 * BLOCK_SIZE]
    cache = make(8 * SEGMENT, floor=10 * BLOCK_SIZE, free_bytes=lambda: free[0])
    kept = 0
    for n in range(30):
        of = key(f"f{n}", BLOCK_SIZE)
        taken = cache.usage().bytes
        assert cache.write(of, 0, content(of, 0))
        free[0] -= cache.usage().bytes - taken
        assert free[0] >= 10 * BLOCK_SIZE
        kept = max(kept, cache.usage().files)
    assert kept == 9  # and a page each for their headers
    # Somebody else fills the disk: the cache gives way, then keeps nothing.
    free[0] = 0
    of = key("last", BLOCK_SIZE)
    assert not cache.write(of, 0, content(of, 0))
    assert cache.usage().bytes == 0


def test_smaller_limit_is_kept_from_the_beginning(make: Make, root: Path) -> None:
    cache = make(8 * SEGMENT)
    fill(cache, key("a", 8 * SEGMENT))
    cache.close()
    assert make(3 * SEGMENT).usage().bytes <= 3 * SEGMENT
    assert used(root) <= 3 * SEGMENT


def test_cache_smaller_than_a_block_keeps_nothing(make: Make) -> None:
    of, cache = key("a", BLOCK_SIZE), make(BLOCK_SIZE)
    assert fill(cache, of) == 0 and cache.usage().bytes == 0


def test_room_that_killed_processes_booked_is_found_again(make: Make, root: Path) -> None:
    of, cache = key("a", SEGMENT), make()
    for slot in range(SEGMENT_BLOCKS):
        assert cache._catalogue.reserve(Layout.of(of, 0), slot)
    assert cache.usage().bytes > SEGMENT
    assert make().usage().bytes > SEGMENT  # somebody may be at it
    for each in (cache, make()):
        each.close()


def test_alone_it_is_looked_what_is_there(make: Make) -> None:
    of, cache = key("a", SEGMENT), make()
    cache.write(of, 0, content(of, 0))
    for slot in range(SEGMENT_BLOCKS):
        assert cache._catalogue.reserve(Layout.of(of, 0), slot)
    cache.close()
    again = make()
    assert again.usage().bytes < 2 * BLOCK_SIZE
    assert held(again, of) == [0]


def test_room_of_a_bad_block_stays_booked_when_the_catalogue_is_lost(
    make: Make, root: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    of, cache = key("a", 4 * BLOCK_SIZE), make()
    fill(cache, of)
    damage(file_of(root, of), Layout.of(of, 0).block_at(1))
    assert cache.read(of, 1) is None
    (root / "catalogue.sqlite").unlink()
    assert cache.usage().bytes >= used(root / "blocks") - 4096


# --- pins --------------------------------------------------------------------------------------


def test_pinned_file_stays(make: Make) -> None:
    cache = make(8 * SEGMENT)
    of = key("pinned", 2 * SEGMENT)
    fill(cache, of)
    assert cache.pin(of) and cache.pin(of)
    fill(cache, key("bulk", 24 * SEGMENT))
    assert len(held(cache, of)) == 2 * SEGMENT_BLOCKS
    assert cache.pinned() == [of]
    assert 2 * SEGMENT < cache.usage().pinned_bytes < 2 * SEGMENT + BLOCK_SIZE
    cache.unpin(of)
    assert cache.pinned() == [] and cache.usage().pinned_bytes == 0
    for n in range(16):
        again = key(f"again{n}", SEGMENT)
        fill(cache, again)
        held(cache, again)
    assert held(cache, of) == []


def test_what_comes_after_the_pin_stays_as_well(make: Make) -> None:
    cache = make(4 * SEGMENT)
    of = key("pinned", 2 * SEGMENT)
    assert cache.pin(of)
    fill(cache, of)
    fill(cache, key("bulk", 12 * SEGMENT))
    assert len(held(cache, of)) == 2 * SEGMENT_BLOCKS


def test_pin_that_cannot_fit_says_so(make: Make) -> None:
    cache = make(4 * SEGMENT, floor=BLOCK_SIZE, free_bytes=lambda: 3 * SEGMENT)
    assert not cache.pin(key("large", 4 * SEGMENT))
    assert not cache.pin(key("more than the disk", 3 * SEGMENT))
    assert cache.pin(key("a", 2 * SEGMENT))
    assert not cache.pin(key("b", 2 * SEGMENT))
    assert cache.pinned() == [key("a", 2 * SEGMENT)]


def test_pins_survive_the_loss_of_the_catalogue(make: Make, root: Path) -> None:
    of, cache = key("pinned", SEGMENT), make(4 * SEGMENT)
    assert cache.pin(of)
    fill(cache, of)
    (root / "catalogue.sqlite").unlink()
    fill(cache, key("bulk", 12 * SEGMENT))
    assert len(held(cache, of)) == SEGMENT_BLOCKS and cache.pinned() == [of]
    cache.drop(of)
    assert cache.pinned() == [] and held(cache, of) == []


def test_clear_leaves_nothing(make: Make, root: Path) -> None:
    of, cache = key("pinned", SEGMENT), make()
    cache.pin(of)
    fill(cache, of)
    fill(cache, key("a", 10))
    assert cache.clear() > SEGMENT
    assert held(cache, of) == [] and cache.pinned() == []
    assert (cache.usage().bytes, cache.usage().files) == (0, 0)
    assert fill(cache, of) == SEGMENT_BLOCKS


def test_verify_removes_what_is_bad(make: Make, root: Path) -> None:
    of, cache = key("a", 5 * BLOCK_SIZE), make()
    fill(cache, of)
    fill(cache, key("b", 5))
    assert cache.verify() == (6, 0)
    damage(file_of(root, of), Layout.of(of, 0).block_at(3) + 5)
    (root / "blocks" / "rubbish").write_bytes(b"rubbish")
    assert cache.verify() == (7, 2)
    assert cache.verify() == (5, 0)
    assert held(cache, of) == [0, 1, 2, 4]


# --- the catalogue and the disk in trouble -----------------------------------------------------


def lose(root: Path) -> None:
    (root / "catalogue.sqlite").unlink()


def lose_all_but_the_files(root: Path) -> None:
    for path in root.iterdir():
        if path.is_file():
            path.unlink()


def cut(root: Path) -> None:
    os.truncate(root / "catalogue.sqlite", 5000)


def empty(root: Path) -> None:
    os.truncate(root / "catalogue.sqlite", 0)


def scribble(root: Path) -> None:
    raw = bytearray((root / "catalogue.sqlite").read_bytes())
    chosen = random.Random(3)
    raw[100:] = chosen.randbytes(len(raw) - 100)
    with (root / "catalogue.sqlite").open("r+b") as file:
        file.write(raw)


@pytest.mark.parametrize("trouble", [lose, lose_all_but_the_files, cut, empty, scribble])
@pytest.mark.parametrize("restart", [False, True])
def test_catalogue_is_made_anew(
    make: Make, root: Path, trouble: Callable[[Path], None], restart: bool
) -> None:
    limit = 3 * SEGMENT
    caches = [make(limit), make(limit)]
    of = key("a", SEGMENT)
    fill(caches[0], of)
    if restart:
        for cache in caches:
            cache.close()
    trouble(root)
    if restart:
        caches = [make(limit), make(limit)]
    for n, cache in enumerate(caches * 2):
        other = key(f"b{n}", 1000)
        assert fill(cache, other) == 1 and held(cache, other) == [0]
        assert held(cache, of) == list(range(SEGMENT_BLOCKS))
        assert SEGMENT < cache.usage().bytes < SEGMENT + BLOCK_SIZE
    fill(caches[1], key("bulk", 3 * limit))
    assert used(root) <= limit


def test_new_catalogue_is_used_by_all(make: Make, root: Path) -> None:
    caches = [make(), make()]
    (root / "catalogue.sqlite").unlink()
    fill(caches[0], key("a", 10))
    inode = (root / "catalogue.sqlite").stat().st_ino
    fill(caches[1], key("b", 10))
    assert (root / "catalogue.sqlite").stat().st_ino == inode
    assert caches[0].usage() == caches[1].usage() and caches[0].usage().files == 2


def test_catalogue_of_an_earlier_boot_is_not_believed(
    make: Make, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, cache = key("a", SEGMENT), make()
    fill(cache, of)
    cache.close()
    inode = (root / "catalogue.sqlite").stat().st_ctime_ns
    monkeypatch.setattr(catalogue, "boot_id", lambda: "another")
    again = make()
    assert held(again, of) == list(range(SEGMENT_BLOCKS))
    assert (root / "catalogue.sqlite").stat().st_ctime_ns != inode


def test_cache_removed_by_hand_while_it_is_used(
    make: Make, root: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    of, cache = key("a", SEGMENT), make()
    fill(cache, of)
    for path in (root / "blocks").iterdir():
        path.unlink()
    assert fill(cache, of) == SEGMENT_BLOCKS == len(held(cache, of))
    assert len(held(make(), of)) == SEGMENT_BLOCKS  # in a file that has a name
    subprocess.run(["rm", "-rf", root], check=True)
    fill(cache, of)  # makes the directory
    assert fill(cache, of) == SEGMENT_BLOCKS
    assert held(cache, of) == list(range(SEGMENT_BLOCKS))
    assert root.stat().st_mode & 0o777 == 0o700 and (root / "CACHEDIR.TAG").exists()
    cache.close()
    assert held(make(), of) == list(range(SEGMENT_BLOCKS))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_full_disk_is_a_miss_and_one_warning(
    small_disk: Path, expect_warnings: list[logging.LogRecord]
) -> None:
    # As if nobody had told us how full it is.
    cache = BlockCache(small_disk / "cache", 1 << 40, 0, free_bytes=lambda: 1 << 40)
    try:
        files = [key(f"f{n}", 9 * BLOCK_SIZE) for n in range(5)]
        assert 18 <= sum(fill(cache, of) for of in files) <= 24
        assert 18 <= sum(len(held(cache, of)) for of in files) <= 24
        assert [record.getMessage().split()[0] for record in expect_warnings] == ["cache.write_failed"]
        cache.clear()
        assert fill(cache, files[0]) == 9
    finally:
        cache.close()


def test_floor_of_a_real_disk_is_kept(small_disk: Path) -> None:
    cache = BlockCache(small_disk / "cache", 1 << 40, 8 * BLOCK_SIZE)
    try:
        for n in range(8):
            assert fill(cache, key(f"f{n}", 5 * BLOCK_SIZE)) == 5
            info = os.statvfs(small_disk)
            assert info.f_bavail * info.f_frsize >= 8 * BLOCK_SIZE
    finally:
        cache.close()


# --- the directory -----------------------------------------------------------------------------


def test_directory_is_ours_alone_and_marked(make: Make, root: Path) -> None:
    root.mkdir(mode=0o755)
    fill(make(), key("a", 10))
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert all(path.stat().st_mode & 0o077 == 0 for path in root.rglob("*") if path.name != "CACHEDIR.TAG")


def test_directory_that_others_may_write_to_is_refused(make: Make, root: Path) -> None:
    root.mkdir()
    root.chmod(0o770)
    with pytest.raises(ConfigError, match="others may write"):
        make()


def test_directory_of_other_things_is_refused_and_left_alone(make: Make, root: Path) -> None:
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    (root / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="other things"):
        make()
    assert root.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_directory_of_another_user_is_refused(make: Make, root: Path) -> None:
    root.mkdir()
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigError, match="not a directory of yours"):
        make()


def test_link_is_refused(make: Make, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a directory of yours"):
        make()
