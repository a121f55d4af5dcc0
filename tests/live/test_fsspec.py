"""`vfolder://` on the real 23.09: read, written, listed, removed, by this process and by workers."""

from __future__ import annotations

import multiprocessing
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.support.live import live_environment
from tests.support.pythonic import only_settings
from vfsmount.fsspec import VfolderFileSystem

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")]


@pytest.fixture
def url() -> Iterator[str]:
    """Address of a folder of its own, deleted afterwards."""
    with only_settings(live_environment("owner")):
        VfolderFileSystem.clear_instance_cache()
        fs = VfolderFileSystem()
        name = f"fsspec-{secrets.token_hex(4)}"
        fs.mkdir(name)
        try:
            yield f"vfolder://{name}"
        finally:
            if fs.ls(name):
                fs.rm(f"{name}/*", recursive=True)
            fs.rmdir(name)
            VfolderFileSystem.clear_instance_cache()


def read_slice(of: tuple[str, int]) -> bytes:
    with fsspec.open(of[0]) as file:
        file.seek(of[1])
        data: bytes = file.read(1000)
        return data


def test_real_server_stores_and_gives_back(url: str, tmp_path: Path) -> None:
    fs, root = fsspec.url_to_fs(url)
    content = os.urandom(9_000_000)
    with fsspec.open(f"{url}/new/deep/big", "wb") as out:
        out.write(content)
    assert fs.cat_file(f"{root}/new/deep/big") == content
    assert fs.cat_ranges([f"{root}/new/deep/big"] * 3, [0, 5_000_000, -7], [3, 5_000_010, None]) == [
        content[:3],
        content[5_000_000:5_000_010],
        content[-7:],
    ]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            jobs = [(f"{url}/new/deep/big", i * 400_000) for i in range(20)]
            found = pool.map_async(read_slice, jobs).get(timeout=120)
        assert found == [content[at : at + 1000] for _, at in jobs]
    (tmp_path / "tree/sub").mkdir(parents=True)
    for i in range(20):
        (tmp_path / f"tree/sub/f{i}").write_bytes(b"%d" % i)
    fs.put(str(tmp_path / "tree"), f"{root}/tree", recursive=True)
    assert len(fs.find(f"{root}/tree")) == 20 and len(fs.glob(f"{root}/tree/sub/f1*")) == 11
    assert fs.cat(f"{root}/tree", recursive=True, on_error="omit")[f"{root}/tree/sub/f7"] == b"7"
    fs.cp(f"{root}/tree", f"{root}/copy", recursive=True)
    fs.mv(f"{root}/copy/sub/f1", f"{root}/copy/sub/f2")
    assert fs.cat_file(f"{root}/copy/sub/f2") == b"1" and not fs.exists(f"{root}/copy/sub/f1")
    with fs.open(f"{root}/tree/sub/f3", "ab") as file:
        file.write(b" and more")
    assert fs.cat_file(f"{root}/tree/sub/f3") == b"3 and more"
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{root}/tree/sub/f3", b"", mode="create")
    with fs.open(f"{root}/tree/sub/f4") as file, pytest.raises(OSError, match="changed"):
        fs.pipe_file(f"{root}/tree/sub/f4", b"another")
        file.read()
    fs.rm(f"{root}/tree", recursive=True)
    assert sorted(fs.ls(root, detail=False)) == [f"{root}/copy", f"{root}/new"]
