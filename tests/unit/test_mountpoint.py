"""The directory to mount on, as far as it needs no mount."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vfsmount.errors import MountError
from vfsmount.fuse import mountpoint


def test_escapes_of_mountinfo() -> None:
    assert (
        mountpoint.unescape(r"/mnt/with\040space\011tab\012line\134back")
        == "/mnt/with space\ttab\nline\\back"
    )
    assert mountpoint.unescape("/mnt/日本語") == "/mnt/日本語"


def test_mounted_type_of_what_is_always_mounted(tmp_path: Path) -> None:
    assert mountpoint.mounted_type("/proc") == "proc"
    assert mountpoint.mounted_type(str(tmp_path)) is None


def test_real_path_resolves_parents_only(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "last").symlink_to("nowhere")
    assert mountpoint.real_path(f"{tmp_path}/link/last") == f"{os.path.realpath(tmp_path)}/real/last"
    assert mountpoint.real_path(f"{tmp_path}/link/../link/") == f"{os.path.realpath(tmp_path)}/link"


def test_answer_tells_the_errno(tmp_path: Path) -> None:
    assert mountpoint.answer(str(tmp_path)) == 0
    assert mountpoint.answer(str(tmp_path / "none")) == errno.ENOENT
    assert mountpoint.answer(str(tmp_path), timeout_s=0.0) is None


def test_missing_directory_is_made(tmp_path: Path) -> None:
    path = mountpoint.prepare(str(tmp_path / "new"))
    assert os.path.isdir(path)
    assert mountpoint.prepare(path) == path


def test_unusable_mountpoints_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="not a directory"):
        mountpoint.prepare(str(tmp_path / "file"))
    with pytest.raises(MountError, match="cannot be made"):
        mountpoint.prepare(str(tmp_path / "none" / "new"))
