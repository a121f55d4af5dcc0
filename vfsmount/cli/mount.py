"""``vfsmount MOUNTPOINT``: mount every accessible vfolder."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount import log, places
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import MOUNT, OK, UNSENT
from vfsmount.cli.mount_options import parse_mount_options
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.supervise import as_first_process
from vfsmount.errors import ConfigError, VfsError
from vfsmount.fuse.negotiation import MAX_BACKGROUND, MOST_BACKGROUND, InitOptions
from vfsmount.holder.wire import GENERATION
from vfsmount.supervisor import Supervisor

if TYPE_CHECKING:
    from vfsmount.fuse.accesslog import AccessLogSpec
    from vfsmount.fuse.exporter import Address
    from vfsmount.fuse.keeper import Keeper
    from vfsmount.fuse.session import CacheSpec

_log = logging.getLogger("vfsmount.cli.mount")
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True, slots=True)
class _Choices:
    """What the user asked for, apart from the server."""

    read_only: bool
    folders: tuple[str, ...]
    uid: int
    gid: int
    umask: int
    allow_other: bool
    extra_flags: int
    deadline: float
    dir_ttl: float
    attr_ttl: float
    memory: int
    sync: bool
    fsync_remote: bool
    staging_size: int
    cache_dir: Path
    cache_size: int
    cache_free: int
    drain_timeout: float
    init: InitOptions
    metrics: Address | None
    access_log: AccessLogSpec | None


class Octal(click.ParamType[int]):
    """A umask as the shell writes it."""

    name = "octal"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value), 8)
        except ValueError:
            number = -1
        if not 0 <= number <= 0o777:
            self.fail(f"{value!r} is not an octal mask such as 022", param, ctx)
        return number


@click.command("mount")
@click.argument("mountpoint", type=kinds.DIRECTORY)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")
@click.option("--read-only", is_flag=True, help="Refuse every change before anything is sent.")
@click.option(
    "--folder",
    "folders",
    multiple=True,
    type=kinds.FOLDER,
    metavar="NAME",
    help="Show this folder only; repeatable.",
)
@click.option("--uid", type=int, help="Owner of what no other user made here. [you]")
@click.option("--gid", type=int, help="Its group. [yours]")
@click.option("--umask", type=Octal(), default="022", show_default=True, help="Permission bits to take away.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in, as modes permit.")
@click.option("-o", "mount_options", multiple=True, metavar="A,B=C", help="Options as mount(8) writes them.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    help="Seconds after which a request without progress fails.",
)
@click.option(
    "--dir-ttl",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds for which a listing is believed.",
)
@click.option(
    "--attr-ttl",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds for which an open file's attributes are believed.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Memory for the daemon as a whole. [256; at most a quarter of a container's limit]",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Where file content that was read is kept on disk. [the user's cache directory]",
)
@click.option(
    "--cache-size",
    type=click.IntRange(min=0),
    metavar="MIB",
    help="Most of the disk that it may take; 0: nothing is kept. [10240; at most half of what is free]",
)
@click.option(
    "--cache-free",
    type=click.IntRange(min=0),
    metavar="MIB",
    help="Room on that disk that it leaves free. [1024; at most a tenth of the disk]",
)
@click.option("--sync", is_flag=True, help="Every close returns only when the server has the file, verified.")
@click.option(
    "--fsync",
    type=click.Choice(["local", "remote"]),
    default="local",
    show_default=True,
    help="What fsync waits for: this machine's disk, or the server.",
)
@click.option(
    "--staging-size",
    type=click.IntRange(min=0),
    default=0,
    metavar="MIB",
    help="Most room for unsent data; writers wait, then get ENOSPC. [as much as the disk holds]",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds for which the end of the mount waits for unsent files; the rest is sent by the next mount.",
)
@click.option(
    "--parallel-dirops/--no-parallel-dirops",
    default=True,
    show_default=True,
    help="Have the kernel look names up in one directory side by side, or one after the other.",
)
@click.option(
    "--max-background",
    type=click.IntRange(1, MOST_BACKGROUND),
    default=MAX_BACKGROUND,
    show_default=True,
    metavar="N",
    help="Most readahead and write-back requests the kernel hands over at a time.",
)
@click.option(
    "--congestion-threshold",
    type=click.IntRange(1, MOST_BACKGROUND),
    metavar="N",
    help="How many of these make the kernel leave readahead out. [three quarters of --max-background]",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where files being written are kept.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Append the log to this file.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people, or an object a line for programs.",
)
@click.option(
    "--metrics",
    metavar="[ADDRESS:]PORT",
    help="Show counters to Prometheus on a port of this machine. See docs/observability.md.",
)
@click.option(
    "--access-log",
    type=click.Path(path_type=Path),
    help="Write down every operation, for 'vfsmount profile'.",
)
@click.option(
    "--access-log-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Most that the access log keeps; the oldest goes first.",
)
@click.option(
    "--log-size",
    type=click.IntRange(min=0),
    default=log.FILE_LIMIT >> 20,
    show_default=True,
    metavar="MIB",
    help="Begin a new log file after so much; one older is kept, as FILE.1. 0: never.",
)
@click.option(
    "--holder/--no-holder",
    default=True,
    show_default=True,
    help="Have a small process hold the mount, so that a daemon that dies is replaced by another.",
)
@click.option("--debug", is_flag=True, help="Log every operation.")
@click.option("--embedded", is_flag=True, help="Start the embedded server, mount it, stop it with the mount.")
@click.option("--data", type=click.Path(path_type=Path), help="Data directory of --embedded.")
@click.option("--dialect", type=click.Choice(["23.09", "26"]), default="23.09", help="Dialect of --embedded.")
@api_options
def command(
    mountpoint: str,
    foreground: bool,
    state_dir: Path | None,
    log_file: Path | None,
    log_format: str,
    log_size: int,
    debug: bool,
    embedded: bool,
    data: Path | None,
    dialect: str,
    mount_options: tuple[str, ...],
    flags: Flags,
    **params: object,
) -> int:
    """Mount every vfolder you may access on MOUNTPOINT.

    Returns once the mount answers, with exit status 0 only then; the mount lives on in the
    background until 'vfsmount umount MOUNTPOINT' (or umount, or fusermount3 -u).
    """
    if data is not None and not embedded:
        raise ConfigError("--data is the data directory of --embedded: add --embedded, or leave it out")
    choices = _choices(mount_options, params)
    state = (state_dir or places.state_dir()).absolute()
    data_path = data.absolute() if data else None
    logs = _Logs(
        logging.DEBUG if debug else logging.INFO,
        log_file.absolute() if log_file else None,
        state / "vfsmount.log",
        log_format == "json",
        log_size << 20,
        debug=debug,
    )
    if GENERATION in os.environ:
        return _as_generation(
            mountpoint, {} if embedded else flags, choices, state, logs, foreground=foreground
        )
    embedding = _Embedding(data_path, dialect, state) if embedded else None
    if params["holder"] and not mountpoint.startswith("/dev/fd/"):
        return _behind_holder(mountpoint, choices, embedding, foreground=foreground)
    supervisor = Supervisor.take(os.environ)
    passed = _passed(mountpoint, choices)
    logs.begin(foreground=foreground)

    def work(ready: Callable[[], None]) -> int:
        with embedding.server() if embedding else nullcontext(os.environ) as environ:
            own = dict.fromkeys(flags) if embedded else flags
            return _mount(mountpoint, own, environ, choices, state, supervisor, ready, passed)

    if foreground:
        where = _place(mountpoint, passed) or mountpoint
        stops = "unmounts" if passed is None else "ends the service"

        def ready() -> None:
            click.echo(f"mounted on {os.path.abspath(where)}; Ctrl-C {stops}", err=True)

        with _telling_why(supervisor):
            return as_first_process(lambda: work(ready))

    from vfsmount.cli.background import run_in_background

    def in_child(ready: Callable[[], None]) -> int:
        def detached() -> None:
            logs.detach()
            ready()

        return work(detached)

    name = _place(mountpoint, passed)
    status = run_in_background(in_child)
    return status or _check_answers(name, passed=passed is not None)


@dataclass(frozen=True, slots=True)
class _Logs:
    """Where the log goes.

    Attributes:
        path: where the user wants it; None: nowhere.
        kept_in: where a mount that nobody watches has it then.
    """

    level: int
    path: Path | None
    kept_in: Path
    as_json: bool
    limit: int
    debug: bool

    def begin(self, *, foreground: bool) -> None:
        """Until the mount answers; in the foreground, to its end."""
        if foreground or (self.debug and self.path is None):
            log.setup(self.level, self.path, stderr=True, as_json=self.as_json, limit=self.limit)
            return
        # Whoever goes back to a prompt wants to see what went wrong, not how it went.
        quiet_level = self.level if self.path else logging.WARNING
        log.setup(quiet_level, self.path, stderr=self.path is None, as_json=self.as_json, limit=self.limit)
        if self.path is None:
            # Retries; the sentence at the end tells.
            logging.getLogger("vfsmount.api").setLevel(logging.ERROR)

    def detach(self) -> None:
        """Nobody watches any more: what goes wrong must be somewhere afterwards."""
        quiet = self.path is None and not self.debug
        shown = logging.WARNING if quiet else self.level
        log.setup(shown, self.path or self.kept_in, stderr=False, as_json=self.as_json, limit=self.limit)
        logging.getLogger("vfsmount.api").setLevel(logging.NOTSET)


@dataclass(frozen=True, slots=True)
class _Embedding:
    """The embedded server that a mount brings along."""

    data: Path | None
    dialect: str
    state: Path

    def server(self) -> AbstractContextManager[Mapping[str, str]]:
        """Run it while the body runs; its user's variables."""
        from vfsmount.cli.embedded import default_data_dir, embedded_server

        return embedded_server(self.data or default_data_dir(self.state), dialect=self.dialect)


