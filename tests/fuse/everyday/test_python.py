"""Python environments on a real mount, compared with a local disk."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both
from tests.support.mounting import run

# Compiled files hold their path at its length, RECORD the digest of scripts that hold it.
HOLDS_PATHS = ["*.pyc", "*/RECORD"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with two modules, data and a command, made by hand: there is nothing to download."""
    info = "tinypkg-1.0.dist-info"
    files = {
        "tinypkg/__init__.py": "from tinypkg.words import WORD\n\n\ndef main():\n    print(WORD)\n",
        "tinypkg/words.py": "WORD = 'installed'\n",
        "tinypkg/data/table.csv": "a,b\n" + "1,2\n" * 10_000,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ntiny = tinypkg:main\n",
    }
    path = tmp_path_factory.mktemp("wheel") / "tinypkg-1.0-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            z.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            record += f"{name},sha256={digest},{len(text)}\n"
        z.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def pip(*arguments: str | Path) -> str:
    return run(
        *(sys.executable, "-m", "pip", "--isolated", "--no-input", "--disable-pip-version-check", "--quiet"),
        *("--no-cache-dir", *arguments),
    )


def test_pip_installs_into_an_environment_and_uninstalls(
    folder: Path, disk: Path, tmp_path: Path, wheel: Path
) -> None:
    def work(directory: Path) -> list[str]:
        run_in(directory, sys.executable, "-m", "venv", "--without-pip", "venv")
        python = directory / "venv" / "bin" / "python"
        into = ["--python", python]
        pip(*into, "install", "--no-index", "--no-deps", wheel)
        said = [run(directory / "venv" / "bin" / "tiny"), pip(*into, "freeze")]
        pip(*into, "uninstall", "--yes", "tinypkg")
        said.append(pip(*into, "freeze"))
        pip(*into, "install", "--no-index", "--no-deps", "--no-compile", wheel)
        return [*said, run(directory / "venv" / "bin" / "tiny")]

    same_on_both(work, tmp_path / "local", folder, disk, own=HOLDS_PATHS)


def test_pip_installs_into_a_directory(folder: Path, disk: Path, tmp_path: Path, wheel: Path) -> None:
    def work(directory: Path) -> str:
        pip("install", "--no-index", "--no-deps", "--target", directory / "lib", wheel)
        pip("install", "--no-index", "--no-deps", "--upgrade", "--target", directory / "lib", wheel)
        return run_in(
            directory, "env", "PYTHONPATH=lib", sys.executable, "-c", "import tinypkg; tinypkg.main()"
        )

    same_on_both(work, tmp_path / "local", folder, disk, own=HOLDS_PATHS)


@pytest.mark.slow
def test_environment_with_its_own_pip(folder: Path, disk: Path, tmp_path: Path, wheel: Path) -> None:
    def work(directory: Path) -> str:
        run_in(directory, sys.executable, "-m", "venv", "venv", timeout=900)
        python = directory / "venv" / "bin" / "python"
        run(python, "-m", "pip", "-q", "install", "--no-index", "--no-deps", wheel, timeout=300)
        return run(directory / "venv" / "bin" / "tiny")

    same_on_both(work, tmp_path / "local", folder, disk, own=HOLDS_PATHS)


def test_logs_rotate_and_files_are_swapped(folder: Path, disk: Path, tmp_path: Path) -> None:
    code = """
import logging, logging.handlers, os, tempfile
log = logging.getLogger("x"); log.setLevel(logging.INFO)
log.addHandler(logging.handlers.RotatingFileHandler("app.log", maxBytes=2000, backupCount=3))
for n in range(600): log.info("line %d of the log", n)
logging.shutdown()
for n in range(5):
    with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as f:
        f.write(f"state {n}\\n" * 100); f.flush(); os.fsync(f.fileno())
    os.replace(f.name, "state")
with tempfile.TemporaryFile(dir=".") as f:
    f.write(b"z" * 100000); f.seek(99990); print(f.read())
print(sorted(os.listdir()))
"""

    def work(directory: Path) -> str:
        return run_in(directory, sys.executable, "-c", code)

    same_on_both(work, tmp_path / "local", folder, disk)
    assert (folder / "state").stat().st_mode & 0o777 == 0o600
    assert "app.log.3" in os.listdir(disk)
