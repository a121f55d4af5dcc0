"""`vfolder://` in several processes: workers that are forked or started anew, and what is sent to them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.mounting import clean_environment
from tests.support.pythonic import only_settings
from vfsmount.fsspec import VfolderFileSystem

# Since 3.12 Python warns whoever forks with threads about: which is what these tests are for.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def fs(both: Embedded) -> Iterator[VfolderFileSystem]:
    """With its settings in the environment, where a worker that is started anew looks for them."""
    with only_settings(both.env("owner")):
        VfolderFileSystem.clear_instance_cache()  # those of another environment
        yield VfolderFileSystem(skip_instance_cache=True)


@pytest.fixture
def name(both: Embedded, fs: VfolderFileSystem) -> str:
    """A folder with a file `a`."""
    name, folder_id = fresh(both)
    (both.folder_dir(folder_id) / "a").write_bytes(CONTENT)
    return name


class Dataset:
    """As torch's loaders have it: made in the parent, used there, and in each worker afterwards."""

    def __init__(self, fs: VfolderFileSystem, path: str) -> None:
        self.fs, self.path = fs, path
        self.file: Any = fs.open(path, block_size=1000, cache_type="bytes")

    def __call__(self, i: int) -> tuple[int, bytes, bytes]:
        self.file.seek(i * 1000)
        own = f"{os.path.dirname(self.path)}/by-{os.getpid()}-{i}"
        self.fs.pipe_file(own, b"%d" % i)
        return os.getpid(), self.file.read(500), self.fs.cat_file(own)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_and_write_right(fs: VfolderFileSystem, name: str, method: str) -> None:
    data = Dataset(fs, f"{name}/a")
    assert data(0)[1] == CONTENT[:500]
    busy = threading.Event()

    def keep_busy() -> None:
        while not busy.is_set():
            fs.cat_file(f"{name}/a")

    others = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        with multiprocessing.get_context(method).Pool(3) as pool:
            found = pool.map_async(data, range(30), chunksize=5).get(timeout=300)
    finally:
        busy.set()
        for thread in others:
            thread.join()
    assert [piece for _, piece, _ in found] == [CONTENT[i * 1000 : i * 1000 + 500] for i in range(30)]
    assert [own for _, _, own in found] == [b"%d" % i for i in range(30)]
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert fs.cat_file(f"{name}/a") == CONTENT


def test_fork_of_a_fork_reads_right(fs: VfolderFileSystem, name: str) -> None:
    fs.cat_file(f"{name}/a")
    pid = os.fork()
    if pid == 0:
        right = fs.cat_file(f"{name}/a") == CONTENT
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if fs.cat_file(f"{name}/a") == CONTENT else 1)
        os._exit(0 if right and os.waitpid(grandchild, 0)[1] == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert fs.cat_file(f"{name}/a") == CONTENT


def test_file_in_a_pickle_stays_the_version_it_was(fs: VfolderFileSystem, both: Embedded, name: str) -> None:
    with fs.open(f"{name}/a", block_size=1000) as file:
        file.seek(77)
        sent = pickle.dumps(file)
        assert both.env("owner")["BACKEND_SECRET_KEY"].encode() not in sent
        assert pickle.loads(sent).read(10) == CONTENT[77:87]
        fs.pipe_file(f"{name}/a", b"another")
        with pytest.raises(OSError, match="changed"):
            pickle.loads(sent).read(10)


SCRIPT = """
import os, sys, fsspec
fs = fsspec.filesystem("vfolder")
path = sys.argv[1]
assert len(fs.cat_file(path)) == 1048576
file = fs.open(path)
pid = os.fork()  # both end as programs do, with everything collected
assert len(fs.cat_file(path)) == 1048576
assert len(file.read(10)) == 10
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_process_ends_without_a_word(fs: VfolderFileSystem, both: Embedded, name: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "ignore:.*use of fork.*:DeprecationWarning",
            "-c",
            SCRIPT,
            f"{name}/a",
        ],
        env=clean_environment(both.env("owner")),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
