"""One line per event, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfsmount import log
from vfsmount.errors import ConfigError, RemoteUnavailable

logger = logging.getLogger("vfsmount.test")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A log file that `setup` writes to; the set-up from before is put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("vfsmount")
    before = root.level, ours.level
    path = tmp_path / "log"
    log.setup("DEBUG", path, stderr=False)
    yield path
    for handler in [h for h in root.handlers if isinstance(h.formatter, log.OURS)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[0])
    ours.setLevel(before[1])


def test_event_is_one_line_of_fields(file: Path) -> None:
    log.event(logger, logging.INFO, "upload.retry", ino=42, wait_s=4.1, error=RemoteUnavailable())
    line = file.read_text()
    assert line.endswith("INFO vfsmount.test upload.retry ino=42 wait_s=4.1 error=RemoteUnavailable\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        (b"a b", '"a b"'),
        (b"\xff", '"\\udcff"'),
        ("line\nvfsmount.fake upload.done", '"line\\nvfsmount.fake upload.done"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("한글", "한글"),
        (0.123456789, "0.123457"),
        (None, "None"),
        (ConfigError("no way"), '"ConfigError: no way"'),
    ],
)
def test_field_stays_on_its_line(value: object, shown: str) -> None:
    assert log.show(value) == shown


SECRETS = pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GET http://sp:6021/download?token=TOPSECRET&dst_dir=x HTTP/1.1", "dst_dir=x"),
        ("Authorization: BackendAI signMethod=HMAC-SHA256, credential=AKIA:TOPSECRET", "uthorization"),
        ("credential=AKIALABUSER1EXAMPLE0:TOPSECRET", "credential=AKIALA"),
        ("{'authorization': 'BackendAI TOPSECRET'}", "authorization"),
        ("[(b'Cookie', b'AIOHTTP_SESSION=TOPSECRET')]", "ookie"),
        ("Set-Cookie: AIOHTTP_SESSION=TOPSECRET; path=/", "ookie"),
        ("X-BackendAI-Token: TOPSECRET", "oken"),
        ('{"username": "me", "password": "TOPSECRET", "otp": "TOPSECRET"}', "me"),
        ("BACKEND_SECRET_KEY=TOPSECRET", "BACKEND_SECRET_KEY"),
        ("connect to http://me:TOPSECRET@proxy:3128/", "@proxy:3128"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJUT1BTRUNSRVQ.TOPSECRET end", "end"),
        ("signature=TOPSECRET", "signature"),
    ],
)


@SECRETS
def test_shapes_of_secrets_are_struck_out(text: str, kept: str) -> None:
    redacted = log.redact(text)
    assert "TOPSECRET" not in redacted
    assert log.STRUCK in redacted
    assert kept in redacted


def test_ordinary_lines_are_left_alone() -> None:
    line = 'upload.retry ino=42 path="a token of thanks.txt" url=http://host:8081/folders/x offset=8388608'
    assert log.redact(line) == line


def test_known_secrets_are_struck_out_of_messages_and_tracebacks(file: Path, expect_warnings: object) -> None:
    log.add_secret("correct-horse-battery-staple")
    try:
        raise ValueError("odd: correct-horse-battery-staple")
    except ValueError:
        log.event(logger, logging.ERROR, "mount.bug", exc_info=True, why="correct-horse-battery-staple")
    text = file.read_text()
    assert "Traceback" in text
    assert "correct-horse" not in text


def test_http_libraries_are_silent_from_the_import_on() -> None:
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG, format='%(message)s')\n"
        "from vfsmount import log\n"
        "log.setup('DEBUG')\n"
        "for name in ('httpx', 'httpcore.http11', 'h11', 'hpack.hpack', 'aiohttp.access'):\n"
        "    logging.getLogger(name).info('LOUD %s', name)\n"
        "logging.getLogger('vfsmount.x').debug('ours')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ours" in run.stderr
    assert "LOUD" not in run.stderr + run.stdout


def test_log_file_is_private_also_when_it_was_not(tmp_path: Path, file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    old = tmp_path / "old"
    old.write_text("kept\n")
    old.chmod(0o644)
    log.setup("DEBUG", old, stderr=False)
    log.event(logger, logging.DEBUG, "test.line")
    assert old.stat().st_mode & 0o777 == 0o600
    assert old.read_text().startswith("kept\n")
    assert "test.line" in old.read_text()


def test_later_setup_replaces_the_earlier_one(tmp_path: Path, file: Path) -> None:
    log.setup("INFO", tmp_path / "second", stderr=False)
    log.event(logger, logging.INFO, "test.line")
    log.event(logger, logging.DEBUG, "test.detail")
    assert file.read_text() == ""
    assert "test.line" in (tmp_path / "second").read_text()
    assert "test.detail" not in (tmp_path / "second").read_text()


def test_log_file_that_cannot_be_opened_is_a_setting_gone_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--log-file"):
        log.setup("INFO", tmp_path / "nowhere" / "log")


def test_lines_go_to_stderr(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.setup("INFO")
    log.event(logger, logging.INFO, "test.line", pid=os.getpid())
    assert f"test.line pid={os.getpid()}" in stream.getvalue()


def test_log_file_has_a_bound(file: Path) -> None:
    log.setup("DEBUG", file, stderr=False, limit=1000)
    for n in range(100):
        log.event(logger, logging.INFO, "some.event", n=n)
    older = file.with_name("log.1")
    lines = (older.read_text() + file.read_text()).splitlines()
    assert (
        file.stat().st_size < 1100 and older.stat().st_size < 1100 and len(list(file.parent.iterdir())) == 2
    )
    first = int(lines[0].rpartition("=")[2])
    assert [int(line.rpartition("=")[2]) for line in lines] == list(range(first, 100)), (
        "the newest, all of them"
    )
    assert file.stat().st_mode & 0o777 == older.stat().st_mode & 0o777 == 0o600


def test_two_processes_bound_one_log(file: Path) -> None:
    log.setup("DEBUG", file, stderr=False, limit=1000)
    other = log.LogFile(file, limit=1000)
    try:
        for n in range(60):
            log.event(logger, logging.INFO, "one.event", n=n)
            other.handle(logging.makeLogRecord({"msg": f"another {n}"}))
    finally:
        other.close()
    newest = file.with_name("log.1").read_text() + file.read_text()
    assert "one.event n=59" in newest and "another 59" in newest
    assert sum(path.stat().st_size for path in file.parent.iterdir()) < 2200


def test_log_that_cannot_be_renamed_is_written_on(file: Path) -> None:
    log.setup("DEBUG", file, stderr=False, limit=100)
    file.with_name("log.1").mkdir()  # in the way, also of root
    for n in range(10):
        log.event(logger, logging.INFO, "some.event", n=n)
    assert len(file.read_text().splitlines()) == 10


# --- JSON, and the journal -----------------------------------------------------------------------


@pytest.fixture
def json_file(file: Path, tmp_path: Path) -> Path:
    """As `file`, for lines of JSON."""
    path = tmp_path / "log.json"
    log.setup("DEBUG", path, stderr=False, as_json=True)
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_line_has_the_event_and_its_fields_apart(json_file: Path) -> None:
    fields = {
        "ino": 42,
        "wait_s": 4.1,
        "name": b"a \xff",
        "error": ConfigError("no way"),
        "until": float("inf"),
    }
    log.event(logger, logging.INFO, "upload.retry", **fields, nothing=None, done=True)
    logging.getLogger("vfsmount.other").info("plain %s", 7)
    first, second = lines(json_file)
    assert (first["level"], first["logger"], first["event"]) == ("INFO", "vfsmount.test", "upload.retry")
    assert str(first["time"]).endswith("Z") and str(first["message"]).startswith("upload.retry ino=42 ")
    assert first["fields"] == {
        "ino": 42,
        "wait_s": 4.1,
        "name": "a \udcff",
        "error": "ConfigError: no way",
        "until": "inf",
        "nothing": None,
        "done": True,
    }
    assert second["message"] == "plain 7" and "event" not in second


@SECRETS
def test_json_holds_no_secret_and_stays_json(json_file: Path, text: str, kept: str) -> None:
    hostile = f'"{text}"\\" {text}'
    log.event(logger, logging.INFO, "test.line", why=hostile, plain=text.encode())
    try:
        raise ValueError(text)
    except ValueError:
        logger.info("%s", text, exc_info=True)
    first, second = lines(json_file)
    assert "TOPSECRET" not in json_file.read_text()
    assert log.STRUCK in str(first["fields"]) and log.STRUCK in str(first["message"])
    assert log.STRUCK in str(second["exception"]) and "Traceback" in str(second["exception"])


def test_json_field_is_struck_out_for_its_name(json_file: Path) -> None:
    log.event(
        logger, logging.INFO, "test.line", secret_key="x1y2", password=123456, token="abcdef", size=123456
    )
    (line,) = lines(json_file)
    assert line["fields"] == {
        "secret_key": log.STRUCK,
        "password": log.STRUCK,
        "token": log.STRUCK,
        "size": 123456,
    }
    assert "x1y2" not in json_file.read_text() and "abcdef" not in json_file.read_text()


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_for_the_journal_have_a_priority_and_no_time(tmp_path: Path, as_json: bool) -> None:
    code = (
        "import logging, os, sys\n"
        "from vfsmount import log\n"
        "s = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'\n"
        f"log.setup('DEBUG', as_json={as_json})\n"
        "logger = logging.getLogger('vfsmount.x')\n"
        "for level in (10, 20, 30, 40, 50): log.event(logger, level, 'test.line', token='TOPSECRET')\n"
        "try: 1 / 0\n"
        "except Exception: logger.exception('bad')\n"
    )
    path = tmp_path / "stderr"
    with path.open("w") as stderr:
        subprocess.run([sys.executable, "-c", code], stderr=stderr, check=True)
    found = path.read_text().splitlines()
    assert [line[:3] for line in found[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert all(line.startswith("<3>") for line in found[5:]) and "TOPSECRET" not in path.read_text()
    if as_json:
        assert json.loads(found[0][3:])["event"] == "test.line"
    else:
        assert found[0] == f"<7>vfsmount.x test.line token={log.STRUCK}"
        assert found[6] == "<3>Traceback (most recent call last):"


def test_stream_of_another_process_is_not_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as f:
        info = os.fstat(f.fileno())
        assert log.is_journal(f.fileno(), {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"})
        assert not log.is_journal(f.fileno(), {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino + 1}"})
        assert not log.is_journal(f.fileno(), {})
