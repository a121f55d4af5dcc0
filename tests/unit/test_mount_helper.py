"""What mount(8) says, in words of ours."""

from __future__ import annotations

import pytest

from vfsmount.cli import mount_helper

MNT = "/mnt"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("none /mnt", []),
        ("data /mnt -n -v", ["--folder=data"]),
        (
            "none /mnt -o ro,_netdev,nofail,x-systemd.automount,noauto,user=kim",
            ["-o", "ro,_netdev,nofail,x-systemd.automount,noauto,user=kim"],
        ),
        ("none /mnt -o rw,uid=1000,allow_other", ["--uid=1000", "--allow-other", "-o", "rw"]),
        (
            "none /mnt -o profile=lab -o cache_size=20480,dir-ttl=9",
            ["--profile=lab", "--cache-size=20480", "--dir-ttl=9"],
        ),
        ("none /mnt -r -o sync", ["-o", "ro,sync"]),
        ("none /mnt -w -o group", ["-o", "rw,group"]),
        ("none /mnt -o group=team,no-parallel-dirops", ["--group=team", "--no-parallel-dirops"]),
        ("none /mnt -s -o errors=remount-ro,ro", ["-o", "ro"]),
        ("-o ro -t fuse.vfsmount vfsmount /mnt", ["-o", "ro"]),
    ],
)
def test_arguments_mean_the_same(args: str, expected: list[str]) -> None:
    assert mount_helper.translate(mount_helper.parse(args.split())) == ["mount", MNT, *expected]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("none", "a source"),
        ("none /mnt -o errors=remount-ro", "errors=remount-ro"),
        ("none /mnt -o uid", "needs a value"),
        ("none /mnt -o debug=1", "takes no value"),
        ("none /mnt -o remount,ro", "remount"),
        ("none /mnt -N 1", "namespace"),
        ("none /mnt -q", "-q"),
    ],
)
def test_nonsense_is_refused_by_name(args: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mount_helper.mount(args.split()) == 1
    assert said in capsys.readouterr().err


def test_fake_checks_and_mounts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert mount_helper.mount(["data", "/nonexistent/mnt", "-f", "-v", "-o", "ro"]) == 0
    assert capsys.readouterr().err == "mount.vfsmount: vfsmount mount /nonexistent/mnt -o ro --folder=data\n"


def test_statuses_are_those_of_mount(capsys: pytest.CaptureFixture[str]) -> None:
    assert mount_helper.umount(["/nonexistent/mnt", "-v"]) == 32
    assert mount_helper.umount(["/mnt", "-r"]) == 1
    assert "is not mounted" in capsys.readouterr().err


def test_every_option_of_a_mount_can_stand_in_fstab() -> None:
    own = mount_helper._long_options()
    assert {"profile", "uid", "cache-dir", "memory", "secret-key-file"} <= own.keys()
    assert own["profile"] and own["insecure"] is False and own["debug"] is False
