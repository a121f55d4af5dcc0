"""Where vfsmount keeps its own files, and the private way of writing them.

Everything here is for one user's eyes: directories are 0700, files 0600, and a directory that
belongs to somebody else is refused rather than used.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from vfsmount.errors import ConfigError

APP = "vfsmount"


def config_file() -> Path:
    """Path of ``config.toml`` in the XDG config directory; it need not exist."""
    return platformdirs.user_config_path(APP) / "config.toml"


def state_dir() -> Path:
    """Path of the directory for what must survive a reboot; it need not exist (`private_dir`)."""
    return platformdirs.user_state_path(APP)


def cache_dir() -> Path:
    """Path of the directory for what was read and can be fetched again; it need not exist."""
    return platformdirs.user_cache_path(APP) / "blocks"


def runtime_dir() -> Path:
    """Path of the directory for sockets; it need not exist (`private_dir`).

    Not by platformdirs, which wants every directory above to be root's or ours: in a user namespace
    root is nobody, and no directory at all would do.

    Raises:
        ConfigError: the directory above belongs to another user, who could swap what we put there.
    """
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    last = Path(tempfile.gettempdir()) / f"runtime-{os.geteuid()}"
    for base in ([Path(named)] if named.startswith("/") else []) + [Path(f"/run/user/{os.geteuid()}")]:
        if _is_private(base):
            return base / APP
    if named.startswith("/") and not os.path.lexists(named):
        return private_dir(Path(named)) / APP
    try:
        return private_dir(last) / APP
    except ConfigError as e:
        raise ConfigError(f"{e}; set XDG_RUNTIME_DIR to a directory of yours") from e


def _is_private(path: Path) -> bool:
    """Whether it is a directory of ours that nobody else writes to."""
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def private_dir(path: Path) -> Path:
    """Make `path` a directory only we can enter, and return it.

    Raises:
        ConfigError: it cannot be made, is no directory, or belongs to another user.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(path)
    except OSError as e:
        raise ConfigError(f"cannot make the directory {path}: {e.strerror}") from e
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise ConfigError(f"{path} is not a directory of ours: remove it, or point XDG_* elsewhere")
    if stat.S_IMODE(info.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Put `text` under `path`, 0600, all or nothing, in a directory made private first.

    Raises:
        ConfigError: the directory is not ours, or the disk failed; the old content is still there.
    """
    private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # O_EXCL with the mode in the call: there is no moment when others could read it.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as e:
        with suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"cannot write {path}: {e.strerror}") from e


def open_to_others(path: Path) -> bool:
    """Whether anybody but the owner may read or write the file at `path`."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


# --- sockets -----------------------------------------------------------------------------------


def socket_path() -> Path:
    """A new name for a socket of this process; nothing is made yet."""
    return runtime_dir() / f"{os.getpid()}-{secrets.token_hex(4)}.sock"


def listen_private(path: Path) -> socket.socket:
    """A listening Unix socket under `path`, 0600, in a directory made private first.

    Sockets of processes that died are removed from there.

    Raises:
        ConfigError: it cannot be made.
    """
    private_dir(path.parent)
    _remove_dead_sockets(path.parent)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    new = path.with_suffix(".new")
    try:
        with _short(new) as address:
            listening.bind(address)
        new.chmod(0o600)
        listening.listen(64)
        # Under its name only now: one there that refuses connections is a dead process's.
        new.rename(path)
    except OSError as e:
        listening.close()
        new.unlink(missing_ok=True)
        raise ConfigError(f"cannot listen on {path}: {e.strerror}") from e
    return listening


def connect_private(path: Path, timeout_s: float) -> socket.socket:
    """A blocking connection to a socket that `listen_private` made; calls on it raise after `timeout_s`.

    Raises:
        OSError: nobody listens there.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connected.settimeout(timeout_s)
    try:
        with _short(path) as address:
            connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return connected


def _remove_dead_sockets(directory: Path) -> None:
    for path in directory.glob("*.sock"):
        try:
            connect_private(path, 1.0).close()
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            continue


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address of `path` that fits: a socket's may have 107 bytes, a directory's path 4095."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
