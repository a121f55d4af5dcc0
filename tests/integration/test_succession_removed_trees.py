"""A process is killed while a tree is on its way out, and others use the folder before the next serves."""

from __future__ import annotations

from pathlib import Path

from tests.integration.test_succession_operations import at
from tests.support.disks import lay_out, tree_on_disk
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.removing import AWAY
from tests.support.sending import DELETE, REQUEST
from tests.support.succession import Succession
from vfsmount.errors import NotEmpty

TREE: dict[str, bytes | None] = {"d/e/f": b"f", "d/g": b"g", "stays": b"stays"}
REMOVALS = ("unlink d/e/f", "rmdir d/e", "unlink d/g", "rmdir d")


def do(mount: Succession, name: str, *removals: str) -> None:
    """Each an operation and the path it is for, in a folder."""
    for removal in removals:
        operation, _, path = removal.partition(" ")
        mount.call(operation, *at(mount, f"{name}/{path}"))


def all_done(mount: Succession) -> None:
    """Nothing is on its way to the server any more, whatever came of it."""
    eventually(lambda: is_idle(mount))


def is_idle(mount: Succession) -> bool:
    """Whether all has arrived; who waits is told of each directory that stays."""
    try:
        mount.call("idle")
    except NotEmpty:
        return False
    return True


def test_file_that_somebody_puts_into_a_removed_directory_stays(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, TREE)
    with Succession(both, tmp_path) as mount:
        both.faults(AWAY)
        do(mount, name, *REMOVALS)
        (disk / "d/e/theirs").write_bytes(b"theirs")
        mount.kill()
        both.clear_faults()
        mount.succeed()
        all_done(mount)
        assert tree_on_disk(disk) == {"stays": b"stays", "d": None, "d/e": None, "d/e/theirs": b"theirs"}
        mount.call("refresh")
        assert mount.names(name) == ["d", "stays"]
        assert mount.read(f"{name}/d/e/theirs") == b"theirs"


def test_directory_that_somebody_else_removed_is_no_obstacle(both: Embedded, tmp_path: Path) -> None:
    """A file of it was on its way out, then what it lay in was removed."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, TREE)
    with Succession(both, tmp_path) as mount:
        both.faults(AWAY)
        do(mount, name, "unlink d/e/f")
        (disk / "d/e/f").unlink()
        (disk / "d/e").rmdir()
        mount.call("refresh")
        assert mount.names(f"{name}/d") == ["g"]
        do(mount, name, "unlink d/g", "rmdir d")
        mount.kill()
        both.clear_faults()
        mount.succeed()
        all_done(mount)
        assert tree_on_disk(disk) == {"stays": b"stays"}


def test_unsent_files_of_a_removed_tree_do_not_bring_it_back(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, TREE)
    with Succession(both, tmp_path) as mount:
        no_uploads = {"action": "status", "path": REQUEST, "status": 503, "times": None}
        both.faults({"rules": [no_uploads, *AWAY["rules"]]})
        mount.write(f"{name}/d/e/new", b"new")
        mount.write(f"{name}/d/g", b"newer")
        do(mount, name, "unlink d/e/new", *REMOVALS)
        mount.call("mkdir", *at(mount, f"{name}/other"), 0o755)
        mount.write(f"{name}/other/kept", b"kept")
        mount.kill()
        both.clear_faults()
        mount.succeed()
        all_done(mount)
        assert tree_on_disk(disk) == {"stays": b"stays", "other": None, "other/kept": b"kept"}
        assert mount.names(name) == ["other", "stays"]


def test_tree_that_somebody_makes_anew_after_it_has_gone_stays(both: Embedded, tmp_path: Path) -> None:
    """The process was killed before it heard that it had gone."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, TREE)
    anew: dict[str, bytes | None] = {"d/e/f": b"theirs", "d/h": b"theirs"}
    with Succession(both, tmp_path) as mount:
        both.faults({"rules": [{"action": "hold_reply", "path": DELETE}]})
        do(mount, name, *REMOVALS)
        eventually(lambda: not (disk / "d").exists())
        mount.kill()
        lay_out(disk, anew)
        both.clear_faults()
        mount.succeed()
        all_done(mount)
        assert tree_on_disk(disk) == {"stays": b"stays", "d": None, "d/e": None, **anew}
