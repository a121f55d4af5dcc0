"""Mounts, works on the mount and unmounts, as whoever runs it: another user, or root of a user namespace.

    python -m tests.support.visitor DIRECTORY [OPTIONS OF THE MOUNT…]

DIRECTORY belongs to them. One line of JSON for the mount, one for the work, one for the end; after each
it waits for a line on standard input. With VISITOR_KILLS they end the daemon before the work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = "VISITOR_KILLS" in os.environ


def command(*words: str | Path) -> dict[str, object]:
    """What one vfsmount command said."""
    done = subprocess.run(
        [sys.executable, "-m", "vfsmount", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return {"status": done.returncode, "stderr": done.stderr}


def mounts(path: Path) -> list[str]:
    """The kernel's lines about mounts exactly there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4] == str(path)]


def work(folder: Path) -> dict[str, object]:
    """A little of everything; nothing of it stays."""
    (folder / "sub").mkdir()
    (folder / "sub" / "new").write_bytes(b"written\n" * 100_000)
    (folder / "sub" / "new").rename(folder / "sub" / "named")
    content = (folder / "sub" / "named").read_bytes()
    seen = {"folder": sorted(os.listdir(folder)), "sub": os.listdir(folder / "sub"), "size": len(content)}
    (folder / "sub" / "named").unlink()
    (folder / "sub").rmdir()
    return {**seen, "left": sorted(os.listdir(folder))}


def kill_daemon(state: Path) -> dict[str, object]:
    """End the daemon, and wait for another one."""
    (record,) = (state / "mounts").glob("*.json")
    pid = json.loads(record.read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while (now := json.loads(record.read_bytes())["pid"]) == pid:
        assert time.monotonic() < end
        time.sleep(0.02)
    return {"killed": pid, "serves": now}


def main() -> None:
    where, options = Path(sys.argv[1]), sys.argv[2:]
    mountpoint, state = where / "mnt", where / "state"
    steps = (
        lambda: {
            **command(mountpoint, "--state-dir", state, "--log-file", where / "daemon.log", *options),
            "minor": os.minor(os.stat(mountpoint).st_dev),
            "mounts": mounts(mountpoint),
        },
        lambda: {**(kill_daemon(state) if KILLS else {}), **work(mountpoint / "data")},
        lambda: {**command("umount", mountpoint, "--state-dir", state), "mounts": mounts(mountpoint)},
    )
    try:
        for step in steps:
            print(json.dumps(step()), flush=True)
            sys.stdin.readline()
    finally:
        if mounts(mountpoint):
            command("umount", "--lazy", mountpoint, "--state-dir", state)


if __name__ == "__main__":
    main()
