"""The answer to the kernel's INIT, with what libfuse leaves out."""

from __future__ import annotations

import struct

import pytest

from vfsmount.errors import MountError
from vfsmount.fuse.negotiation import InitOptions, patch_reply, read_offer

PARALLEL_DIROPS, HANDLE_KILLPRIV_V2 = 1 << 18, 1 << 28
BOTH = PARALLEL_DIROPS | HANDLE_KILLPRIV_V2
ALL = 0xFFFFFFFF
UNIQUE = 2


def request(flags: int, *, opcode: int = 26, major: int = 7, minor: int = 45, spare: int = 48) -> bytes:
    """`spare`: bytes after flags; none before Linux 5.17."""
    body = struct.pack("=IIII", major, minor, 131072, flags) + bytes(spare)
    return struct.pack("=IIQQIIII", 40 + len(body), opcode, UNIQUE, 0, 0, 0, 0, 0) + body


def reply(flags: int, *, error: int = 0, unique: int = UNIQUE, major: int = 7) -> bytes:
    body = struct.pack("=IIIIHHIIHHI", major, 31, 131072, flags, 12, 9, 1 << 20, 1, 256, 0, 0) + bytes(28)
    return struct.pack("=IiQ", 16 + len(body), error, unique) + body


def fields(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=IIIIHHIIHHI", message, 16)


@pytest.mark.parametrize("flags", [0, 1 | 1 << 5, 1 << 16])
def test_only_wanted_bits_are_added_and_only_as_offered(flags: int) -> None:
    offered = patch_reply(read_offer(request(ALL)), reply(flags), InitOptions())
    assert fields(offered)[3] == flags | BOTH
    not_offered = patch_reply(read_offer(request(ALL & ~BOTH)), reply(flags), InitOptions())
    assert fields(not_offered)[3] == flags
    unwanted = patch_reply(read_offer(request(ALL)), reply(flags), InitOptions(parallel_dirops=False))
    assert fields(unwanted)[3] == flags | HANDLE_KILLPRIV_V2


def test_only_those_fields_change() -> None:
    before = reply(1)
    after = patch_reply(read_offer(request(ALL)), before, InitOptions(True, 65535, 7))
    assert len(after) == len(before) and after[:16] == before[:16] and after[16 + 40 :] == before[16 + 40 :]
    same = [i for i, (a, b) in enumerate(zip(fields(before), fields(after), strict=True)) if a == b]
    assert same == [0, 1, 2, 6, 7, 8, 9, 10]
    assert fields(after)[4:6] == (65535, 7)


def test_request_of_a_kernel_before_5_17_is_understood() -> None:
    offer = read_offer(request(PARALLEL_DIROPS, minor=34, spare=0))
    assert (offer.unique, offer.protocol, offer.parallel_dirops) == (UNIQUE, 34, True)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        request(ALL)[:50],
        request(ALL)[:-1],
        request(ALL, opcode=3),
        request(ALL, major=6),
        request(ALL, major=8),
    ],
    ids=["nothing", "too short", "cut", "not INIT", "older", "newer"],
)
def test_unknown_request_is_refused_with_a_reason(message: bytes) -> None:
    with pytest.raises(MountError, match="the kernel"):
        read_offer(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        struct.pack("=IiQ", 16, -71, UNIQUE),  # libfuse refuses this kernel
        struct.pack("=IiQ", 24, 0, UNIQUE) + struct.pack("=II", 7, 0),  # of a protocol before 7.5
        reply(1)[:-1],
        reply(1, error=-71),
        reply(1, unique=UNIQUE + 1),
        reply(1, major=8),
    ],
    ids=["nothing", "refusal", "old", "cut", "long refusal", "of another request", "newer"],
)
def test_unknown_reply_is_refused_with_a_reason(message: bytes) -> None:
    with pytest.raises(MountError, match="libfuse's answer"):
        patch_reply(read_offer(request(ALL)), message, InitOptions())
