"""Root who mounts and hands the descriptor to a daemon without any privilege.

    python -m tests.support.passing DIRECTORY OUR_COPY END [OPTIONS OF THE MOUNT…]

OUR_COPY: ``keep`` or ``close`` our descriptor once the daemon has it. END: ``umount`` or a signal's name.
One line of JSON for each step; after each it waits for a line on standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.ordinary import DROP, NOBODY
from tests.support.visitor import mounts, work

_libc = ctypes.CDLL(None, use_errno=True)
NOSUID_NODEV = 6


def mount(mountpoint: Path) -> int:
    """mount(2) for that user, with options that ours would not have."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={fd},rootmode=40000,user_id={NOBODY},group_id={NOBODY},default_permissions,allow_other"
    done = _libc.mount(
        b"theirs", bytes(mountpoint), b"fuse.vfsmount", NOSUID_NODEV, f"{data},max_read=65536".encode()
    )
    assert done == 0, os.strerror(ctypes.get_errno())
    return fd


def nobody(*words: str | Path, fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One vfsmount command as that user, with no way back to any privilege."""
    drop = [*DROP[:-1], "--bounding-set", "-all", "--no-new-privs", "--"]
    command = [*drop, sys.executable, "-m", "vfsmount", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, pass_fds=fds)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """What a command said."""
    return {"status": done.returncode, "stderr": done.stderr}


def listed(path: Path) -> list[str] | str:
    """What is shown there, or why nothing is."""
    try:
        return sorted(os.listdir(path))
    except OSError as e:
        return os.strerror(e.errno)


def main() -> None:
    where, copy, end, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    mountpoint, state = where / "mnt", where / "state"
    fd = mount(mountpoint)

    def say(**what: object) -> None:
        print(json.dumps(what), flush=True)
        sys.stdin.readline()

    try:
        done = nobody(
            f"/dev/fd/{fd}", "--state-dir", state, "--log-file", where / "daemon.log", *options, fds=(fd,)
        )
        if copy == "close":
            os.close(fd)
        records = [json.loads(p.read_bytes()) for p in (state / "mounts").glob("*.json")]
        pid = records[0]["pid"] if records else 0
        lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid else []
        say(**told(done), records=records, process=dict(line.split(":\t", 1) for line in lines))
        seen = work(mountpoint / "data")
        (mountpoint / "data" / "unsent").write_text("precious")
        report = json.loads(nobody("status", "--json", "--state-dir", state).stdout)
        say(**seen, reported=[m["mountpoint"] for m in report["mounts"]], mounts=mounts(mountpoint))
        refused = nobody("umount", mountpoint, "--state-dir", state)
        if end == "umount":
            subprocess.run(["umount", mountpoint], check=True)
        else:
            os.kill(pid, signal.Signals[end])
        give_up = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < give_up:
            time.sleep(0.02)
        say(
            ended=not Path(f"/proc/{pid}").exists(),
            refused=refused.stderr,
            mounts=len(mounts(mountpoint)),
            shown=listed(mountpoint) if copy == "close" else "",
            records=[p.name for p in (state / "mounts").glob("*.json")],
        )
    finally:
        subprocess.run(["umount", "-f", "-l", mountpoint], check=False, capture_output=True)


if __name__ == "__main__":
    main()
