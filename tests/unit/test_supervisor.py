"""What a supervisor is told, and how it is found."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio

from tests.support.supervising import FakeSupervisor
from vfsmount import log
from vfsmount.fuse.supervision import Supervision
from vfsmount.supervisor import Supervisor


class Idle:
    """A file system with nothing to send."""

    def unsent(self) -> list[object]:
        return []


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive_at_either_kind_of_address(tmp_path: Path, abstract: bool) -> None:
    with FakeSupervisor(None if abstract else tmp_path) as listening:
        supervisor = Supervisor.take(listening.environment(watchdog_s=3))
        assert supervisor and supervisor.watchdog_s == 3
        supervisor.status("one\nline")
        supervisor.ready("up")
        supervisor.extend(1.5)
        supervisor.stopping("down")
        supervisor.alive()
        listening.wait_for(lambda m: "WATCHDOG" in m)
        assert [m for _, m in listening.heard] == [
            {"STATUS": "one line"},
            {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "up"},
            {"EXTEND_TIMEOUT_USEC": "1500000"},
            {"STOPPING": "1", "STATUS": "down"},
            {"WATCHDOG": "1"},
        ]


def test_what_we_start_does_not_know_of_it() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert Supervisor.take(environ) == Supervisor("@x", 0.0), "another process is watched"
    assert environ == {"PATH": "/bin"}
    assert not Supervisor.take({"PATH": "/bin"}) and not Supervisor.take({"NOTIFY_SOCKET": "vsock:2:1"})


def test_nobody_listening_is_no_trouble(tmp_path: Path) -> None:
    Supervisor(str(tmp_path / "none")).ready("up")
    Supervisor("").ready("up")


def test_secrets_are_struck_out(tmp_path: Path) -> None:
    log.add_secret("a-very-secret-key")
    with FakeSupervisor(tmp_path) as listening:
        Supervisor(listening.address).status("no a-very-secret-key here")
        assert listening.wait_for(lambda m: "STATUS" in m) == {"STATUS": f"no {log.STRUCK} here"}


async def test_hanging_loop_says_nothing(tmp_path: Path) -> None:
    with FakeSupervisor(tmp_path) as listening:
        supervision = Supervision(Supervisor(listening.address, watchdog_s=0.1), Idle(), "/mnt")  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervision.run)
            while len(listening.messages("WATCHDOG")) < 3:
                await trio.sleep(0.01)
            hung_at = time.monotonic()
            time.sleep(1.0)  # on the loop: nothing else runs
            # What was said before may be heard a little later.
            assert len(listening.messages("WATCHDOG", since=hung_at + 0.4)) == 0
            with trio.fail_after(20):
                while not listening.messages("WATCHDOG", since=hung_at + 1.0):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
