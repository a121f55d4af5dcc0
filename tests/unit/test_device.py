"""What mount(2) is told."""

from __future__ import annotations

from vfsmount.fuse import device


def test_mount_data_checks_permissions_and_says_allow_other_only_if_asked() -> None:
    assert "default_permissions" in device.KernelOptions().data()
    assert "allow_other" not in device.KernelOptions().data()
    assert device.KernelOptions(allow_other=True).data().endswith(",allow_other")
