"""One mount, from its first request to its last: where the parts are put together.

Order at the start: reach the server, then mount, so that a wrong key shows as a sentence and never
as a mount that fails. Order at the end: stop requests, send what is left, close.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyfuse3
import trio

from vfsmount import places
from vfsmount.api.client import Client
from vfsmount.api.transfer import Transfers
from vfsmount.config import ApiSettings
from vfsmount.errors import ConfigError, LocalIOError, MountError, VfsError
from vfsmount.fuse import device
from vfsmount.fuse.accesslog import AccessLog, AccessLogSpec, Names, open_access_log
from vfsmount.fuse.attachment import Attachment, First, Passed, Successor, read_requests, tell_of
from vfsmount.fuse.keeper import Keeper
from vfsmount.fuse.mountpoint import device_number
from vfsmount.fuse.negotiation import InitOptions
from vfsmount.fuse.stacks import shown_on_signal
from vfsmount.fuse.supervision import Supervision
from vfsmount.log import event
from vfsmount.store.blockcache import BlockCache
from vfsmount.store.records import Records
from vfsmount.store.staging import StagingArea
from vfsmount.supervisor import Supervisor
from vfsmount.vfs.continuity import Journal
from vfsmount.vfs.control import Control
from vfsmount.vfs.deadline import within
from vfsmount.vfs.filesystem import Filesystem
from vfsmount.vfs.looplag import measure_lag
from vfsmount.vfs.policy import MountPolicy
from vfsmount.vfs.status import UnsentFile

if TYPE_CHECKING:
    from vfsmount.fuse.exporter import Address

_log = logging.getLogger("vfsmount.fuse.session")

# After the mount is gone from the tree, requests of programs that still use it get this long, and
# where the whole end has little time a quarter of that.
_LINGER_S = 5.0
_LEAST_LINGER_S = 0.5


@dataclass(frozen=True, slots=True)
class MountSpec:
    """What to mount, where and how.

    Attributes:
        mountpoint: an existing directory, real path; of a passed descriptor what to call the mount.
        state_dir: where staging files and unsent content live.
        socket: where questions are answered (vfs.control); None: nowhere.
        init: what the kernel is asked for when it introduces itself.
        metrics: where Prometheus finds the counters; None: nowhere.
        access_log: where every request is written down; None: nowhere.
        passed: descriptor on which somebody else has mounted (fuse.passed); None: we mount.
        keeper: the holder behind which we are one of several; None: there is none.
        journal: descriptor of the memory in which the next one finds how to go on; None: there is none.
        holder: the process that lives as long as that memory.
        supervisor: who started us and wants to hear how it goes.
    """

    mountpoint: str
    settings: ApiSettings
    policy: MountPolicy
    kernel: device.KernelOptions
    state_dir: Path = field(default_factory=Path)
    socket: Path | None = None
    init: InitOptions = field(default_factory=InitOptions)
    cache: CacheSpec | None = None
    metrics: Address | None = None
    access_log: AccessLogSpec | None = None
    passed: int | None = None
    supervisor: Supervisor = field(default_factory=Supervisor)
    keeper: Keeper | None = None
    journal: int | None = None
    holder: int | None = None


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The cache of blocks on disk.

    Attributes:
        limit: bytes it may take.
        floor: free bytes that stay on that disk.
    """

    directory: Path
    limit: int
    floor: int


class Notifier:
    """Tells the kernel to drop pages and names, from a thread of its own.

    An invalidation waits for reads of the same pages that are still unanswered; on the loop that
    must answer them it would wait for ever.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)
        self._extensions = trio.CapacityLimiter(4)

    def drop_pages(self, ino: int) -> None:
        """Have the kernel forget an inode's attributes and pages, soon."""
        self._queue.put((ino, b""))

    def drop_entry(self, directory: int, name: bytes) -> None:
        """Have the kernel look a name up again, soon."""
        self._queue.put((directory, name))

    async def extend(self, ino: int, offset: int, data: bytes) -> bool:
        """Have the kernel drop an inode's pages and take new bytes up to its new end; False: it would not.

        Not in the queue with the others: somebody waits for it.
        """
        return await trio.to_thread.run_sync(
            self._extend, ino, offset, data, abandon_on_cancel=True, limiter=self._extensions
        )

    @staticmethod
    def _extend(ino: int, offset: int, data: bytes) -> bool:
        try:
            # First: the size grows before the bytes are there, and the old last page has zeroes after them.
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=False)
            pyfuse3.notify_store(pyfuse3.InodeT(ino), offset, data)
        except OSError as e:
            return e.errno == errno.ENOENT  # it does not know the file, so it asks for all of it
        return True

    def _run(self) -> None:
        while (wanted := self._queue.get()) is not None:
            ino, name = wanted
            try:
                if name:
                    pyfuse3.invalidate_entry(pyfuse3.InodeT(ino), pyfuse3.FileNameT(name))
                else:
                    pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=False)
            except OSError as e:
                if e.errno != errno.ENOENT:  # the kernel does not know it: nothing to drop
                    event(_log, logging.DEBUG, "kernel.notify_failed", ino=ino, errno=e.errno)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve while the body runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._queue.put(None)


