"""`vfsmount doctor`: a fault is put in its way, and it names that cause and no other."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.answering import answering, black_hole, certificate, closed_port, mute
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from vfsmount.api import probe
from vfsmount.cli import main
from vfsmount.cli.doctor import machine_checks
from vfsmount.cli.doctor.machine import MachineFacts

Causes = dict[str, str]
Diagnose = Callable[..., Causes]
SECRET = "a-secret-key-that-nobody-is-to-see"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change what this test changes")


@pytest.fixture(autouse=True)
def log_level_stays() -> Iterator[None]:
    """Commands set it; the tests that come after want to see warnings."""
    ours = logging.getLogger("vfsmount")
    level = ours.level
    yield
    ours.setLevel(level)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing set anywhere."""
    for name in list(os.environ):
        if name.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("state", "config", "run", "cache"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def diagnose(home: Path, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """Run doctor; {cause: level} of all that is not well."""

    def diagnose(*arguments: str | Path) -> Causes:
        started = time.monotonic()
        code = main(["doctor", "--json", *map(str, arguments)])
        assert time.monotonic() - started < 20
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err and printed.err == ""
        return causes_of(printed.out, code)

    return diagnose


def causes_of(printed: str, code: int) -> Causes:
    """{cause: level}, of a report that is as it should be."""
    report = json.loads(printed)
    found = [v for v in report["checks"] if v["cause"]]
    assert all(v["fix"] and v["says"] for v in found)
    assert report["well"] == (code == 0) == (not [v for v in found if v["level"] == "bad"])
    return {v["cause"]: v["level"] for v in found}


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def aim(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Settings for a server that is somewhere else."""
    keys = {"BACKEND_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE", "BACKEND_SECRET_KEY": SECRET}
    use(monkeypatch, {"BACKEND_ENDPOINT": endpoint, **keys})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is known for what it is sooner than for users."""
    monkeypatch.setattr(probe, "STEP_S", 1.0)


@pytest.fixture
def well(both: Embedded, monkeypatch: pytest.MonkeyPatch, home: Path) -> Embedded:
    """A server that is well, of either generation, with a folder, and settings for it."""
    use(monkeypatch, both.env("owner"))
    fresh(both)
    return both


@pytest.fixture
def there(old_server: Embedded, monkeypatch: pytest.MonkeyPatch, home: Path) -> Embedded:
    """As `well`, where the server's generation does not matter."""
    use(monkeypatch, old_server.env("owner"))
    fresh(old_server)
    return old_server


def test_all_is_well_where_all_is_well(well: Embedded, diagnose: Diagnose) -> None:
    assert diagnose() == {}


def test_people_see_causes_and_fixes_and_no_secret(
    well: Embedded, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKEND_SECRET_KEY", SECRET)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "✗ key: " in out and "[wrong-key]\n    vfsmount config show" in out
    assert f"✓ server {well.url.removeprefix('http://')}: answers" in out
    assert SECRET not in out and "\x1b" not in out


# --- the way to the server -----------------------------------------------------------------------


def test_port_that_refuses(monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    aim(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    assert diagnose() == {"refused": "bad"}


def test_name_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    aim(monkeypatch, "https://nonexistent.invalid")
    assert diagnose() == {"dns": "bad"}


def test_server_that_never_says_a_word(
    patient: None, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    with mute() as port:
        aim(monkeypatch, f"http://127.0.0.1:{port}")
        assert diagnose() == {"no-reply": "bad"}
        aim(monkeypatch, f"https://127.0.0.1:{port}")
        assert diagnose() == {"no-reply": "bad"}


def test_address_that_swallows_connections(
    patient: None, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    with black_hole() as port:
        aim(monkeypatch, f"http://127.0.0.1:{port}")
        assert diagnose() == {"unreachable": "bad"}


def test_one_of_two_endpoints_that_is_down_is_a_warning(
    well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    monkeypatch.setenv("BACKEND_ENDPOINT", f"http://127.0.0.1:{closed_port()},{well.url}")
    assert diagnose() == {"refused": "warn"}


@pytest.mark.parametrize(
    ("proxy", "endpoint"),
    [("HTTP_PROXY", "http://nonexistent.invalid"), ("https_proxy", "https://nonexistent.invalid")],
)
def test_proxy_in_the_way(
    proxy: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    monkeypatch.setenv(proxy, f"http://user:{SECRET}@127.0.0.1:{closed_port()}")
    aim(monkeypatch, endpoint)
    assert diagnose() == {"proxy": "bad"}
    monkeypatch.setenv("NO_PROXY", "nonexistent.invalid")
    assert diagnose() == {"dns": "bad"}


def test_proxy_that_refuses_us(monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    with answering("who are you?", status=407) as url:
        monkeypatch.setenv("ALL_PROXY", url)
        aim(monkeypatch, "http://nonexistent.invalid")
        assert diagnose() == {"proxy": "bad"}


def test_proxy_variables_do_not_matter_on_the_way_to_this_machine(
    well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    assert diagnose() == {}


# --- TLS -----------------------------------------------------------------------------------------


ROOT = {"version": "v7.20230615", "manager": "23.09.10"}


@pytest.mark.parametrize(
    ("options", "trusted", "cause"),
    [
        ({}, False, "tls-untrusted"),
        ({"expired": True}, True, "tls-expired"),
        ({"name": "DNS:other.example.org"}, True, "tls-host"),
    ],
)
def test_certificate_that_is_not_accepted(
    options: dict[str, Any],
    trusted: bool,
    cause: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    diagnose: Diagnose,
) -> None:
    pair = certificate(home / "tls", **options)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))
    with answering(ROOT, tls=pair) as url:
        aim(monkeypatch, url)
        assert diagnose() == {cause: "bad"}


def test_certificate_that_is_accepted(
    home: Path, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    """What answers there knows no key, and that is all that is wrong."""
    pair = certificate(home / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))
    with answering("{}", status=401, tls=pair) as url:
        aim(monkeypatch, url)
        assert diagnose() == {"not-backendai": "bad"}


def test_https_where_there_is_http(
    well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    monkeypatch.setenv("BACKEND_ENDPOINT", well.url.replace("http:", "https:"))
    assert diagnose() == {"tls": "bad"}


# --- what answers --------------------------------------------------------------------------------


def test_something_else_answers(monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    with answering("<html>It works!</html>") as url:
        aim(monkeypatch, url)
        assert diagnose() == {"not-backendai": "bad"}


def test_address_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    with answering("", status=301, headers={"Location": "https://api.example.org/?token=x"}) as url:
        aim(monkeypatch, url)
        assert diagnose() == {"redirect": "bad"}


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("v5.20191215", {"old-server": "warn"}),
        ("v12.20300101", {"new-server": "warn"}),
        ("2030-01", {"unknown-api": "bad"}),
    ],
)
def test_server_of_another_age(
    version: str, found: Causes, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    with answering({"version": version, "manager": "20.03.1"}) as url:
        aim(monkeypatch, url)
        assert {cause: level for cause, level in diagnose().items() if cause != "storage-unknown"} == found


def test_wrong_key(well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose) -> None:
    monkeypatch.setenv("BACKEND_SECRET_KEY", SECRET)
    assert diagnose() == {"wrong-key": "bad"}


def test_login_that_is_missing_and_one_that_has_ended(
    well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKEND_ENDPOINT_TYPE", "session")
    assert diagnose() == {"login-expired": "bad"}
    assert main(["login"]) == 0
    capsys.readouterr()
    assert diagnose() == {}
    (kept,) = (Path(os.environ["XDG_STATE_HOME"]) / "vfsmount" / "logins").iterdir()
    before = kept.read_bytes()
    assert main(["logout"]) == 0
    capsys.readouterr()
    kept.write_bytes(before)
    kept.chmod(0o600)
    assert diagnose() == {"login-expired": "bad"}


@pytest.mark.parametrize(("minutes", "level"), [(20, "bad"), (-20, "bad"), (3, "warn")])
def test_clock_that_is_off(well: Embedded, diagnose: Diagnose, minutes: int, level: str) -> None:
    well.faults({"switches": {"clock_offset_s": 60.0 * minutes}})
    assert diagnose() == {"clock-skew": level}


def test_frozen_manager(well: Embedded, diagnose: Diagnose) -> None:
    well.faults({"switches": {"frozen": True}})
    assert diagnose() == {"frozen": "bad"}


@pytest.mark.parametrize(
    ("limit", "left", "found"),
    [(60, 30, {"rate-low": "warn"}), (30, 5, {"rate-spent": "bad"}), (30, 0, {"rate-spent": "bad"})],
)
def test_rate_limit_that_is_spent(
    limit: int, left: int, found: Causes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    with Embedded(tmp_path / "data", rate_limit=limit) as server:
        server.may_refuse = True
        use(monkeypatch, server.env("owner"))
        server.create_folder("owner", "data")
        for _ in range(limit - left - 1):
            server.client("owner").call("GET", "/auth", params={"echo": "x"})
        assert diagnose() == found


def test_storage_proxy_out_of_reach(
    well: Embedded, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    url, _ = well.client("owner").grant(fresh(well)[0 if well.dialect == "23.09" else 1], ".")
    origin = url.removesuffix("/download")
    monkeypatch.setenv("BACKEND_OVERRIDE_STORAGE_PROXY", f"{origin}=http://127.0.0.1:{closed_port()}")
    assert diagnose() == {"storage-unreachable": "bad"}
    monkeypatch.setenv("BACKEND_OVERRIDE_STORAGE_PROXY", f"{origin}={origin}")
    assert diagnose() == {}


# --- settings and files --------------------------------------------------------------------------


def test_settings_that_are_missing(diagnose: Diagnose) -> None:
    assert diagnose() == {"settings": "bad"}


def test_file_with_a_key_that_others_may_read(
    there: Embedded, home: Path, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    file = home / "config" / "vfsmount" / "config.toml"
    file.parent.mkdir()
    file.write_text(f'[profiles.lab]\nendpoint = "{there.url}"\nsecret_key = "{SECRET}"\n')
    file.chmod(0o644)
    assert diagnose() == {"secret-open": "bad"}
    file.chmod(0o600)
    assert diagnose() == {}
    official = home / ".backend.ai" / "credentials.toml"
    official.parent.mkdir()
    official.write_text(f'[backend-ai]\naccess_key = "x"\nsecret_key = "{SECRET}"\n')
    official.chmod(0o640)
    assert diagnose() == {"secret-open": "bad"}


def test_state_directory_that_is_open(there: Embedded, home: Path, diagnose: Diagnose) -> None:
    (home / "state" / "vfsmount").mkdir()
    (home / "state" / "vfsmount").chmod(0o777)
    assert diagnose() == {"state-dir-open": "bad"}
    (home / "state" / "vfsmount").chmod(0o755)
    assert diagnose() == {}  # what lies in it is closed
    (home / "state" / "vfsmount" / "unsent").mkdir(mode=0o755)
    assert diagnose() == {"state-dir-open": "bad"}


@needs_root
def test_state_directory_of_somebody_else(there: Embedded, home: Path, diagnose: Diagnose) -> None:
    (home / "state" / "vfsmount").mkdir(mode=0o700)
    os.chown(home / "state" / "vfsmount", 65534, 65534)
    assert diagnose() == {"state-dir-foreign": "bad"}


def test_cache_directory_that_is_a_file(there: Embedded, home: Path, diagnose: Diagnose) -> None:
    (home / "file").touch()
    assert diagnose("--cache-dir", home / "file") == {"cache-dir-unusable": "bad"}


@contextmanager
def small_disk(directory: Path, size: str = "8m") -> Iterator[Path]:
    """A tmpfs with room for little."""
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@needs_root
def test_disk_of_the_cache_that_is_nearly_full(there: Embedded, home: Path, diagnose: Diagnose) -> None:
    with small_disk(home / "small") as disk:
        assert diagnose("--cache-dir", disk / "blocks") == {"cache-disk-full": "warn"}
        assert diagnose("--cache-dir", disk / "blocks", "--cache-free", "4") == {}


@needs_root
def test_disk_of_unsent_data_that_is_full(there: Embedded, home: Path, diagnose: Diagnose) -> None:
    with small_disk(home / "small") as disk:
        (disk / "state").mkdir(mode=0o700)
        assert diagnose("--state-dir", disk / "state") == {"state-disk-full": "bad"}


# --- what mounting needs -------------------------------------------------------------------------


def in_a_process(
    prefix: list[str], *arguments: str | Path, prepare: Callable[[], None] | None = None
) -> Causes:
    """As `diagnose`, in a process with less rights or another view of the machine."""
    command = [*prefix, sys.executable, "-m", "vfsmount", "doctor", "--json", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False, preexec_fn=prepare
    )
    if not done.stdout and done.returncode not in (0, 1, 2):
        pytest.skip(f"no such view of the machine can be had here: {done.stderr.strip()[-300:]}")
    assert done.stderr == ""
    return causes_of(done.stdout, done.returncode)


def elsewhere(script: str, less: str = "") -> list[str]:
    """The beginning of a command that runs in a mount namespace of its own, prepared by a script.

    Args:
        less: capabilities that it does not have, as setpriv(1) writes them.
    """
    run = f"exec setpriv --bounding-set {less} --" if less else "exec"
    return ["unshare", "-m", "sh", "-ec", f'{script} || exit 99\n{run} "$@"', "sh"]


def test_fusermount3_that_is_missing(
    there: Embedded, home: Path, monkeypatch: pytest.MonkeyPatch, diagnose: Diagnose
) -> None:
    (home / "bin").mkdir()
    for program in ("sh", "true"):
        (home / "bin" / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(home / "bin"))
    # Root mounts without.
    assert diagnose() == {"no-fusermount3": "warn" if os.geteuid() == 0 else "bad"}


@needs_root
def test_fuse_device_that_is_missing(there: Embedded, home: Path) -> None:
    dev = shlex.quote(str(home / "dev"))
    script = f"mkdir {dev}; mknod -m 666 {dev}/null c 1 3; mount --bind {dev} /dev"
    assert in_a_process(elsewhere(script)) == {"no-dev-fuse": "bad"}


@needs_root
def test_fuse_device_that_is_closed_to_us(there: Embedded, home: Path) -> None:
    fuse = shlex.quote(str(home / "fuse"))
    script = f"mknod -m 000 {fuse} c 10 229; mount --bind {fuse} /dev/fuse"
    found = in_a_process(elsewhere(script, "-dac_override"))
    assert found == {"dev-fuse-denied": "bad"}


@needs_root
def test_allow_other_that_is_not_permitted(there: Embedded, home: Path) -> None:
    conf = home / "fuse.conf"
    conf.write_text("# user_allow_other\n")
    script = f"mount --bind {shlex.quote(str(conf))} /etc/fuse.conf"
    prefix = elsewhere(script, "-sys_admin")
    less = {"no-sys-admin": "bad"}  # as in a container; users have it within reach
    assert in_a_process(prefix, "--allow-other") == {"no-allow-other": "bad", **less}
    assert in_a_process(prefix) == less
    conf.write_text("user_allow_other\n")
    assert in_a_process(prefix, "--allow-other") == less
    # Root needs no permission.
    conf.write_text("")
    assert in_a_process(elsewhere(script), "--allow-other") == {}


@pytest.mark.parametrize(("code", "fix"), [(errno.EACCES, "chmod 666"), (errno.EPERM, "--device /dev/fuse")])
def test_device_that_a_container_may_not_open(code: int, fix: str) -> None:
    verdict = machine_checks.dev_fuse(MachineFacts(is_container=True, dev_fuse=code))
    assert verdict.cause == "dev-fuse-denied" and fix in verdict.fix


@pytest.mark.parametrize(
    ("profile", "cause"), [("docker-default", "apparmor"), ("unconfined", ""), ("", ""), ("snap.code", "")]
)
def test_profile_that_refuses_mounts(profile: str, cause: str) -> None:
    verdict = machine_checks.privilege(MachineFacts(may_mount=True, is_container=True, apparmor=profile))
    assert verdict.cause == cause and ("apparmor=unconfined" in verdict.fix) == bool(cause)


@needs_root
def test_mountpoint_that_only_we_see(there: Embedded, home: Path) -> None:
    place = home / "place"
    (place / "mnt").mkdir(parents=True)
    at = shlex.quote(str(place))
    private = f"mount --bind {at} {at}; mount --make-private {at}"
    assert in_a_process(elsewhere(private), place / "mnt") == {"mount-private": "warn"}
    shared = f"mount --bind {at} {at}; mount --make-shared {at}"
    assert in_a_process(elsewhere(shared), place / "mnt") == {}


def test_few_open_files(there: Embedded) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = in_a_process([], prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, limit)))
    assert found == {"few-open-files": "warn"}


@needs_root
def test_memory_limit_below_what_a_mount_may_use(there: Embedded) -> None:
    with limited_group(128 << 20) as join:
        assert in_a_process(["sh", "-c", f'echo $$ >{join} || exit 99; exec "$@"', "sh"]) == {
            "memory-limit": "bad"
        }
        prefix = ["sh", "-c", f'echo $$ >{join} || exit 99; exec "$@"', "sh"]
        assert in_a_process(prefix, "--memory", "96") == {}


@contextmanager
def limited_group(limit: int) -> Iterator[Path]:
    """A control group with so many bytes; the file to write a process's number to."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    group = (root / "memory" if old else root) / f"vfsmount-test-{os.getpid()}"
    try:
        group.mkdir()
        try:
            (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
        except OSError:
            group.rmdir()
            raise
    except OSError as e:
        pytest.skip(f"no control group with a memory limit can be made: {e}")
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
