"""Random reads, writes, truncates, mappings, renames and remounts against a model of the contents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.compare import same_on_server, same_tree, settle, tree
from tests.support.exerciser import Exerciser, Mismatch
from tests.support.mounting import Mounted
from tests.support.skips import NotMeant

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def options() -> list[str]:
    """Of the mount; a test may name others."""
    return []


@pytest.fixture
def mounted(site: Site, folder: Path, tmp_path: Path, options: list[str]) -> Iterator[Mounted]:
    """A mount of the test's own, which may come and go; `folder` shows there too."""
    with Mounted(tmp_path, site.env, "--dir-ttl", "1", "--attr-ttl", "0.5", *options) as mounted:
        yield mounted
    assert not mounted.warnings()


def remount(mounted: Mounted) -> None:
    done = mounted.stop()
    assert (done.returncode, done.stderr) == (0, "")
    mounted.start()


def exercise(mounted: Mounted, directory: Path, ops: int, *, files: int, seed: int, expected: Path) -> None:
    """Run the exerciser as a process of its own: a mapping that cannot be read ends the process."""
    expected.mkdir()
    command = [sys.executable, "-m", "tests.support.exerciser", directory, "--ask", "--expected", expected]
    numbers = ["--ops", ops, "--files", files, "--seed", seed]
    said = []
    with subprocess.Popen(
        [*map(str, (*command, *numbers))],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            for line in child.stdout:
                if line == "remount\n":
                    remount(mounted)
                    child.stdin.write("done\n")
                else:
                    said.append(line)
        except BaseException:
            child.kill()
            raise
    assert child.returncode == 0, "".join(said) or f"it ended with {child.returncode}"


def end_is_as_expected(mounted: Mounted, folder: Path, disk: Path, expected: Path) -> None:
    directory = mounted.path / folder.name
    settle(directory)
    same_tree(tree(expected), tree(directory))
    same_on_server(directory, disk)
    remount(mounted)
    same_tree(tree(expected), tree(directory))


@pytest.mark.parametrize("files", [1, 3])
def test_random_operations(
    site: Site, mounted: Mounted, folder: Path, disk: Path, tmp_path: Path, files: int
) -> None:
    ops = 1500 if site.embedded else 300
    exercise(
        mounted, mounted.path / folder.name, ops, files=files, seed=files, expected=tmp_path / "expected"
    )
    end_is_as_expected(mounted, folder, disk, tmp_path / "expected")


@pytest.mark.parametrize(
    ("options", "ops", "seed"),
    [
        pytest.param([], 30_000, 101, marks=pytest.mark.slow, id="behind"),
        pytest.param(["--sync"], 8_000, 102, marks=pytest.mark.slow, id="sync"),
        pytest.param([], 100_000, 103, marks=pytest.mark.long, id="behind-long"),
        pytest.param(["--sync"], 20_000, 104, marks=pytest.mark.long, id="sync-long"),
    ],
)
def test_many_random_operations(
    site: Site, mounted: Mounted, folder: Path, disk: Path, tmp_path: Path, ops: int, seed: int
) -> None:
    if site.embedded is None or site.embedded.dialect != "23.09":
        raise NotMeant("minutes of the same: what is random here happens in front of any server")
    exercise(mounted, mounted.path / folder.name, ops, files=3, seed=seed, expected=tmp_path / "expected")
    end_is_as_expected(mounted, folder, disk, tmp_path / "expected")


def test_exerciser_notices_one_wrong_byte(tmp_path: Path) -> None:
    def damage() -> None:
        (file,) = tmp_path.iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    exerciser = Exerciser(tmp_path, seed=1, remount=damage)
    with pytest.raises(Mismatch, match=r"(?s)seed 1, operation \d+: f0: 1 bytes differ in .*mounted anew"):
        exerciser.run(10_000)
