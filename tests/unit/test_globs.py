"""Includes and excludes: what a pattern matches."""

from __future__ import annotations

import pytest

from vfsmount.core.globs import Filter
from vfsmount.errors import InvalidRequest


@pytest.mark.parametrize(
    ("pattern", "left_out", "stays"),
    [
        ("*.pyc", ["a.pyc", "d/e/a.pyc"], ["a.py", "a.pyc.txt", ".pycx"]),
        ("build", ["build", "build/x", "a/build/x/y"], ["rebuild", "build2/x"]),
        ("/build", ["build", "build/x"], ["a/build", "a/build/x"]),
        ("a/b", ["a/b", "a/b/c"], ["x/a/b", "a/bc"]),
        ("a/*/c", ["a/b/c", "a/x/c/d"], ["a/c", "a/b/b/c"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["c", "a/b/cc"]),
        ("**/c", ["c", "a/c"], ["cc"]),
        ("logs/", ["logs/x", "a/logs/x"], ["logs", "a/logs"]),
        ("?.txt", ["a.txt", "d/é.txt"], ["ab.txt", ".txt"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt"]),
        ("[!ab].txt", ["c.txt"], ["a.txt"]),
        ("a[", ["a["], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb", ["a\nb"], ["a", "b"]),
        ("[]]", ["]"], ["["]),
    ],
)
def test_exclude(pattern: str, left_out: list[str], stays: list[str]) -> None:
    found = Filter(exclude=[pattern])
    assert [p for p in left_out if found.takes(p)] == []
    assert [p for p in stays if not found.takes(p)] == []


def test_directories_that_are_left_out_are_not_entered() -> None:
    found = Filter(exclude=["build/", "*.tmp", "/a/b"])
    assert [d for d in ("build", "x/build", "x.tmp", "a/b", "a/b/c") if found.enters(d)] == []
    assert all(found.enters(d) for d in ("builds", "a", "x/a/b"))


def test_include_takes_only_what_matches_and_enters_every_directory() -> None:
    found = Filter(include=["*.csv", "/keep"], exclude=["secret*"])
    assert [
        p for p in ("a.csv", "d/a.csv", "keep/x", "a.txt", "secret.csv", "x/keep/y") if found.takes(p)
    ] == [
        "a.csv",
        "d/a.csv",
        "keep/x",
    ]
    assert found.enters("d") and not found.enters("secrets")
    assert not found.takes_all and Filter().takes_all


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]"])
def test_no_pattern(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        Filter(exclude=[pattern])
