"""Files on a real mount: what goes in comes out, and lies on the server's disk exactly so."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import time
from pathlib import Path

import pytest

from tests.fuse.conftest import wait_out_ttl
from tests.support.mounting import run


def test_write_and_read_back(folder: Path, disk: Path) -> None:
    (folder / "a.txt").write_text("hello\n")
    assert (disk / "a.txt").read_text() == "hello\n"
    assert (folder / "a.txt").read_text() == "hello\n"
    assert (folder / "a.txt").stat().st_size == 6


def test_new_empty_file_reaches_the_server(folder: Path, disk: Path) -> None:
    run("touch", folder / "empty")
    assert (disk / "empty").read_bytes() == b""
    assert (folder / "empty").stat().st_size == 0
    assert (folder / "empty").read_bytes() == b""


def test_append_adds_to_the_end(folder: Path, disk: Path) -> None:
    run("sh", "-c", 'echo one > "$1"; echo two >> "$1"; echo three >> "$1"', "sh", folder / "log")
    assert (disk / "log").read_text() == "one\ntwo\nthree\n"


def test_two_appenders_lose_nothing(folder: Path, disk: Path) -> None:
    with (folder / "log").open("ab", buffering=0) as a, (folder / "log").open("ab", buffering=0) as b:
        for n in range(20):
            (a if n % 2 else b).write(b"%02d\n" % n)
    assert (disk / "log").read_bytes() == b"".join(b"%02d\n" % n for n in range(20))


def test_truncate_shorter_and_longer(folder: Path, disk: Path) -> None:
    (folder / "t").write_bytes(b"0123456789")
    run("truncate", "-s", "4", folder / "t")
    assert (disk / "t").read_bytes() == b"0123"
    os.truncate(folder / "t", 8)  # by path: no close follows
    assert (disk / "t").read_bytes() == b"0123\0\0\0\0"
    assert (folder / "t").read_bytes() == b"0123\0\0\0\0"


def test_write_into_the_middle(folder: Path, disk: Path) -> None:
    content = random.Random(1).randbytes(3 << 20)
    (folder / "m").write_bytes(content)
    with (folder / "m").open("r+b") as f:
        f.seek(1_500_000)
        f.write(b"changed")
    expected = content[:1_500_000] + b"changed" + content[1_500_007:]
    assert (disk / "m").read_bytes() == expected
    assert (folder / "m").read_bytes() == expected


def test_hole_reads_as_zeroes(folder: Path, disk: Path) -> None:
    with (folder / "h").open("wb") as f:
        f.seek(100_000)
        f.write(b"end")
    assert (disk / "h").read_bytes() == bytes(100_000) + b"end"


def test_fsync_means_on_the_server(folder: Path, disk: Path) -> None:
    with (folder / "s").open("wb") as f:
        f.write(b"first")
        f.flush()
        os.fsync(f.fileno())
        assert (disk / "s").read_bytes() == b"first"
        f.write(b", second")
    assert (disk / "s").read_bytes() == b"first, second"


def test_open_file_is_read_while_it_is_written(folder: Path) -> None:
    with (folder / "w").open("wb", buffering=0) as w, (folder / "w").open("rb", buffering=0) as r:
        w.write(b"abc")
        assert r.read() == b"abc"
        w.write(b"def")
        assert r.read() == b"def"


def test_o_excl_refuses_an_existing_file(folder: Path) -> None:
    (folder / "x").write_text("there")
    with pytest.raises(FileExistsError):
        os.open(folder / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_o_excl_sees_what_another_client_made_since(site, folder: Path, disk: Path) -> None:
    list(folder.iterdir())  # the listing is believed for a while
    (disk / "theirs").write_text("theirs")
    time.sleep(0.6)  # past --attr-ttl: now an exclusive create asks the server
    with pytest.raises(FileExistsError):
        os.open(folder / "theirs", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (disk / "theirs").read_text() == "theirs"


def test_o_trunc_replaces_content(folder: Path, disk: Path) -> None:
    (folder / "x").write_text("long content")
    (folder / "x").write_text("new")
    assert (disk / "x").read_text() == "new"


def test_unlinked_open_file_stays_readable(folder: Path, disk: Path) -> None:
    content = random.Random(2).randbytes(2_500_000)
    (folder / "u").write_bytes(content)
    with (folder / "u").open("rb") as f:
        assert f.read(10) == content[:10]
        (folder / "u").unlink()
        assert not (disk / "u").exists()
        assert f.read() == content[10:]


def test_replaced_open_file_stays_readable(folder: Path) -> None:
    (folder / "a").write_bytes(b"a" * 1_200_000)
    (folder / "b").write_bytes(b"b" * 1_200_000)
    with (folder / "a").open("rb") as f:
        os.rename(folder / "b", folder / "a")
        assert f.read() == b"a" * 1_200_000
    assert (folder / "a").read_bytes() == b"b" * 1_200_000


def test_shared_writable_mapping_reaches_the_server(folder: Path, disk: Path) -> None:
    (folder / "map").write_bytes(bytes(10_000))
    with (folder / "map").open("r+b") as f, mmap.mmap(f.fileno(), 10_000) as m:
        m[5000:5005] = b"hello"
        m.flush()
    assert (disk / "map").read_bytes() == bytes(5000) + b"hello" + bytes(4995)


def test_random_reads_match(folder: Path) -> None:
    content = random.Random(3).randbytes(5_000_000)
    (folder / "r").write_bytes(content)
    rng = random.Random(4)
    with (folder / "r").open("rb", buffering=0) as f:
        for _ in range(60):
            offset, length = rng.randrange(len(content)), rng.randrange(1, 200_000)
            assert os.pread(f.fileno(), length, offset) == content[offset : offset + length]
        assert os.pread(f.fileno(), 10, len(content)) == b""


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        " leading and trailing ",
        "-dash",
        "--help",
        "ünïcödé 日本語 🎉",
        "n" * 255,
        "é" * 127,
        "e\u0301 decomposed",
        "\u00e9 composed",
        "tab\there",
        "a%20b+c&d=e?f#g",
        "quote'\"`",
        "back\\slash",
        "~tilde",
        "*.glob",
        ".hidden",
        "..dots..",
        "semi;colon:|<>",
    ],
)
def test_names_arrive_exactly(folder: Path, disk: Path, name: str) -> None:
    (folder / name).write_text(name)
    assert os.listdir(os.fsencode(disk)).count(os.fsencode(name)) == 1
    assert (disk / name).read_text() == name
    assert (folder / name).read_text() == name
    assert name in os.listdir(folder)
    os.rename(folder / name, folder / "moved")
    assert (disk / "moved").read_text() == name
    os.rename(folder / "moved", folder / name)
    (folder / name).unlink()
    assert os.listdir(folder) == []
    (folder / name).mkdir()
    (folder / name / "inside").write_text("x")
    assert (disk / name / "inside").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("line\nfeed", errno.EINVAL),
        ("carriage\rreturn", errno.EINVAL),
        (b"not utf-8 \xff", errno.EINVAL),
        ("x" * 256, errno.ENAMETOOLONG),
        (".upload", errno.EPERM),
    ],
)
def test_names_the_server_cannot_hold_are_refused(
    folder: Path, disk: Path, name: str | bytes, code: int
) -> None:
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    for attempt in (lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)), lambda: os.mkdir(path)):
        with pytest.raises(OSError) as e:
            attempt()
        assert e.value.errno == code
    assert os.listdir(disk) == []


def test_existing_names_with_line_breaks_are_shown(site, folder: Path, disk: Path) -> None:
    (disk / "line\nfeed").write_text("x")
    (disk / "other").write_text("y")
    wait_out_ttl()
    assert sorted(os.listdir(folder)) == ["line\nfeed", "other"]


def test_upload_directory_is_hidden(folder: Path, disk: Path) -> None:
    (disk / ".upload").mkdir()
    (disk / ".upload" / "0123").write_text("x")
    wait_out_ttl()
    assert os.listdir(folder) == []
    assert not (folder / ".upload").exists()


def test_one_gibibyte_in_and_out(folder: Path, disk: Path, tmp_path: Path) -> None:
    size, rng = 1 << 30, random.Random(5)
    block = rng.randbytes(1 << 20)
    source, sums = tmp_path / "big", hashlib.sha256()
    with source.open("wb") as f:
        for n in range(size >> 20):
            piece = n.to_bytes(8, "big") + block[8:]
            f.write(piece)
            sums.update(piece)
    run("cp", source, folder / "big", timeout=300)
    source.unlink()
    assert (disk / "big").stat().st_size == size
    for path in (disk / "big", folder / "big"):
        with path.open("rb") as f:
            assert hashlib.file_digest(f, "sha256").digest() == sums.digest()
