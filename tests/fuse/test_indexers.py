"""Programs that read everything get what others leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, run

# Walks in a thread with a name of its own, as most of them do.
THREADED = """
import os, sys, threading
def call_me(name, thread):
    with open(f"/proc/self/task/{thread}/comm", "w") as comm:
        comm.write(name)
def walk():
    call_me("pool-worker", threading.get_native_id())
    for _ in os.walk(sys.argv[2], onerror=lambda e: print(e, file=sys.stderr)):
        pass
call_me(sys.argv[1], os.getpid())
thread = threading.Thread(target=walk)
thread.start()
thread.join()
"""
LIMIT, DIRECTORIES = 100, 55
SHARE = 13  # of 68 calls that may go at once


@pytest.mark.parametrize("name", ["updatedb", "ls", "tumblerd, in a thread", "python, in a thread"])
def test_indexer_leaves_most_of_the_budget_to_people(tmp_path: Path, name: str) -> None:
    name, _, threaded = name.partition(", ")
    program = tmp_path / name
    shutil.copy("/bin/ls", program)
    with Embedded(tmp_path / "data", rate_limit=LIMIT) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        for n in range(DIRECTORIES):
            (disk / f"d{n:02d}").mkdir()
        # Long enough for a busy machine, and a token takes longer to come back.
        deadline = () if name in ("ls", "python") else ("--deadline", "5")
        with Mounted(tmp_path, server.env("owner"), *deadline, "--dir-ttl", "600") as mounted:
            server.reset_calls()
            command = [program, "-R", mounted.path / "data"]
            if threaded:
                command = [sys.executable, "-c", THREADED, name, mounted.path / "data"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            asked = server.count("GET", "/folders/{vf}/files")
            if name in ("ls", "python"):
                assert (done.returncode, asked) == (0, DIRECTORIES + 1)
                return
            assert SHARE - 8 <= asked <= SHARE + 2 and "busy" in done.stderr
            left = [n for n in range(DIRECTORIES) if f"d{n:02d}'" in done.stderr]
            for n in left[:20]:
                assert run("ls", mounted.path / "data" / f"d{n:02d}") == ""
            assert server.count("GET", "/folders/{vf}/files") == asked + 20
            assert os.path.ismount(mounted.path)
