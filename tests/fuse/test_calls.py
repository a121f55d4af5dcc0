"""The manager is slow and counts: how many calls everyday work costs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, run

FILES = 300
QUICK_S = 0.6  # in which any tree here has gone, twice what it takes on a quiet machine
DIRECTORIES = ("a", "a/x", "a/y", "b", *(f"b/{n}" for n in range(40)), "c", "c/d", "c/d/e", "c/d/e/f")


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server whose owner has a folder of 300 files."""
    with Embedded(tmp_path_factory.mktemp("calls") / "data", dialect=request.param) as server:
        directory = server.folder_dir(server.create_folder("owner", "many"))
        for n in range(FILES):
            (directory / f"f{n:03d}").write_text(f"content {n}")
        few = server.folder_dir(server.create_folder("owner", "few"))
        for n in range(42):  # not a round hundred, at which a listing might have been cut
            (few / f"f{n}").touch()
        tree = server.folder_dir(server.create_folder("owner", "tree"))
        for name in DIRECTORIES:
            (tree / name).mkdir()
            (tree / name / "file").touch()
        yield server


@pytest.fixture
def mounted(server: Embedded, tmp_path: Path) -> Iterator[Mounted]:
    """A fresh mount that has asked nothing yet; belief lasts longer than any test here."""
    with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "600", "--attr-ttl", "600") as mounted:
        server.reset_calls()
        yield mounted


def manager_calls(server: Embedded) -> dict[tuple[str, str], int]:
    # df, find and the desktop ask how much room there is; behind everybody's back, at most every five minutes
    calls = {(m, r): n for (_, m, r), n in server.calls("manager").items()}
    calls.pop(("GET", "/folders/_/hosts"), None)
    calls.pop(("POST", "/admin/gql"), None)
    calls.pop(("GET", "/folders"), None)  # the list of folders, every ten seconds when used
    return calls


def removed(path: Path) -> int:
    """Remove a tree, from the server too; how many more calls that may cost because all was slow: names are
    sent where no more came for a tenth of a second, and what was looked at long ago is looked at again."""
    began = time.monotonic()
    run("rm", "-r", path)
    os.setxattr(path.parent, "user.vfsmount.wait", b"1")  # names are taken off behind
    print(f"gone after {time.monotonic() - began:.2f} s")
    return int(max(0.0, time.monotonic() - began - QUICK_S) / 0.1)


def test_ls_l_of_300_files_costs_one_listing(server: Embedded, mounted: Mounted) -> None:
    shown = run("ls", "-l", mounted.path / "many").splitlines()
    assert len(shown) == FILES + 1
    assert manager_calls(server) == {("GET", "/folders/{vf}/files"): 1}
    run("ls", "-l", mounted.path / "many")
    assert manager_calls(server) == {("GET", "/folders/{vf}/files"): 1}
    assert not server.calls("storage")


def test_reading_300_files_costs_one_token(server: Embedded, mounted: Mounted) -> None:
    names = os.listdir(mounted.path / "many")
    for name in names:
        assert (mounted.path / "many" / name).read_text() == f"content {int(name[1:])}"
    calls = manager_calls(server)
    listings = calls.pop(("GET", "/folders/{vf}/files"))
    assert calls == {("POST", "/folders/{vf}/request-download"): 1}
    # Where files came slowly, on 26.x, the rest is asked for in one; around that the directory is looked at.
    assert 1 <= listings <= 1 + 2 * mounted.log.read_text().count("archive.asked")


