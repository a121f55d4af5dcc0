"""What words on the command line mean, where no mount is running."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsmount.cli.target import Target, as_remote, parse
from vfsmount.errors import InvalidName, InvalidRequest, NameTooLong, VfsError


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["data"], [Target("data", "")]),
        (["data", "."], [Target("data", "")]),
        (["data", "./bigdata.csv"], [Target("data", "bigdata.csv")]),
        (["data", "a//b/./c/"], [Target("data", "a/b/c")]),
        (
            ["data", "-x", " ", "日本語", "a\nb", "c:d"],
            [Target("data", p) for p in ("-x", " ", "日本語", "a\nb", "c:d")],
        ),
        (["data:"], [Target("data", "")]),
        (["data:a/b"], [Target("data", "a/b")]),
        (["data:a:b"], [Target("data", "a:b")]),
        (["data:a", "other:./b"], [Target("data", "a"), Target("other", "b")]),
        (["data@friend", "x"], [Target("data@friend", "x")]),
    ],
)
def test_words_name_places(words: list[str], found: list[Target], tmp_path: Path) -> None:
    assert parse(words, tmp_path) == found


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ([], InvalidRequest, "folder"),
        ([""], InvalidRequest, "'' names no folder"),
        (["data", "/etc/passwd"], InvalidRequest, "relative"),
        (["data:/x"], InvalidRequest, "relative"),
        (["data", "a/../.."], InvalidName, r"'\.\.'"),
        (["data:.."], InvalidName, r"'\.\.'"),
        (["data", "a\0b"], InvalidName, "NUL"),
        (["data", "é" * 128], NameTooLong, "256"),
        (["data/x"], InvalidRequest, "not on a running mount"),
        (["."], InvalidRequest, "not on a running mount"),
        (["./data:x"], InvalidRequest, "not on a running mount"),
        (["data:a", "b"], InvalidRequest, "'b' names no folder"),
        (["data:a", "./b"], InvalidRequest, "'./b' names no folder"),
        ([":a"], InvalidRequest, "':a' names no folder"),
    ],
)
def test_words_that_name_no_place(words: list[str], error: type[VfsError], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        parse(words, tmp_path)


def test_colon_after_a_slash_is_part_of_a_path_here(tmp_path: Path) -> None:
    assert as_remote("./a:b", tmp_path) is None
    assert as_remote("/tmp/a:b", tmp_path) is None
    assert as_remote("a:b/c", tmp_path) == Target("a", "b/c")
    assert as_remote("a", tmp_path) is None


def test_place_is_shown_as_it_can_be_typed() -> None:
    assert Target("data", "a/b").shown == "data:a/b"
    assert Target("data", "").child("x") == Target("data", "x")
    assert Target("data", "a").child("x").shown == "data:a/x"
