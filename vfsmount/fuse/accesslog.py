"""One line of JSON for every request of the kernel's, written where no request waits for it.

A line is noted on the loop and encoded and written by a thread, some at a time. Where the disk does not
keep up, lines are dropped and counted: the log says how many, and so does a counter. It holds names of
files and programs, so nobody but the user may read it.

The file is renamed to ``NAME.1`` when it has reached half of the size that both may have, and begun anew.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pyfuse3

from vfsmount.errors import ConfigError, VfsError
from vfsmount.fuse.indexers import name_of
from vfsmount.log import event
from vfsmount.metrics import counters, sources_of_request

_log = logging.getLogger("vfsmount.fuse.accesslog")

_PENDING = 50_000  # lines that wait to be written, some 20 MiB; a quarter of a minute at full speed
_EVERY_S = 0.5  # a batch
_GOODBYE_S = 2.0  # for the last one; the loop waits
_NAMED_S = 1.0  # how long a process keeps its name: it may become another program
_PIECE = 500  # lines encoded and written in one go, which bounds how long the interpreter is held


@dataclass(frozen=True, slots=True)
class AccessLogSpec:
    """Where the log is and the bytes that it and its predecessor may have together."""

    path: Path
    limit: int


class Names:
    """What a line needs of the filesystem.

    Args:
        of_ino, of_fh, of_directory: path below the mountpoint of an inode, an open file, an open
            directory. Raise `VfsError`, or return "" for what has no name any more.
    """

    def __init__(
        self,
        of_ino: Callable[[int], bytes],
        of_fh: Callable[[int], bytes],
        of_directory: Callable[[int], bytes],
    ) -> None:
        self.of_ino, self.of_fh, self.of_directory = of_ino, of_fh, of_directory


# How a request's first arguments name what it is about.
_BY_NAME = frozenset({"lookup", "mkdir", "rmdir", "unlink", "create", "mknod", "symlink"})
_BY_FH = frozenset({"read", "write", "flush", "fsync", "release"})
_BY_DIRECTORY = frozenset({"readdir", "fsyncdir"})


_NOBODY = (0, "")


class Line:
    """A request while it is being answered."""

    __slots__ = ("began", "comm", "fields", "op", "path", "pid", "sources")

    def __init__(self, op: str, pid: int, path: bytes, fields: dict[str, Any]) -> None:
        self.op, self.pid, self.path, self.fields = op, pid, path, fields
        self.began = time()
        self.comm = ""
        self.sources: list[str] = []


class AccessLog:
    """The log of one mount. `begin` and `end` are called on the loop, for every request."""

    def __init__(self, file: _File, names: Names) -> None:
        self._file = file
        self._names = names
        self._pending: deque[dict[str, Any]] = deque()
        self._left_out = 0  # lines for which there was no room, counted on the loop
        self._unwritten = 0  # and those that the disk refused, counted in the thread
        self._told = 0  # of both, told in the log itself
        # Process and its name by file handle: a read does not tell who reads.
        self._openers: dict[int, tuple[int, str]] = {}
        self._comm: dict[int, str] = {}
        self._comm_until = 0.0
        self._ending = threading.Event()

    # --- on the loop ---------------------------------------------------------------------------

    def begin(self, op: str, args: tuple[Any, ...]) -> Line:
        """A request has come; `args` are its handler's. Never raises."""
        last = args[-1] if args else None
        fields: dict[str, Any] = {}
        comm = ""
        path, pid = b"", last.pid if isinstance(last, pyfuse3.RequestContext) else 0
        try:
            if op in _BY_NAME:
                path = _join(self._names.of_ino(args[0]), args[1])
            elif op in _BY_FH:
                pid, comm = self._openers.get(args[0], _NOBODY)
                path = self._names.of_fh(args[0])
            elif op in _BY_DIRECTORY:
                path = self._names.of_directory(args[0])
            elif op in ("rename", "link"):
                self._begin_two(op, args, fields)
                path = fields.pop("from")
            elif op != "statfs":
                path = self._names.of_ino(args[0])
        except VfsError:
            pass  # it has no name any more
        if op in ("read", "write"):
            fields["offset"] = args[1]
            fields["length"] = args[2] if op == "read" else len(args[2])
        line = Line(op, pid, path, fields)
        if pid:
            line.comm = comm or self._name_of(pid, line.began, anew=op in ("open", "create"))
        sources_of_request.set(line.sources)
        return line

    def _begin_two(self, op: str, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        of_ino = self._names.of_ino
        if op == "rename":
            fields["from"] = _join(of_ino(args[0]), args[1])
            fields["to"] = _join(of_ino(args[2]), args[3])
        else:
            fields["from"], fields["to"] = of_ino(args[0]), _join(of_ino(args[1]), args[2])

    def end(self, line: Line, result: Any, code: int, seconds: float, args: tuple[Any, ...]) -> None:
        """It was answered. Never raises.

        Args:
            code: the errno, 0: success.
        """
        op = line.op
        if op == "open" and result is not None:
            self._openers[result.fh] = line.pid, line.comm
        elif op == "create" and result is not None:
            self._openers[result[0].fh] = line.pid, line.comm
        elif op == "release":
            self._openers.pop(args[0], None)
        elif op == "lookup" and result is not None and not result.st_ino:
            code = errno.ENOENT
        if len(self._pending) >= _PENDING:
            self._left_out += 1
        if self._left_out or self._unwritten:
            counters.log_lines_dropped = self._left_out + self._unwritten
        if len(self._pending) >= _PENDING:
            return
        found = {"time": line.began, "op": op, "path": line.path, **line.fields}
        if code:
            found["errno"] = errno.errorcode.get(code, str(code))
        elif op == "read" and result is not None:
            found["result"] = len(result)
            found["source"] = "+".join(line.sources)
        found["seconds"] = seconds
        if line.pid:
            found["pid"] = line.pid
            found["comm"] = line.comm
        self._pending.append(found)

    def _name_of(self, pid: int, now: float, *, anew: bool) -> str:
        """Args:
        anew: a shell may have looked names up in the very process that is another program now.
        """
        if now >= self._comm_until:  # a plain dict: a cache with times costs more than all the rest
            self._comm.clear()
            self._comm_until = now + _NAMED_S
        name = self._comm.get(pid)
        if name is None or anew:
            name = self._comm[pid] = name_of(pid)
        return name

    # --- in the thread -------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while the body runs."""
        thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(_GOODBYE_S)

    def _run(self) -> None:
        try:
            while not self._ending.wait(_EVERY_S):
                self._write()
            self._write()
        except Exception:
            _log.exception("accesslog.bug")
        finally:
            self._file.close()

    def _write(self) -> None:
        for _ in range(_PENDING // _PIECE + 1):  # what comes meanwhile has time
            piece = [self._pending.popleft() for _ in range(min(_PIECE, len(self._pending)))]
            if piece and not self._file.append(b"".join(map(_encode, piece))):
                self._unwritten += len(piece)
        dropped = self._left_out + self._unwritten - self._told
        notice = {"time": time(), "dropped": dropped}
        if dropped and self._file.append(_encode(notice)):
            self._told += dropped


class _File:
    """The file, in two generations."""

    def __init__(self, spec: AccessLogSpec) -> None:
        """Raises ConfigError: it cannot be used."""
        self._path = spec.path
        self._half = max(1, spec.limit // 2)
        self._failing = self._torn = False
        self._fd, self._size = self._open()

    def append(self, data: bytes) -> bool:
        """Write whole lines; False: they could not be written."""
        if not data:
            return True
        try:
            if self._size and self._size + len(data) > self._half:
                self._begin_anew()
            data = b"\n" + data if self._torn else data
            self._torn = True
            while data:
                n = os.write(self._fd, data)
                self._size += n
                data = data[n:]
            self._torn = False
        except (OSError, ConfigError) as e:
            if not self._failing:
                event(
                    _log, logging.WARNING, "accesslog.failed", error=str(e), until="it can be written again"
                )
            self._failing = True
            return False
        self._failing = False
        return True

    def close(self) -> None:
        os.close(self._fd)

    def _begin_anew(self) -> None:
        os.rename(self._path, f"{self._path}.1")
        new, size = self._open()
        os.close(self._fd)
        self._fd, self._size = new, size

    def _open(self) -> tuple[int, int]:
        try:
            fd = os.open(
                self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
            )
        except OSError as e:
            raise ConfigError(f"--access-log: cannot open {self._path}: {e.strerror}") from e
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(f"--access-log: {self._path} is no regular file")
            if info.st_mode & 0o077:
                os.fchmod(fd, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if info.st_size and os.pread(fd, 1, info.st_size - 1) != b"\n":
                os.write(fd, b"\n")  # the last writer died in the middle of a line
        except BlockingIOError as e:
            os.close(fd)
            raise ConfigError(f"--access-log: another mount writes {self._path}; name another file") from e
        except OSError as e:
            os.close(fd)
            raise ConfigError(f"--access-log: {self._path}: {e.strerror}") from e
        except ConfigError:
            os.close(fd)
            raise
        return fd, info.st_size


def open_access_log(spec: AccessLogSpec, names: Names) -> AccessLog:
    """The log, begun or gone on with.

    Raises:
        ConfigError: the file cannot be opened, is no regular one, or another mount writes it.
    """
    return AccessLog(_File(spec), names)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _encode(line: dict[str, Any]) -> bytes:
    for key in ("path", "to"):
        if key in line:
            line[key] = os.fsdecode(line[key])
    try:
        return msgspec.json.encode(line) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(line).encode() + b"\n"  # a name that is not UTF-8
