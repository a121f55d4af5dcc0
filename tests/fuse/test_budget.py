"""A workload that wants more manager calls than there are: slowed down, and never refused."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted

# Some 16 calls a second, a tenth of what a server answers here: it binds on a busy machine, too. About
# twice the limit is wanted, by each mount.
LIMIT, WINDOW_S = 100, 5
FILES, DIRECTORIES = 48, 12


def tree(top: Path) -> dict[str, bytes]:
    """A tree of small files, by path below `top`."""
    files = {f"d{i % DIRECTORIES:02}/f{i:03}": b"%d\n" % i for i in range(FILES)}
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    return files


def found(top: Path) -> dict[str, bytes]:
    """The same of what is there."""
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("dialect", "mounts"), [("23.09", 1), ("26", 1), ("23.09", 2)])
def test_workload_beyond_the_budget_is_slowed_and_never_refused(
    tmp_path: Path, dialect: str, mounts: int
) -> None:
    files = tree(tmp_path / "tree")
    with Embedded(tmp_path / "data", dialect=dialect, rate_limit=LIMIT, rate_window=WINDOW_S) as server:

        def work(number: int) -> None:
            folder = server.create_folder("owner", f"work{number}")
            where = tmp_path / f"mount{number}"
            where.mkdir()
            with Mounted(where, server.env("owner"), "--dir-ttl", "1", "--sync") as mounted:
                top = mounted.path / f"work{number}" / "copy"
                shutil.copytree(tmp_path / "tree", top)
                assert found(server.folder_dir(folder) / "copy") == files
                # Its own tree only: below a walk of all, what the other mount removes would vanish.
                ls = subprocess.run(["ls", "-lR", top], capture_output=True, text=True, timeout=120)
                assert ls.returncode == 0, ls.stderr
                shutil.rmtree(top)
            assert list(server.folder_dir(folder).iterdir()) == []

        with ThreadPoolExecutor(mounts) as threads:
            list(threads.map(work, range(mounts)))
        fullest = server.report()["fullest"]["owner"]
        # It did bind: a workload that stays far below would prove nothing.
        assert fullest["own"] > 0.6 * LIMIT
    # And that nothing went beyond 80 %, and nothing was refused, is looked at wherever a server is stopped.
