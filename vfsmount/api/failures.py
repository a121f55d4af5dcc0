"""From a failed connection to one sentence that says what to check."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx

from vfsmount.errors import ConfigError, RemoteError, RemoteUnavailable, VfsError


def explain(e: Exception, host: str, check: str) -> VfsError:
    """The error for a request that got no usable reply.

    Args:
        host: whom we tried to reach.
        check: the variable that says so.
    """
    if isinstance(e, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ConfigError(f"{check} holds no usable http:// or https:// address")
    if isinstance(e, httpx.ConnectTimeout):
        return _unsent(f"{host} does not answer. Is the network (VPN) up and {check} right?")
    if isinstance(e, httpx.ConnectError | httpx.ProxyError):
        return _not_connected(e, host, check)
    if isinstance(e, httpx.ReadTimeout | httpx.WriteTimeout):
        return RemoteUnavailable(f"{host} stopped answering in the middle of a request", detail="timeout")
    if isinstance(e, httpx.LocalProtocolError):
        # A mistake of ours (a header missing, a body of another length than announced): no retry helps.
        return RemoteError(f"the request to {host} could not be formed", detail=str(e)[:100])
    return RemoteUnavailable(f"the connection to {host} broke", detail=type(e).__name__)


def _not_connected(e: Exception, host: str, check: str) -> VfsError:
    if isinstance(e, httpx.ProxyError):
        return _unsent(
            f"the proxy refuses a connection to {host}. Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
        )
    causes = list(_chain(e))
    if any(isinstance(c, ssl.SSLCertVerificationError) for c in causes):
        return _unsent(
            f"the certificate of {host} is not trusted. Check {check}, or set SSL_CERT_FILE to the "
            "cluster's own authority (BACKEND_SKIP_SSLCERT_VALIDATION=yes gives up the protection)"
        )
    if any(isinstance(c, ssl.SSLError) for c in causes):
        return _unsent(f"{host} does not speak TLS there. Check http:// against https:// in {check}")
    if any(isinstance(c, socket.gaierror) for c in causes):
        return _unsent(f"the name {host} cannot be resolved. Check {check} and the network (VPN)")
    if any(isinstance(c, ConnectionRefusedError) for c in causes):
        return _unsent(f"{host} refuses the connection. Is the server running and {check} right?")
    return _unsent(f"{host} cannot be reached. Check {check} and the network (VPN)")


def _unsent(message: str) -> RemoteUnavailable:
    return RemoteUnavailable(message, sent=False)


def _chain(e: BaseException) -> Iterator[BaseException]:
    """The exception and everything it came from, groups opened."""
    seen: set[int] = set()
    stack: list[BaseException] = [e]
    while stack:
        this = stack.pop()
        if id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        stack += [c for c in (this.__cause__, this.__context__) if c is not None]
        if isinstance(this, BaseExceptionGroup):
            stack += this.exceptions
