"""What the daemon counts, for Prometheus: its text format over HTTP on a loopback address.

A thread of its own serves one client at a time and gives none more than some seconds, so that nobody who
can reach the address (every user of this machine) can take more than that from the daemon. It asks the
loop for the numbers and does all the rest, so the loop is held up for the time of a snapshot.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import trio

from vfsmount import __version__
from vfsmount.errors import ConfigError
from vfsmount.log import event

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_log = logging.getLogger("vfsmount.fuse.exporter")

_CLIENT_S = 2.0  # for a client to ask, and to take each piece of the answer

Snapshot = dict[str, Any]


class Address(NamedTuple):
    """Where to listen; port 0: at any that is free, which the log tells."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """``PORT``, ``HOST:PORT`` or ``[HOST]:PORT`` with a loopback address.

    Raises:
        ConfigError: anything else. There are no keys to these numbers, so nobody else is to reach them.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else "127.0.0.1"
    host = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--metrics {text}: neither a port nor ADDRESS:PORT") from None
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--metrics {text}: {port or 'nothing'} is no port")
    if not is_loopback:
        raise ConfigError(
            f"--metrics {text}: only a loopback address, such as 127.0.0.1, will do: whoever reaches it may "
            "read it. Let a program with keys of its own pass the numbers on"
        )
    return Address(host, int(port))


@contextmanager
def exporting(address: Address | None, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    """Serve the numbers while the body runs. Where the address cannot be had, a warning says so.

    Args:
        address: None: nowhere.
        snapshot: `Filesystem.metrics`; called on the loop that runs this.
    """
    if address is None:
        yield
        return
    try:
        server = _Server(address, _app(snapshot, trio.lowlevel.current_trio_token()))
    except OSError as e:
        event(
            _log,
            logging.WARNING,
            "metrics.unavailable",
            address=f"{address.host}:{address.port}",
            error=e.strerror or str(e),
            instead="mounted without; see --metrics",
        )
        yield
        return
    event(_log, logging.INFO, "metrics.ready", host=address.host, port=server.server_port)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        # A thread that asks the loop must not be waited for on the loop.
        threading.Thread(target=server.end, name="metrics-end", daemon=True).start()


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


class _Server(WSGIServer):
    request_queue_size = 5

    def __init__(self, address: Address, app: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        # The library's own looks up the host's name, which may take as long as the resolver likes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        event(_log, logging.DEBUG, "metrics.client_gone")

    def end(self) -> None:
        """Stop, at once for new clients."""
        self.shutdown()
        self.server_close()


def _app(snapshot: Callable[[], Snapshot], token: trio.lowlevel.TrioToken) -> Any:
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, token))
    ProcessCollector(registry=registry)
    return make_wsgi_app(registry)


