"""How far one gets towards a server, step by step, for `vfsmount doctor`: where it ends is the cause.

Unlike `Client`, which hides what can be hidden, nothing is repeated here and every step has a short
deadline of its own. Nothing of what is found holds a key, a token or a query.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import trio

from vfsmount.api.client import Client
from vfsmount.api.decode import loads
from vfsmount.api.http import LOOPBACK, Http, read_body
from vfsmount.api.manager import USER_AGENT, utc_now
from vfsmount.config import ApiSettings
from vfsmount.errors import AuthFailed, ClockSkew, ConfigError, RateLimited, VfsError
from vfsmount.values import Folder

STEP_S = 4.0  # for each of: the name, the connection, TLS, a reply
_PROBLEM_MAX = 1 << 20
FEW_CALLS = 8  # what is asked here, and one or two for a mount
_HOSTS = 3  # storage hosts that are tried

# What OpenSSL says of a certificate (x509_vfy.h).
_EXPIRED, _NOT_YET, _SELF_SIGNED, _WRONG_HOST = 10, 9, (18, 19), (62, 64)


@dataclass(slots=True)
class Way:
    """How far one gets towards one address.

    Attributes:
        url: scheme, host, port, and whatever the user has behind these.
        path: of what is asked for below it.
        proxy: the proxy on the way as host:port; "" without one.
        proxy_variable: where it comes from.
        failure: ``dns``, ``refused``, ``unreachable``, ``silent`` (no connection in time), ``tls-expired``,
            ``tls-early``, ``tls-untrusted``, ``tls-host``, ``tls-other``, ``mute`` (connected, and no
            reply), ``proxy``, ``other``; "" where there is a reply.
        detail: what the system says.
        status, headers, body: of the reply.
    """

    url: str
    path: str = "/"
    proxy: str = ""
    proxy_variable: str = ""
    failure: str = ""
    detail: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def clock_offset_s(self) -> float | None:
        """The clock there minus ours, to the second; None where the reply has no date."""
        try:
            return (parsedate_to_datetime(self.headers["date"]) - utc_now()).total_seconds()
        except (KeyError, ValueError, TypeError):
            return None


@dataclass(slots=True)
class ServerFacts:
    """All that was found out. What was not got to is None, or empty.

    Attributes:
        ways: to each endpoint.
        api_version, manager: as ``GET /`` tells; "" where what answers is no Backend.AI.
        session: whether a login is used, not a key.
        signed: ``ok``, ``key`` (or login) refused, ``skew``, ``spent`` (429), ``failed``.
        signed_detail: the sentence of the failure.
        limit, remaining: of the key's calls in the server's window; `left`: those that a mount of ours may
            make of these.
        status: ``running``, ``frozen``.
        storage: ways to storage-proxies as we would go them.
        storage_mapped: whether an address map changes these.
        storage_detail: why there is no leave to transfer.
        storage_asked: leave was asked for; not where the last calls are better spent otherwise.
    """

    ways: list[Way] = field(default_factory=list)
    api_version: str = ""
    manager: str = ""
    session: bool = False
    signed: str = ""
    signed_detail: str = ""
    limit: int | None = None
    remaining: int | None = None
    left: int | None = None
    status: str | None = None
    storage: list[Way] = field(default_factory=list)
    storage_mapped: bool = False
    storage_detail: str = ""
    storage_asked: bool = False


async def probe(settings: ApiSettings, facts: ServerFacts) -> None:
    """Find out all there is to know of a server, into `facts`, so that a cancelled probe leaves something."""
    facts.session = settings.mode == "session"
    http = Http(settings)
    try:
        async with trio.open_nursery() as nursery:
            for endpoint in settings.endpoints:
                way = Way(endpoint, path="/func/" if facts.session else "/")
                facts.ways.append(way)
                nursery.start_soon(go, way, http)
        reached = next((w for w in facts.ways if not w.failure), None)
        if reached is None:
            return
        _read_root(reached, facts)
        if facts.api_version:
            await _as_this_user(settings, http, facts)
    finally:
        await http.aclose()


async def _as_this_user(settings: ApiSettings, http: Http, facts: ServerFacts) -> None:
    try:
        client = Client(settings)
    except AuthFailed as e:  # there is no login that could be used
        facts.signed, facts.signed_detail = "key", str(e)
        return
    async with client:
        await _ask_manager(client, facts)
        if facts.signed != "ok" or (facts.left is not None and facts.left < FEW_CALLS):
            return
        facts.storage_asked = True
        urls = await _find_storage(client, facts)
    facts.storage_mapped = bool(settings.storage_proxy_map)
    facts.storage = [Way(url) for url in urls]
    async with trio.open_nursery() as nursery:
        for way in facts.storage:
            nursery.start_soon(go, way, http)


def _read_root(way: Way, facts: ServerFacts) -> None:
    try:
        root = loads(way.body)
    except ValueError:
        root = None
    if way.status == 200 and isinstance(root, dict) and isinstance(root.get("version"), str):
        facts.api_version = root["version"]
        facts.manager = str(root.get("manager") or "")


async def _ask_manager(client: Client, facts: ServerFacts) -> None:
    """Whether the key or login is accepted, what is left of its calls, and whether it is maintenance."""
    try:
        with trio.fail_after(2 * STEP_S):
            await client.connect()
        facts.signed = "ok"
    except ClockSkew as e:
        facts.signed, facts.signed_detail = "skew", str(e)
    except AuthFailed as e:
        facts.signed, facts.signed_detail = "key", str(e)
    except RateLimited as e:
        facts.signed, facts.signed_detail = "spent", str(e)
    except (VfsError, trio.TooSlowError) as e:
        facts.signed = "failed"
        facts.signed_detail = str(e) or "the manager does not answer a signed call"
    governor = client.governor
    facts.limit, facts.remaining, facts.left = governor.budget.limit, governor.remaining, governor.calls_left
    if facts.signed != "ok":
        return
    with suppress(VfsError), trio.move_on_after(STEP_S):  # not everybody may ask this everywhere
        facts.status = await client.manager_status()


async def _find_storage(client: Client, facts: ServerFacts) -> list[str]:
    """Addresses from which content would come, through the address map."""
    found = []
    try:
        with trio.fail_after(2 * STEP_S):
            for folder in _one_of_each_host(await client.list_folders()):
                found.append(_origin((await client.request_download(folder, ".")).url))
    except (VfsError, trio.TooSlowError) as e:
        facts.storage_detail = str(e) or "the manager does not answer in time"
    return list(dict.fromkeys(found))


def _one_of_each_host(folders: list[Folder]) -> list[Folder]:
    found: dict[str, Folder] = {}
    for folder in folders:
        if folder.status in ("ready", "mounted"):
            found.setdefault(folder.host.partition(":")[0], folder)
    return list(found.values())[:_HOSTS]


# --- one address ---------------------------------------------------------------------------------


async def go(way: Way, http: Http) -> None:
    """Go as far as one gets: name, connection, TLS, reply."""
    parts = urlsplit(way.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxied = _proxy_of(parts.scheme, host)
    if proxied is not None:
        way.proxy_variable, way.proxy = proxied
        proxy = urlsplit(f"//{way.proxy}")
        stream = await _connect(way, proxy.hostname or "", proxy.port or 80)
        if stream is None:
            way.failure, way.detail = "proxy", f"{way.failure}: {way.detail}"
            return
        await stream.aclose()
    else:
        stream = await _connect(way, host, port)
        if stream is None:
            return
        if parts.scheme == "https" and not await _shake_hands(way, stream, http.tls_context("https"), host):
            return
        await trio.aclose_forcefully(stream)
    await _get(way, http)


async def _connect(way: Way, host: str, port: int) -> trio.SocketStream | None:
    way.failure, way.detail = "dns", f"no answer about {host} within {STEP_S:g} s"
    try:
        with trio.fail_after(STEP_S):
            await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        way.failure, way.detail = "silent", f"no connection within {STEP_S:g} s"
        with trio.fail_after(STEP_S):
            stream = await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        return None
    except (OSError, UnicodeError) as e:
        way.detail = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        if isinstance(e, UnicodeError) or any(isinstance(c, socket.gaierror) for c in _causes(e)):
            way.failure = "dns"
        else:
            refused = any(isinstance(c, ConnectionRefusedError) for c in _causes(e))
            way.failure = "refused" if refused else "unreachable"
        return None
    way.failure = way.detail = ""
    return stream


async def _shake_hands(way: Way, stream: trio.SocketStream, context: ssl.SSLContext, host: str) -> bool:
    tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    way.failure, way.detail = "mute", f"no TLS within {STEP_S:g} s"
    try:
        with trio.fail_after(STEP_S):
            await tls.do_handshake()
    except trio.TooSlowError:
        return False
    except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as e:
        way.failure, way.detail = _tls_failure(e)
        return False
    finally:
        await trio.aclose_forcefully(tls)
    way.failure = way.detail = ""
    return True


def _tls_failure(e: BaseException) -> tuple[str, str]:
    for cause in _causes(e):
        if isinstance(cause, ssl.SSLCertVerificationError):
            code, why = cause.verify_code, cause.verify_message
            if code == _EXPIRED:
                return "tls-expired", why
            if code == _NOT_YET:
                return "tls-early", why
            return ("tls-host" if code in _WRONG_HOST else "tls-untrusted"), why
    for cause in _causes(e):
        if isinstance(cause, ssl.SSLError):
            return "tls-other", cause.reason or "TLS failed"
    return "tls-other", "the connection was closed instead of TLS"


async def _get(way: Way, http: Http) -> None:
    """Ask for the root, unsigned."""
    way.failure, way.detail = "mute", f"connected, and no reply within {STEP_S:g} s"
    url = httpx.URL(way.url + way.path)
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "application/json"}
    try:
        with trio.fail_after(STEP_S):
            async with http.exchange("GET", url, headers=headers, fresh=True) as response:
                way.status = response.status_code
                way.headers = {key.lower(): value for key, value in response.headers.items()}
                way.body = await read_body(response, _PROBLEM_MAX)
    except trio.TooSlowError:
        if way.proxy:
            way.failure = "proxy"
        return
    except (VfsError, ConfigError) as e:
        way.failure, way.detail = ("proxy" if way.proxy else "other"), str(e)
        return
    if way.proxy and way.status in (403, 407, 502, 503, 504):
        # Perhaps the server's own; a manager's has JSON.
        way.failure, way.detail = "proxy", f"status {way.status} through the proxy"
        return
    way.failure = way.detail = ""


def _proxy_of(scheme: str, host: str) -> tuple[str, str] | None:
    """(variable, host:port) of the proxy that httpx goes through; None: it goes straight."""
    if host in LOOPBACK:
        return None
    proxies = getproxies()
    key = scheme if scheme in proxies else "all"
    if key not in proxies or proxy_bypass(host):
        return None
    address = proxies[key]
    netloc = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    name = f"{key}_proxy"
    return (name if name in os.environ else name.upper()), netloc


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _causes(e: BaseException) -> Iterator[BaseException]:
    """The exception and everything it came from, groups opened."""
    seen: set[int] = set()
    todo: list[BaseException] = [e]
    while todo:
        this = todo.pop()
        if id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        todo += [c for c in (this.__cause__, this.__context__) if c is not None]
        if isinstance(this, BaseExceptionGroup):
            todo += this.exceptions
