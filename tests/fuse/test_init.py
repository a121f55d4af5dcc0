"""What the kernel is asked for at the start of a mount, by whomever; and mounts where that cannot be done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import failing_init
from tests.support.embedded import Embedded, eventually
from tests.support.mounting import Mounted, clean_environment, vfsmount
from tests.support.ordinary import CAN_MOUNT, NOBODY, ordinary_user, their_python

NAMES = 1020  # a server shows 1000 of a directory; each of the others has to be asked for
APART = 4 << 20  # bytes; a first read reads no further ahead
KERNELS_OWN = (12, 9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("server")
    with Embedded(directory) as server:
        folder = server.folder_dir(server.create_folder("owner", "data"))
        (folder / "long").mkdir()
        for n in range(NAMES):
            (folder / "long" / f"f{n:04d}").touch()
        with (folder / "large").open("wb") as f:
            f.truncate(20 * APART)
        yield server
        server.clear_faults()


@pytest.fixture
def env(server: Embedded) -> dict[str, str]:
    server.clear_faults()
    return server.env("owner")


def agreed(minor: int) -> tuple[int, int]:
    """max_background and congestion_threshold of a mount, as the kernel has them."""
    where = "/sys/fs/fuse/connections"
    ask = f"cat {where}/{minor}/max_background {where}/{minor}/congestion_threshold"
    command = ["sh", "-c", ask]
    if os.geteuid() == 0:  # in a place of its own: not every machine has it mounted
        command = ["unshare", "-m", "sh", "-c", f"mount -t fusectl none {where} && {ask}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip(f"the kernel's numbers cannot be asked for here: {done.stderr.strip()}")
    first, second = map(int, done.stdout.split())
    return first, second


def of(path: Path) -> tuple[int, int]:
    return agreed(os.minor(path.stat().st_dev))


def settles_at(count: Callable[[], int], expected: int) -> None:
    """As many calls arrive, and no more a moment later."""
    end = time.monotonic() + 20
    while count() < expected:
        assert time.monotonic() < end, f"{count()} calls, not {expected}"
        time.sleep(0.05)
    time.sleep(0.5)
    assert count() == expected


# --- what is asked for is what is agreed ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], (64, 48)),
        (["--max-background", "20"], (20, 15)),
        (["--max-background", "1"], (1, 1)),
        (["--max-background", "65535", "--congestion-threshold", "7"], (65535, 7)),
    ],
)
def test_kernel_has_the_numbers_asked_for(
    env: dict[str, str], tmp_path: Path, options: list[str], numbers: tuple[int, int]
) -> None:
    if os.geteuid():
        pytest.skip("the kernel takes an ordinary user's numbers only up to a limit")
    with Mounted(tmp_path, env, *options) as mounted:
        assert of(mounted.path) == numbers
        assert not mounted.warnings()
        assert " mount.init " in mounted.log.read_text()


@pytest.mark.parametrize(("options", "at_a_time"), [(["--max-background", "3"], 3), ([], 16)])
def test_so_many_cold_reads_are_under_way_at_a_time(
    server: Embedded, env: dict[str, str], tmp_path: Path, options: list[str], at_a_time: int
) -> None:
    with Mounted(tmp_path, env, *options) as mounted:
        files = [(mounted.path / "data" / "large").open("rb", buffering=0) for _ in range(16)]
        os.pread(files[0].fileno(), 1, 17 * APART)  # the token is there
        server.faults({"rules": [{"action": "stall", "half": "storage", "times": None}]})
        server.reset_calls()
        readers = [
            threading.Thread(target=os.pread, args=(f.fileno(), 1, n * APART)) for n, f in enumerate(files, 1)
        ]
        for reader in readers:
            reader.start()
        try:
            settles_at(lambda: sum(server.calls("storage").values()), at_a_time)
        finally:
            server.clear_faults()
            for reader in readers:
                reader.join()
            for f in files:
                f.close()


@pytest.mark.parametrize(("options", "at_a_time"), [(["--no-parallel-dirops"], 1), ([], 8)])
def test_so_many_names_of_a_directory_are_looked_up_at_a_time(
    server: Embedded, env: dict[str, str], tmp_path: Path, options: list[str], at_a_time: int
) -> None:
    with Mounted(tmp_path, env, *options) as mounted:
        directory = mounted.path / "data" / "long"
        shown = set(os.listdir(directory))
        names = [name for n in range(NAMES) if (name := f"f{n:04d}") not in shown]
        (directory / names.pop()).stat()  # the token is there
        server.faults({"rules": [{"action": "stall", "half": "storage", "times": None}]})
        server.reset_calls()
        askers = [threading.Thread(target=os.stat, args=(directory / name,)) for name in names[:8]]
        for asker in askers:
            asker.start()
        try:
            settles_at(lambda: sum(server.calls("storage").values()), at_a_time)
        finally:
            server.clear_faults()
            for asker in askers:
                asker.join()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-background", "0"], "--max-background"),
        (["--max-background", "65536"], "--max-background"),
        (["--congestion-threshold", "0"], "--congestion-threshold"),
        (["--congestion-threshold", "65"], "--congestion-threshold 65 is more than --max-background 64"),
        (["--max-background", "12", "--congestion-threshold", "13"], "more than --max-background 12"),
    ],
)
def test_numbers_the_kernel_cannot_take_are_wrong_usage(
    env: dict[str, str], tmp_path: Path, options: list[str], says: str
) -> None:
    done = vfsmount(tmp_path / "mnt", *options, env=env)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "mnt").exists()


# --- where the exchange cannot be done -----------------------------------------------------------


def uses(mounted: Mounted) -> None:
    folder = mounted.path / "data"
    (folder / "written").write_bytes(b"content" * 100_000)
    assert (folder / "written").read_bytes() == b"content" * 100_000
    assert "written" in os.listdir(folder)
    (folder / "written").unlink()


@pytest.mark.parametrize("step", [s for s in failing_init.STEPS if s not in failing_init.HARMLESS])
def test_mount_goes_on_as_libfuse_would_have_it(env: dict[str, str], tmp_path: Path, step: str) -> None:
    env = {**env, "PYTHONPATH": failing_init.site(tmp_path, step)}
    mounted = Mounted(tmp_path, env, "--max-background", "33")
    with mounted:
        uses(mounted)
        assert of(mounted.path) == KERNELS_OWN
        mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
        assert len([line for line in mountinfo if line.split()[4] == str(mounted.path)]) == 1
        done = mounted.stop()
        assert (done.returncode, done.stderr) == (0, "")
    (line,) = mounted.warnings()
    assert " mount.init_left_to_libfuse error=" in line
    assert " mount.init " not in mounted.log.read_text()


@pytest.mark.parametrize("step", ["socketpair", "reply", "dup2"])
def test_so_does_one_with_a_holder(env: dict[str, str], tmp_path: Path, step: str) -> None:
    """Nobody can take it over: what libfuse agreed on with the kernel is not known."""
    env = {**env, "PYTHONPATH": failing_init.site(tmp_path, step)}
    with Mounted(tmp_path, env, "--max-background", "33", holder=True) as mounted:
        uses(mounted)
        assert of(mounted.path) == KERNELS_OWN
        holder = mounted.holder
        assert vfsmount("wait", mounted.path, "--state-dir", mounted.state, env=env).returncode == 0
        mounted.kill()
        eventually(lambda: not mounted.path.is_mount() and not Path(f"/proc/{holder}").exists())
    assert any(" mount.init_left_to_libfuse error=" in line for line in mounted.warnings())


@pytest.mark.parametrize(
    ("step", "says"),
    [("offer", 'parallel_dirops="not offered"'), ("older", "protocol=7.34 parallel_dirops=True")],
)
def test_older_kernels_get_what_they_offer(env: dict[str, str], tmp_path: Path, step: str, says: str) -> None:
    env = {**env, "PYTHONPATH": failing_init.site(tmp_path, step)}
    with Mounted(tmp_path, env, "--max-background", "33") as mounted:
        uses(mounted)
        if os.geteuid() == 0:
            assert of(mounted.path) == (33, 24)
    assert not mounted.warnings()
    (line,) = [line for line in mounted.log.read_text().splitlines() if " mount.init " in line]
    assert says in line


# --- who mounts ----------------------------------------------------------------------------------


def through_fusermount3(home: Path) -> list[str]:
    helper = shutil.which("fusermount3")
    if helper is None or not os.stat(helper).st_mode & 0o4000:
        pytest.skip("fusermount3 is not setuid here, so only root may mount")
    return ordinary_user(home)


def in_a_user_namespace(home: Path) -> list[str]:
    return [*ordinary_user(home), "unshare", "-Urm", "--"]


WAYS = pytest.mark.parametrize("way", [through_fusermount3, in_a_user_namespace], ids=lambda w: w.__name__)


class Visit:
    """A visitor at work; `step` lets it take the next one."""

    def __init__(self, prefix: list[str], home: Path, env: dict[str, str], *options: str) -> None:
        python, paths = their_python(home)
        failing = env.get("PYTHONPATH", "")
        own = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": "",
            "XDG_CACHE_HOME": "",
        }
        env = clean_environment({**env, **own, **paths})
        if failing and paths:
            env["PYTHONPATH"] = f"{failing}:{paths['PYTHONPATH']}"
        can = subprocess.run(
            [*prefix, python, "-c", CAN_MOUNT], env=env, cwd=home, capture_output=True, text=True, check=False
        )
        if can.returncode:
            pytest.skip(f"an ordinary user cannot mount here: {can.stderr.strip()[-300:]}")
        self._process = subprocess.Popen(
            [*prefix, python, "-m", "tests.support.visitor", str(home), *options],
            env=env,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def step(self) -> dict[str, object]:
        """What the step said that is under way; the next one begins."""
        assert self._process.stdin is not None and self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        assert isinstance(said, dict)
        return said

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


def users_limit() -> tuple[int, int]:
    """Most that the kernel takes of a mount without CAP_SYS_ADMIN outside all user namespaces."""
    module = Path("/sys/module/fuse/parameters")
    return int((module / "max_user_bgreq").read_text()), int((module / "max_user_congthresh").read_text())


@pytest.mark.unprivileged
@WAYS
def test_without_privilege_another_daemon_takes_over(
    server: Embedded, env: dict[str, str], home: Path, way: Callable[[Path], list[str]]
) -> None:
    visits(way(home), home, {**env, "VISITOR_KILLS": "1"}, [], tuple(map(min, (64, 48), users_limit())))
    log = (home / "daemon.log").read_text()
    assert log.count(" mount.init ") == 2 and 'mount.taken_over generation=2 why="signal 9"' in log


@pytest.mark.unprivileged
@WAYS
@pytest.mark.parametrize(
    ("options", "numbers"),
    [([], (64, 48)), (["--max-background", "65535", "--no-parallel-dirops"], (65535, 49151))],
)
def test_without_privilege_all_of_it_works_up_to_the_kernels_limit(
    server: Embedded,
    env: dict[str, str],
    home: Path,
    way: Callable[[Path], list[str]],
    options: list[str],
    numbers: tuple[int, int],
) -> None:
    visits(way(home), home, env, options, tuple(map(min, numbers, users_limit())))
    log = (home / "daemon.log").read_text()
    assert "WARNING" not in log and " mount.init " in log


@pytest.mark.unprivileged
@WAYS
@pytest.mark.parametrize("step", ["socketpair", "reply", "dup2"])
def test_without_privilege_libfuse_has_it_where_we_fail(
    server: Embedded, env: dict[str, str], home: Path, way: Callable[[Path], list[str]], step: str
) -> None:
    env = {**env, "PYTHONPATH": failing_init.site(home, step)}
    visits(way(home), home, env, [], KERNELS_OWN)
    (line,) = [line for line in (home / "daemon.log").read_text().splitlines() if " WARNING " in line]
    assert " mount.init_left_to_libfuse error=" in line


def visits(
    prefix: list[str], home: Path, env: dict[str, str], options: list[str], numbers: tuple[int, ...]
) -> None:
    """Mount, list, write, read, rename, unmount; the kernel has agreed on these numbers."""
    with Visit(prefix, home, env, *options) as visit:
        mounted = visit.step()
        assert (mounted["status"], mounted["stderr"]) == (0, "")
        (line,) = mounted["mounts"]  # type: ignore[misc]
        assert "fuse.vfsmount" in line
        assert f"user_id={0 if '-Urm' in prefix else NOBODY if prefix else os.getuid()}" in line
        assert agreed(int(str(mounted["minor"]))) == numbers
        visit.go_on()
        worked = visit.step()
        assert worked["folder"] == ["large", "long", "sub"]
        assert (worked["sub"], worked["size"], worked["left"]) == (["named"], 800_000, ["large", "long"])
        visit.go_on()
        ended = visit.step()
        assert (ended["status"], ended["stderr"], ended["mounts"]) == (0, "", [])
        visit.go_on()