def _behind_holder(
    mountpoint: str, choices: _Choices, embedding: _Embedding | None, *, foreground: bool
) -> int:
    """Start the holder, or become it in the foreground; its daemons come here again, as generations."""
    from vfsmount.cli import holding

    words = click.get_current_context().find_root().obj
    start = holding.Start(words, choices.deadline)
    if embedding is not None:
        from vfsmount.cli.embedded import default_data_dir, start_server

        start.server = start_server(
            embedding.data or default_data_dir(embedding.state), dialect=embedding.dialect
        )
    if foreground:
        holding.become(start)
    status = holding.run(start)
    return status or _check_answers(mountpoint, passed=False)


def _as_generation(
    mountpoint: str, flags: Flags, choices: _Choices, state: Path, logs: _Logs, *, foreground: bool
) -> int:
    """Serve behind a holder: mount for it, or stand by until another one has died."""
    from vfsmount.fuse.keeper import Keeper

    keeper = Keeper.take(os.environ)
    assert keeper is not None
    supervisor = Supervisor(watchdog_s=keeper.supervisor_s, via=keeper.notifier(), main_pid=keeper.holder)
    keeper.log = "" if foreground else str(logs.path or logs.kept_in)
    if keeper.first or foreground:
        logs.begin(foreground=foreground)
    else:
        logs.detach()

    def ready() -> None:
        if not keeper.first:
            return
        if foreground:
            click.echo(f"mounted on {os.path.abspath(mountpoint)}; Ctrl-C unmounts", err=True)
        else:
            from vfsmount.cli.background import detach

            logs.detach()
            detach()

    with _telling_why(supervisor):
        try:
            status = _mount(mountpoint, flags, os.environ, choices, state, supervisor, ready, None, keeper)
        except VfsError as e:
            keeper.failed(str(e))
            raise
    keeper.ended(status)
    return status