async def serve(spec: MountSpec, ready: Callable[[], None]) -> list[UnsentFile]:
    """Mount, call `ready` once requests are answered, and serve until the mount is taken away.

    Returns:
        What could not be sent at the end; it is recorded, and the next mount goes on with it.

    Raises:
        MountError, AuthFailed, RemoteUnavailable and others: nothing was mounted.
    """
    try:
        with shown_on_signal():  # before there are other threads, and before anything can hang
            async with trio.open_nursery() as nursery:
                if spec.keeper is not None:
                    nursery.start_soon(spec.keeper.run)
                unsent = await _serve_a_client(spec, ready)
                nursery.cancel_scope.cancel()
            return unsent
    except ExceptionGroup as group:
        raise _the_one(group) from group


async def _serve_a_client(spec: MountSpec, ready: Callable[[], None]) -> list[UnsentFile]:
    async with Client(spec.settings) as client:
        attachment = _attachment(spec)
        await attachment.prepare(client)
        return await _serve_with_stores(spec, client, attachment, ready)


def _attachment(spec: MountSpec) -> Attachment:
    if spec.passed is not None:
        return Passed(spec, spec.passed, _linger_s(spec.policy))
    if spec.keeper is None:
        return Attachment(spec)
    return First(spec, spec.keeper) if spec.keeper.first else Successor(spec, spec.keeper)


async def _serve_with_stores(
    spec: MountSpec, client: Client, attachment: Attachment, ready: Callable[[], None]
) -> list[UnsentFile]:
    area = StagingArea(spec.state_dir)
    records = cache = None
    try:
        cache = _open_cache(spec.cache)
        records = Records(spec.state_dir / "records.sqlite")
        return await _serve(spec, client, area, records, cache, attachment, ready)
    finally:
        if records is not None:
            records.close()
        if cache is not None:
            cache.close()
        area.close()


def _open_cache(spec: CacheSpec | None) -> BlockCache | None:
    """A disk that fails is no reason not to mount; a directory that others may write is.

    Raises:
        ConfigError
    """
    if spec is None:
        return None
    try:
        return BlockCache(spec.directory, spec.limit, spec.floor)
    except LocalIOError as e:
        event(_log, logging.WARNING, "cache.unavailable", cache=spec.directory, error=str(e))
        return None


