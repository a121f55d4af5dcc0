"""Settings, parsed once and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How to reach and convince the server.

    Attributes:
        endpoints: absolute URLs without trailing slash; the first that answers is used.
        mode: ``api`` signs each request, ``session`` sends a cookie through a webserver.
        storage_proxy_map: (from, to) pairs; ``from`` is a whole URL or an origin prefix.
        connect_timeout_s, read_timeout_s: TCP connect; between received bytes (0: no limit of the
            user's own, the client still has one).
        cookie_file: where session mode keeps its login, 0600.
    """

    endpoints: tuple[str, ...]
    mode: str = "api"
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    domain: str = "default"
    group: str = "default"
    storage_proxy_map: tuple[tuple[str, str], ...] = ()
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 0.0
    verify_tls: bool = True
    cookie_file: Path | None = None
