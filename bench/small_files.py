"""Copying many small files in, until the prompt is back and until all are on the server; removing them.

    .venv/bin/python bench/small_files.py [--files 6400] [--size 30000] [--directories 64] [--dialect 23.09]

The mount runs on the embedded server with the delay of a real manager (30 ms a call). Its rival is the
same `cp -r` and `rm -r` on this machine's own disk. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted


def tree(where: Path, files: int, size: int, directories: int) -> Path:
    """`files` files of `size` bytes in `directories` directories."""
    root = where / "source"
    for d in range(directories):
        (root / f"d{d:03d}").mkdir(parents=True)
    for n in range(files):
        (root / f"d{n % directories:03d}" / f"f{n:05d}").write_bytes(os.urandom(size))
    return root


def timed(*command: str | Path) -> float:
    """Seconds that a program took."""
    began = time.monotonic()
    subprocess.run(list(map(str, command)), check=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=6400)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--directories", type=int, default=64)
    parser.add_argument("--dialect", default="23.09")
    parser.add_argument("--delay-ms", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = tree(work, args.files, args.size, args.directories)
        with Embedded(work / "data", dialect=args.dialect) as server:
            folder = server.create_folder("owner", "bench")
            server.faults({"latency_ms": {"manager": args.delay_ms}})
            with Mounted(work, server.env("owner")) as mounted:
                for n in range(args.rounds):
                    results.append(one_round(source, mounted.path / "bench", work / "local", server, n))
        assert not [p for p in server.folder_dir(folder).iterdir() if p.name != ".upload"]
    median = {k: round(statistics.median(r[k] for r in results), 3) for k in results[0]}
    print(json.dumps({"bench": "small_files", **vars(args), **median}))


def one_round(source: Path, folder: Path, local: Path, server: Embedded, n: int) -> dict[str, float]:
    """Local and mounted, one after the other, so that the machine's mood is the same."""
    files = sum(len(f) for _, _, f in os.walk(source))
    local_s = timed("cp", "-r", source, local)
    local_rm_s = timed("rm", "-r", local)
    server.reset_calls()
    acknowledged_s = timed("cp", "-r", source, folder / f"copy{n}")
    began = time.monotonic()
    os.setxattr(folder, "user.vfsmount.wait", b"1")
    sent_s = acknowledged_s + time.monotonic() - began
    calls = sum(server.calls("manager").values())
    server.reset_calls()
    removed_s = timed("rm", "-r", folder / f"copy{n}")
    os.setxattr(folder, "user.vfsmount.wait", b"1")
    deletes = sum(v for (_, _, path), v in server.calls().items() if path.endswith("/delete-files"))
    return {
        "local_s": local_s,
        "acknowledged_s": acknowledged_s,
        "ratio": acknowledged_s / local_s,
        "on_server_s": sent_s,
        "files_per_s": files / sent_s,
        "manager_calls": calls,
        "local_rm_s": local_rm_s,
        "rm_s": removed_s,
        "delete_calls": deletes,
    }


if __name__ == "__main__":
    main()