def serve_here(arguments: Sequence[str], flags: Flags, ready: Callable[[], None]) -> int:
    """Mount as ``vfsmount mount ARGUMENTS`` would and serve in this process, warnings in the usual log.

    Args:
        ready: called when the mount answers.

    Returns:
        The exit status; what could not be sent was named on stderr.

    Raises:
        MountError and others: nothing was mounted.
    """
    with command.make_context("mount", list(arguments)) as ctx:
        params = ctx.params
    state = (params["state_dir"] or places.state_dir()).absolute()
    log.setup(logging.WARNING, places.private_dir(state) / "vfsmount.log", stderr=False)
    choices = _choices(params["mount_options"], params)
    return _mount(params["mountpoint"], flags, os.environ, choices, state, Supervisor(), ready, None)


def _passed(mountpoint: str, choices: _Choices) -> int | None:
    """The descriptor that ``/dev/fd/N`` means; None for a mountpoint.

    Raises:
        MountError, ConfigError: it is none that can be served, or what it was mounted with is to be changed.
    """
    if not mountpoint.startswith("/dev/fd/"):
        return None
    from vfsmount.fuse.passed import passed_descriptor

    fd = passed_descriptor(mountpoint)
    if fd is not None and (choices.allow_other or choices.extra_flags):
        raise ConfigError(f"{mountpoint} is mounted already: allow_other and the like are for who did so")
    return fd


def _place(mountpoint: str, passed: int | None) -> str | None:
    """Where files show; None where that is not known."""
    if passed is None:
        return mountpoint
    from vfsmount.fuse.passed import place_of

    return place_of(passed)


@contextmanager
def _telling_why(supervisor: Supervisor) -> Iterator[None]:
    """What ends us is seen where people look after a service, and not in the journal only."""
    try:
        yield
    except VfsError as e:
        supervisor.status(str(e))
        raise


