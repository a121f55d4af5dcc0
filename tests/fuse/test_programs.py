"""Small programs on a real mount, and one large tree; everyday/ has the longer stories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from tests.support.compare import settle
from tests.support.mounting import run


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's standard library, sources only: some 2,000 files with real names and sizes."""
    tree = tmp_path_factory.mktemp("source") / "stdlib"
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        tree,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            "site-packages", "dist-packages", "__pycache__", "*.so", "*.a", "lib-dynload"
        ),
    )
    for path in tree.rglob("*"):
        if path.is_symlink():  # the server has no form for links
            path.unlink()
    return tree


def files_in(tree: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(tree))


def test_tree_copied_in_and_out_is_identical(
    source_tree: Path, folder: Path, disk: Path, tmp_path: Path
) -> None:
    assert files_in(source_tree) > 1000
    run("cp", "-r", source_tree, folder, timeout=900)
    settle(folder)
    assert run("diff", "-r", source_tree, disk / "stdlib") == ""
    run("cp", "-r", folder / "stdlib", tmp_path / "back", timeout=900)
    assert run("diff", "-r", source_tree, tmp_path / "back") == ""
    checked = run(
        "rsync",
        "-r",
        "--checksum",
        "--dry-run",
        "--out-format=%n",
        f"{source_tree}/",
        folder / "stdlib/",
        timeout=900,
    )
    assert checked == ""
    run("rm", "-r", folder / "stdlib", timeout=900)
    settle(folder)
    assert not (disk / "stdlib").exists()


def small_tree(where: Path) -> Path:
    tree = where / "tree"
    (tree / "sub" / "deeper").mkdir(parents=True)
    (tree / "empty dir").mkdir()
    for n in range(12):
        (tree / "sub" / f"file {n}").write_bytes(bytes([n]) * (n * 1000))
    (tree / "sub" / "deeper" / "script.sh").write_text("#!/bin/sh\necho run\n")
    (tree / "sub" / "deeper" / "script.sh").chmod(0o755)
    os.utime(tree / "sub" / "file 3", (1_000_000_000, 1_000_000_000))
    return tree


def test_tar_unpacks(folder: Path, disk: Path, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    run("tar", "cf", tmp_path / "t.tar", "-C", tree, ".")
    run("tar", "xf", tmp_path / "t.tar", "-C", folder)
    settle(folder)
    assert run("diff", "-r", "-x", ".upload", tree, disk) == ""
    assert (folder / "sub" / "file 3").stat().st_mtime == 1_000_000_000
    assert run(folder / "sub" / "deeper" / "script.sh") == "run\n"
    run("tar", "cf", tmp_path / "back.tar", "-C", folder, ".")
    run("tar", "df", tmp_path / "back.tar", "-C", tree)


def test_cp_p_and_rsync_a(folder: Path, disk: Path, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    run("cp", "-a", tree, folder / "by-cp")
    settle(folder)
    assert run("diff", "-r", tree, disk / "by-cp") == ""
    assert (folder / "by-cp" / "sub" / "file 3").stat().st_mtime == 1_000_000_000
    run("rsync", "-a", f"{tree}/", folder / "by-rsync/")
    settle(folder)
    assert run("diff", "-r", tree, disk / "by-rsync") == ""
    again = run("rsync", "-a", "--out-format=%n", f"{tree}/", folder / "by-rsync/").splitlines()
    assert [name for name in again if not name.endswith("/")] == []


def test_sed_in_place(folder: Path, disk: Path) -> None:
    (folder / "conf").write_text("a=1\nb=2\n")
    run("sed", "-i", "s/b=2/b=3/", folder / "conf")
    settle(folder)
    assert (disk / "conf").read_text() == "a=1\nb=3\n"
    assert (folder / "conf").read_text() == "a=1\nb=3\n"
    assert os.listdir(folder) == ["conf"]


def test_mv_over_an_existing_file(folder: Path, disk: Path) -> None:
    (folder / "old").write_text("old")
    (folder / "new").write_text("new")
    run("mv", "-f", folder / "new", folder / "old")
    settle(folder)
    assert (disk / "old").read_text() == "new"
    assert not (disk / "new").exists()


def test_touch_sets_a_time(folder: Path) -> None:
    (folder / "f").write_text("x")
    run("touch", "-d", "2001-02-03T04:05:06Z", folder / "f")
    assert (folder / "f").stat().st_mtime == 981173106
    run("touch", folder / "f")
    assert abs((folder / "f").stat().st_mtime - time.time()) < 60


def test_many_writers_at_once(folder: Path, disk: Path) -> None:
    writers = [
        subprocess.Popen(
            [
                "sh",
                "-c",
                f'i=0; while [ $i -lt 10 ]; do echo "$i" > "$1/w{n}-$i"; i=$((i+1)); done',
                "sh",
                folder,
            ]
        )
        for n in range(6)
    ]
    assert [w.wait(120) for w in writers] == [0] * 6
    settle(folder)
    names = {f"w{n}-{i}" for n in range(6) for i in range(10)}
    assert set(os.listdir(disk)) - {".upload"} == names
    assert all((disk / name).read_text() == name.split("-")[1] + "\n" for name in names)
