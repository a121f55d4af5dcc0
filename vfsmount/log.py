"""Log set-up, the event helper, and redaction as the second line of defence.

The first line is that nobody passes a secret to `event`. The second is here: what known secrets
and the shapes of secrets look like is struck out of everything our handlers write, tracebacks
included. Importing this module is enough to silence the HTTP libraries, which log whole URLs.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from vfsmount.errors import ConfigError, InvalidRequest

ROOT = "vfsmount"
STRUCK = "[struck]"
FILE_LIMIT = 64 << 20  # bytes of a log file; a guess: an hour of --debug on a busy mount, years without

# At INFO httpx and aiohttp's access log write URLs with the token in the query, at DEBUG httpcore
# writes headers. They stay at WARNING even under --debug.
LOUD = ("httpx", "httpcore", "h11", "hpack", "h2", "aiohttp.access", "asyncio")
for _name in LOUD:
    logging.getLogger(_name).setLevel(logging.WARNING)

# Shapes of secrets, as they stand in URLs, headers, environments and JSON, also quoted once more. Group 1
# is kept.
_SHAPES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b((?:access_|session_)?token=)[^\s&\"']+",
        r"\b(credential=[^:\s]{1,6})[^\s,\"']*",
        r"\b(authorization\\*['\"]?\s*[:=,]\s*\\*['\"]?)[^\"'\n]+",
        r"\b(x-backendai-token\\*['\"]?\s*[:=,]\s*\\*['\"]?)[^\"'\s]+",
        r"\b((?:set-)?cookie\\*['\"]?\s*[:=,]\s*b?\\*['\"]?)[^\"'\n]+",
        r"\b(aiohttp_session=)[^\s;\"']+",
        r"((?:secret_?key|secret|password|signature|otp|stoken)\\*['\"]?\s*[:=]\s*\\*['\"]?)[^\s\"',&}]+",
        r"(://)[^/\s@\"']+(?=@)",  # user and password in a URL
        r"()\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*",  # a JWT, wherever it stands
    )
)
_PLAIN = re.compile(r"[^\s\"=\\]+")
_secrets: set[str] = set()


def add_secret(*texts: str) -> None:
    """Strike these texts out of every later line; short ones are left, they would hit anything."""
    _secrets.update(text for text in texts if len(text) >= 8)


def redact(text: str) -> str:
    """`text` without known secrets and without what has the shape of one."""
    for secret in _secrets:
        text = text.replace(secret, STRUCK)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<1>{STRUCK}", text)
    return text


def event(logger: logging.Logger, level: int, name: str, /, exc_info: bool = False, **fields: object) -> None:
    """Write one line ``noun.verb key=value …``.

    Args:
        name: noun and verb, as ``upload.retry``.
        exc_info: add the traceback of the exception being handled.
        fields: never a secret; names of files at DEBUG only. Bytes are shown as text, and
            everything with a space or a control character is quoted, so a line stays a line.
    """
    if logger.isEnabledFor(level):
        line = " ".join([name, *(f"{key}={show(value)}" for key, value in fields.items())])
        extra = {"event": name, "fields": fields}
        logger.log(level, "%s", line, exc_info=exc_info, stacklevel=2, extra=extra)


def show(value: object) -> str:
    """A field's value on one line, quoted where it has to be."""
    text = f"{value:.6g}" if isinstance(value, float) else _text(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, BaseException):
        name = type(value).__name__
        return f"{name}: {value}" if str(value) not in ("", name) else name
    return str(value)


class RedactingFormatter(logging.Formatter):
    """UTC lines with everything secret struck out.

    A formatter rather than a `logging.Filter`: a filter sees the message before its arguments and
    the traceback are put in, so it would have to do the formatting twice.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, pattern: str = "%(asctime)s %(levelname)s %(name)s %(message)s") -> None:
        super().__init__(pattern)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(RedactingFormatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``; of an event also ``event`` and
    ``fields``; ``exception`` where there is a traceback.

    Every text is redacted before it is encoded: striking something out of the line might take a quote with
    it. A field is redacted together with its name, which may be all that tells a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if name := getattr(record, "event", ""):
            line["event"] = name
            line["fields"] = {k: _redacted(k, v) for k, v in getattr(record, "fields", {}).items()}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


def _redacted(key: str, value: object) -> object:
    """A field's value as JSON has it: numbers as such, everything else as text without a secret."""
    text = _text(value)
    found = redact(f"{key}={text}")
    if found == f"{key}={text}":
        plain = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        return value if plain else text  # JSON knows no infinity
    return found.removeprefix(f"{key}=")