def _the_one(group: ExceptionGroup[Exception]) -> Exception:
    """What a nursery's failure means to a caller: the error of ours in it, or the first of all."""
    leaves = list(_leaves(group))
    return next((e for e in leaves if isinstance(e, VfsError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[Exception]:
    for e in group.exceptions:
        if isinstance(e, BaseExceptionGroup):
            yield from _leaves(e)
        elif isinstance(e, Exception):
            yield e


async def _serve(
    spec: MountSpec,
    client: Client,
    area: StagingArea,
    records: Records,
    cache: BlockCache | None,
    attachment: Attachment,
    ready: Callable[[], None],
) -> list[UnsentFile]:
    notifier = Notifier()
    keeper = spec.keeper
    async with trio.open_nursery() as nursery:
        fs = Filesystem(
            client,
            Transfers(client),
            area,
            records,
            spec.policy,
            nursery,
            notifier.drop_pages,
            notifier.drop_entry,
            cache,
            notifier.extend,
            journal := None if spec.journal is None else Journal(spec.journal, spec.holder),
        )
        supervision = Supervision(spec.supervisor, fs, attachment.mountpoint, here=spec.passed is None)
        nursery.start_soon(supervision.run)
        if journal is not None and not journal.is_empty:
            await fs.resume()
        else:
            area.held_by = spec.holder
            await _begin(spec, client, fs)
        nursery.start_soon(measure_lag)
        watch = _open_access_log(spec.access_log, fs)
        attachment.operations.bind(fs, watch)
        await attachment.begin(fs, nursery)
        event(
            _log,
            logging.INFO,
            "mount.ready",
            mountpoint=attachment.mountpoint,
            large_pieces=attachment.large_pieces,
        )
        async with _answering_questions(fs, spec, attachment.mountpoint) as control:
            with _observed(spec, fs, watch):
                with notifier.running():
                    await _answer_requests(fs, spec, client, attachment, supervision, ready)
                pyfuse3.close(unmount=False)
                control.drain_begins()
                supervision.drain_begins()
                if keeper is not None:
                    keeper.draining()
                unsent = await _drained(fs)
        event(_log, logging.INFO, "mount.ended", mountpoint=attachment.mountpoint, unsent=len(unsent))
        nursery.cancel_scope.cancel()
    await fs.close()
    return unsent


async def _begin(spec: MountSpec, client: Client, fs: Filesystem) -> None:
    with within(spec.policy.deadline_s):
        await fs.warm()
    await fs.recover()


def _open_access_log(spec: AccessLogSpec | None, fs: Filesystem) -> AccessLog | None:
    names = Names(fs.path_of, fs.path_of_file, fs.path_of_directory)
    return open_access_log(spec, names) if spec is not None else None


@contextmanager
def _observed(spec: MountSpec, fs: Filesystem, log: AccessLog | None) -> Iterator[None]:
    """Have written down and shown, while the body runs, what the mount does."""
    with ExitStack() as stack:
        if log is not None:
            stack.enter_context(log.writing())
        if spec.metrics is not None:
            from vfsmount.fuse.exporter import exporting  # brings an HTTP server along

            stack.enter_context(exporting(spec.metrics, fs.metrics))
        yield


@asynccontextmanager
async def _answering_questions(fs: Filesystem, spec: MountSpec, mountpoint: str) -> AsyncIterator[Control]:
    """Serve the control socket while the body runs; a mount without one is a mount all the same."""
    control = Control(fs, mountpoint, device_number(mountpoint), spec.keeper)
    path = spec.keeper.socket_path(spec.socket) if spec.keeper is not None else spec.socket
    try:
        listening = places.listen_private(path) if path else None
    except ConfigError as e:
        event(_log, logging.WARNING, "control.unavailable", error=str(e))
        listening = None
    if listening is None or path is None:
        yield control
        return
    listening.setblocking(False)
    try:
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            nursery.start_soon(control.run, listener)
            yield control
            await control.end()
            nursery.cancel_scope.cancel()
    finally:
        listening.close()
        path.unlink(missing_ok=True)


async def _answer_requests(
    fs: Filesystem,
    spec: MountSpec,
    client: Client,
    attachment: Attachment,
    supervision: Supervision,
    ready: Callable[[], None],
) -> None:
    """Serve until the mount is gone: by umount(8), by fusermount3, or by a signal to us."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, fs, attachment.leave, nursery.cancel_scope)
        nursery.start_soon(supervision.wait_until_it_answers)
        ready()
        if spec.keeper is not None:
            spec.keeper.ready({"server": tell_of(client)})
        await read_requests(attachment, spec.keeper)
        nursery.cancel_scope.cancel()


async def _obey_signals(
    fs: Filesystem,
    leave: Callable[[], Awaitable[None]],
    stop: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    has_terminal = _has_terminal()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            event(_log, logging.INFO, "mount.signal", signal=signal.Signals(number).name)
            if number == signal.SIGHUP and not has_terminal:
                fs.refresh()
                continue
            # A foreground mount whose terminal closes must not leave a dead mount behind.
            try:
                await leave()
            except MountError as e:
                event(_log, logging.WARNING, "mount.unmount_failed", error=str(e))
            # The connection ends with the last program that uses it; ours is not to wait for ever.
            stop.deadline = trio.current_time() + _linger_s(fs.policy)


async def _drained(fs: Filesystem) -> list[UnsentFile]:
    """Send what is left. Who sends another signal meanwhile wants no more of that: it is named, and kept."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey_second_signal, fs)
        unsent = await fs.drain()
        nursery.cancel_scope.cancel()
    return unsent


async def _obey_second_signal(fs: Filesystem) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            event(_log, logging.INFO, "mount.signal", signal=signal.Signals(number).name)
            if number != signal.SIGHUP:
                fs.hurry()


def _linger_s(policy: MountPolicy) -> float:
    return max(_LEAST_LINGER_S, min(_LINGER_S, policy.drain_timeout_s / 4))


def _has_terminal() -> bool:
    """Whether a SIGHUP may mean that our terminal was closed; else somebody sent it on purpose."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True
