"""``vfsmount cache``: what it says, and that it makes and takes nothing it was not asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cached import content, fill, held, key
from vfsmount import places
from vfsmount.cli import main
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.store.blockcache import BlockCache

MIB = 1 << 20
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def said(capsys: Capsys, *arguments: str | Path) -> str:
    assert main(["cache", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_default_directory_is_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert places.cache_dir() == tmp_path / "vfsmount" / "blocks"
    assert str(tmp_path / "vfsmount" / "blocks") in said(capsys, "info")


@pytest.mark.parametrize("what", ["info", "clear", "verify"])
def test_where_there_is_no_cache_none_is_made(root: Path, what: str, capsys: Capsys) -> None:
    said(capsys, what, "--cache-dir", root)
    assert not root.exists()
    root.mkdir(mode=0o755)
    (root / "thesis.tex").touch()
    said(capsys, what, "--cache-dir", root)
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]
    assert json.loads(said(capsys, "info", "--json", "--cache-dir", root))["exists"] is False


def test_info_tells_of_a_cache_in_use_and_changes_nothing(root: Path, capsys: Capsys) -> None:
    large, small = BlockCache(root, 64 * MIB, 0), BlockCache(root, 20 * MIB, 0)
    of = key("a/b.bin", 40 * BLOCK_SIZE)
    try:
        fill(large, of)
        assert large.pin(of)
        before = held(large, of)
        report = json.loads(said(capsys, "info", "--json", "--cache-dir", root))
        assert held(large, of) == before and len(before) == 40
    finally:
        large.close()
        small.close()
    assert report == {
        "cache_dir": str(root),
        "exists": True,
        "bytes": report["pinned_bytes"],
        "limit": 20 * MIB,
        "files": 1,
        "pinned_bytes": report["pinned_bytes"],
        "pinned": [{"folder": "f" * 32, "path": "a/b.bin"}],
    }
    assert 40 * MIB < report["bytes"] < 41 * MIB
    text = said(capsys, "info", "--cache-dir", root)
    assert "40.0 MiB of 1 file\n" in text and "20.0 MiB" in text and "a/b.bin" in text


def test_limit_is_not_known_where_the_catalogue_is_lost(root: Path, capsys: Capsys) -> None:
    BlockCache(root, 20 * MIB, 0).close()
    (root / "catalogue.sqlite").unlink()
    assert json.loads(said(capsys, "info", "--json", "--cache-dir", root))["limit"] is None
    assert "not known" in said(capsys, "info", "--cache-dir", root)


def test_verify_heals_and_clear_empties(root: Path, capsys: Capsys) -> None:
    of, cache = key("a", 3 * BLOCK_SIZE), BlockCache(root, 20 * MIB, 0)
    try:
        fill(cache, of)
        assert said(capsys, "verify", "--cache-dir", root) == "3 blocks checked, 0 bad\n"
        (file,) = (root / "blocks").iterdir()
        with file.open("r+b") as raw:
            raw.seek(2 * BLOCK_SIZE)
            raw.write(b"!")
        assert said(capsys, "verify", "--cache-dir", root) == "3 blocks checked, 1 bad and removed\n"
        assert held(cache, of) == [0, 2]
        assert cache.write(of, 1, content(of, 1))
        assert said(capsys, "clear", "--cache-dir", root) == "3.0 MiB freed\n"
        assert held(cache, of) == []
    finally:
        cache.close()


def test_directory_that_others_may_write_to_is_status_2(root: Path, capsys: Capsys) -> None:
    BlockCache(root, 20 * MIB, 0).close()
    root.chmod(0o777)
    assert main(["cache", "info", "--cache-dir", str(root)]) == 2
    assert "others may write" in capsys.readouterr().err
