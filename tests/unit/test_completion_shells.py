"""Command lines that are being typed, taken apart."""

from __future__ import annotations

import pytest

from vfsmount.cli.completion.shells import read_line, replaced_from

BREAKS = " \t\n\"'@><=;|&(:"


@pytest.mark.parametrize(
    ("line", "words", "last", "quote"),
    [
        ("vfsmount ", ["vfsmount"], "", ""),
        ("vfsmount ls", ["vfsmount"], "ls", ""),
        ("vfsmount ls a\\ b c\\ ", ["vfsmount", "ls", "a b"], "c ", ""),
        ("vfsmount ls 'a b' \"c d", ["vfsmount", "ls", "a b"], "c d", '"'),
        ("vfsmount ls 'it\\", ["vfsmount", "ls"], "it\\", "'"),
        ('vfsmount ls x:"y z', ["vfsmount", "ls"], "x:y z", '"'),
        ('vfsmount ls "a\\"b', ["vfsmount", "ls"], 'a"b', '"'),
        ("vfsmount ls 한글/", ["vfsmount", "ls"], "한글/", ""),
        ("", [], "", ""),
    ],
)
def test_line_is_words_and_one_that_is_typed(line: str, words: list[str], last: str, quote: str) -> None:
    typed = read_line(line)
    assert (typed.words, typed.last, typed.quote) == (words, last, quote)


@pytest.mark.parametrize(
    ("word", "left"),
    [
        ("data", ""),
        ("data:sub", "data:"),
        ("--folder=my", "--folder="),
        ("team@kim@example", "team@kim@"),
        ("da\\:ta", ""),
        ("my\\ data:su", "my data:"),
        ('"my data:su', ""),
        ('data:"my fi', "data:"),
    ],
)
def test_bash_replaces_from_its_last_break(word: str, left: str) -> None:
    typed = read_line(f"vfsmount ls {word}")
    assert typed.last[: replaced_from(typed, BREAKS)] == left
