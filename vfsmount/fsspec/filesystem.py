"""`VfolderFileSystem`: the folders of a user as fsspec sees file systems.

Paths are ``FOLDER/path/in/it``, with the names that a mount shows. Nothing is cached here unless
`use_listings_cache` is given: what is told was so when it was asked for.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import IO, Any, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from vfsmount.config import load_settings
from vfsmount.errnos import errno_of
from vfsmount.errors import ConfigError, VfsError
from vfsmount.fsspec import changes, listing, reading, sending
from vfsmount.fsspec.file import VfolderFile
from vfsmount.fsspec.listing import Info, PartialListingWarning
from vfsmount.fsspec.portal import portal
from vfsmount.fsspec.remote import Remote, cut_listing
from vfsmount.values import ANY, Base, Validator
from vfsmount.vfs.deadline import within

T = TypeVar("T")

# As the command line calls them, and with its meaning: what is not given comes from the environment,
# a profile, and so on. No secret among them: these are pickled, printed and written into task graphs.
SETTINGS = (
    *("profile", "endpoint", "endpoint_type", "access_key", "secret_key_file", "domain", "group"),
    *("storage_proxy_map", "connect_timeout", "read_timeout", "insecure"),
)
_FSSPECS_OWN = {"listings_expiry_time", "max_paths", "asynchronous", "loop"}
_MAGIC = set("*?[")


class VfolderFileSystem(AbstractFileSystem):
    """The folders that a user may access, as ``vfolder://FOLDER/PATH``.

    Calls block; any number of threads may make them at once. In a process that is forked off, an
    instance made before works on, over connections of that process.

    Args:
        deadline: seconds after which a call without progress fails with `TimeoutError`.
        partial_ok: take what the server shows of a directory whose listing it cuts, with a warning,
            where otherwise `PartialListing` is raised.
        staging_dir: where files lie that are being written; the system's temporary directory if None.
        use_listings_cache: believe listings for ``listings_expiry_time`` seconds.
        settings: ``profile``, ``endpoint`` and so on (`SETTINGS`).
    """

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
        flags = {key: _as_text(settings[key]) for key in SETTINGS if settings.get(key) is not None}
        try:
            self._settings = load_settings(flags, os.environ)
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
        who = f"{self._settings.endpoints[0]} {self._settings.access_key}"
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
                return await work(await Remote.of(loop, self._settings), *args)

        loop = portal()
        try:
            return loop.call(connected)
        except VfsError as e:
            raise _os_error(e, path) from e

    # --- what is there -------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> Info:
        """What stands under a path; of a file the exact version."""
        path = self._strip_protocol(path)
        return self._call(path, Remote.info, *_split(path))

    def info_of_file(self, path: str) -> Info:
        """As `info`; a directory is an error."""
        info = self.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory cannot be opened", path)
        return info

    def size_or_zero(self, path: str) -> int:
        """Bytes of a file, 0 where there is none."""
        try:
            return int(self.info_of_file(path)["size"])
        except FileNotFoundError:
            return 0

    # The ones of fsspec take every error for "no": also that the server cannot be reached.

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether something stands there."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Whether a directory stands there."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether a file stands there."""
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **kwargs: Any) -> list[Any]:
        """What a directory holds; of a file, itself.

        Raises:
            PartialListing: the server cut the listing.
        """
        path = self._strip_protocol(path)
        infos = None if refresh else self.dircache.get(path)
        if infos is None:
            infos = self._listed(path)
        return list(infos) if detail else sorted(info["name"] for info in infos)

    def _listed(self, path: str) -> list[Info]:
        name, rel = _split(path)

        async def work(remote: Remote) -> tuple[list[Info], bool, int, bool]:
            infos, found = await remote.entries(name, rel)
            if found is None:
                return infos, False, 0, True
            certain, likely = remote.doubt(found, name)
            return infos, likely, found.count if certain else 0, not found.cut

        try:
            infos, likely, cut_at, whole = self._call(path, work)
        except NotADirectoryError:
            return [self.info(path)]
        if cut_at and not self._partial_ok:
            raise cut_listing(path, cut_at)
        if likely or cut_at:
            warnings.warn(
                f"{path}: the server may have shown a part of it only ({len(infos)} entries)",
                PartialListingWarning,
                stacklevel=4,
            )
        if whole:
            self.dircache[path] = infos
        return infos

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As of fsspec; ``omit`` omits what is not there, and nothing that could not be asked for.

        `find`, `glob`, `du`, `get` and the like say "all files", and are made from this.
        """
        path = self._strip_protocol(path)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = kwargs.pop("detail", False)
        try:
            infos = self.ls(path, detail=True, **kwargs)
        except OSError as e:
            if on_error == "raise" or (on_error == "omit" and not isinstance(e, FileNotFoundError)):
                raise
            if callable(on_error):
                on_error(e)
            return
        by_name = {"" if i["name"] == path else i["name"].rpartition("/")[2]: i for i in infos}
        dirs: Any = {n: i for n, i in by_name.items() if i["type"] == "directory"}
        files: Any = {n: i for n, i in by_name.items() if i["type"] != "directory"}
        if not detail:
            dirs, files = list(dirs), list(files)
        if topdown:
            yield path, dirs, files
        if maxdepth is None or maxdepth > 1:
            deeper = maxdepth - 1 if maxdepth is not None else None
            for name in list(dirs):
                below = f"{path}/{name}" if path else name
                yield from self.walk(below, deeper, topdown, on_error, detail=detail, **kwargs)
        if not topdown:
            yield path, dirs, files

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As of fsspec, from the listings: without a question for each file."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: (info or self.info(name))["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def created(self, path: str) -> datetime:
        """When a folder was made; of a file, when its status last changed: nothing older is known."""
        return _as_time(self._listed_entry(path)["created"])

    def modified(self, path: str) -> datetime:
        """When a file was last modified."""
        info = self.info(path)
        return _as_time(info["mtime"] if "mtime" in info else self._listed_entry(path)["mtime"])

    def _listed_entry(self, path: str) -> Info:
        path = self._strip_protocol(path)
        name, rel = _split(path)
        if not rel:
            return self.info(path)
        entry = self._call(path, Remote.entry, name, rel)
        if entry is None:
            raise cut_listing(self._parent(path), 0)
        return listing.of_entry(self._parent(path), entry)

    def ukey(self, path: str) -> str:
        """Names the version of a file: as long as it is the same, so is the content."""
        info = self.info(path)
        return str(info.get("etag") or sha256(str(info).encode()).hexdigest())

    def checksum(self, path: str) -> int:
        """As `ukey`, as a number."""
        return int(sha256(self.ukey(path).encode()).hexdigest(), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings: of a path and what is above it, or all."""
        super().invalidate_cache(path)
        if path is None:
            self.dircache.clear()
            return
        path = self._strip_protocol(path)
        while True:
            self.dircache.pop(path, None)
            if not path:
                return
            path = self._parent(path)

    # --- content -------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> VfolderFile:
        if mode == "xb" and self.exists(path):
            raise FileExistsError(errno.EEXIST, "the name is taken", path)
        if mode != "rb":
            _needs_below_folder(path)
        return VfolderFile(
            self,
            path,
            mode,
            block_size=block_size,
            autocommit=autocommit,
            cache_options=cache_options,
            **kwargs,
        )

    def read_version(self, path: str, start: int, end: int, version: Validator) -> bytes:
        """Bytes of one version of a file.

        Raises:
            OSError: ESTALE, where another stands there now.
        """
        if end <= start:
            return b""
        return self._call(path, reading.read_of, *_split(path), start, end, version)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Bytes of a file, of one version."""
        path = self._strip_protocol(path)
        return self._call(path, reading.read_slice, *_split(path), start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Ranges of files, many at a time; all of a file's are of one version."""
        if max_gap is not None:
            raise NotImplementedError("max_gap")
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(starts) == len(ends) == len(paths):
            raise ValueError("as many starts and ends as paths are needed")
        return self._many(paths, starts, ends, on_error)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """As of fsspec, many files at a time."""
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **kwargs)
        start, end = kwargs.get("start"), kwargs.get("end")
        each_or_error = "raise" if on_error == "raise" else "return"
        found = self._many(paths, [start] * len(paths), [end] * len(paths), each_or_error)
        return {
            p: content
            for p, content in zip(paths, found, strict=True)
            if on_error != "omit" or not isinstance(content, Exception)
        }

    def _many(self, paths: list[str], starts: list[Any], ends: list[Any], on_error: str) -> list[Any]:
        paths = self._strip_protocol(paths)
        wanted = [(*_split(p), s, e) for p, s, e in zip(paths, starts, ends, strict=True)]
        found: list[Any] = self._call("", reading.read_many, wanted)
        for i, content in enumerate(found):
            if isinstance(content, VfsError):
                found[i] = _os_error(content, paths[i])
                if on_error == "raise":
                    raise found[i]
        return found

    def send(self, path: str, content: IO[bytes], base: Base = ANY) -> None:
        """Put a file in place that holds what an open local one does."""
        try:
            self._call(path, sending.send_file, *_split(path), content, base)
        finally:
            self.invalidate_cache(path)

    def append(self, path: str, tail: IO[bytes]) -> None:
        """Put in place what is there and, behind it, what an open local file holds."""
        try:
            self._call(path, sending.append, *_split(path), tail, self.staging_dir)
        finally:
            self.invalidate_cache(path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Put a file in place."""
        path = self._strip_protocol(path)
        _needs_below_folder(path)
        if self._intrans:
            super().pipe_file(path, value, mode=mode, **kwargs)
            return
        base = None if mode == "create" else ANY
        try:
            self._call(path, sending.send_bytes, *_split(path), bytes(value), base)
        finally:
            self.invalidate_cache(path)

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Put a copy of a local file in place; directories above it are made."""
        rpath = self._strip_protocol(rpath)
        if self._intrans:
            super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)
            return
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        _needs_below_folder(rpath)
        with open(lpath, "rb") as content:
            size = os.fstat(content.fileno()).st_size
            callback.set_size(size)
            self.send(rpath, content, None if mode == "create" else ANY)
            callback.relative_update(size)

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """Copy a file here; all of it of one version."""
        options = {"cache_type": "none", **kwargs}  # it reads in large pieces, each once
        super().get_file(rpath, lpath, callback=callback, outfile=outfile, **options)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file by way of this machine: the server has no call for it."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        if path1 == path2:
            return
        with self.open(path1, "rb", cache_type="none") as source, self.open(path2, "wb") as sink:
            while data := source.read(self.blocksize):
                sink.write(data)

    # --- names ---------------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a directory. In the root: a folder, on the cluster's default host."""
        path = self._strip_protocol(path)
        name, rel = _split(path)
        if not name:
            raise FileExistsError(errno.EEXIST, "the root is always there", path)
        if rel:
            self._call(path, changes.mkdir, name, rel, create_parents, False)
        else:
            self._call(path, changes.create_folder, name)
        self.invalidate_cache(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory and those above it; a folder only where its own path is given."""
        path = self._strip_protocol(path)
        name, rel = _split(path)
        if rel:
            self._call(path, changes.mkdir, name, rel, True, exist_ok)
            self.invalidate_cache(path)
        elif not (exist_ok and self.isdir(path)):
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory, or delete an empty folder."""
        path = self._strip_protocol(path)
        name, rel = _split(path)
        if not name:
            raise OSError(errno.EBUSY, "the root stays", path)
        if rel:
            self._call(path, changes.rmdir, name, rel)
        else:
            self._call(path, changes.remove_folder, name)
        self.invalidate_cache(path)

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        self.rm(path)

    def _rm(self, path: str) -> None:
        self.rm(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files and, with `recursive`, directories with all that is in them, in few calls.

        A folder is not deleted by that: see `rmdir`.
        """
        if maxdepth is not None:
            raise NotImplementedError("a removal down to a depth")
        paths: list[str] = []
        for p in path if isinstance(path, (list, tuple, set)) else [path]:
            bare = self._strip_protocol(p)
            paths += self.expand_path(bare) if _MAGIC & set(bare) else [bare]
        of_folder: dict[str, list[str]] = {}
        for p in paths:
            name, rel = _split(p)
            if not rel:
                raise PermissionError(
                    errno.EPERM, "rm deletes no folder: empty it with rm('FOLDER/*'), then rmdir", p
                )
            of_folder.setdefault(name, []).append(rel)
        try:
            for name, rels in of_folder.items():
                self._call(f"{name}/{rels[0]}", changes.remove, name, rels, recursive)
        finally:
            for p in paths:
                self.invalidate_cache(p)

    def mv(
        self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> None:
        """Move; within a folder the server renames, in one step where it is a file."""
        if not self._renames(path1, path2, maxdepth):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        src, dst = self._strip_protocol(path1), self._strip_protocol(path2)
        if src == dst:
            return
        (name, rel_src), (_, rel_dst) = _split(src), _split(dst)
        if not rel_dst:
            rel_dst = rel_src.rpartition("/")[2]
        self._call(src, changes.move, name, rel_src, rel_dst)
        self.invalidate_cache(src)
        self.invalidate_cache(dst)

    def _renames(self, path1: Any, path2: Any, maxdepth: int | None) -> bool:
        """Whether one call of the server does what is wanted."""
        if not (isinstance(path1, str) and isinstance(path2, str)) or maxdepth is not None:
            return False
        (from_, rel), (to, _) = _split(self._strip_protocol(path1)), _split(self._strip_protocol(path2))
        if from_ != to or not rel or _MAGIC & set(path1):
            return False
        # Into a directory that is still to be made: the names are put together by fsspec.
        return not path2.endswith("/") or self.isdir(path2)


def _split(path: str) -> tuple[str, str]:
    name, _, rel = path.partition("/")
    return name, rel


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _as_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _needs_below_folder(path: str) -> None:
    if "/" not in path:
        raise PermissionError(errno.EPERM, "files live in folders: a path has the form FOLDER/NAME", path)


def _os_error(e: VfsError, path: str) -> OSError:
    return OSError(errno_of(e), str(e), path)
