"""Containers without an engine: bundles for crun or runc, on a machine that is a mount namespace of its own.

The root file system is made of bind mounts of this machine's, so nothing is downloaded or copied.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.ordinary import CHECKOUT

# What docker and podman give, without what they do not.
USUAL = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
USUAL += ["CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_SETFCAP"]
SYS_ADMIN = "CAP_SYS_ADMIN"
FUSE = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}

# Python and what it needs where everybody may read it; a /dev/fuse for everybody; no second cgroup
# hierarchy, which crun refuses; and a directory whose mounts others see, as on a machine with systemd.
# No copies of other tests' mounts: whoever unmounts one lazily waits until the last copy is gone.
_MACHINE = """
set -e
mount --make-rprivate /
grep " - fuse.vfsmount " /proc/self/mountinfo | cut -d " " -f 5 |
  while read -r at; do umount -l "$at" || true; done
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/base" "$1/checkout" "$1/packages" "$1/shared"
mount --bind "$2" "$1/base"
mount --bind "$3" "$1/checkout"
mount --bind "$4" "$1/packages"
mount -t tmpfs -o mode=755 none "$1/shared"
mount --make-shared "$1/shared"
mknod "$1/fuse" c 10 229
chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
echo ready
exec sleep 100000
"""
_numbers = itertools.count()


def why_no_runtime() -> str:
    """What is missing for a container; empty where nothing is."""
    if os.geteuid() != 0:
        return "only root can run these containers"
    return "" if runtime() else "neither crun nor runc is installed: run scripts/setup --for-tests"


def runtime() -> str | None:
    """The runtime's path."""
    return shutil.which("crun") or shutil.which("runc")


@dataclass
class Container:
    """What is in a bundle.

    Attributes:
        mounts: (source, target, options) of bind mounts.
        user_namespace: root there is another user here.
        no_new_privileges: setuid programs give no rights.
    """

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = (*USUAL, SYS_ADMIN)
    devices: Sequence[Mapping[str, Any]] = (FUSE,)
    mounts: Sequence[tuple[str, str, Sequence[str]]] = ()
    uid: int = 0
    user_namespace: bool = False
    no_new_privileges: bool = False

    def config(self, top: Path) -> dict[str, Any]:
        """config.json. Source: OCI runtime specification 1.0."""
        read_only = ["rbind", "ro"]
        binds = [
            ("/usr", "/usr", read_only),
            ("/etc", "/etc", read_only),
            (str(top / "base"), "/base", read_only),
            (str(top / "checkout"), "/checkout", read_only),
            (str(top / "packages"), "/packages", read_only),
            *self.mounts,
        ]
        special = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
        ]
        env = {"PATH": "/usr/bin:/usr/sbin", "HOME": "/tmp", "PYTHONPATH": "/checkout:/packages", **self.env}
        env["LD_LIBRARY_PATH"] = "/base/lib"
        namespaces = ["pid", "mount", "ipc", "uts", *(["user"] if self.user_namespace else [])]
        mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        caps = list(self.capabilities)
        kinds = ("bounding",) if self.uid else ("bounding", "permitted", "effective")
        # As engines do: what is mounted in there is to reach where it comes from, or the other way round.
        outwards = any("rshared" in options for _, _, options in self.mounts)
        return {
            "ociVersion": "1.0.0",
            "process": {
                "args": list(self.command),
                "env": [f"{name}={value}" for name, value in env.items()],
                "cwd": "/tmp",
                "user": {"uid": self.uid, "gid": self.uid},
                "capabilities": dict.fromkeys(kinds, caps),
                "noNewPrivileges": self.no_new_privileges,
            },
            "root": {"path": "rootfs"},
            "hostname": "container",
            "mounts": special + [
                {"destination": target, "type": "bind", "source": source, "options": list(options)}
                for source, target, options in binds
            ],
            "linux": {
                "rootfsPropagation": "shared" if outwards else "rslave",
                "namespaces": [{"type": kind} for kind in namespaces],
                "devices": [] if self.user_namespace else list(self.devices),
                **({"uidMappings": mappings, "gidMappings": mappings} if self.user_namespace else {}),
            },
        }  # fmt: skip


def vfsmount(*arguments: str) -> list[str]:
    """The command in a container."""
    program = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
    return [f"/base/{program}", "-m", "vfsmount", *arguments]


class Machine:
    """A mount namespace in which containers run, for as long as the ``with`` block lasts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.top = directory / "top"

    def __enter__(self) -> Machine:
        # Whoever is root in a user namespace has to get here.
        for path in (self.directory, *self.directory.parents[:2]):
            path.mkdir(exist_ok=True)
        self.top.mkdir()
        places = [str(self.top), sys.base_prefix, str(CHECKOUT), sysconfig.get_path("platlib")]
        self._process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", _MACHINE, "sh", *places], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def shared(self) -> Path:
        """A directory whose mounts containers may see and make."""
        return self.top / "shared"

    def words(self, *command: str | Path) -> list[str]:
        """A command on this machine."""
        return ["nsenter", "-t", str(self._process.pid), "-m", "--", *map(str, command)]

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one to its end."""
        done = subprocess.run(self.words(*command), capture_output=True, text=True, timeout=90, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
        return done

    def container(self, container: Container) -> Running:
        """Start one."""
        name = f"vfsmount-{os.getpid()}-{next(_numbers)}"
        bundle = self.directory / name
        bundle.mkdir()
        for part in (
            "usr",
            "etc",
            "base",
            "checkout",
            "packages",
            "proc",
            "dev",
            "tmp",
            "run",
            "mnt",
            "home",
        ):
            (bundle / "rootfs" / part).mkdir(parents=True)
        for part in ("bin", "sbin", "lib", "lib64"):
            (bundle / "rootfs" / part).symlink_to(f"usr/{part}")
        (bundle / "config.json").write_text(json.dumps(container.config(self.top)))
        if container.user_namespace:
            subprocess.run(["chown", "-R", "100000:100000", bundle / "rootfs"], check=True)
        return Running(self, name, bundle, container.uid)


class Running:
    """One container.

    Attributes:
        said: lines of its stderr so far.
    """

    def __init__(self, machine: Machine, name: str, bundle: Path, uid: int) -> None:
        self._machine, self.name, self._uid = machine, name, uid
        self._crun = [runtime() or "", *(["--cgroup-manager=disabled"] if "crun" in str(runtime()) else [])]
        self.process = subprocess.Popen(
            machine.words(*self._crun, "run", "--bundle", bundle, name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self._machine.run(*self._crun, "kill", self.name, "KILL", check=False)
        self.said += self.process.communicate(timeout=60)[0].splitlines()
        self._machine.run(*self._crun, "delete", "--force", self.name, check=False)

    def until(self, text: str) -> str:
        """Its next line with that text.

        Raises:
            AssertionError: it ended without one; with what it said.
        """
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.said.append(line.rstrip())
            if text in line:
                return line
        raise AssertionError("\n".join(self.said))

    def inside(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script in it, as the user it runs as."""
        who = f"{self._uid}:{self._uid}"
        return self._machine.run(
            *self._crun, "exec", "--user", who, self.name, "sh", "-c", script, check=check
        )

    def signal(self, name: str) -> None:
        """Send its first process a signal."""
        self._machine.run(*self._crun, "kill", self.name, name)

    def wait(self, timeout: float = 60) -> int:
        """Its exit status."""
        return self.process.wait(timeout)
