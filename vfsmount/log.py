"""Log set-up, the event helper, and redaction as the second line of defence.

The first line is that nobody passes a secret to `event`. The second is here: what known secrets
and the shapes of secrets look like is struck out of everything our handlers write, tracebacks
included. Importing this module is enough to silence the HTTP libraries, which log whole URLs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import time
from pathlib import Path
from typing import TextIO

from vfsmount.errors import ConfigError

ROOT = "vfsmount"
STRUCK = "[struck]"

# At INFO httpx and aiohttp's access log write URLs with the token in the query, at DEBUG httpcore
# writes headers. They stay at WARNING even under --debug.
LOUD = ("httpx", "httpcore", "h11", "hpack", "h2", "aiohttp.access", "asyncio")
for _name in LOUD:
    logging.getLogger(_name).setLevel(logging.WARNING)

# Shapes of secrets, as they stand in URLs, headers, environments and JSON. Group 1 is kept.
_SHAPES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b((?:access_|session_)?token=)[^\s&\"']+",
        r"\b(credential=[^:\s]{1,6})[^\s,\"']*",
        r"\b(authorization['\"]?\s*[:=,]\s*['\"]?)[^\"'\n]+",
        r"\b(x-backendai-token['\"]?\s*[:=,]\s*['\"]?)[^\"'\s]+",
        r"\b((?:set-)?cookie['\"]?\s*[:=,]\s*b?['\"]?)[^\"'\n]+",
        r"\b(aiohttp_session=)[^\s;\"']+",
        r"((?:secret_?key|secret|password|signature|otp|stoken)['\"]?\s*[:=]\s*['\"]?)[^\s\"',&}]+",
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
        logger.log(level, "%s", line, exc_info=exc_info, stacklevel=2)


def show(value: object) -> str:
    """A field's value on one line, quoted where it has to be."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, float):
        value = f"{value:.6g}"
    elif isinstance(value, BaseException):
        name = type(value).__name__
        value = f"{name}: {value}" if str(value) not in ("", name) else name
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)


class RedactingFormatter(logging.Formatter):
    """UTC lines with everything secret struck out.

    A formatter rather than a `logging.Filter`: a filter sees the message before its arguments and
    the traceback are put in, so it would have to do the formatting twice.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class LogFile(logging.StreamHandler[TextIO]):
    """Writes to a file of its own, which is closed with it."""

    def close(self) -> None:
        super().close()
        self.stream.close()


def setup(level: int | str, file: Path | None = None, stderr: bool = True) -> None:
    """Send `vfsmount`'s lines at `level` and everybody's warnings to stderr, to `file`, or to both.

    A later call replaces the handlers of an earlier one, as going to the background needs.

    Args:
        file: appended to; 0600 when it is made here or is ours.

    Raises:
        ConfigError: the file cannot be opened.
    """
    handlers: list[logging.Handler] = []
    if stderr:
        handlers.append(logging.StreamHandler(sys.stderr))
    if file is not None:
        handlers.append(LogFile(open_log(file)))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, RedactingFormatter)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(RedactingFormatter())
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level)


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
