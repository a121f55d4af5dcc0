"""What every call of the file system stands on: settings, paths, and the way into the loop."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar

from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from vfsmount.config import load_settings
from vfsmount.errnos import errno_of
from vfsmount.errors import ConfigError, VfsError
from vfsmount.fsspec.portal import portal
from vfsmount.fsspec.remote import Remote
from vfsmount.vfs.deadline import within

T = TypeVar("T")

# As the command line calls them, and with its meaning: what is not given comes from the environment,
# a profile, and so on. No secret among them: these are pickled, printed and written into task graphs.
SETTINGS = (
    *("profile", "endpoint", "endpoint_type", "access_key", "secret_key_file", "domain", "group"),
    *("storage_proxy_map", "connect_timeout", "read_timeout", "insecure"),
)
_FSSPECS_OWN = {"listings_expiry_time", "max_paths", "asynchronous", "loop"}
MAGIC = set("*?[")


class Base(AbstractFileSystem):
    """Part of `VfolderFileSystem`: how it is made, and how it calls."""

    protocol = "vfolder"
    root_marker = ""
    blocksize = 16 << 20  # of copies from and to local files

    def __init__(
        self,
        *,
        deadline: float = 60.0,
        partial_ok: bool = False,
        staging_dir: str | None = None,
        use_listings_cache: bool = False,
        **settings: Any,
    ) -> None:
        if "secret_key" in settings:
            raise TypeError(
                "no secret_key here: put it into BACKEND_SECRET_KEY, a profile, or secret_key_file"
            )
        unknown = settings.keys() - set(SETTINGS) - _FSSPECS_OWN
        if unknown:
            raise TypeError(f"unknown option {min(unknown)!r}; there are {', '.join(SETTINGS)}")
        own = {key: settings[key] for key in _FSSPECS_OWN & settings.keys()}
        super().__init__(use_listings_cache=use_listings_cache, **own)
        flags = {key: as_text(settings[key]) for key in SETTINGS if settings.get(key) is not None}
        try:
            self.settings = load_settings(flags, os.environ)
        except ConfigError as e:
            raise ValueError(str(e)) from e
        except VfsError as e:
            raise OSError(errno_of(e), str(e)) from e
        self._deadline_s = deadline
        self._partial_ok = partial_ok
        self.staging_dir = staging_dir

    @property
    def fsid(self) -> str:
        """Names the server and who asks."""
        who = f"{self.settings.endpoints[0]} {self.settings.access_key}"
        return f"vfolder-{sha256(who.encode()).hexdigest()[:16]}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        bare = super()._strip_protocol(stringify_path(path))
        return "/".join(part for part in bare.split("/") if part not in ("", "."))

    def _call(self, path: str, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``work(remote, *args)`` in the loop.

        Raises:
            OSError: with the number a mount would give.
        """

        async def connected() -> T:
            with within(self._deadline_s):
                return await work(await Remote.of(loop, self.settings), *args)

        loop = portal()
        try:
            return loop.call(connected)
        except VfsError as e:
            raise os_error(e, path) from e


def split(path: str) -> tuple[str, str]:
    """(folder, path in it) of a path."""
    name, _, rel = path.partition("/")
    return name, rel


def as_text(value: object) -> str:
    """A setting as the command line has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def as_time(seconds: float) -> datetime:
    """A time in UTC, of seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def needs_below_folder(path: str) -> None:
    """Refuse what is no path of a file.

    Raises:
        PermissionError
    """
    if "/" not in path:
        raise PermissionError(errno.EPERM, "files live in folders: a path has the form FOLDER/NAME", path)


def os_error(e: VfsError, path: str) -> OSError:
    """What a program gets for an error of ours."""
    return OSError(errno_of(e), str(e), path)
