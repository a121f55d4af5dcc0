"""``-o``, as mount(8) and fstab write it."""

from __future__ import annotations

import pytest

from vfsmount.cli.mount_options import MountOptions, parse_mount_options
from vfsmount.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", MountOptions()),
        ("ro", MountOptions(read_only=True)),
        ("ro,rw", MountOptions()),
        ("rw,ro", MountOptions(read_only=True)),
        ("allow_other, ro", MountOptions(read_only=True, allow_other=True)),
        ("noexec,noatime", MountOptions(kernel_flags=8 | 1024)),
        ("uid=1000,gid=100,umask=027", MountOptions(numbers={"uid": 1000, "gid": 100, "umask": 0o27})),
        ("defaults,nosuid,nodev,_netdev,nofail,user,x-systemd.automount", MountOptions()),
        ("uid=1,uid=2", MountOptions(numbers={"uid": 2})),
    ],
)
def test_known_options(text: str, expected: MountOptions) -> None:
    assert parse_mount_options(text) == expected


@pytest.mark.parametrize(
    "text", ["dev", "suid", "uid=me", "umask=9", "gid=", "ro=1", "allow_other=yes", "ro,cache"]
)
def test_unknown_options_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split(",")[-1]):
        parse_mount_options(text)


@pytest.mark.parametrize("text", ["uid=-1", "gid=-5", "umask=-1", "umask=1000"])
def test_numbers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_mount_options(text)
