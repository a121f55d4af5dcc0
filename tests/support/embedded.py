"""The embedded server as tests use it: its own process, started, watched and ended here.

with Embedded(tmp_path, dialect="26", scandir_limit=5) as server:
    folder = server.create_folder("owner", "data")
    (server.folder_dir(folder) / "a.txt").write_text("on the server's disk")
    server.faults({"rules": [{"action": "status", "path": "/folders", "status": 503}]})
    assert server.count("GET", "/folders/{vf}/files") == 1
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.support import signing

READY = "vfsmount serve: ready at "
# A limit for servers that serve many tests with one key: six times the calls in a time that installations
# allow, because they come one after another and nobody waits between them. The busiest minute needs more
# than half of it, so a mount that asks for much more than it needs is noticed. (With 10,000 the background
# is held back in that minute, which costs 20 s.)
WORKLOAD: dict[str, Any] = {"rate_limit": 12_000, "rate_window": 60}
SHARE = 0.8  # of what the server allows a key; the rest is for the user's other programs


class RawClient:
    """Signed requests and bare transfers of one user, without any of the project's client code."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.http = httpx.Client(timeout=30, headers={"Accept-Encoding": "identity"})

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        **signing_options: Any,
    ) -> httpx.Response:
        """One signed manager call; `path` is percent-encoded already where it must be."""
        url = httpx.URL(self.env["BACKEND_ENDPOINT"] + path)
        if params is not None:
            url = url.copy_with(params=params)
        request = self.http.build_request(method, url, json=body)
        request.headers.update(
            signing.headers(
                method,
                request.url.raw_path.decode(),
                request.headers["Host"],
                self.env["BACKEND_ACCESS_KEY"],
                self.env["BACKEND_SECRET_KEY"],
                content_type="text/plain" if body is None else "application/json",
                **signing_options,
            )
        )
        return self.http.send(request)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON of a call that must succeed; None for an empty body.

        A real manager says 500 where two of its transactions collide; one of them did not happen then.
        """
        for _ in range(3):
            reply = self.call(method, path, body, **options)
            if reply.status_code != 500:
                break
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

    def grant(self, folder: str, path: str, size: int | None = None) -> tuple[str, str]:
        """(URL, token) of a download, or of an upload of `size` bytes."""
        if size is None:
            reply = self.ok("POST", f"/folders/{folder}/request-download", {"path": path})
        else:
            reply = self.ok("POST", f"/folders/{folder}/request-upload", {"path": path, "size": size})
        return reply["url"], reply["token"]

    def upload(self, folder: str, path: str, data: bytes) -> None:
        """Put one whole file in place."""
        url, token = self.grant(folder, path, len(data))
        headers = {"Upload-Offset": "0", "Tus-Resumable": "1.0.0"}
        reply = self.http.patch(url, params={"token": token}, headers=headers, content=data)
        assert reply.status_code == 204, reply.text

    def download(self, folder: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """The reply to a GET of one file through a folder token."""
        url, token = self.grant(folder, ".")
        return self.http.get(url, params={"token": token, "dst_dir": path}, headers=headers or {})

    def close(self) -> None:
        """End the connections."""
        self.http.close()


class Embedded:
    """One embedded server; starts when made, ends with `stop` or the ``with`` block.

    Args:
        data: its data directory; a second server on the same one has the same users and folders.
        options: any option of ``vfsmount serve``, as ``scandir_limit=5``; True for a bare flag.

    Attributes:
        may_refuse: a test goes beyond a rate limit on purpose; else `stop` fails where anybody did.
        may_exceed: a test has lowered the limit below what was used; else `stop` fails where a window has
            held more calls of this project's than their share of the limit.
    """

    def __init__(self, data: Path, *, dialect: str = "23.09", **options: Any) -> None:
        self.data = Path(data)
        self.dialect = dialect
        self.may_refuse = self.may_exceed = False
        options = {"faults": True, **options}
        command = [sys.executable, "-m", "vfsmount", "serve", "--data", str(self.data), "--until-eof"]
        command += ["--dialect", dialect, *_arguments(options)]
        # Its standard input ends with this process, and the server with it, however we die.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._clients: dict[str, RawClient] = {}
        try:
            self.url = self._wait_until_ready(deadline_s=120)
        except BaseException:
            self.stop()
            raise
        self._control = httpx.Client(base_url=self.url, timeout=30)

    def _wait_until_ready(self, deadline_s: float) -> str:
        assert self.process.stdout is not None
        fd, line, end = self.process.stdout.fileno(), b"", time.monotonic() + deadline_s
        while b"\n" not in line:
            readable, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
            if not readable:
                raise TimeoutError(f"the embedded server was not ready within {deadline_s} s")
            piece = os.read(fd, 4096)
            if not piece:
                raise RuntimeError(f"the embedded server ended with status {self.process.wait()}")
            line += piece
        assert line.startswith(READY.encode()), line
        return line.decode().removeprefix(READY).strip()

    def __enter__(self) -> Embedded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """End the server; its exit status, 0 for a clean end.

        Raises:
            AssertionError: it has answered 429, or a window has held more calls of the project's than 80 % of
                the limit, and no test had asked for that.
        """
        report = self._last_report()
        for client in self._clients.values():
            client.close()
        if hasattr(self, "_control"):
            self._control.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        if report is not None and not self.may_refuse:
            assert not report["refused"], f"{report['refused']} calls were refused with 429"
        if report is not None and not self.may_refuse and not self.may_exceed:
            for user, window in report["fullest"].items():
                own, limit = window["own"], window["own_limit"]
                assert own <= SHARE * limit, f"{own} calls of {user}'s in a window, of {limit}"
        return self.process.returncode

    def _last_report(self) -> dict[str, Any] | None:
        if self.process.poll() is not None or not hasattr(self, "_control"):
            return None
        try:
            return self.report()
        except (httpx.HTTPError, ValueError):  # it has no control endpoint, or hangs
            return None

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    # --- who, and where on disk ----------------------------------------------------------------

    def env(self, user: str) -> dict[str, str]:
        """The variables of ``DIR/env/<user>.sh``."""
        words = shlex.split((self.data / "env" / f"{user}.sh").read_text(), comments=True)
        return dict(word.split("=", 1) for word in words if "=" in word)

    def client(self, user: str) -> RawClient:
        """Raw signed requests as `user`."""
        return self._clients.setdefault(user, RawClient(self.env(user)))

    def folder_dir(self, folder_id: str) -> Path:
        """Where a folder's files lie."""
        return self.data / "folders" / folder_id.replace("-", "")

    def create_folder(self, user: str, name: str, **options: Any) -> str:
        """Make a folder; its id, 32 hex digits."""
        created = self.client(user).ok("POST", "/folders", {"name": name, **options})
        return str(created["id"])

    def share_folder(self, owner: str, name: str, friend: str, permission: str = "rw") -> None:
        """Invite a user to a folder and accept in their name."""
        email = self.env(friend)["BACKEND_USER"]
        self.client(owner).ok(
            "POST", f"/folders/{name}/invite", {"permission": permission, "emails": [email]}
        )
        pending = self.client(friend).ok("GET", "/folders/invitations/list")["invitations"]
        for invitation in pending:
            if invitation["vfolder_name"] == name:
                self.client(friend).ok("POST", "/folders/invitations/accept", {"inv_id": invitation["id"]})

    # --- faults and counts ---------------------------------------------------------------------

    def faults(self, order: dict[str, Any]) -> None:
        """Order trouble; docs/embedded-server.md has the table."""
        reply = self._control.post("/__faults", json=order)
        assert reply.status_code == 200, reply.text

    def clear_faults(self) -> None:
        """Be good again, and let the stalled calls go on."""
        self.faults({"clear": True})

    def report(self) -> dict[str, Any]:
        """Everything /__calls tells: ``calls`` (a list) and ``uploads`` (by path)."""
        report = self._control.get("/__calls").json()
        assert isinstance(report, dict)
        return report

    def calls(self, half: str | None = None) -> dict[tuple[str, str, str], int]:
        """Calls since the last reset by (half, method, route), as ("manager", "GET", "/folders")."""
        return {
            (c["half"], c["method"], c["route"]): c["count"]
            for c in self.report()["calls"]
            if half in (None, c["half"])
        }

    def count(self, method: str, route: str) -> int:
        """Calls of one route since the last reset."""
        return sum(n for (_, m, r), n in self.calls().items() if (m, r) == (method, route))

    def reset_calls(self) -> None:
        """Count from zero."""
        self._control.post("/__calls/reset")


def eventually(check: Callable[[], bool], deadline_s: float = 30) -> None:
    """Ask until `check` says yes: for what a server does in the background.

    Raises:
        AssertionError: it did not within `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    while not check():
        assert time.monotonic() < end, f"still not so after {deadline_s} s"
        time.sleep(0.01)


def _arguments(options: dict[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name.replace('_', '-')}")
        elif value is not False and value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments
