"""Directories and files for one user's eyes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from vfsmount import places
from vfsmount.errors import ConfigError


def test_private_dir_is_made_and_tightened(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert places.private_dir(path).stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    assert places.private_dir(path).stat().st_mode & 0o777 == 0o700


def test_symlink_and_file_are_no_private_dir(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match=name):
            places.private_dir(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(ConfigError):
        places.private_dir(theirs)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_sockets_do_not_go_where_another_user_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both the directory named and the fallback in the temporary directory are prepared by another.
    theirs = tmp_path / "runtime-0"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(theirs))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        chosen = places.runtime_dir()
    except ConfigError as e:
        assert "XDG_RUNTIME_DIR" in str(e)
    else:  # where there is a /run/user/0
        assert theirs not in chosen.parents


def test_write_private_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state" / "file"
    places.write_private(path, "one")
    path.chmod(0o644)
    places.write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state" / "file"
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot write"):
        places.write_private(path, "new")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_xdg_variables_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    assert places.config_file() == tmp_path / "XDG_CONFIG_HOME" / "vfsmount" / "config.toml"
    assert places.state_dir() == tmp_path / "XDG_STATE_HOME" / "vfsmount"
    assert places.runtime_dir() == tmp_path / "XDG_RUNTIME_DIR" / "vfsmount"
    assert (tmp_path / "XDG_RUNTIME_DIR").stat().st_mode & 0o777 == 0o700
