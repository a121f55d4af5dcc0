"""Archives that come in pieces: whole ones give their files, all others none or an error."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.api.archive import Unzipper
from vfsmount.errors import ProtocolError

MOST = 1 << 20


class Unseekable(io.RawIOBase):
    """What makes zipfile write sizes behind the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def packed(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive as the server streams it."""
    out = Unseekable()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.data


def unpacked(data: bytes, wanted: dict[bytes, int], piece: int = 1 << 16, most: int = MOST) -> Unzipper:
    unzipper = Unzipper(wanted, most)
    for at in range(0, len(data), piece):
        unzipper.feed(data[at : at + piece])
    unzipper.end()
    return unzipper


FILES = [("a", b"alpha" * 100), ("b.txt", b""), ("한글", bytes(range(256)) * 20), ("z", b"x")]
WANTED = {name.encode(): len(data) for name, data in FILES}
CONTENT = {name.encode(): data for name, data in FILES}


@pytest.mark.parametrize("piece", [1, 2, 7, 29, 64, 1000, 1 << 20])
def test_whole_archive_gives_its_files_in_pieces_of_any_length(piece: int) -> None:
    assert unpacked(packed(*FILES), WANTED, piece).files == CONTENT


def test_archive_cut_anywhere_is_none() -> None:
    data = packed(*FILES)
    for cut in range(len(data)):
        with pytest.raises(ProtocolError):
            unpacked(data[:cut], WANTED)


def test_archive_with_more_behind_it_is_none() -> None:
    with pytest.raises(ProtocolError):
        unpacked(packed(*FILES) + b"more", WANTED)


def test_empty_archive_has_no_files() -> None:
    assert unpacked(packed(), WANTED).files == {}


def test_names_that_nobody_wants_or_that_lead_out_are_skipped() -> None:
    names = ["..", ".", "../a", "/a", "a/b", "a\\b", "x" * 300, "other"]
    found = unpacked(packed(("a", b"1"), *((n, b"evil") for n in names)), {b"a": 1, b"a/b": 4, b"../a": 4})
    assert found.files == {b"a": b"1"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_neither() -> None:
    found = unpacked(packed(("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"4")), {b"a": 1, b"b": 1})
    assert found.files == {b"b": b"2"}


@pytest.mark.parametrize("size", [0, 4, 6, 1000])
def test_file_of_another_size_than_was_listed_is_left_out(size: int) -> None:
    assert unpacked(packed(("a", b"12345"), ("b", b"1")), {b"a": size, b"b": 1}).files == {b"b": b"1"}


def test_name_in_another_character_set_is_left_out() -> None:
    data = packed(("aa", b"1")).replace(b"aa", b"\xc3\xa4")  # without the mark of UTF-8
    assert unpacked(data, {"ä".encode(): 1}).files == {}


def test_bomb_is_given_up_before_it_takes_memory() -> None:
    data = packed(("a", bytes(64 << 20)))
    unzipper = Unzipper({b"a": 100}, MOST)
    with pytest.raises(ProtocolError):
        unzipper.feed(data)


def test_more_packed_bytes_than_agreed_are_given_up() -> None:
    with pytest.raises(ProtocolError):
        unpacked(packed(*FILES), WANTED, most=200)


def test_entries_that_are_stored_are_not_guessed_at() -> None:
    with pytest.raises(ProtocolError):
        unpacked(packed(*FILES, method=zipfile.ZIP_STORED), WANTED)


def test_entry_whose_check_sum_is_wrong_ends_the_archive() -> None:
    data = packed(("a", b"1"))
    crc = struct.pack("<I", zlib.crc32(b"1"))
    assert data.count(crc) == 2
    with pytest.raises(ProtocolError):
        unpacked(data.replace(crc, b"\0\0\0\0", 1), {b"a": 1})


def test_archive_that_lacks_an_entry_of_its_directory_is_none() -> None:
    whole, other = packed(("a", b"1"), ("b", b"2")), packed(("a", b"1"))
    with pytest.raises(ProtocolError):
        unpacked(other[: other.index(b"PK\1\2")] + whole[whole.index(b"PK\1\2") :], {b"a": 1})


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20), st.binary()
    ),
    st.integers(1, 300),
)
def test_any_files_come_out_as_they_went_in(files: dict[str, bytes], piece: int) -> None:
    data = packed(*files.items())
    want = {name.encode(): content for name, content in files.items() if 0 < len(name.encode()) <= 255}
    assert unpacked(data, {n: len(c) for n, c in want.items()}, piece).files == want


@given(st.data())
def test_damage_gives_right_files_or_an_error(data: st.DataObject) -> None:
    damaged = bytearray(packed(*FILES))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpacked(bytes(damaged), WANTED, data.draw(st.sampled_from([1, 50, 10_000]))).files
    except ProtocolError:
        return
    for name, content in found.items():
        # A name may have become another one that is wanted as well; content has not.
        assert content in CONTENT.values() and len(content) == WANTED[name]
