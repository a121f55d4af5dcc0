"""What a filesystem counts of itself is what happened, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import release, serving, stall, until
from vfsmount import metrics
from vfsmount.errors import VfsError
from vfsmount.metrics import Counters

BIG = os.urandom(5 << 20)


@pytest.fixture(autouse=True)
def from_zero() -> Iterator[None]:
    """The counters are the process's; these tests want their own."""
    counters, before = metrics.counters, metrics.counters.__dict__
    counters.__dict__ = {**Counters().__dict__, "operations": before["operations"]}
    yield
    counters.__dict__ = before


def statuses(found: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {f"{c['service']} {c['method']} {c['endpoint']}": c["statuses"] for c in found["calls"]}


async def test_bytes_and_calls_are_those_that_went_over_the_wire(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path / "one") as d:
        await d.write(f"{name}/big", BIG)
        assert d.fs.metrics()["bytes"]["uploaded"] == len(BIG)
    async with serving(both, tmp_path / "two") as d:
        before = d.fs.metrics()
        assert await d.read(f"{name}/big") == BIG
        assert await d.read(f"{name}/big") == BIG
        found = d.fs.metrics()
        reads = {source: v["bytes"] for source, v in found["reads"].items()}
        assert sum(reads.values()) == 2 * len(BIG) and reads["memory"] >= len(BIG) and reads["disk"] == 0
        fetched = found["bytes"]["downloaded"] - before["bytes"]["downloaded"]
        assert len(BIG) <= fetched <= len(BIG) + (128 << 10)  # the beginning twice, and a byte to confirm
        assert 0 < found["bytes"]["ahead"] <= len(BIG)
        assert found["opens_fetched"] == 1
        calls = statuses(found)
        assert set(calls["storage PATCH /upload"]) == {"2xx"}
        assert calls["storage GET /download"]["2xx"] >= 1
        assert calls["manager POST /folders/{vf}/request-upload"] == {"2xx": 1}
        assert found["memory"]["held"] > len(BIG) and found["memory"]["on_its_way"] == 0
        assert name not in repr(found)


async def test_what_is_unsent_is_a_level_that_falls_again(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path, sync=False) as d:
        stall(both, "POST", "/folders/*/request-upload")
        await d.write(f"{name}/file", b"x" * 1000)
        await until(lambda: d.fs.metrics()["uploads"]["sending"] == 1)
        uploads = d.fs.metrics()["uploads"]
        assert (uploads["files"], uploads["bytes"], uploads["failing"]) == (1, 1000, 0)
        assert d.fs.metrics()["staging"]["used"] >= 1000
        fh = await d.open(f"{name}/file")
        assert await d.fs.read(fh, 0, 4096) == b"x" * 1000
        assert d.fs.metrics()["reads"]["staged"] == {"count": 1, "bytes": 1000}
        assert d.fs.metrics()["open_files"] == 1
        await d.fs.release(fh)
        release(both)
        await d.fs.wait()
        assert d.fs.metrics()["uploads"]["files"] == 0


async def test_refusals_and_the_budget_show(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        await d.write(f"{name}/a", b"x")
        manager = d.fs.metrics()["manager"]
        assert 0 < manager["calls_left"] <= manager["limit"] and manager["in_flight"] == 0
        both.faults(
            {"rules": [{"action": "status", "status": 403, "path": "/folders/*/files", "times": None}]}
        )
        await d.look_again(name)
        with pytest.raises(VfsError):
            await d.names(name)
        both.clear_faults()
        assert statuses(d.fs.metrics())["manager GET /folders/{vf}/files"]["4xx"] >= 1
