"""What mount(2) is told."""

from __future__ import annotations

from vfsmount.fuse import device


def test_mount_data_checks_permissions_and_says_allow_other_only_if_asked() -> None:
    assert "default_permissions" in device.KernelOptions().data(5) and "fd=5," in device.KernelOptions().data(
        5
    )
    assert "allow_other" not in device.KernelOptions().data(5)
    assert device.KernelOptions(allow_other=True).data(5).endswith(",allow_other")