def _choices(mount_options: tuple[str, ...], params: Mapping[str, object]) -> _Choices:
    """Flags, and what ``-o`` says; a flag wins over its ``-o`` form."""
    given = parse_mount_options(",".join(mount_options))

    def pick(name: str, default: int) -> int:
        value = params[name] if params[name] is not None else given.numbers.get(name, default)
        assert isinstance(value, int)
        return value

    umask = given.numbers.get("umask", params["umask"])
    folders = params["folders"]
    deadline, dir_ttl, attr_ttl = params["deadline"], params["dir_ttl"], params["attr_ttl"]
    staging_size, drain_timeout = params["staging_size"], params["drain_timeout"]
    cache_dir = params["cache_dir"] or places.cache_dir()
    assert isinstance(cache_dir, Path)
    cache_size, cache_free = _cache_sizes(cache_dir.absolute(), params)
    assert isinstance(staging_size, int) and isinstance(drain_timeout, float)
    assert isinstance(folders, tuple) and isinstance(umask, int)
    assert isinstance(deadline, float) and isinstance(dir_ttl, float) and isinstance(attr_ttl, float)
    return _Choices(
        read_only=bool(params["read_only"]) or given.read_only,
        folders=folders,
        uid=pick("uid", os.getuid()),
        gid=pick("gid", os.getgid()),
        umask=umask,
        allow_other=bool(params["allow_other"]) or given.allow_other,
        extra_flags=given.kernel_flags,
        deadline=deadline,
        dir_ttl=dir_ttl,
        attr_ttl=attr_ttl,
        memory=_memory(params),
        sync=bool(params["sync"]) or given.sync,
        fsync_remote=params["fsync"] == "remote",
        staging_size=staging_size << 20,
        cache_dir=cache_dir.absolute(),
        cache_size=cache_size,
        cache_free=cache_free,
        drain_timeout=drain_timeout,
        init=_init_options(params),
        metrics=_metrics_address(params),
        access_log=_access_log_spec(params),
    )


def _metrics_address(params: Mapping[str, object]) -> Address | None:
    if params["metrics"] is None:
        return None
    from vfsmount.fuse.exporter import parse_address

    return parse_address(str(params["metrics"]))


def _access_log_spec(params: Mapping[str, object]) -> AccessLogSpec | None:
    path, size = params["access_log"], params["access_log_size"]
    if path is None:
        return None
    from vfsmount.fuse.accesslog import AccessLogSpec

    assert isinstance(path, Path) and isinstance(size, int)
    return AccessLogSpec(path.absolute(), size << 20)


def _memory(params: Mapping[str, object]) -> int:
    from vfsmount.cli.machine import memory_limit
    from vfsmount.core.limits import default_memory

    asked = params["memory"]
    assert asked is None or isinstance(asked, int)
    return default_memory(memory_limit()) if asked is None else asked << 20


def _cache_sizes(directory: Path, params: Mapping[str, object]) -> tuple[int, int]:
    """Most that the cache takes, and what it leaves, in bytes."""
    size, free = params["cache_size"], params["cache_free"]
    assert (size is None or isinstance(size, int)) and (free is None or isinstance(free, int))
    if size is not None and free is not None:
        return size << 20, free << 20
    from vfsmount.cli.machine import cache_sizes

    usual = cache_sizes(directory)
    return (usual[0] if size is None else size << 20), (usual[1] if free is None else free << 20)


