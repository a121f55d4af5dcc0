"""Files brought into the cache on disk before anybody reads them.

First all names are found, so that it is known how much there is; then each file's present version is
gone through: what is on disk is verified, the rest fetched by ranges as readers fetch, each with its
version confirmed. The bytes go to the disk past the memory, where they would push out what is in use.

Few ranges are in flight at a time: a reader in the foreground shares the line with them.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass

import trio

from vfsmount.api.governor import background
from vfsmount.core import dircache
from vfsmount.core.blockindex import BLOCK_SIZE, BlockKey
from vfsmount.core.inodes import Node
from vfsmount.errors import (
    InvalidRequest,
    LocalIOError,
    NoSpace,
    NotFound,
    RemoteUnavailable,
    Stale,
    VfsError,
)
from vfsmount.store.catalogue import full_cost
from vfsmount.store.segments import SEGMENT_BLOCKS, FileKey
from vfsmount.values import Kind, Validator
from vfsmount.vfs.barrier import Refused
from vfsmount.vfs.parts import Parts
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.ranges import IN_ONE_PIECE, Range

_log = logging.getLogger("vfsmount.vfs.warmup")

LONG_BLOCKS = 8  # of one range: each costs one more request, to confirm it
LONG_IN_FLIGHT = 4
BEING_KEPT = 2  # ranges that have come and are being written, while the next ones travel
SMALL_IN_FLIGHT = 16
LISTINGS = 4
TRIES = 3  # of a file that is replaced while it comes; a listing may tell of the first time late
GIVE_UP = 16  # files in a row that fail for a reason that is not their own
MOST_NAMED = 1000
_LOOKED_AT = 256  # files in one turn of a thread
_ROOM_S = 0.05


class _Replaced(Exception):
    """Another version stands there than the one that was being fetched."""


@dataclass(slots=True)
class _File:
    """What is wanted.

    Attributes:
        path: below the mountpoint.
        size: as counted in the totals, and
        done: in what is done.
        has_room: in the cache, beside the others.
    """

    path: bytes
    size: int
    done: int = 0
    has_room: bool = True


class Warmup:
    """One order.

    Attributes:
        failed: what is not in the cache, and why; the first `MOST_NAMED` of `failed_files`.
        unreachable: for some of them, because the server is away.
    """

    def __init__(
        self, parts: Parts, policy: MountPolicy, paths: list[bytes], *, recursive: bool, pin: bool
    ) -> None:
        """Args:
        paths: below the mountpoint, of files and directories.
        recursive: directories with all below them, else their own files.
        pin: what was brought stays, and no other version of it.
        """
        self._inodes = parts.inodes
        self._metadata = parts.metadata
        self._blocks = parts.blocks
        self._disk = parts.disk
        self._pins = parts.pins
        self._ranges = parts.reader.ranges
        self._attr_ttl_s = policy.attr_ttl_s
        self._paths = paths
        self._recursive = recursive
        self._pin = pin
        self._wanted: dict[bytes, _File] = {}
        self._line = trio.Semaphore(LONG_IN_FLIGHT)
        self._being_kept = trio.Semaphore(LONG_IN_FLIGHT + BEING_KEPT)
        self._coming: dict[Range, int] = {}  # with what of them is kept
        self._in_vain = 0
        self._given_up = ""
        self._warnings: list[str] = []
        self._not_here: set[bytes] = set()
        self._files = self._bytes = self._bytes_total = self._fetched = 0
        self.failed: list[Refused] = []
        self.failed_files = 0
        self.unreachable = False

    @property
    def progress(self) -> dict[str, int]:
        """Files and bytes that are done with; `fetched`: bytes that had to come from the server."""
        # A range that takes a minute is to be seen moving; what of it is kept is counted already.
        coming = sum(max(0, rng.filled - rng.start - kept) for rng, kept in self._coming.items())
        return {
            "files": self._files,
            "files_total": len(self._wanted),
            "bytes": self._bytes + coming,
            "bytes_total": self._bytes_total,
            "fetched": self._fetched,
        }

    def take_warnings(self) -> list[str]:
        """Sentences that nobody was told yet."""
        warnings, self._warnings = self._warnings, []
        return warnings

    async def run(self) -> None:
        """Return when everything is in the cache, or `failed` says why not."""
        with background():
            await self._pins.load()
            await self._find()
            await self._share_room()
            small = deque(f for f in self._wanted.values() if f.size <= BLOCK_SIZE)
            large = deque(f for f in self._wanted.values() if f.size > BLOCK_SIZE)
            async with trio.open_nursery() as nursery:
                for queue, workers in ((small, SMALL_IN_FLIGHT), (large, LONG_IN_FLIGHT)):
                    for _ in range(min(workers, len(queue))):
                        nursery.start_soon(self._work, queue)
            await self._look_again()

    # --- what there is -------------------------------------------------------------------------

    async def _find(self) -> None:
        level: list[bytes] = []
        for path in self._paths:
            try:
                node = await self._resolve(path)
            except VfsError as e:
                self._fail(path, e)
                continue
            if node.is_dir:
                level.append(path)
            else:
                self._want(path, node)
        while level:
            below: list[bytes] = []
            for at in range(0, len(level), LISTINGS):
                async with trio.open_nursery() as nursery:
                    for path in level[at : at + LISTINGS]:
                        nursery.start_soon(self._list, path, below)
            level = below if self._recursive else []

    async def _list(self, path: bytes, below: list[bytes]) -> None:
        try:
            directory = self._node_at(path) or await self._resolve(path)
            await self._metadata.refresh(directory)
            await self._metadata.follow_links(directory)
        except NotFound:
            return  # removed since it was found
        except VfsError as e:
            self._fail(path, e)
            return
        if dircache.state_of(directory).likely_cut:
            shown = os.fsdecode(path)
            self._warnings.append(f"{shown}: the server may have left names out; those are not fetched")
        for name, node in list(directory.entries.items()):
            child = path + b"/" + name if path else name
            if node.is_dir:
                below.append(child)
            else:
                self._want(child, node)

    def _want(self, path: bytes, node: Node) -> None:
        if _is_remote(node) and path not in self._wanted and (node.staged is None or self._pin):
            self._wanted[path] = _File(path, node.size)
            self._bytes_total += node.size

    def _node_at(self, path: bytes) -> Node | None:
        node: Node | None = self._inodes.root
        for name in filter(None, path.split(b"/")):
            node = node.entries.get(name) if node is not None else None
        return node

    async def _resolve(self, path: bytes) -> Node:
        node = self._inodes.root
        for name in filter(None, path.split(b"/")):
            node = await self._metadata.lookup(node, name)
        return node

    # --- room ----------------------------------------------------------------------------------

    async def _share_room(self) -> None:
        """Who comes first has room: the same ones the next time, when they are here already."""
        room = left = await self._disk.capacity()
        need = 0
        for file in self._wanted.values():
            cost = 0 if self._is_pinned(file) else _cost(file)
            need += cost
            file.has_room = cost <= left
            left -= cost if file.has_room else 0
        if need > room:
            self._warnings.append(
                f"{need >> 20} MiB are wanted and the cache has room for {room >> 20} MiB, so not all "
                "will be kept: mount with a larger --cache-size, or make room on its disk"
            )

    def _is_pinned(self, file: _File) -> bool:
        """Whether its room, or that of a version before it, is taken already."""
        top, _, rest = file.path.strip(b"/").partition(b"/")
        node = self._inodes.root.entries.get(top)
        return node is not None and node.folder is not None and self._pins.has(node.folder, os.fsdecode(rest))

    # --- files ---------------------------------------------------------------------------------

    async def _work(self, queue: deque[_File]) -> None:
        while queue:
            file = queue.popleft()
            if self._given_up:
                self._fail(file.path, RemoteUnavailable(self._given_up))
            else:
                await self._one(file)
            self._files += 1
            self._count(file, file.size - file.done)
            await trio.lowlevel.checkpoint()

    async def _one(self, file: _File) -> None:
        try:
            for _ in range(TRIES):
                try:
                    await self._bring(file)
                    self._in_vain = 0
                    return
                except (_Replaced, Stale):
                    self._count(file, -file.done)
            raise Stale("it was replaced on the server again and again")
        except NotFound:
            pass  # removed since it was found
        except VfsError as e:
            self._fail(file.path, e)
        except Exception as e:
            # A bug here must not end the mount.
            _log.exception("warmup.bug")
            self._fail(file.path, e)

    async def _bring(self, file: _File) -> None:
        """Have the present version of a file on disk."""
        node = self._node_at(file.path) or await self._resolve(file.path)
        if not _is_remote(node):
            return
        if not file.has_room:
            raise NoSpace("the cache has no room for it beside the others")
        if node.staged is not None:
            if self._pin:
                raise InvalidRequest(
                    "it is not on the server yet; wait for it ('vfsmount wait'), then pin it"
                )
            return
        version = node.version
        if node.validator is not None:
            must_ask = self._metadata.is_stale(node, self._attr_ttl_s)
        else:
            # Fetching a small file costs as much as asking for its version.
            must_ask = node.size > IN_ONE_PIECE or (self._pin and not node.size)
        if must_ask:
            await self._metadata.revalidate(node)
            _check(node, version)
        self._bytes_total += node.size - file.size
        file.size = node.size
        if node.validator is not None:
            await self._have_pinned(node, node.validator)
        if node.size:
            await self._bring_blocks(file, node, version)

    async def _bring_blocks(self, file: _File, node: Node, version: int) -> None:
        errors: list[Exception] = []
        is_large = node.size > BLOCK_SIZE
        blocks = -(-node.size // BLOCK_SIZE)
        async with trio.open_nursery() as nursery:

            async def fetch(first: int, stop: int) -> None:
                try:
                    await self._fetch(file, node, version, first, stop)
                except Exception as e:
                    errors.append(e)
                    nursery.cancel_scope.cancel()
                finally:
                    if is_large:
                        self._being_kept.release()

            try:
                for first in range(0, blocks, SEGMENT_BLOCKS):
                    segment = range(first, min(first + SEGMENT_BLOCKS, blocks))
                    for begin, stop in _runs(await self._missing(file, node, version, segment)):
                        if is_large:
                            await self._being_kept.acquire()
                        nursery.start_soon(fetch, begin, stop)
            except Exception as e:
                errors.append(e)
                nursery.cancel_scope.cancel()
        if errors:
            raise errors[0]

    async def _missing(self, file: _File, node: Node, version: int, wanted: range) -> list[int]:
        """Blocks that have to be fetched."""
        validator = node.validator
        if validator is None:
            return list(wanted)
        here = await self._disk.verified(node, validator, wanted.start, wanted.stop)
        missing = []
        for no in wanted:
            _check(node, version)
            if no in here:
                self._count(file, _length(node, no))
            elif (held := self._blocks.get(BlockKey(node.serial, version, no))) is not None:
                await self._keep(file, node, validator, no, held)
            else:
                missing.append(no)
        return missing

    async def _fetch(self, file: _File, node: Node, version: int, first: int, stop: int) -> None:
        begin, end = first * BLOCK_SIZE, min(stop * BLOCK_SIZE, node.size)
        arrived: list[tuple[int, bytearray]] = []
        async with self._line if node.size > BLOCK_SIZE else nullcontext():
            # Readers come first, and need not tell us of each byte.
            while self._blocks.reserved and not self._blocks.has_room(end - begin):  # noqa: ASYNC110
                await trio.sleep(_ROOM_S)
            _check(node, version)
            rng = self._ranges.start(node, begin, end, aside=arrived)
            self._coming[rng] = 0
            try:
                await rng.over_with()
            except BaseException:
                del self._coming[rng]
                raise
            finally:
                if not rng.waiting:
                    rng.scope.cancel()
        try:
            await self._keep_range(file, node, version, rng, arrived)
        finally:
            del self._coming[rng]

    async def _keep_range(
        self, file: _File, node: Node, version: int, rng: Range, arrived: list[tuple[int, bytearray]]
    ) -> None:
        if rng.error is not None:
            raise rng.error
        _check(node, version)
        if rng.validator is None or rng.confirmed < rng.stop:
            raise _Replaced
        size = rng.stop - rng.start
        self._fetched += size
        self._blocks.reserve(size)
        try:
            await self._have_pinned(node, rng.validator)
            for at, data in arrived:
                await self._keep(file, node, rng.validator, at // BLOCK_SIZE, data)
                self._coming[rng] += len(data)
        finally:
            self._blocks.release(size)

    async def _keep(
        self, file: _File, node: Node, validator: Validator, no: int, data: bytes | bytearray | memoryview
    ) -> None:
        if not await self._disk.put(node, validator, no, data):
            raise LocalIOError("the cache could not keep it: it is full, or its disk fails")
        self._count(file, len(data))

    async def _have_pinned(self, node: Node, validator: Validator) -> None:
        # Before it is written, so that none of it goes for the rest of it.
        if self._pin and not await self._pins.pin(node, validator):
            raise NoSpace("the cache has no room for it: all that is pinned must fit into it at a time")

    def _count(self, file: _File, size: int) -> None:
        file.done += size
        self._bytes += size

    # --- what came of it -----------------------------------------------------------------------

    async def _look_again(self) -> None:
        """What is not pinned may have gone for others' sake meanwhile."""
        paths = [path for path in self._wanted if path not in self._not_here]
        for at in range(0, len(paths), _LOOKED_AT):
            found = [(path, self._node_at(path)) for path in paths[at : at + _LOOKED_AT]]
            there = [(path, node) for path, node in found if node is not None and node.staged is None]
            whole = await self._disk.are_whole([node for _, node in there])
            for (path, _), is_whole in zip(there, whole, strict=True):
                if not is_whole:
                    self._fail(path, NoSpace("it did not stay in the cache: others have pushed it out"))

    def _fail(self, path: bytes, error: Exception) -> None:
        self._not_here.add(path)
        self.failed_files += 1
        reason = str(error) if isinstance(error, VfsError) else "it failed unexpectedly; see the mount's log"
        if len(self.failed) < MOST_NAMED:
            self.failed.append(Refused(os.fsdecode(path), reason))
        if isinstance(error, RemoteUnavailable):
            self.unreachable = True
        if isinstance(error, RemoteUnavailable | LocalIOError):
            self._in_vain += 1
            if self._in_vain >= GIVE_UP:
                self._given_up = reason


def _is_remote(node: Node) -> bool:
    """A file that the server has; a link there, if it is known to lead to one."""
    return node.kind is Kind.FILE or (node.kind is Kind.SYMLINK and node.validator is not None)


def _check(node: Node, version: int) -> None:
    if node.version != version or node.unlinked or node.staged is not None:
        raise _Replaced


def _length(node: Node, no: int) -> int:
    return min(BLOCK_SIZE, node.size - no * BLOCK_SIZE)


def _cost(file: _File) -> int:
    """Bytes of disk for all of a file, but for the length of its key."""
    return full_cost(FileKey("", "", os.fsdecode(file.path), Validator(0, file.size)))


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Numbers as ``[first, stop)``, none longer than one range may be."""
    runs: list[tuple[int, int]] = []
    for no in numbers:
        if runs and runs[-1][1] == no and no - runs[-1][0] < LONG_BLOCKS:
            runs[-1] = runs[-1][0], no + 1
        else:
            runs.append((no, no + 1))
    return runs