class JournalFormatter(logging.Formatter):
    """What another formatter makes, as journald reads it from a service's stderr: each line with its
    priority in front, and no time, which the journal adds itself.

    Source: sd-daemon(3).
    """

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._inner = JsonFormatter() if as_json else RedactingFormatter("%(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        number = next((n for level, n in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{number}>{line}" for line in self._inner.format(record).split("\n"))


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a descriptor leads to the journal, as systemd tells the services that it starts.

    Source: systemd.exec(5), ``JOURNAL_STREAM``.
    """
    try:
        info = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


class LogFile(logging.StreamHandler[TextIO]):
    """Writes to a file of its own, which is closed with it.

    Args:
        limit: bytes after which the file becomes ``NAME.1``, in the place of an older one, and a new
            one is begun; 0: never.
    """

    def __init__(self, path: Path, limit: int = 0) -> None:
        self._path = path.absolute()  # a daemon changes its directory
        self._limit = limit
        super().__init__(open_log(self._path))

    def emit(self, record: logging.LogRecord) -> None:
        if self._limit:
            self._make_room()
        super().emit(record)

    def _make_room(self) -> None:
        ours = os.fstat(self.stream.fileno())
        if ours.st_size < self._limit or not stat.S_ISREG(ours.st_mode):
            return
        # A disk or a directory that does not allow it is no reason to stop writing.
        with suppress(OSError, ConfigError):
            # Several mounts may share one log: another process may have done it already.
            if os.path.exists(self._path) and os.path.samestat(ours, os.stat(self._path)):
                os.replace(self._path, f"{self._path}.1")
            old, self.stream = self.stream, open_log(self._path)
            old.close()

    def close(self) -> None:
        super().close()
        self.stream.close()


def setup(
    level: int | str,
    file: Path | None = None,
    stderr: bool = True,
    as_json: bool = False,
    limit: int = FILE_LIMIT,
) -> None:
    """Send `vfsmount`'s lines at `level` and everybody's warnings to stderr, to `file`, or to both.

    A later call replaces the handlers of an earlier one, as going to the background needs.

    Args:
        file: appended to; 0600 when it is made here or is ours.
        as_json: see `JsonFormatter`.
        limit: bytes of the file; see `LogFile`.

    Raises:
        ConfigError: the file cannot be opened.
    """
    handlers: list[logging.Handler] = []
    if stderr:
        handlers.append(_stderr_handler(as_json))
    if file is not None:
        handlers.append(LogFile(file, limit))
        handlers[-1].setFormatter(_formatter(as_json))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, OURS)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level)


OURS = (RedactingFormatter, JournalFormatter)


def _formatter(as_json: bool) -> logging.Formatter:
    return JsonFormatter() if as_json else RedactingFormatter()


def _stderr_handler(as_json: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    try:
        in_journal = is_journal(sys.stderr.fileno())
    except (OSError, ValueError):  # a stand-in without a descriptor
        in_journal = False
    handler.setFormatter(JournalFormatter(as_json) if in_journal else _formatter(as_json))
    return handler


LEVELS = ("debug", "info", "warning", "error")


def set_level(level: str) -> str:
    """Write our own lines from this level on; the level before.

    Args:
        level: one of `LEVELS`, in any case.

    Raises:
        InvalidRequest: it is none of them.
    """
    if level.lower() not in LEVELS:
        raise InvalidRequest(f"no log level {level!r}: there are {', '.join(LEVELS)}")
    ours = logging.getLogger(ROOT)
    was = logging.getLevelName(ours.getEffectiveLevel())
    ours.setLevel(level.upper())
    return str(was)


def open_log(path: Path) -> TextIO:
    """The log file, open for appending."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ConfigError(f"--log-file: cannot open {path}: {e.strerror}") from e
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_mode & 0o077:
        os.fchmod(fd, 0o600)
    # Names that are not UTF-8 arrive as surrogates; a log that fails to write them helps nobody.
    return os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")
