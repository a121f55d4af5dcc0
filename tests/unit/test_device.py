"""The answer to the kernel's INIT, with what libfuse leaves out."""

from __future__ import annotations

import struct

import pytest

from vfsmount.fuse import device

WANTED = 1 << 18 | 1 << 28  # PARALLEL_DIROPS, HANDLE_KILLPRIV_V2


def request(flags: int) -> bytes:
    return (
        struct.pack("=IIQQIIII", 104, 26, 1, 0, 0, 0, 0, 0)
        + struct.pack("=IIIII", 7, 39, 131072, flags, 0)
        + bytes(44)
    )


def reply(flags: int, error: int = 0) -> bytes:
    body = struct.pack("=IIIIHHIIHHI", 7, 31, 131072, flags, 12, 9, 1 << 20, 1, 256, 0, 0) + bytes(28)
    return struct.pack("=IiQ", 16 + len(body), error, 1) + body


def fields(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=IIIIHHIIHHI", message, 16)


@pytest.mark.parametrize("flags", [0, 1 | 1 << 5, 1 << 16])
def test_only_wanted_bits_are_added_and_only_as_offered(flags: int) -> None:
    offered = device.patch_init_reply(request(0xFFFFFFFF), reply(flags))
    assert fields(offered)[3] == flags | WANTED
    not_offered = device.patch_init_reply(request(0xFFFFFFFF & ~WANTED), reply(flags))
    assert fields(not_offered)[3] == flags


def test_only_those_fields_change() -> None:
    before = reply(1)
    after = device.patch_init_reply(request(0xFFFFFFFF), before)
    assert len(after) == len(before) and after[:16] == before[:16] and after[16 + 40 :] == before[16 + 40 :]
    same = [i for i, (a, b) in enumerate(zip(fields(before), fields(after), strict=True)) if a == b]
    assert same == [0, 1, 2, 6, 7, 8, 9, 10]
    assert fields(after)[4:6] == (64, 48)


def test_refusal_of_libfuse_passes_unchanged() -> None:
    refused = reply(0, error=-71)
    assert device.patch_init_reply(request(0xFFFFFFFF), refused) == refused
    short = struct.pack("=IiQ", 24, 0, 1) + struct.pack("=II", 7, 0)  # of a protocol before 7.5
    assert device.patch_init_reply(request(0xFFFFFFFF), short) == short


def test_mount_data_checks_permissions_and_says_allow_other_only_if_asked() -> None:
    assert "default_permissions" in device.KernelOptions().data(5) and "fd=5," in device.KernelOptions().data(
        5
    )
    assert "allow_other" not in device.KernelOptions().data(5)
    assert device.KernelOptions(allow_other=True).data(5).endswith(",allow_other")
