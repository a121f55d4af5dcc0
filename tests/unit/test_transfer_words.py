"""What the words of upload, download and sync mean, as far as no server is needed to tell."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vfsmount.cli.target import Target
from vfsmount.cli.transfers.download import Asked, downloads, split
from vfsmount.cli.transfers.sync import sides
from vfsmount.cli.transfers.upload import uploads
from vfsmount.errors import InvalidRequest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "here"
    (where / "dir/in").mkdir(parents=True)
    monkeypatch.chdir(where)
    return where


@pytest.mark.parametrize(
    ("files", "base", "where", "found"),
    [
        (["a"], None, "", {"here/a": "a"}),
        (["./a", "a"], None, "", {"here/a": "a"}),
        (["dir/in/a"], None, "", {"here/dir/in/a": "dir/in/a"}),
        (["dir/in/a"], None, "x/y", {"here/dir/in/a": "x/y/dir/in/a"}),
        (["in/a"], "dir", "", {"here/dir/in/a": "in/a"}),
        (["../a", "/etc/hosts"], None, "", {"a": "a", "/etc/hosts": "hosts"}),
        (["dir/", "dir/in/a", "dir2"], None, "", {"here/dir": "dir", "here/dir2": "dir2"}),
        (["."], None, "", {"here": ""}),
        ([".", "dir"], None, "x", {"here": "x"}),
        ([".", "../b"], None, "", {"here": "", "b": "b"}),
        ([".."], None, "", {"": "{tmp}"}),
    ],
)
def test_uploads_keep_their_paths_below_the_base(
    here: Path, files: list[str], base: str | None, where: str, found: dict[str, str]
) -> None:
    top = here.parent
    wanted = {str(top / k) if k else str(top): v.replace("{tmp}", top.name) for k, v in found.items()}
    assert {u.local: u.path for u in uploads(files, base, where)} == wanted


@pytest.mark.parametrize(
    ("files", "base", "says"),
    [
        (["../a"], ".", "base directory"),
        (["/etc/hosts"], "dir", "base directory"),
        (["a", "../a"], None, "both become a"),
    ],
)
def test_uploads_that_make_no_sense(here: Path, files: list[str], base: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        uploads(files, base, "")


def asked(*paths: str, dest: str | None = None, maybe: str | None = None) -> Asked:
    return Asked([Target("data", p) for p in paths], dest, maybe)


@pytest.mark.parametrize(
    ("words", "dest", "base", "found"),
    [
        (["data", "a"], None, None, asked("a")),
        (["data", "./a", "b"], None, None, asked("a", "b")),
        (["data", "dir"], None, None, asked("dir")),
        (["data", "a", "dir"], None, None, asked("a", "dir", maybe="dir")),
        (["data", "a", "new/"], None, None, asked("a", "new", maybe="new/")),
        (["data", "a", "dir"], "out", None, asked("a", "dir", dest="out")),
        (["data", "a", "dir"], None, "out", asked("a", "dir")),
        (["data", "a", "."], None, None, asked("a", dest=".")),
        (["data", "a", "../here"], None, None, asked("a", dest="../here")),
        (["data", "a", "/tmp"], None, None, asked("a", dest="/tmp")),
        (["data", "a", "/tmp/none/"], None, None, asked("a", dest="/tmp/none/")),
        (["data:a", "data:b"], None, None, asked("a", "b")),
        (["data:a", "data:b", "dir"], None, None, asked("a", "b", dest="dir")),
        (["data:a", "new/"], None, None, asked("a", dest="new/")),
        (["data:"], None, None, asked("")),
    ],
)
def test_last_word_is_a_directory_here_where_it_can_be_nothing_else(
    here: Path, words: list[str], dest: str | None, base: str | None, found: Asked
) -> None:
    assert split(words, dest, base, here) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data"], "name what to fetch"),
        (["data:a", "none"], "no directory here"),
        (["data", "a", "/tmp/none"], "no directory here"),
        (["data", "a", "../none"], "no directory here"),
        (["data:a", "other:b"], "one folder at a time"),
    ],
)
def test_words_of_a_download_that_make_no_sense(here: Path, words: list[str], says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        split(words, None, None, here)


def test_downloads_keep_their_paths_or_get_their_own_names() -> None:
    targets = [Target("data", "a/b"), Target("data", "c"), Target("data", "")]
    assert [d.parts for d in downloads(targets, own_name=False)] == [("a", "b"), ("c",), ()]
    assert [d.parts for d in downloads(targets, own_name=True)] == [("b",), ("c",), ()]
    twice = [Target("data", "a/b"), Target("data", "c/b")]
    assert len(downloads(twice, own_name=False)) == 2
    with pytest.raises(click.UsageError, match="both become b"):
        downloads(twice, own_name=True)


def test_one_side_of_a_sync_is_in_a_folder(here: Path) -> None:
    assert sides("dir", "data:x", here) == (True, Target("data", "x"), str(here / "dir"))
    assert sides("data:", "new", here) == (False, Target("data", ""), str(here / "new"))
    (here / "a:b").mkdir()
    assert sides("./a:b", "data:", here) == (True, Target("data", ""), str(here / "a:b"))
    for words, says in (
        (("dir", "dir2"), "neither"),
        (("data:", "other:"), "both"),
        (("a:b", "data:"), r"write \./a:b"),
    ):
        with pytest.raises(click.UsageError, match=says):
            sides(*words, here)