def _init_options(params: Mapping[str, object]) -> InitOptions:
    most, congested = params["max_background"], params["congestion_threshold"]
    assert isinstance(most, int)
    if congested is None:
        congested = max(1, most * 3 // 4)  # the kernel's own proportion
    assert isinstance(congested, int)
    if congested > most:
        raise ConfigError(f"--congestion-threshold {congested} is more than --max-background {most}")
    return InitOptions(bool(params["parallel_dirops"]), most, congested)


def _mount(
    mountpoint: str,
    flags: Flags,
    environ: Mapping[str, str],
    choices: _Choices,
    state: Path,
    supervisor: Supervisor,
    ready: Callable[[], None],
    passed: int | None,
    keeper: Keeper | None = None,
) -> int:
    import trio

    from vfsmount.config import load_settings
    from vfsmount.fuse import device, session
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type, prepare, real_path
    from vfsmount.fuse.passed import shown_name
    from vfsmount.store import heap
    from vfsmount.store.mounts import MountRecord, MountRecords, start_time
    from vfsmount.vfs.handles import Maker
    from vfsmount.vfs.policy import MountPolicy

    _leave_no_core()
    _collect_garbage_less_often()
    heap.keep_freed_memory()
    settings = load_settings(flags, environ)
    log.add_secret(settings.secret_key)
    records = MountRecords(state)
    if passed is not None:
        path = shown_name(passed)
    elif keeper is not None and not keeper.first:
        path = keeper.told["mountpoint"]
    else:
        path = prepare(mountpoint, died=records.has_died(real_path(mountpoint)))
    if keeper is not None:
        from vfsmount.fuse.keeper import drop_privileges

        drop_privileges()
    kernel_flags = device.MS_NOSUID | device.MS_NODEV | choices.extra_flags
    if choices.read_only:
        kernel_flags |= device.MS_RDONLY
    socket_path = _socket_path()
    spec = session.MountSpec(
        mountpoint=path,
        settings=settings,
        kernel=device.KernelOptions(allow_other=choices.allow_other, flags=kernel_flags),
        policy=MountPolicy(
            uid=choices.uid,
            gid=choices.gid,
            mounter=Maker(os.getuid(), os.getgid()),
            umask=choices.umask,
            read_only=choices.read_only,
            dir_ttl_s=choices.dir_ttl,
            attr_ttl_s=choices.attr_ttl,
            deadline_s=choices.deadline,
            memory=choices.memory,
            only=choices.folders,
            sync=choices.sync,
            fsync_remote=choices.fsync_remote,
            staging_size=choices.staging_size,
            drain_timeout_s=choices.drain_timeout,
            host=socket.gethostname(),
        ),
        state_dir=state,
        socket=socket_path,
        init=choices.init,
        cache=_cache_spec(choices),
        metrics=choices.metrics,
        access_log=choices.access_log,
        passed=passed,
        supervisor=supervisor,
        keeper=keeper,
        journal=keeper.journal if keeper is not None else None,
        holder=keeper.holder if keeper is not None else None,
    )
    if keeper is not None:
        socket_path = keeper.socket_path(socket_path)
        keeper.tell = {"mountpoint": path, "socket": str(socket_path or "")}

    def answering() -> None:
        holder = keeper.holder if keeper is not None else 0
        alive = MountRecord(
            path,
            os.getpid(),
            start_time(os.getpid()),
            socket=str(socket_path or ""),
            passed=passed is not None,
            holder=holder,
            holder_started=start_time(holder) if holder else "",
        )
        records.write(alive)
        ready()

    unsent = trio.run(session.serve, spec, answering)
    if passed is not None and mounted_type(path) == FS_TYPE:
        click.echo(f"vfsmount: {path} is left for its mounter to unmount; nothing answers there", err=True)
    ours = records.is_of(path, os.getpid())
    if not unsent:
        if ours:
            records.remove(path)
        return OK
    kept = tuple((u.name, str(u.kept_at)) for u in unsent)
    if ours:
        records.write(MountRecord(path, os.getpid(), "", ended=True, unsent=kept))
    for u in unsent:
        why = f" ({u.reason})" if u.reason else ""
        click.echo(f"vfsmount: not on the server: {u.name}{why}; kept in {u.kept_at}", err=True)
    click.echo("vfsmount: the next mount with this state directory goes on with them", err=True)
    return UNSENT


def _cache_spec(choices: _Choices) -> CacheSpec | None:
    from vfsmount.fuse.session import CacheSpec

    if not choices.cache_size:
        return None
    return CacheSpec(choices.cache_dir, choices.cache_size, choices.cache_free)


def _socket_path() -> Path | None:
    """Where the mount answers `vfsmount status` and the like; it is of use without, too."""
    try:
        return places.socket_path()
    except ConfigError as e:
        log.event(_log, logging.WARNING, "control.unavailable", error=str(e))
        return None


def _leave_no_core() -> None:
    """Keep keys out of core files, and out of reach of other processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core pattern that names a program ignores the limit; this it does not ignore.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _collect_garbage_less_often() -> None:
    """A long listing makes objects by the hundred thousand, none of them garbage; looking through them again
    and again took half of the time."""
    gc.set_threshold(10_000, 20, 50)


def _check_answers(mountpoint: str | None, *, passed: bool) -> int:
    """The last word before exit status 0: somebody else than the daemon gets an answer."""
    from vfsmount.fuse.mountpoint import answer, real_path

    if mountpoint is None:  # it is elsewhere; the kernel has our answer to its first request
        return OK
    code = answer(real_path(mountpoint))
    if code == 0 or (passed and code == errno.EACCES):  # mounted for somebody else to use
        return OK
    click.echo(f"vfsmount: {mountpoint} is mounted but does not answer", err=True)
    return MOUNT
