"""Commands about folders, and a mount that shows them."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.fuse.test_sharing import invite
from tests.support.commandline import CommandLine
from tests.support.mounting import Mounted, vfsmount


def test_commands_about_folders_show_at_once(site: Site, tmp_path: Path) -> None:
    friend = site.client("friend")
    mine, theirs, renamed = (f"{what}-{secrets.token_hex(4)}" for what in ("mine", "theirs", "renamed"))
    friend.ok("POST", "/folders", {"name": theirs})
    invite(site, friend, theirs, "ro", "owner")
    try:
        # What was learnt is believed for ten minutes: what shows sooner was told.
        with Mounted(tmp_path, site.env, "--dir-ttl", "600", "--attr-ttl", "600") as mounted:

            def does(*words: str) -> list[str]:
                done = vfsmount(*words, "--state-dir", mounted.state, env=site.env)
                assert done.returncode == 0, done.stderr
                return os.listdir(mounted.path)

            assert not {mine, theirs, renamed} & set(os.listdir(mounted.path))
            assert not (mounted.path / mine).exists()
            assert mine in does("create", mine)
            (mounted.path / mine / "file").write_text("written under the old name")
            shown = does("rename", mine, renamed)
            assert renamed in shown and mine not in shown
            assert (mounted.path / renamed / "file").read_text() == "written under the old name"
            assert theirs in does("accept", theirs)
            assert theirs not in does("leave", theirs)
            assert vfsmount("wait", "--state-dir", mounted.state, env=site.env).returncode == 0
            assert renamed not in does("delete", "--yes", renamed)
            assert not mounted.warnings()
    finally:
        friend.call("DELETE", f"/folders/{theirs}")
        friend.close()
        for name in (mine, renamed):
            site.owner.call("DELETE", f"/folders/{name}")


def test_clone_has_what_was_written_here_just_before(site: Site, tmp_path: Path) -> None:
    name, copy = (f"{what}-{secrets.token_hex(4)}" for what in ("source", "copy"))
    site.owner.ok("POST", "/folders", {"name": name, "cloneable": True})
    try:
        with Mounted(tmp_path, site.env) as mounted:
            for n in range(20):
                (mounted.path / name / f"f{n}").write_bytes(os.urandom(50_000))
            done = vfsmount("clone", name, copy, "--json", "--state-dir", mounted.state, env=site.env)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["outcome"] == "done"
            for n in range(20):
                assert (site.disk(copy) / f"f{n}").read_bytes() == (site.disk(name) / f"f{n}").read_bytes()
                assert (mounted.path / copy / f"f{n}").stat().st_size == 50_000
    finally:
        for made in (name, copy):
            site.owner.call("DELETE", f"/folders/{made}")


def test_delete_asks_with_what_was_not_sent(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if site.embedded is None:
        pytest.skip("the real server cannot be told to keep an upload waiting")
    name = f"unsent-{secrets.token_hex(4)}"
    site.owner.ok("POST", "/folders", {"name": name})
    run = CommandLine(site.env, monkeypatch, capsys, tmp_path)
    site.embedded.faults(
        {"rules": [{"action": "stall", "half": "storage", "method": "PATCH", "times": None}]}
    )
    try:
        with Mounted(tmp_path, site.env) as mounted:
            (mounted.path / name / "file").write_text("x")
            words = "delete", "--state-dir", str(mounted.state), name
            said = run.on_terminal(*words, typed="n\n")
            assert "With 1 file that this machine has not sent yet." in " ".join(said.err.split())
            site.embedded.clear_faults()
            assert vfsmount("wait", "--state-dir", mounted.state, env=site.env).returncode == 0
            said = run.on_terminal(*words, typed="n\n")
            assert "not sent" not in said.err
            assert (site.disk(name) / "file").read_text() == "x"
    finally:
        site.embedded.clear_faults()
        site.owner.call("DELETE", f"/folders/{name}")