class _Collector:
    """Asks the loop, and puts the answer in Prometheus's words."""

    def __init__(self, snapshot: Callable[[], Snapshot], token: trio.lowlevel.TrioToken) -> None:
        self._snapshot = snapshot
        self._token = token
        self._since = time.time()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        try:
            found = trio.from_thread.run_sync(self._snapshot, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            return ()  # the mount ends
        return metrics_of(found, self._since)


def metrics_of(found: Snapshot, since: float) -> Iterator[Metric]:
    """A snapshot as Prometheus has it; docs/observability.md lists the names."""
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("vfsmount", "The daemon", {"version": __version__})
    yield GaugeMetricFamily("vfsmount_start_time_seconds", "Since when it counts", since)
    yield from _of_operations(found)
    yield from _of_calls(found)
    yield from _of_content(found)
    yield from _levels(found)
    yield _histogram(
        "vfsmount_loop_lag_seconds",
        "How late the event loop woke a task",
        (),
        [((), found["loop_lag"])],
        found,
    )


def _of_operations(found: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    operations = found["operations"]
    rows = [((name,), op) for name, op in operations.items()]
    yield _histogram("vfsmount_operation_seconds", "Requests of the kernel", ("operation",), rows, found)
    running = GaugeMetricFamily(
        "vfsmount_operations_running", "Requests of the kernel not answered yet", labels=("operation",)
    )
    errors = CounterMetricFamily(
        "vfsmount_operation_errors", "Requests that ended with an errno", labels=("operation", "errno")
    )
    for name, op in operations.items():
        running.add_metric((name,), op["running"])
        for code, n in op["errors"].items():
            errors.add_metric((name, code), n)
    yield running
    yield errors


def _of_calls(found: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    labels = ("service", "method", "endpoint")
    rows = [(tuple(call[label] for label in labels), call) for call in found["calls"]]
    yield _histogram("vfsmount_api_request_seconds", "Requests to the server", labels, rows, found)
    statuses = CounterMetricFamily(
        "vfsmount_api_requests", "Requests to the server by what came of them", labels=(*labels, "status")
    )
    for key, call in rows:
        for status, n in call["statuses"].items():
            statuses.add_metric((*key, status), n)
    yield statuses


def _of_content(found: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    said = {
        "read": "Bytes that programs read",
        "written": "Bytes that programs wrote",
        "downloaded": "Bytes of files from the storage-proxy",
        "uploaded": "Bytes of files to the storage-proxy",
        "ahead": "Bytes asked of the server before they were read",
    }
    for name, text in said.items():
        yield CounterMetricFamily(f"vfsmount_{name}_bytes", text, found["bytes"][name])
    pieces = CounterMetricFamily("vfsmount_read_pieces", "What was read, by where it was", labels=("source",))
    size = CounterMetricFamily("vfsmount_read_source_bytes", "Its bytes", labels=("source",))
    for source, read in found["reads"].items():
        pieces.add_metric((source,), read["count"])
        size.add_metric((source,), read["bytes"])
    yield pieces
    yield size
    yield CounterMetricFamily(
        "vfsmount_opens_fetched", "Opens that had to fetch something", found["opens_fetched"]
    )
    yield CounterMetricFamily(
        "vfsmount_access_log_dropped", "Lines left out of the access log", found["log_lines_dropped"]
    )


# (name, explanation, where it stands in a snapshot)
_LEVELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("unsent_files", "Files not on the server yet", ("uploads", "files")),
    ("unsent_bytes", "Their bytes", ("uploads", "bytes")),
    ("uploads_running", "Files being sent", ("uploads", "sending")),
    ("uploads_failing", "Files whose last try failed", ("uploads", "failing")),
    ("removals_pending", "Names removed here that the server still has", ("uploads", "removals")),
    ("api_calls_left", "Manager calls that the budget allows now", ("manager", "calls_left")),
    ("api_calls_limit", "Manager calls that the server allows in its window", ("manager", "limit")),
    ("api_calls_waiting", "Manager calls that wait for their turn", ("manager", "waiting")),
    ("api_calls_running", "Manager calls under way", ("manager", "in_flight")),
    ("api_concurrency", "Manager calls that may be under way", ("manager", "concurrency")),
    ("memory_limit_bytes", "Memory for file content", ("memory", "limit")),
    ("memory_held_bytes", "File content in memory", ("memory", "held")),
    ("memory_reserved_bytes", "File content on its way", ("memory", "on_its_way")),
    ("staging_used_bytes", "Disk that unsent data takes", ("staging", "used")),
    ("staging_limit_bytes", "Disk that it may take; 0: no limit", ("staging", "limit")),
    ("cache_blocks_not_kept", "Blocks not kept on disk, since the start", ("cache", "not_kept")),
    ("inodes", "Inodes known", ("inodes",)),
    ("open_files", "Open file handles", ("open_files",)),
    ("open_directories", "Open directory handles", ("open_directories",)),
    ("loop_lag_max_seconds", "The longest lag since the start", ("loop_lag", "max")),
)


def _levels(found: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for name, text, keys in _LEVELS:
        value: Any = found
        for key in keys:
            value = value[key]
        if value is not None:
            yield GaugeMetricFamily(f"vfsmount_{name}", text, value)


def _histogram(
    name: str,
    text: str,
    labels: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Snapshot]],
    found: Snapshot,
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=labels)
    bounds = [*map(str, found["bounds"]), "+Inf"]
    for key, timed in rows:
        buckets, total = [], 0
        for bound, n in zip(bounds, timed["buckets"], strict=True):
            total += n
            buckets.append((bound, total))
        family.add_metric(key, buckets, timed["seconds"])
    return family
