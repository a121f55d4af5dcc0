"""`api.dotfilerules`: what is refused of a dotfile before it is sent, and what is said of it."""

from __future__ import annotations

import pytest

from vfsmount.api.dotfilerules import (
    COUNT_MAX,
    DATA_MAX,
    PACKED_MAX,
    RESERVED,
    Packed,
    check_data,
    check_free,
    check_path,
    check_permission,
    check_room,
    decode,
    packed_size,
)
from vfsmount.errors import AlreadyExists, InvalidName, InvalidRequest, QuotaExceeded


@pytest.mark.parametrize("path", [".aws/config", ".bashrc", ".ssh/config", "notes.txt", ".config/git/config"])
def test_usual_path_is_accepted(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "needs a path"),
        ("/etc/passwd", "relative to the home directory"),
        ("/home/me/.aws/config", r"write \.aws/config instead"),
        ("~/.aws/config", "leave the ~ out"),
        ("../x", "leads out"),
        ("a/../b", "leads out"),
        ("./.bashrc", r"write \.bashrc"),
        (".aws//config", r"write \.aws/config"),
        (".aws/", r"write \.aws"),
        ("a\nb", "control characters"),
        *((path, "is reserved: ") for path in RESERVED),
    ],
)
def test_unfit_path_is_refused_with_its_reason(path: str, why: str) -> None:
    with pytest.raises(InvalidName, match=why):
        check_path(path, "/home/me")


def test_reserved_directory_says_what_to_do_instead() -> None:
    with pytest.raises(InvalidName, match="put single files below it"):
        check_path(".ssh")


@pytest.mark.parametrize("permission", ["7", "0755", "799", "rwx", "", "\u0667\u0665\u0665"])
def test_permission_is_three_octal_digits(permission: str) -> None:
    check_permission("600")
    with pytest.raises(InvalidRequest, match="three octal digits"):
        check_permission(permission)


def test_text_keeps_every_byte() -> None:
    content = "\ufeffCRLF\r\n\tno end é\x00\u2028".encode()
    assert decode(content, "x").encode() == content


def test_what_is_no_text_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequest, match=r"stdin is not UTF-8 text \(byte 2\)"):
        decode(b"ab\xff", "stdin")


def test_size_and_emptiness() -> None:
    check_data("x" * DATA_MAX, may_be_empty=False)
    with pytest.raises(QuotaExceeded, match=f"{DATA_MAX + 1} characters"):
        check_data("x" * (DATA_MAX + 1), may_be_empty=True)
    check_data("", may_be_empty=True)
    with pytest.raises(InvalidRequest, match="a single newline will do"):
        check_data("", may_be_empty=False)


def test_all_of_a_scope_together_fit_exactly_or_not() -> None:
    known = [Packed("a", "755", "x" * 1000)]
    room = PACKED_MAX - packed_size([*known, Packed("b", "755", "x" * 1000)]) + 1000
    check_room(Packed("b", "755", "x" * room), known)
    with pytest.raises(QuotaExceeded, match=f"would be {PACKED_MAX + 1} bytes"):
        check_room(Packed("b", "755", "x" * (room + 1)), known)
    # In bytes, though one dotfile's own limit is in characters.
    with pytest.raises(QuotaExceeded):
        check_room(Packed("b", "755", "é" * room), known)


def test_replaced_one_does_not_count() -> None:
    check_room(Packed("a", "755", "y" * 60_000), [Packed("a", "755", "x" * 60_000)])


def test_count() -> None:
    known = [Packed(f"f{n}", "755", "x") for n in range(COUNT_MAX)]
    check_room(Packed("f0", "755", "y"), known)
    with pytest.raises(QuotaExceeded, match="100 dotfiles already"):
        check_room(Packed("new", "755", "y"), known)


def test_taken_path() -> None:
    check_free(".a", [".b"], {".c"})
    with pytest.raises(AlreadyExists, match="dotfile update"):
        check_free(".a", [".a"])
    with pytest.raises(AlreadyExists, match="a folder called"):
        check_free(".c", [".b"], {".c"})
