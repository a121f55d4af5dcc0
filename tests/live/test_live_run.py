"""``vfsmount run IMAGE`` at the real 23.09, which has no machine to run anything: to the queue and back."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, RawClient
from tests.support.live import DIRECTORY, live_environment
from tests.support.mounting import vfsmount

pytestmark = pytest.mark.live

IMAGE = "cr.test/vfsmount/nothing:1"
SCALING_GROUP = "vfsmount-live-run"
_ADD = f"""
insert into images (name, image, tag, registry, architecture, config_digest, size_bytes, is_local, type,
    labels, resources)
  values ('{IMAGE}', 'vfsmount/nothing', '1', 'cr.test', 'x86_64', rpad('sha256:0', 72), 1, true, 'COMPUTE',
    '{{"ai.backend.role": "COMPUTE"}}',
    '{{"cpu": {{"min": "1", "max": null}}, "mem": {{"min": "64m", "max": null}}}}');
insert into scaling_groups (name, is_active, is_public, driver, driver_opts, scheduler, scheduler_opts,
    use_host_network)
  values ('{SCALING_GROUP}', true, true, 'static', '{{}}', 'fifo', '{{}}', false);
insert into sgroups_for_domains (scaling_group, domain) values ('{SCALING_GROUP}', 'default');
"""
_REMOVE = f"""
delete from sgroups_for_domains where scaling_group = '{SCALING_GROUP}';
delete from kernels where image = '{IMAGE}';
delete from sessions where scaling_group_name = '{SCALING_GROUP}';
delete from scaling_groups where name = '{SCALING_GROUP}';
delete from images where name = '{IMAGE}';
"""


@pytest.fixture
def owner() -> Iterator[RawClient]:
    """The owner without our client."""
    client = RawClient(dict(live_environment("owner")))
    yield client
    client.close()


@pytest.fixture
def folder(owner: RawClient) -> Iterator[str]:
    """A new folder's name."""
    name = f"vfsmount-live-run-{secrets.token_hex(3)}"
    owner.ok("POST", "/folders", {"name": name, "host": "local:volume1"})
    yield name
    owner.call("DELETE", f"/folders/{name}")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image that the server knows, and a queue; no call of its API makes either without a registry."""
    ports = Path(os.environ[DIRECTORY]) / "etc" / "ports"
    found = re.search(r"PG_PORT=(\d+)", ports.read_text()) if ports.exists() else None
    if found is None or not shutil.which("psql"):
        pytest.skip("needs psql and the directory of tests/live/backendai/up")
    psql = ["psql", "-h", "127.0.0.1", "-p", found[1], "-U", "postgres", "-d", "backend"]
    psql += ["-q", "-v", "ON_ERROR_STOP=1", "-c"]
    subprocess.run([*psql, _REMOVE], check=True)
    subprocess.run([*psql, _ADD], check=True)
    yield IMAGE
    subprocess.run([*psql, _REMOVE], check=True)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return vfsmount("run", *words, env=live_environment("owner"))


def test_unknown_image_is_a_sentence(folder: str) -> None:
    done = run("--rm", "-m", folder, "cr.test/no/such:1", "true")
    assert done.returncode == 7 and "no session of cr.test/no/such:1" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("remove", [["--rm"], []])
def test_what_never_starts_is_taken_back(
    owner: RawClient, image: str, folder: str, remove: list[str]
) -> None:
    name = f"live-{secrets.token_hex(4)}"
    done = run(
        *remove, "--name", name, "--timeout", "3", "-r", "cpu=1", "-r", "mem=256m", "-e", "A=b",
        "-m", f"{folder}:place", image, "echo", "never",
    )  # fmt: skip
    assert done.returncode == 4 and done.stdout == "", done.stderr
    assert f"{name} did not start within 3 s (PENDING" in done.stderr and "destroyed" in done.stderr
    assert owner.call("GET", f"/session/{name}").status_code == 404


def test_name_that_is_taken(owner: RawClient, image: str) -> None:
    name = f"live-{secrets.token_hex(4)}"
    owner.ok("POST", "/session", {"name": name, "image": image, "enqueueOnly": True, "config": {}})
    done = run("--rm", "--name", name, "--timeout", "3", image, "true")
    assert done.returncode == 9 and "runs" in done.stderr
    # Who asked for the name must not destroy what has it.
    assert owner.ok("GET", f"/session/{name}")["status"] == "PENDING"
    owner.ok("DELETE", f"/session/{name}")


def test_embedded_server_answers_as_the_real_one(
    owner: RawClient, image: str, folder: str, tmp_path: Path
) -> None:
    """What can be asked of a session that does not run."""

    def answers(client: RawClient, image: str, folder: str) -> list[tuple[int, object]]:
        base = {"image": image, "enqueueOnly": True, "reuseIfExists": False}
        fits_nowhere = {"resources": {"cpu": "1000", "mem": "256m"}, "mounts": [folder]}
        a = f"/session/parity-{secrets.token_hex(4)}"
        name = a.rpartition("/")[2]
        calls = [
            ("POST", "/session", {**base, "name": "x"}),
            ("POST", "/session", {**base, "name": name, "image": "cr.test/no/such:1"}),
            ("POST", "/session", {**base, "name": name, "odd": 1}),
            ("POST", "/session", {**base, "name": name, "config": {"mount_options": {}}}),
            ("POST", "/session", {**base, "name": name, "config": {"resources": {"odd": 1}}}),
            ("POST", "/session", {**base, "name": name, "config": {"mounts": [f"{folder}x"]}}),
            ("POST", "/session", {**base, "name": name, "config": fits_nowhere}),
            ("POST", "/session", {**base, "name": name}),
            ("POST", "/session", {**base, "name": name, "reuseIfExists": True}),
            ("POST", a, {"mode": "batch", "code": ""}),
            ("POST", a, {"mode": "continue", "code": "", "runId": None}),
            ("POST", a, {"mode": "odd", "code": "", "runId": None}),
            ("POST", a, {"mode": "batch", "code": "", "runId": "a", "options": {"exec": "true"}}),
            ("DELETE", a, None),
            ("DELETE", a, None),
            ("GET", a, None),
            ("POST", a, {"mode": "batch", "code": "", "runId": "a"}),
        ]
        found: list[tuple[int, object]] = []
        for method, path, body in calls:
            reply = client.call(method, path, body)
            told = reply.json()
            kind = told.get("type", "").rpartition("/")[2]
            found.append((reply.status_code, kind or told.get("status") or sorted(told)))
        return found

    with Embedded(tmp_path / "data", sessions=True) as embedded:
        embedded.create_folder("owner", folder)
        ours = answers(embedded.client("owner"), "python:3.9", folder)
    assert ours == answers(owner, image, folder)