def test_copying_files_in_costs_one_call_each(server: Embedded, mounted: Mounted, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    count = 100
    for n in range(count):
        (source / f"n{n}").write_text(str(n))
    run("cp", "-r", source, mounted.path / "many" / "copied")
    os.setxattr(mounted.path / "many", "user.vfsmount.wait", b"1")
    calls = manager_calls(server)
    assert sum(calls.values()) <= 1.05 * count + 1, calls
    # One is asked for again where another upload that ends takes the server's .upload away meanwhile.
    assert calls.pop(("POST", "/folders/{vf}/request-upload")) in range(count, count + 4)
    assert calls.pop(("POST", "/folders/{vf}/mkdir")) == 1
    assert sum(calls.values()) <= 2, calls  # one listing, one token
    server.reset_calls()
    slow = removed(mounted.path / "many" / "copied")
    # A hundred names may be a cut listing, so that its names have to be gone before the look that counts: a
    # call for them, two looks, one for the directory; and on 26.x a look at what it lies in.
    assert 1 <= sum(manager_calls(server).values()) <= 5 + slow, manager_calls(server)


@pytest.mark.parametrize("listed", ["cold", "warm"])
def test_removing_a_tree_costs_a_call_for_each_directory_and_for_a_hundred_names(
    server: Embedded, mounted: Mounted, listed: str
) -> None:
    """The server has no rmdir: before its recursive delete may be used, each directory is looked at."""
    directories, files = 12, 57  # no number that may be a limit
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "tree"]
    top = server.folder_dir(folder["id"]) / f"gone-{listed}"
    for n in range(directories - 1):
        (top / f"d{n}").mkdir(parents=True)
        for name in range(files):
            (top / f"d{n}" / f"f{name}").touch()
    os.listdir(mounted.path / "tree")
    if listed == "warm":
        run("ls", "-R", mounted.path / "tree" / top.name)
    server.reset_calls()
    slow = removed(mounted.path / "tree" / top.name)
    assert not top.exists()
    names = (directories - 1) * files
    assert sum(manager_calls(server).values()) <= names / 100 + directories + slow, manager_calls(server)


def test_missing_names_in_a_listed_directory_cost_nothing(server: Embedded, mounted: Mounted) -> None:
    os.listdir(mounted.path / "few")
    server.reset_calls()
    for n in range(50):
        assert not (mounted.path / "few" / f"missing{n}").exists()
    assert manager_calls(server) == {}
    assert not server.calls("storage")


def test_find_costs_one_listing_for_each_directory(server: Embedded, mounted: Mounted) -> None:
    """However many of them were asked for ahead."""
    top = mounted.path / "tree"
    found = run("find", top, "-type", "d").splitlines()
    assert sorted(found) == sorted(str(d) for d in (top, *(top / d for d in DIRECTORIES)))
    assert manager_calls(server) == {("GET", "/folders/{vf}/files"): len(found)}
    assert len(run("find", top, "-ls").splitlines()) == 2 * len(found) - 1
    assert manager_calls(server) == {("GET", "/folders/{vf}/files"): len(found)}


def test_name_just_listed_costs_nothing_to_look_at(server: Embedded, mounted: Mounted) -> None:
    names = os.listdir(mounted.path / "many")
    server.reset_calls()
    for name in names:
        assert (mounted.path / "many" / name).stat().st_size
    assert manager_calls(server) == {}
    assert not server.calls("storage")


def test_revalidating_an_open_file_costs_no_manager_call(server: Embedded, tmp_path: Path) -> None:
    options = ("--attr-ttl", "0.1", "--dir-ttl", "600")
    with Mounted(tmp_path, server.env("owner"), *options) as m, (m.path / "many" / "f000").open() as f:
        assert f.read() == "content 0"
        server.reset_calls()
        for _ in range(10):
            time.sleep(0.15)
            assert os.fstat(f.fileno()).st_size == 9
        assert manager_calls(server) == {}
        assert sum(server.calls("storage").values()) >= 5


def test_mounting_200_folders_costs_three_calls(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        for n in range(200):
            server.create_folder("owner", f"folder{n:03d}")
        server.reset_calls()
        with Mounted(tmp_path, server.env("owner")) as mounted:
            assert len(os.listdir(mounted.path)) == 200
            assert sum(server.calls("manager").values()) <= 3, server.calls("manager")
