"""The holder's one loop: what it hears of its generations, of the kernel and of time, and what it does then.

A mount goes on as long as there is hope that somebody serves it within the deadline that its callers were
promised. Where there is none, the connection is aborted: they get an error then, and not never.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from vfsmount.holder import child, kernel, wire
from vfsmount.holder.child import SERVING, STANDBY, STARTING, Child
from vfsmount.holder.outside import Outside

FAILED, MOUNT_FAILED = 1, 5  # exit statuses of `cli.exit_codes`
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

# More deaths than that in so long, none of them after a good while of service: the next one helps as little.
# The numbers are guesses; what kills daemons now and then (the OOM killer, a bug) is far from them.
_DEATHS, _WITHIN_S, _GOOD_S = 10, 60.0, 10.0
_LEAST_WATCHDOG_S = 3.0
_DYING_S = 10.0  # of a process that was killed; one that waits for its own mount may never end
_STARTING_S = 60.0  # of a standby
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0  # before another standby, where one could not be started
_STOPPING_S = 5.0  # that a generation may say late that it has not stopped


class Holder:
    """One mount and its generations.

    Args:
        start: ``command`` and ``words`` that start a generation, the ``directory`` for it, the promised
            ``deadline_s``, and for `Outside` who waits for what.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        test = json.loads(os.environ.pop("VFSMOUNT_HOLDER_TEST", "{}"))
        self._deaths_allowed = test.get("deaths", _DEATHS)
        self._may_resend = test.get("resend", True)
        self._deadline_s = float(start["deadline_s"])
        self._watchdog_s = test.get("watchdog_s", max(_LEAST_WATCHDOG_S, self._deadline_s / 3))
        self._command: list[str] = start["command"]
        self._words: list[str] = start["words"]
        self._directory: str = start["directory"]
        self._outside = Outside(start)
        self._journal = os.memfd_create("vfsmount-journal", os.MFD_CLOEXEC)
        self._fd = -1
        self._mountpoint = ""
        self._mounting: tuple[str, str, int] = ("", "", 0)
        self._connection = ""
        self._init = b""
        self._reply = b""
        self._children: dict[int, Child] = {}
        self._serving: Child | None = None
        self._next: Child | None = None
        self._number = 0
        self._takeovers = 0
        self._told: dict[str, Any] = {}
        self._is_ready = False
        self._deaths: list[float] = []
        self._unserved: float | None = None  # since when nobody serves
        self._why = ""
        self._pause_s = _FIRST_PAUSE_S
        self._start_at = 0.0  # when the next standby may be started
        self._held: list[int] = []  # signals for the next one that serves
        self._asked_at = 0.0  # when the serving one was told to stop for an upgrade
        self._late = 0.0
        self._noted = ""  # why the last standby could not be one

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Hold the mount to its end, and exit with the status of the daemon that ended it."""
        wake, wake_end = socket.socketpair()
        for end in (wake, wake_end):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        for caught in (*FORWARDED, signal.SIGCHLD):
            signal.signal(caught, lambda *_: None)
        self._serving = self._start(self._command)
        while True:
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            for c in self._children.values():
                if c.control.fileno() >= 0:
                    poll.register(c.control, select.POLLIN)
            expected = time.monotonic() + (pause_s := self._next_look_s())
            poll.poll(pause_s * 1000)
            # Where we were not run ourselves, the daemons were not either, and their silence means nothing.
            self._late = max(0.0, time.monotonic() - expected)
            self._hear()
            numbers: list[int] = []
            with suppress(BlockingIOError):
                numbers = list(wake.recv(4096))
            for number in numbers:
                if number in FORWARDED:
                    self._pass_on(number)
            self._bury()
            self._look_at_time()

    def _next_look_s(self) -> float:
        return 0.25 if self._unserved is not None or self._asked_at or not self._next else 1.0

    def _hear(self) -> None:
        for c in list(self._children.values()):
            while c.control.fileno() >= 0:
                try:
                    got = wire.receive(c.control)
                except (BlockingIOError, ValueError):
                    break
                if got is None:
                    c.control.close()
                    break
                for fd in got[1]:
                    os.close(fd)  # nobody has any to send
                c.heard = time.monotonic()
                handler: Callable[[Child, wire.Message], None] | None = getattr(
                    self, "_on_" + str(got[0]["op"]).replace("-", "_"), None
                )
                if handler is not None:
                    handler(c, got[0])

    def _start(self, command: list[str]) -> Child:
        self._number += 1
        told = {
            **self._told,
            "first": self._number == 1,
            "init": self._init.hex(),
            "watchdog_s": self._watchdog_s,
            **self._outside.told(),
        }
        started = child.start(self._number, command, self._words, self._directory, self._journal, told)
        self._children[started.pid] = started
        return started

    # --- what a generation says ----------------------------------------------------------------

    def _on_mount(self, c: Child, m: wire.Message) -> None:
        self._mountpoint = m["mountpoint"]
        self._mounting = (m["source"], m["data"], m["flags"])
        try:
            self._mount()
            self._init = kernel.read_init(self._fd)
        except (kernel.Refused, OSError) as e:
            c.send({"op": "refused", "why": str(e)})
            return
        c.send({"op": "mounted", "init": self._init.hex()}, [self._fd])

    def _mount(self) -> None:
        self._fd = kernel.mount(self._mountpoint, *self._mounting)
        self._connection = kernel.connection(self._mountpoint)

    def _on_afresh(self, c: Child, m: wire.Message) -> None:
        """It could not answer, and a kernel that was told half of it cannot be told again. Who serves what is
        mounted now cannot be followed by another: libfuse negotiates with the kernel alone."""
        os.close(self._fd)
        self._fd, self._init = -1, b""
        try:
            kernel.unmount(self._mountpoint, lazy=True)
            self._mount()
        except kernel.Refused as e:
            c.send({"op": "refused", "why": str(e)})
            return
        c.send({"op": "mounted", "init": ""}, [self._fd])

    def _on_answer(self, c: Child, m: wire.Message) -> None:
        self._reply = c.reply = bytes.fromhex(m["reply"])
        try:
            os.write(self._fd, self._reply)
        except OSError as e:
            c.send({"op": "refused", "why": str(e)})
            return
        c.send({"op": "answered", "large_pieces": kernel.raise_readahead(self._connection)})

    def _on_ready(self, c: Child, m: wire.Message) -> None:
        self._told.update(m["tell"])
        self._outside.log = m["log"]
        self._unserved = None
        c.began = time.monotonic()
        c.state = SERVING
        if not self._is_ready:
            self._is_ready = True
            self._outside.ready()
        for number in self._held:
            c.signal(number)
        self._held.clear()

    def _on_standby(self, c: Child, m: wire.Message) -> None:
        c.reply, c.state = bytes.fromhex(m["reply"]), STANDBY
        self._noted = ""
        self._pause_s = _FIRST_PAUSE_S
        if c.reply[16:80] != self._reply[16:80]:
            # The kernel negotiates once.
            why = "it has another answer to the kernel's first request than the mount was begun with"
            self._refuse_upgrade(f"{why}: unmount, and mount again with it")
            c.kill()
        elif self._serving is None:
            self._go(c)
        elif c.candidate:
            self._asked_at = time.monotonic()
            self._serving.send({"op": "stop", "within_s": self._deadline_s})

    def _on_alive(self, c: Child, m: wire.Message) -> None:
        """What there was to note is noted."""

    def _on_notify(self, c: Child, m: wire.Message) -> None:
        self._outside.notify(m["text"])

    def _on_unmount(self, c: Child, m: wire.Message) -> None:
        # In a process of its own: the kernel may want answers before it lets go, of a daemon that may hang.
        if os.fork():
            return
        why = ""
        try:
            os.close(self._fd)  # or the connection would last as long as this does
            kernel.unmount(self._mountpoint, lazy=True)
        except (kernel.Refused, OSError) as e:
            why = str(e)
        finally:
            c.send({"op": "unmounted", "why": why})
            os._exit(0)

    def _on_draining(self, c: Child, m: wire.Message) -> None:
        c.draining = True
        for other in self._children.values():
            if other is not c:
                other.kill()
        self._next = None

    def _on_ended(self, c: Child, m: wire.Message) -> None:
        c.status = int(m["status"])

    def _on_failed(self, c: Child, m: wire.Message) -> None:
        c.text = m["why"]

    def _on_upgrade(self, c: Child, m: wire.Message) -> None:
        if m["protocol"] != wire.PROTOCOL:
            c.send(
                {
                    "op": "upgrade-failed",
                    "why": "it speaks to holders in another way: unmount, and mount again",
                }
            )
            return
        upgrading = self._next is not None and self._next.candidate and not self._next.killed
        if not self._init or self._serving is not c or upgrading:
            c.send({"op": "upgrade-failed", "why": "this mount cannot be handed over now"})
            return
        if self._next is not None:
            self._next.kill()
        self._next = self._start(m["command"])
        self._next.candidate = True

    def _on_stopped(self, c: Child, m: wire.Message) -> None:
        c.leaving = True
        c.kill()  # as it is: whoever takes over is used to worse

    def _on_busy(self, c: Child, m: wire.Message) -> None:
        self._refuse_upgrade("requests in hand took longer than the deadline; the mount goes on as it was")

    def _refuse_upgrade(self, why: str) -> None:
        self._asked_at = 0.0
        if self._next is not None and self._next.candidate:
            self._next.kill()
            self._next.candidate = False  # its death is no news: by then the next upgrade may be asked for
            if self._serving is not None:
                self._serving.send({"op": "upgrade-failed", "why": why})

    # --- signals -------------------------------------------------------------------------------

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGHUP and self._outside.has_terminal():
            number = signal.SIGTERM  # it was closed; a daemon without one would take it for something else
        if self._serving is not None and (self._serving.state == SERVING or not self._is_ready):
            self._serving.signal(number)
        else:
            self._held.append(number)

    # --- deaths --------------------------------------------------------------------------------

    def _bury(self) -> None:
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            dead = self._children.pop(pid, None)
            if dead is None:
                continue  # an orphan that the kernel gave to the first process, or one that unmounted
            dead.control.close()
            code = os.waitstatus_to_exitcode(raw)
            if dead is self._serving:
                self._serving_died(dead, code if code >= 0 else 128 - code)
            else:
                self._standby_died(dead)

    def _serving_died(self, dead: Child, status: int) -> None:
        self._serving = None
        if dead.status is not None or dead.draining or not self._is_ready:
            self._finish(status)
        if not self._init:
            self._give_up("the daemon of this mount has died, and no other can take its place", status)
        now = time.monotonic()
        self._unserved = now
        if dead.leaving:
            self._asked_at = 0.0
            self._why = "upgrade"
        else:
            if self._next is not None and self._next.candidate:
                self._next.candidate = False
            self._why = f"signal {status - 128}" if status > 128 else f"exit status {status}"
            self._count_death(dead, now)
            self._ask_again()
        self._takeovers += 1
        if self._next is not None and self._next.state == STANDBY:
            self._go(self._next)
        elif self._next is None:
            self._start_at = 0.0

    def _count_death(self, dead: Child, now: float) -> None:
        if dead.began and now - dead.began >= _GOOD_S:
            self._deaths.clear()
        self._deaths = [at for at in self._deaths if now - at < _WITHIN_S]
        self._deaths.append(now)
        if len(self._deaths) > self._deaths_allowed:
            self._give_up(
                f"the daemon died {len(self._deaths)} times within a minute, at last of {self._why}"
            )

    def _is_gone(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def _ask_again(self) -> None:
        """Have the kernel send again what the dead one had read; where it cannot, begin anew."""
        if self._fd < 0:
            if not self._is_in_place():
                self._give_up("the daemon did not end before the mount was aborted")
            self._mount_again()
            return
        if self._is_gone():
            return  # unmounted; who comes next sends what is left
        try:
            if self._may_resend and kernel.can_resend(self._init):
                kernel.resend(self._fd)
                return
        except OSError as e:
            self._outside.note(f"the kernel does not send requests again: {e}")
        if kernel.waiting(self._connection) != 0:
            self._mount_again()

    def _mount_again(self) -> None:
        """Requests are lost: who waits gets an error, and the next one begins with what is on disk."""
        self._abort()
        os.ftruncate(self._journal, 0)
        try:
            if self._is_in_place():
                with suppress(kernel.Refused):
                    kernel.unmount(self._mountpoint, lazy=True)
            self._mount()
            init = kernel.read_init(self._fd)
            os.write(self._fd, kernel.answer_as_before(init, self._reply))
        except (kernel.Refused, OSError) as e:
            self._give_up(f"the mount could not be made again after its daemon had died: {e}")
        kernel.raise_readahead(self._connection)
        self._why += "; mounted again"

    def _standby_died(self, dead: Child) -> None:
        if dead is self._next:
            self._next = None
            if dead.text not in ("", self._noted):
                self._noted = dead.text
                self._outside.note(f"no daemon can take over: {dead.text}")
            if dead.candidate:
                self._asked_at = 0.0
                if self._serving is not None:
                    why = dead.text or "it ended before it could take over; try it: mount with it elsewhere"
                    self._serving.send({"op": "upgrade-failed", "why": why})
            self._start_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _go(self, c: Child) -> None:
        self._serving, self._next = c, None
        if c.candidate:
            self._command = list(c.command)
        c.state, c.heard = STARTING, time.monotonic()
        told = {"takeovers": self._takeovers, "why": self._why, **self._told}
        c.send({"op": "go", "mountpoint": self._mountpoint, **told}, [self._fd])

    # --- time ----------------------------------------------------------------------------------

    def _look_at_time(self) -> None:
        now = time.monotonic()
        if self._late > 1.0:
            for c in self._children.values():
                c.heard += self._late
        serving = self._serving
        is_silent = serving is not None and now - serving.heard > self._watchdog_s
        if serving is not None and is_silent and self._is_ready and not serving.killed:
            self._outside.note(f"the daemon says nothing for {self._watchdog_s:g} s and is killed")
            serving.kill()
        for c in self._children.values():
            if c is not serving and c.state == STARTING and now - c.started > _STARTING_S:
                c.kill()
            if c is serving and c.killed and now - c.killed > _DYING_S:
                self._abort()  # it waits for an answer of its own mount, or of a disk
                c.killed = now
        if self._unserved is not None and now - self._unserved > self._deadline_s:
            self._give_up(f"nobody could take over within {self._deadline_s:g} s")
        if self._asked_at and now - self._asked_at > self._deadline_s + _STOPPING_S:
            self._refuse_upgrade("the daemon does not stop; the mount goes on as it was")
        if (
            self._next is None
            and self._is_ready
            and self._init
            and now >= self._start_at
            and (serving is None or (serving.state == SERVING and not serving.draining))
        ):
            self._next = self._start(self._command)

    # --- the end -------------------------------------------------------------------------------

    def _abort(self) -> None:
        """Have everybody who waits get an error."""
        if self._fd < 0:
            return
        # Once it is gone its number is another mount's.
        if not self._is_gone() and not kernel.abort(self._connection) and self._is_in_place():
            with suppress(kernel.Refused):
                kernel.unmount(self._mountpoint, lazy=True, hung=True)
        os.close(self._fd)  # the last one; this alone is an abort, too
        self._fd = -1

    def _is_in_place(self) -> bool:
        """Whether what is mounted there is ours; to be asked only while it is not gone."""
        return bool(self._connection) and self._connection == kernel.connection(self._mountpoint)

    def _give_up(self, why: str, status: int = MOUNT_FAILED) -> NoReturn:
        self._outside.note(f"{why}; the mount on {self._mountpoint} has ended")
        is_there = self._fd >= 0 and not self._is_gone()
        self._abort()
        if is_there and self._is_in_place():
            with suppress(kernel.Refused):
                kernel.unmount(self._mountpoint, lazy=True)
        self._finish(status or FAILED)

    def _finish(self, status: int) -> NoReturn:
        for c in self._children.values():
            c.kill()
        if self._fd >= 0 and not self._is_gone() and self._is_in_place():
            with suppress(kernel.Refused):
                kernel.unmount(self._mountpoint, lazy=True)
        self._outside.end(status)
        os._exit(status)


def main() -> NoReturn:
    """Hold the mount that the environment describes."""
    start = json.loads(os.environ.pop(wire.START))
    try:
        Holder(start).run()
    except Exception as e:  # the daemons go with us, and the mount with them
        sys.stderr.write(f"vfsmount: the holder of the mount failed: {type(e).__name__}: {e}\n")
        raise
