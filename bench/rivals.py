"""What reads are measured against: curl, and a plain concurrent httpx client."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence

import httpx

AT_A_TIME = 16


def curl(url: str, *, span: str | None = None) -> tuple[float, float, int]:
    """Seconds until curl has ended and until its first byte, and how many bytes it got.

    Args:
        url: told on standard input, because `ps` shows arguments to everybody.
        span: the range, as "0-4095" or "-65536".
    """
    config = [f'url = "{url}"', 'output = "/dev/null"', "silent", "show-error", "fail"]
    config += ['write-out = "%{time_starttransfer} %{size_download}"']
    if span:
        config.append(f'range = "{span}"')
    began = time.monotonic()
    done = subprocess.run(
        ["curl", "-q", "-K", "-"], input="\n".join(config), capture_output=True, text=True, check=True
    )
    took_s = time.monotonic() - began
    first_s, size = done.stdout.split()
    return took_s, float(first_s), int(size)


def fetch(jobs: Sequence[tuple[str, int | None]], length: int) -> float:
    """Seconds in which httpx gets `length` bytes of each (address, offset), None for a whole file."""

    async def work() -> float:
        limits = httpx.Limits(max_connections=AT_A_TIME, max_keepalive_connections=AT_A_TIME)
        headers = {"Accept-Encoding": "identity"}
        async with httpx.AsyncClient(limits=limits, headers=headers, timeout=60) as client:
            todo = iter(jobs)

            async def worker() -> None:
                for url, at in todo:
                    span = {} if at is None else {"Range": f"bytes={at}-{at + length - 1}"}
                    reply = await client.get(url, headers=span)
                    assert len(reply.raise_for_status().content) == length

            began = time.monotonic()
            await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
            return time.monotonic() - began

    return asyncio.run(work())
