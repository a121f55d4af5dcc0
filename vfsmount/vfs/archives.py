"""Directories of small files come as one archive, where somebody reads them through and has to wait.

An archive has no version: its bytes count only for files that a listing from before it and one from
after its end show the same, and that had not been changed for a while when it was asked for. Then they
are in memory under the version that the listing means, as if they had been fetched; an exact validator
is asked for when a file is written, or was last confirmed too long ago.

Source: contract 4.5; docs/decisions/0015-reads.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio
from cachetools import LRUCache

from vfsmount.api.archive import Unzipper
from vfsmount.api.governor import background
from vfsmount.api.transfer import Transfers
from vfsmount.core import dircache
from vfsmount.core.blockindex import BlockIndex, BlockKey
from vfsmount.core.dircache import ListingState
from vfsmount.core.inodes import Node
from vfsmount.errors import ProtocolError, VfsError
from vfsmount.log import event
from vfsmount.values import Kind
from vfsmount.vfs.metadata import Metadata
from vfsmount.vfs.paths import PathGate, folder_of, remote_path

_log = logging.getLogger("vfsmount.vfs.archives")

MOST_OF_ONE = 64 << 10  # bytes; of larger ones the bytes take longer than the round trip
MOST_BYTES = 16 << 20
FEWEST = 64  # files that are not here yet; fewer come by single GETs about as soon
FIRST, SHARE = 8, 32  # asked for when so many were read in a row, and one of so many of the directory
# Part of its time that a reader waits, though siblings are fetched ahead of it: a near server that gives
# files out as fast as a mount hands them on needs no archive (bench/archive.py).
WAITING = 0.3
_MEMORY = 32  # files that this is judged by: as many as come at once
IN_VAIN = 16 << 20  # bytes that may come and not be read, beyond as many as were read in a row
# By the server's clock, which we know to the second; the rest is what coarse file times leave open.
_SETTLED_S = 3.0
# A ZIP can tell no others: one such file and the server gives up (1980 to 2107; a day for time zones).
_ZIP_TIMES_NS = range((315_532_800 + 86_400) * 10**9, (4_354_819_200 - 86_400) * 10**9)
_QUIET_S = 5.0  # of the server; and then it gets no more such requests for
_PAUSE_S = 60.0
_STUCK_S = 1.0  # nothing came for so long: files are fetched one by one again, whatever it will bring
_CONFIRM_S = 10.0
_ENTRY = 640  # bytes that an entry may take beside its content: headers, and twice its name
_KEPT_FRESH = 16  # files opened since the last listing make another one worth its while
_DIRECTORIES = 64


@dataclass(slots=True)
class _Row:
    """One directory that is read.

    Attributes:
        judged_at: the listing that was last looked at, whether for an archive or not.
        read_at: when the last file was,
        each_s: and how long one took lately,
        waited_s: of which somebody waited for the server.
        waiting_s: for the next one, so far.
        brought: there are files here that only a listing has confirmed,
        opened: and so many were opened since it was last asked for.
    """

    judged_at: float = float("-inf")
    read_at: float | None = None
    each_s: float = 0.0
    waited_s: float = 0.0
    waiting_s: float = 0.0
    brought: bool = False
    opened: int = 0
    renewing: bool = False

    def read(self, now: float) -> None:
        """Another file is about to be read."""
        if self.read_at is not None:
            self.each_s += (now - self.read_at - self.each_s) / _MEMORY
            self.waited_s += (self.waiting_s - self.waited_s) / _MEMORY
        self.read_at, self.waiting_s = now, 0.0

    @property
    def waits(self) -> bool:
        """Whether a good part of the reader's time goes into waiting."""
        return self.waited_s > WAITING * self.each_s


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file as it was known when the archive was asked for."""

    node: Node
    version: int
    size: int
    ctime_ns: int


class Archives:
    """Asks for archives, and says what of them may be shown."""

    def __init__(
        self,
        transfers: Transfers,
        metadata: Metadata,
        blocks: BlockIndex,
        gate: PathGate,
        nursery: trio.Nursery,
        attr_ttl_s: float,
    ) -> None:
        """Args:
        nursery: owns what is on its way.
        attr_ttl_s: how long an open file is believed.
        """
        self._transfers = transfers
        self._metadata = metadata
        self._blocks = blocks
        self._gate = gate
        self._nursery = nursery
        self._attr_ttl_s = attr_ttl_s
        self._coming: dict[int, float] = {}  # by directory: when something came last
        self._rows: LRUCache[int, _Row] = LRUCache(_DIRECTORIES)
        self._in_vain = 0  # bytes that came less those that were read
        self._paused_until = float("-inf")

    def is_coming(self, directory: Node) -> bool:
        """Whether a directory's files are about to be here."""
        moved_at = self._coming.get(directory.serial)
        return moved_at is not None and trio.current_time() - moved_at < _STUCK_S

    def read(self, node: Node, row: int) -> None:
        """A file is about to be read, after so many others of its directory, in order."""
        directory = node.parent
        if directory is None or not self._transfers.has_archives:
            return
        known = self._rows.get(directory.serial)
        if known is None:
            known = self._rows[directory.serial] = _Row()
        self._in_vain = max(0, self._in_vain - node.size)
        if known.brought:
            self._keep_fresh(directory, known)
        known.read(trio.current_time())
        if known.waits and row >= max(FIRST, len(directory.entries) / SHARE):
            self._start(directory, known)

    def waited(self, node: Node, seconds: float) -> None:
        """Somebody waited for a file that was not here."""
        known = self._rows.get(node.parent.serial) if node.parent is not None else None
        if known is not None:
            known.waiting_s += seconds

    # --- whether -------------------------------------------------------------------------------

    def _start(self, directory: Node, known: _Row) -> None:
        """Ask for a directory's archive, if that is worth it and safe; once for each of its listings."""
        state, now = dircache.state_of(directory), trio.current_time()
        if (
            directory.serial in self._coming
            or now < self._paused_until
            or known.judged_at == state.fetched_at
        ):
            return
        known.judged_at = state.fetched_at
        if not self._is_fit(directory, state, now):
            return
        wanted = self._wanted(directory)
        size = sum(w.size for w in wanted.values())
        total = sum(n.size for n in directory.entries.values())
        # At most as much again is here already, and comes once more.
        if len(wanted) < FEWEST or 2 * size < total or self._in_vain + total > IN_VAIN:
            return
        if total <= MOST_BYTES and self._blocks.has_room(size):
            self._in_vain += total
            self._coming[directory.serial] = now
            event(_log, logging.DEBUG, "archive.asked", ino=directory.ino, files=len(wanted), size=total)
            self._nursery.start_soon(self._run, directory, wanted, total)

    def _is_fit(self, directory: Node, state: ListingState, now: float) -> bool:
        """Whether all that lies below a directory is what the listing shows: small plain files.

        What is hidden, was removed or made here, or could not be shown makes the counts differ.
        """
        folder = directory.folder
        if folder is None or directory.unlinked or folder.id in self._gate.unreachable:
            return False
        # A listing of a suspicious length below the usual limit is whole as a rule, and if not: what
        # comes is bounded all the same.
        is_cut = state.cut and not (state.limit and state.limit.is_whole_as_a_rule(state.count))
        return (
            state.fresh(now, self._metadata.ttl(directory))
            and not is_cut
            and not state.unfit
            and not state.special
            and state.count == len(directory.entries)
            and not self._gate.holds_moving(directory)
            and all(map(_is_plain, directory.entries.values()))
        )

    def _wanted(self, directory: Node) -> dict[bytes, _Wanted]:
        settled_ns = (self._transfers.server_now() - _SETTLED_S) * 1e9
        return {
            name: _Wanted(node, node.version, node.size, node.ctime_ns)
            for name, node in directory.entries.items()
            if node.size
            and node.mtime_ns < settled_ns
            and BlockKey(node.serial, node.version, 0) not in self._blocks
        }

    # --- on its way ----------------------------------------------------------------------------

    async def _run(self, directory: Node, wanted: dict[bytes, _Wanted], total: int) -> None:
        reserved = sum(w.size for w in wanted.values())
        self._blocks.reserve(reserved)
        try:
            try:
                files, ended_at = await self._fetch(directory, wanted, total)
                with trio.fail_after(_CONFIRM_S), background():
                    await self._metadata.refresh(directory, max_age_s=0)
            finally:
                self._blocks.release(reserved)
            # no await from here on: what was confirmed must not change before it is there
            self._take_in(directory, wanted, files, ended_at)
        except (VfsError, trio.TooSlowError) as e:
            self._paused_until = trio.current_time() + _PAUSE_S
            event(_log, logging.DEBUG, "archive.failed", ino=directory.ino, error=type(e).__name__)
        except Exception:
            # A bug here must not end the mount.
            self._paused_until = float("inf")
            _log.exception("archive.bug ino=%d", directory.ino)
        finally:
            del self._coming[directory.serial]

    async def _fetch(
        self, directory: Node, wanted: dict[bytes, _Wanted], total: int
    ) -> tuple[dict[bytes, bytes], float]:
        """The files that came, and when all had come."""
        await self._gate.settled(directory)
        path = remote_path(directory)
        entries = len(directory.entries)
        # Deflate makes at most some bytes a kilobyte longer; beyond that it is not what was listed.
        unzipper = Unzipper({n: w.size for n, w in wanted.items()}, total * 17 // 16 + entries * _ENTRY)

        def feed(data: memoryview) -> None:
            self._coming[directory.serial] = trio.current_time()
            unzipper.feed(data)

        await self._transfers.read_archive(folder_of(directory), path, feed, _QUIET_S)
        unzipper.end()
        ended_at = trio.current_time()
        self._coming[directory.serial] = ended_at
        await self._gate.settled(directory)
        if remote_path(directory) != path:
            raise ProtocolError("the directory was renamed meanwhile")
        return unzipper.files, ended_at

    def _take_in(
        self, directory: Node, wanted: dict[bytes, _Wanted], files: dict[bytes, bytes], ended_at: float
    ) -> None:
        taken = 0
        for name, data in files.items():
            want = wanted[name]
            if self._is_same(directory, name, want, ended_at):
                self._blocks.put(BlockKey(want.node.serial, want.version, 0), data)
                taken += 1
        known = self._rows.get(directory.serial)
        if known is not None:
            known.brought, known.opened = True, 0
            known.judged_at = dircache.state_of(directory).fetched_at
        event(_log, logging.DEBUG, "archive.taken", ino=directory.ino, files=taken, of=len(wanted))

    def _is_same(self, directory: Node, name: bytes, want: _Wanted, ended_at: float) -> bool:
        """Whether a file is what it was before the archive; a version is the same while size and time are,
        and a rename in place of another one moves ctime."""
        node = want.node
        return (
            directory.entries.get(name) is node
            and node.version == want.version
            and node.size == want.size
            and node.ctime_ns == want.ctime_ns
            and node.checked_at >= ended_at
            and node.staged is None
            and node.was is None
            and not self._gate.is_moving(node)
            and BlockKey(node.serial, node.version, 0) not in self._blocks
        )

    # --- what is here and has no validator -----------------------------------------------------

    def _keep_fresh(self, directory: Node, known: _Row) -> None:
        """One listing confirms for the next moment what would take a request for each file."""
        known.opened += 1
        age = trio.current_time() - dircache.state_of(directory).fetched_at
        if known.opened >= _KEPT_FRESH and age >= self._attr_ttl_s / 2 and not known.renewing:
            known.renewing, known.opened = True, 0
            self._nursery.start_soon(self._renew, directory, known)

    async def _renew(self, directory: Node, known: _Row) -> None:
        try:
            with background():
                await self._metadata.refresh(directory, max_age_s=self._attr_ttl_s / 2)
        except VfsError as e:
            # Who opens a file asks for it.
            event(_log, logging.DEBUG, "archive.not_renewed", ino=directory.ino, error=type(e).__name__)
        except Exception:
            # A bug here must not end the mount.
            _log.exception("archive.bug ino=%d", directory.ino)
        finally:
            known.renewing = False


def _is_plain(node: Node) -> bool:
    """Whether the server can pack a file, and we would want it."""
    try:
        node.name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return (
        node.kind is Kind.FILE
        and node.staged is None
        and node.size <= MOST_OF_ONE
        and node.mtime_ns in _ZIP_TIMES_NS
    )
