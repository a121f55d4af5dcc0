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
from vfsmount.store.heap import Heap, _resident, keep_freed_memory
keep_freed_memory()
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


# How often the kernel has to find memory for four buffers like libfuse's, which are used at the same time.
_BUFFERS = """
import ctypes, resource, sys
from vfsmount.store.heap import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
if sys.argv[1:]:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
buffers = [libc.malloc((1 << 20) + 4096) for _ in range(4)]
for buffer in buffers:
    ctypes.memset(buffer, 1, (1 << 20) + 4096)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(heap._trim is None, reason="the C library is not glibc")
def test_memory_of_the_first_requests_is_there_before_them() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", _BUFFERS, *how], capture_output=True, check=True).stdout)
        for how in ([], ["prepared"])
    ]
    assert faults[0] > 500 and faults[1] < 50
