"""Uploading many files over a line with latency: ours and, where it is installed, the official client.

    .venv/bin/python bench/uploads.py [--files 1000] [--size 1048576] [--rtt-ms 20] [--mbit 1000]
        [--dialect 23.09] [--official VENV/bin/backend.ai] [--env FILE]

The server is the embedded one, or the one whose ``export BACKEND_…`` lines are in FILE. The line is
bench/link.py's. One JSON line for each client; each has a folder of its own, deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.link import Link
from tests.support.embedded import Embedded, RawClient
from tests.support.live import read_env_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--rtt-ms", type=float, default=20)
    parser.add_argument("--mbit", type=float, default=1000)
    parser.add_argument("--dialect", default="23.09")
    parser.add_argument("--official", type=Path, help="the official client's program")
    parser.add_argument("--env", type=Path, help="file of export lines: that server in place of the embedded")
    args = parser.parse_args()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = work / "source"
        source.mkdir()
        for n in range(args.files):
            (source / f"f{n:05d}").write_bytes(os.urandom(args.size))
        if args.env:
            env = dict(read_env_file(args.env))
        else:
            server = stack.enter_context(Embedded(work / "server", dialect=args.dialect))
            env = server.env("owner")
        raw = RawClient(env)
        for client in ["vfsmount", *(["official"] if args.official else [])]:
            name = f"bench{secrets.token_hex(4)}"
            raw.ok("POST", "/folders", {"name": name})
            try:
                print(json.dumps(run(client, args, raw, name, source, work)), flush=True)
            finally:
                raw.ok("DELETE", f"/folders/{name}")
        raw.close()


def run(
    client: str, args: argparse.Namespace, raw: RawClient, name: str, source: Path, work: Path
) -> dict[str, object]:
    """One client's time, and what it cost."""
    manager = urlsplit(raw.env["BACKEND_ENDPOINT"]).netloc
    url, _ = raw.grant(name, "probe", 1)
    storage = urlsplit(url).netloc
    with Link(manager, storage, rtt_ms=args.rtt_ms, mbit=args.mbit) as link:
        there = f"127.0.0.1:{link.ports[storage]}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("BACKEND_")} | dict(raw.env)
        env |= {"BACKEND_ENDPOINT": f"http://127.0.0.1:{link.ports[manager]}", "XDG_STATE_HOME": str(work)}
        mapped = ",".join(f"http://{storage}/{way}=http://{there}/{way}" for way in ("upload", "download"))
        if client == "vfsmount":
            command = [sys.executable, "-m", "vfsmount", "upload"]
            env["PYTHONPATH"] = str(Path(__file__).parents[1])
        else:
            command = [str(args.official.absolute()), "vfolder", "upload"]
        files = sorted(p.name for p in source.iterdir())
        command += ["--override-storage-proxy", mapped, name, *files]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        quiet = subprocess.DEVNULL
        subprocess.run(command, env=env, cwd=source, check=True, stdout=quiet, stderr=quiet)
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = raw.ok("GET", f"/folders/{name}/files", params={"path": "."})["items"]
    return {
        "client": client,
        "files": args.files,
        "size": args.size,
        "rtt_ms": args.rtt_ms,
        "mbit": args.mbit,
        "seconds": round(seconds, 2),
        "files_per_s": round(args.files / seconds, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "listed": sum(1 for f in found if f["type"] == "FILE"),
    }


if __name__ == "__main__":
    main()
