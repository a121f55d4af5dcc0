"""`core.limits`: how much to take of a machine or a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsmount.core import limits

MIB, GIB = 1 << 20, 1 << 30

V2 = "26 22 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1 += "\n36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
HYBRID = f"{V1}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files"),
    [
        (
            "0::/user.slice/me.scope\n",
            V2,
            ["user.slice/me.scope/memory.max", "user.slice/memory.max", "memory.max"],
        ),
        ("0::/\n", V2, ["memory.max"]),  # in a container: a cgroup namespace of its own
        ("0::/../other\n", V2, ["memory.max"]),  # moved out of it
        (
            "4:memory:/docker/abc\n3:cpu:/\n0::/\n",
            HYBRID.format(root="/"),
            [
                "memory/docker/abc/memory.limit_in_bytes",
                "memory/docker/memory.limit_in_bytes",
                "memory/memory.limit_in_bytes",
                "unified/memory.max",
            ],
        ),
        # No cgroup namespace: the path is the machine's, and only the container's own group is mounted.
        ("4:memory:/docker/abc\n", V1.format(root="/docker/abc"), ["memory/memory.limit_in_bytes"]),
        ("5:cpu,cpuacct:/x\n1:name=systemd:/x\n", HYBRID.format(root="/"), []),
        ("", V2, []),
        ("0::/x\n", "", []),
    ],
)
def test_files_of_the_group_and_those_above(cgroup: str, mountinfo: str, files: list[str]) -> None:
    assert limits.limit_files(cgroup, mountinfo) == [f"/sys/fs/cgroup/{file}" for file in files]


@pytest.mark.parametrize(
    ("texts", "limit"),
    [
        ([], None),
        (["max\n"], None),
        (["9223372036854771712\n"], None),
        (["max\n", "536870912\n", "1073741824\n"], 512 * MIB),
        (["nonsense", "-1"], None),
    ],
)
def test_least_limit_is_in_force(texts: list[str], limit: int | None) -> None:
    assert limits.least_limit(texts) == limit


@pytest.mark.parametrize(
    ("limit", "memory"),
    [(None, 256), (64 << 10, 256), (1024, 256), (1023, 255), (512, 128), (100, 25), (8, 16)],
)
def test_memory_is_at_most_a_quarter_of_the_limit(limit: int | None, memory: int) -> None:
    found = limits.default_memory(None if limit is None else limit * MIB)
    assert found // MIB == memory


@pytest.mark.parametrize(
    ("free", "held", "size"),
    [(100 * GIB, 0, 10 * GIB), (20 * GIB, 0, 10 * GIB), (2 * GIB, 0, GIB), (GIB, GIB, GIB), (0, 0, 0)],
)
def test_cache_takes_at_most_half_of_what_the_disk_has_for_it(free: int, held: int, size: int) -> None:
    assert limits.default_cache_size(free, held) == size


@pytest.mark.parametrize(("total", "left"), [(100 * GIB, GIB), (10 * GIB, GIB), (5 * GIB, GIB // 2), (0, 0)])
def test_small_volume_is_left_a_tenth(total: int, left: int) -> None:
    assert limits.default_cache_free(total) == left


def test_options_win_over_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vfsmount.cli.mount import _choices, command

    monkeypatch.setattr(limits, "default_memory", lambda _: 7 * MIB)
    monkeypatch.setattr(limits, "default_cache_size", lambda _free, _held: 8 * MIB)
    options = ["m", "--cache-dir", str(tmp_path / "not" / "there")]
    usual = _choices((), command.make_context("mount", list(options)).params)
    assert (usual.memory, usual.cache_size) == (7 * MIB, 8 * MIB)
    options += ["--memory", "1000", "--cache-size", "0", "--cache-free", "5"]
    asked = _choices((), command.make_context("mount", list(options)).params)
    assert (asked.memory, asked.cache_size, asked.cache_free) == (1000 * MIB, 0, 5 * MIB)
