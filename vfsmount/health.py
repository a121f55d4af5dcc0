"""Whether a mount is well, for probes that ask every few seconds: little is loaded, no network touched.

A mount is well when its daemon's loop answers on the control socket (`vfs.control`) in a moment, and when
what is mounted on the mountpoint is that daemon's. `vfsmount.__main__` comes here before it loads
anything else, so this module keeps to a few modules of the standard library; what it repeats of
`places` and `store.mounts` for that is compared with them by tests/unit/test_health.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

OK, NOT_WELL = 0, 1
PATIENCE_S = 2.0
_ANSWER_MAX = 65536
_PAUSE_S = 0.05  # while one daemon takes another one's place


def check(mountpoint: str | None = None, state: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """Why a mount is not well, "" where it is; without `mountpoint`, of all mounts of this user.

    Args:
        state: the state directory; None: the user's own.
        patience_s: for the answer of each daemon.
    """
    records = read_records(state or default_state_dir())
    if mountpoint is not None:
        full = os.path.abspath(mountpoint)
        # The mountpoint itself is not touched: a mount that hangs would hang us.
        path = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
        spelt = os.fsencode(path).decode("utf-8", "backslashreplace")
        records = [r for r in records if r["mountpoint"] == spelt]
        if not records:
            return f"{spelt} is not a running mount"
    if not records:
        return "nothing is mounted"
    return next((why for r in records if (why := _why_not_well(r, patience_s))), "")


def _why_not_well(record: dict[str, str], patience_s: float) -> str:
    where = record["mountpoint"]
    try:
        answer = _ask_again(record, patience_s)
    except TimeoutError:
        return f"the mount on {where} does not answer within {patience_s:g} s"
    except (OSError, ValueError):
        return f"the mount on {where} does not answer"
    # Behind a holder another daemon may have taken over since.
    who = "holder" if record["holder"] else "pid"
    if "error" in answer or str(answer.get(who)) != str(record[who]):
        return f"the mount on {where} is not the one that was recorded"
    if answer.get("draining"):
        return f"{where} is unmounted; its process sends what is left"
    if mounted_device(where) != answer.get("device"):
        return f"the mount on {where} is gone, or another one lies over it"
    return ""


def _ask_again(record: dict[str, str], patience_s: float) -> dict[str, object]:
    give_up = time.monotonic() + (patience_s if record["holder"] else 0.0)
    while True:
        try:
            return _ask(record["socket"], patience_s)
        except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError):
            if time.monotonic() >= give_up:
                raise
        time.sleep(_PAUSE_S)


def _ask(path: str, patience_s: float) -> dict[str, object]:
    # Its address as a number of ours: a socket's path may have 107 bytes, a directory's 4095.
    directory = os.open(os.path.dirname(path) or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience_s)
            connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            connection.sendall(b'{"op": "hello"}\n')
            line = b""
            while not line.endswith(b"\n"):
                piece = connection.recv(_ANSWER_MAX)
                line += piece
                if not piece or len(line) > _ANSWER_MAX:
                    break
    finally:
        os.close(directory)
    answer = json.loads(line)
    return answer if isinstance(answer, dict) else {}


def read_records(state: str) -> list[dict[str, str]]:
    """Records of mounts that have not ended, as `store.mounts` writes them; by mountpoint."""
    found = []
    directory = os.path.join(state, "mounts")
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        if not name.endswith(".json"):
            continue
        try:
            with open(os.path.join(directory, name), encoding="utf-8") as f:
                record = json.load(f)
            if not record.get("ended"):
                known = {key: record[key] for key in ("mountpoint", "pid", "socket")}
                found.append({**known, "holder": record.get("holder", 0)})
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # half a record is nobody's
    return sorted(found, key=lambda r: r["mountpoint"])


def mounted_device(spelt: str) -> str | None:
    """Number (major:minor) of what is mounted on a mountpoint, found without touching it."""
    number = None
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            fields = line.split(b" ")
            at = fields[4]
            for escape, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
                at = at.replace(escape, char)
            if at.decode("utf-8", "backslashreplace") == spelt:
                number = fields[2].decode()  # the last one is on top
    return number


def default_state_dir() -> str:
    """As `places.state_dir`."""
    above = os.environ.get("XDG_STATE_HOME", "").strip()
    if not os.path.isabs(above):  # not valid, says the specification
        above = os.path.expanduser("~/.local/state")
    return os.path.join(above, "vfsmount")


def report(why: str) -> int:
    """Say on stderr why a mount is not well; the exit status."""
    if not why:
        return OK
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in why)
    sys.stderr.write(f"vfsmount: {shown}\n")
    return NOT_WELL


def quick(words: list[str]) -> int | None:
    """The whole of ``vfsmount health`` for the arguments that probes give; None: not for these."""
    options = {"--state-dir": "", "--timeout": str(PATIENCE_S)}
    paths = []
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in options:
            options[name] = value or next(rest, "")
        elif word.startswith("-"):
            return None
        else:
            paths.append(word)
    try:
        patience_s = float(options["--timeout"])
    except ValueError:
        return None
    if len(paths) > 1 or not 0 < patience_s < float("inf"):
        return None
    return report(check(paths[0] if paths else None, options["--state-dir"] or None, patience_s))
