"""tar, zip and rsync on a real mount, compared with a local disk."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both, same_tree, tree
from tests.support.mounting import run

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree: some 80 files, programs, links, an empty directory and file; old times."""
    top = tmp_path_factory.mktemp("archives") / "source"
    for part in ("vfsmount", "docs"):
        shutil.copytree(CHECKOUT / part, top / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "scripts", top / "scripts")
    (top / "empty").mkdir(mode=0o750)
    (top / "nothing").touch()
    (top / "scripts" / "link").symlink_to("test")
    (top / "dangling").symlink_to("no/such/place")
    (top / "näme with späce").write_bytes(bytes(range(256)) * 1000)
    for n, (where, _, files) in enumerate(os.walk(top, topdown=False)):
        for name in (*files, "."):
            seconds = 1_300_000_000 + n * 1000 + len(name)
            os.utime(Path(where, name), (seconds, seconds), follow_symlinks=False)
    return top


def test_tar_unpacks_a_source_tree(folder: Path, disk: Path, tmp_path: Path, source: Path) -> None:
    run("tar", "czf", tmp_path / "source.tgz", "-C", source, ".")

    def work(directory: Path) -> str:
        run_in(directory, "tar", "xzf", tmp_path / "source.tgz")
        run_in(directory, "tar", "dzf", tmp_path / "source.tgz")
        return run_in(directory, "find", ".", "-newermt", "2020-01-01")

    same_on_both(work, tmp_path / "local", folder, disk)
    same_tree(tree(source), tree(folder))


def test_archives_made_on_the_mount(folder: Path, disk: Path, tmp_path: Path) -> None:
    """Archivers change an archive in place, or write a new one beside it and rename."""

    def work(directory: Path) -> list[str]:
        for n in range(4):
            (directory / f"f{n}").write_text(f"{n}\n" * (1 + 1000 * n))
            os.utime(directory / f"f{n}", (1_400_000_000 + n, 1_400_000_000 + n))
        shutil.copy2(directory / "f0", directory / "run.sh")
        (directory / "run.sh").chmod(0o755)
        tar = ["tar", "--format=ustar", "--owner=0", "--group=0"]
        run_in(directory, *tar, "-cf", "a.tar", "f0", "f1")
        run_in(directory, *tar, "-rf", "a.tar", "f2", "run.sh")
        run_in(directory, "tar", "--delete", "-f", "a.tar", "f1")
        run_in(directory, "zip", "-qX", "a.zip", "f0", "f1")
        run_in(directory, "zip", "-qX", "-u", "a.zip", "f2", "run.sh", "f3")
        run_in(directory, "zip", "-qd", "a.zip", "f1")
        run_in(directory, "unzip", "-q", "a.zip", "-d", "out")
        run_in(directory, "gzip", "-kn", "f3")
        (directory / "f0").unlink()
        run_in(directory, "tar", "xf", "a.tar")
        return [
            run_in(directory, "tar", "tf", "a.tar"),
            run_in(directory, "unzip", "-tq", "a.zip"),
            run_in(directory, "gzip", "-t", "f3.gz"),
        ]

    same_on_both(work, tmp_path / "local", folder, disk)


def test_python_appends_to_a_zip(folder: Path, disk: Path, tmp_path: Path) -> None:
    code = """
import zipfile
for n in range(3):
    with zipfile.ZipFile("a.zip", "a") as z:
        z.writestr(zipfile.ZipInfo(f"n{n}"), str(n) * 5000)
with zipfile.ZipFile("a.zip") as z: print(z.testzip(), z.namelist())
"""

    def work(directory: Path) -> str:
        return run_in(directory, sys.executable, "-c", code)

    same_on_both(work, tmp_path / "local", folder, disk)


@pytest.mark.parametrize(
    "how", [[], ["--inplace", "--no-whole-file"], ["--append-verify"], ["--delay-updates"]]
)
def test_rsync_follows_changes(folder: Path, disk: Path, tmp_path: Path, how: list[str]) -> None:
    """A second run sends exactly what changed, and a third nothing."""
    origin = tmp_path / "origin"
    (origin / "sub").mkdir(parents=True)
    for n in range(6):
        (origin / "sub" / f"f{n}").write_bytes(bytes([n]) * 50_000)
    (origin / "sub" / "f1").chmod(0o755)
    (origin / "link").symlink_to("sub/f1")
    for path in (*origin.rglob("*"), origin):
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    copies = [origin, tmp_path / "changed"]
    run("cp", "-a", *copies)
    with (copies[1] / "sub" / "f0").open("a") as f:
        f.write("appended")
    (copies[1] / "sub" / "f2").unlink()
    (copies[1] / "sub" / "new").write_text("new")
    if how != ["--append-verify"]:
        with (copies[1] / "sub" / "f3").open("r+b") as g:
            g.seek(20_000)
            g.write(b"changed inside")
        os.utime(copies[1] / "sub" / "f3", (1_500_000_001, 1_500_000_001))
    for name in ("f0", "new", "."):
        os.utime(copies[1] / "sub" / name, (1_500_000_001, 1_500_000_001))

    def work(directory: Path) -> list[str]:
        command = ["rsync", "-a", "--delete", *how, "--out-format=%i %n"]
        said = [run(*command, f"{copy}/", f"{directory}/") for copy in (*copies, copies[1])]
        assert said[2] == ""
        return said

    same_on_both(work, tmp_path / "local", folder, disk)
    same_tree(tree(copies[1]), tree(folder))
