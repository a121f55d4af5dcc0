"""Calls about files inside a folder.

Paths are relative to the folder's root, ``/``-separated; "" or "." is the root. The server acts on
the target of every symlink in a path, the last component included: callers that know an entry to
be a symlink must not rename or delete it (contract 6.4).

Source: contract 3.5, 3.6, 5.
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import trio

from vfsmount.api import diagnose, paths, shapes
from vfsmount.api.decode import loads
from vfsmount.api.diagnose import State
from vfsmount.api.dialect import Dialect
from vfsmount.api.folders import FolderCalls
from vfsmount.api.manager import Reply
from vfsmount.config import ApiSettings
from vfsmount.core.listinglimit import ListingLimit
from vfsmount.errors import (
    IsADirectory,
    NameTooLong,
    NotFound,
    NotSupported,
    ProtocolError,
    RemoteError,
    VfsError,
)
from vfsmount.log import event
from vfsmount.values import Folder, Grant, Listing

log = logging.getLogger("vfsmount.api")

# Entries; longer ones are read in a thread, because others are to be served meanwhile.
LONG_LISTING = 5000
# Times that a listing is asked for again where nothing tells why it failed.
_REPEATED = 3


class FileCalls(FolderCalls):
    """Part of `Client`: files."""

    _settings: ApiSettings
    _warned: set[tuple[str, str]]
    _limits: dict[str, ListingLimit]

    def listing_limit(self, folder: Folder) -> ListingLimit:
        """What the folder's storage-proxy has shown of its limit for listings."""
        proxy, _, _ = folder.host.partition(":")
        return self._limits.setdefault(proxy, ListingLimit())

    async def list_files(self, folder: Folder, path: str) -> Listing:
        """One directory, with the attributes of its entries.

        Entries that cannot stand in a directory (``/``, NUL, ``..``, too long, twice) are left out.

        Raises:
            NotFound: no such directory, or the folder is gone.
            NotADirectory: a file stands there.
            NameTooLong: the path is longer than a request line can carry.
        """
        rel = paths.relative(path)
        reply = await self._list_or_explain(folder, rel)
        found = await self._read_listing(folder, reply)
        if found.unfit and (folder.id, rel) not in self._warned:
            self._warned.add((folder.id, rel))
            event(log, logging.WARNING, "listing.unfit", folder=folder.id, dropped=found.unfit)
        return found

    async def _read_listing(self, folder: Folder, reply: Reply) -> Listing:
        items = reply.object.get("items")
        if isinstance(items, list) and len(items) > LONG_LISTING:
            found = await trio.to_thread.run_sync(shapes.listing, reply.json)
        else:
            found = shapes.listing(reply.json)
        limit = self.listing_limit(folder)
        limit.saw(found.count, trio.current_time())
        return replace(found, cut=found.cut or limit.may_be_cut(found.count))

    async def mkdir(
        self, folder: Folder, path: str, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """Make a directory.

        Raises:
            AlreadyExists: something has the name (with ``exist_ok`` only a file).
            NotFound: the parent is missing, or the folder is gone.
            NotADirectory: a file stands where a parent should.
        """
        rel = paths.creatable(path)
        body = {"path": rel, "parents": parents, "exist_ok": exist_ok}
        try:
            reply = await self._write(folder, "POST", "/mkdir", body, idempotent=exist_ok)
        except RemoteError as e:
            raise await self._explain(folder, e, diagnose.for_mkdir, rel) from e
        # 26.x answers 200 with a list of what failed and a Python repr as the reason.
        results = reply.object.get("results")
        failed = results.get("failed") if isinstance(results, dict) else None
        if failed:
            unmade = RemoteError("the directory was not made", status=reply.status)
            raise await self._explain(folder, unmade, diagnose.for_mkdir, rel)

    async def rename_file(self, folder: Folder, path: str, new_name: str) -> None:
        """Rename within a directory. An existing file is replaced; a directory receives the source."""
        rel, name = paths.below_root(path), paths.bare_name(new_name)
        parent, _ = paths.split(rel)
        dst = f"{parent}/{name}" if parent else name
        body = {"target_path": rel, "new_name": name}
        try:
            await self._write(folder, "POST", "/rename-file", body)
        except RemoteError as e:
            raise await self._explain(folder, e, diagnose.for_move, rel, dst) from e

    async def move_file(self, folder: Folder, src: str, dst: str) -> None:
        """Move a file or directory, as ``shutil.move`` does on the server, not as ``rename(2)``.

        A file replaces a file (atomic). Anything moves *into* an existing directory. A directory's
        missing parents are created; a file's are not. See contract 3.5 for every case.

        Raises:
            NotFound: src, or the parent of dst, is missing.
            AlreadyExists: dst (or its name inside the directory dst) is taken.
            InvalidRequest: a directory into itself.
        """
        rel_src, rel_dst = paths.below_root(src), paths.creatable(dst)
        try:
            await self._write(folder, "POST", "/move-file", {"src": rel_src, "dst": rel_dst})
        except RemoteError as e:
            raise await self._explain(folder, e, diagnose.for_move, rel_src, rel_dst) from e

    async def delete_files(
        self,
        folder: Folder,
        paths_: Sequence[str],
        *,
        recursive: bool = False,
        known: bool = False,
        not_after: float = math.inf,
    ) -> None:
        """Delete files and, with ``recursive``, directories with everything in them.

        23.09 works through the list in order and stops at the first error. 26.x says 200 to
        everything and ignores what it does not delete, so there the parents are listed first.
        Never name a symlink: its target would be deleted.

        Args:
            known: the caller has just listed these entries; spares the listings on 26.x.
            not_after: as `Manager.call`.

        Raises:
            TooLate: its turn came after that.
            InvalidRequest: an empty list, or a path that means the folder's root, which the server
                would destroy. Nothing was sent.
            NotFound, IsADirectory: of the first such path; nothing was sent on 26.x.
            NotSupported: a symlink (only noticed on 26.x).
        """
        rels = [paths.below_root(p) for p in paths_]
        if not rels:
            paths.below_root("")
        if self.traits.silent_delete and not known:
            await self._check_deletable(folder, rels, recursive)
        body = {"files": rels, "recursive": recursive}
        method = "POST" if self.traits.delete_by_post else "DELETE"
        try:
            await self._write(folder, method, "/delete-files", body, not_after=not_after)
        except RemoteError as e:
            raise await self._explain(folder, e, diagnose.for_delete, *rels) from e

    async def delete_files_async(
        self, folder: Folder, paths_: Sequence[str], *, recursive: bool = False
    ) -> str:
        """Start deleting in the background (26.x); the id of the task. Errors are not reported."""
        if not self.traits.has_trash:
            raise NotSupported("this server deletes only while we wait")
        rels = [paths.below_root(p) for p in paths_]
        if not rels:
            paths.below_root("")
        body = {"files": rels, "recursive": recursive}
        reply = await self._write(folder, "POST", "/delete-files-async", body)
        return shapes.text(reply.object.get("bgtask_id"))

    async def request_upload(self, folder: Folder, path: str, size: int) -> Grant:
        """Begin an upload session for a file of ``size`` bytes.

        Leaves a staging file in the folder's ``.upload`` at once. Retried once, because the end of
        another upload may remove ``.upload`` under this call (contract 3.5); and repeated when its
        reply is lost, at the price of an empty staging file nobody uses.
        """
        rel = paths.creatable(path)
        assert size >= 0
        body = {"path": rel, "size": size}
        try:
            reply = await self._write(folder, "POST", "/request-upload", body, idempotent=True)
        except RemoteError:
            reply = await self._write(folder, "POST", "/request-upload", body, idempotent=True)
        return self._grant(folder, reply)

    async def request_download(self, folder: Folder, path: str, *, archive: bool = False) -> Grant:
        """Leave to download a file, or with path "." every file of the folder (contract 4.2).

        The server does not check that the path exists.
        """
        rel = paths.relative(path) or "."
        body = {"path": rel, "archive": archive}
        reply = await self._folder_call("POST", folder, "/request-download", body, idempotent=True)
        return self._grant(folder, reply)

    async def request_download_archive(self, folder: Folder, paths_: Sequence[str]) -> Grant:
        """Leave to download several entries as one ZIP (26.x)."""
        if not self.traits.has_trash:
            raise NotSupported("this server makes no archives of several entries")
        body = {"files": [paths.below_root(p) for p in paths_]}
        reply = await self._folder_call("POST", folder, "/request-download-archive", body, idempotent=True)
        return self._grant(folder, reply)

    async def _list_or_explain(self, folder: Folder, rel: str) -> Reply:
        for last in (False,) * _REPEATED + (True,):
            try:
                return await self._list(folder, rel)
            except RemoteError as e:
                error = await self._explain(folder, e, diagnose.for_listing, rel)
                if last or error is not e or not self._is_vague(e):
                    raise error from e
            # Nothing is wrong with it by now: it may have been a file when the server looked.
        raise AssertionError("unreachable")

    async def _list(self, folder: Folder, rel: str) -> Reply:
        try:
            return await self._folder_call("GET", folder, "/files", None, query={"path": rel or "."})
        except NameTooLong:
            assert self._manager.info is not None
            if self._manager.info.dialect is not Dialect.V23:
                raise
            # 23.09 reads parameters from a body as well, also of a GET. 26.x would list the root.
            return await self._folder_call("GET", folder, "/files", {"path": rel})

    async def _write(
        self,
        folder: Folder,
        method: str,
        suffix: str,
        body: object,
        *,
        idempotent: bool = False,
        not_after: float = math.inf,
    ) -> Reply:
        return await self._folder_call(
            method, folder, suffix, body, idempotent=idempotent, write=True, not_after=not_after
        )

    async def _explain(self, folder: Folder, e: RemoteError, judge: diagnose.Judge, *rels: str) -> VfsError:
        """The error a failed file operation means, found out by looking (26.x tells no errno)."""
        if not self._is_vague(e):
            return e
        try:
            states = await self.look_at(folder, rels)
        except VfsError as other:
            return other if isinstance(other, NotFound) else e
        return judge(states, rels) or e

    def _is_vague(self, e: RemoteError) -> bool:
        """Whether an error may stand for something that a look at the names explains."""
        told = isinstance(e, ProtocolError) or e.problem == "internal-server-error"
        return not told and not self.traits.has_errno

    async def look_at(self, folder: Folder, rels: Iterable[str]) -> Mapping[str, State]:
        """What stands under each path and each of its ancestors, freshly listed.

        Raises:
            NotFound: the folder itself is gone.
        """
        states: dict[str, State] = {"": State.DIRECTORY}
        listings: dict[str, Listing | None] = {}
        for rel in rels:
            parts = rel.split("/") if rel else []
            for depth in range(1, len(parts) + 1):
                here, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
                if here in states:
                    continue
                if states[parent] not in (State.DIRECTORY, State.SYMLINK):
                    states[here] = State.MISSING
                    continue
                if parent not in listings:
                    listings[parent] = await self._try_list(folder, parent)
                states[here] = diagnose.state_in(listings[parent], parts[depth - 1])
        return states

    async def _try_list(self, folder: Folder, rel: str) -> Listing | None:
        try:
            return await self._read_listing(folder, await self._list(folder, rel))
        except RemoteError:
            if not rel:
                raise NotFound("the folder is gone from the storage host") from None
            return None

    async def _check_deletable(self, folder: Folder, rels: Sequence[str], recursive: bool) -> None:
        states = await self.look_at(folder, rels)
        for rel in rels:
            state = states[rel]
            if state is State.MISSING:
                raise diagnose.for_delete(states, [rel]) or NotFound("no such file on the server")
            if state is State.SYMLINK:
                raise NotSupported("deleting a symlink would delete what it points to")
            if state is State.DIRECTORY and not recursive:
                raise IsADirectory("this is a directory; it is deleted with recursive only")

    def _grant(self, folder: Folder, reply: Reply) -> Grant:
        token, url = reply.object.get("token"), reply.object.get("url")
        if not (isinstance(token, str) and isinstance(url, str)):
            raise ProtocolError("a transfer was granted without token or address", status=reply.status)
        claims = token_claims(token)
        vfid = shapes.folder_id(str(claims.get("vfid", "")).rsplit("/", 1)[-1])
        if vfid is not None and vfid != folder.id:
            # 23.09 goes by name: the folder we know was deleted and another one is called so now.
            raise NotFound("the folder was replaced by another one of the same name")
        exp = shapes.number(claims.get("exp")) or 0
        return Grant(mapped(url, self._settings.storage_proxy_map), token, float(exp))


def token_claims(token: str) -> Mapping[str, object]:
    """What a transfer token says, unverified: only its issuer could. Empty where it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def mapped(url: str, table: Iterable[tuple[str, str]]) -> str:
    """A storage-proxy address as this machine reaches it.

    A whole URL is replaced by the other; an origin (or any prefix ending at a ``/``) is replaced in
    front of the rest, the longest one first. An address no entry matches is used as it is.
    """
    entries = [(a.rstrip("/"), b.rstrip("/")) for a, b in table]
    for source, target in entries:
        if url.rstrip("/") == source:
            return target
    for source, target in sorted(entries, key=lambda pair: -len(pair[0])):
        if url.startswith(source + "/"):
            return target + url[len(source) :]
    return url
