"""`cli.supervise`: waiting as an init does. In processes of their own: it takes every child of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from vfsmount.cli import supervise

FIRST = """
import os, sys, time
os.getpid = lambda: 1
from vfsmount.cli import supervise

def work():
    {work}

sys.exit(supervise.as_first_process(work))
"""


def first_process(work: str) -> subprocess.Popen[str]:
    code = FIRST.format(work=work)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("raw", "status"), [(0, 0), (3 << 8, 3), (15, 143), (9, 137), (0x80 | 6, 134)])
def test_status_is_as_a_shell_tells_it(raw: int, status: int) -> None:
    assert supervise.status_of(raw) == status


def test_first_process_has_the_exit_status_of_its_work() -> None:
    with first_process("return 5") as process:
        assert process.wait(20) == 5


def test_first_process_passes_signals_on() -> None:
    work = "import signal; signal.signal(15, lambda *_: os._exit(9)); print('up', flush=True); time.sleep(30)"
    with first_process(work) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 9


def test_first_process_that_is_told_to_end_ends_with_its_work() -> None:
    with first_process("print('up', flush=True); time.sleep(30)") as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


def test_first_process_buries_what_others_leave() -> None:
    # Orphans come to whoever is the first process, or has asked for them.
    code = f"from vfsmount.cli.run import namespaces; namespaces.adopt_orphans(True)\n{FIRST}"
    work = (
        "import subprocess; subprocess.run(['sh', '-c', 'sleep 60 & sleep 60 &']); sys.stdin.read(); return 0"
    )
    with subprocess.Popen([sys.executable, "-c", code.format(work=work)], stdin=subprocess.PIPE) as process:
        wait_for_children(process, 3)  # the work and two orphans: something to bury
        for left in (2, 1):
            os.kill(next(pid for pid, name in children(process) if name == "sleep"), signal.SIGTERM)
            wait_for_children(process, left)  # a dead one would be counted, too
        process.communicate(timeout=20)
    assert process.returncode == 0


def children(process: subprocess.Popen[bytes]) -> list[tuple[int, str]]:
    """(process id, name) of each."""
    command = ["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)]
    shown = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [(int(pid), name) for pid, name, *_ in map(str.split, shown)]


def wait_for_children(process: subprocess.Popen[bytes], count: int) -> None:
    give_up = time.monotonic() + 20
    while len(found := children(process)) != count:
        assert time.monotonic() < give_up, found
        time.sleep(0.05)
