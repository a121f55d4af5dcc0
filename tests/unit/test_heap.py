"""What is freed between things that stay goes back to the kernel once the process is too large."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vfsmount.store import heap

# In a process of its own, with the allocator as a mount sets it: freed blocks of 1 MiB between small
# objects that stay. Prints the MiB that it has before and after 8 MiB more were filled, small and large.
_PROGRAM = """
import sys
from vfsmount.cli.mount import _keep_freed_memory
from vfsmount.store.heap import Heap, _resident
_keep_freed_memory()
limit = int(sys.argv[1]) << 20
heap = Heap(limit)
blocks, small = [], []
for n in range(100):
    blocks.append(bytearray(b"x") * (1 << 20))
    small.append(bytes(n + 5000))
del blocks
before = _resident()
heap.filled(4 << 20)
early = _resident()
heap.filled(4 << 20)
print(before >> 20, early >> 20, _resident() >> 20)
"""


def _sizes(limit_mib: int) -> tuple[int, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(limit_mib)], capture_output=True, text=True, check=True
    )
    before, early, after = map(int, done.stdout.split())
    return before, early, after


@pytest.mark.skipif(heap._trim is None, reason="the C library has no malloc_trim")
def test_freed_buffers_go_back_when_the_process_is_too_large() -> None:
    before, early, after = _sizes(64)
    assert before > 100
    assert early > before - 20  # not looked at after every few bytes
    assert after < before - 80


def test_freed_buffers_stay_where_there_is_room() -> None:
    before, _, after = _sizes(1024)
    assert before > 100
    assert after > before - 20
