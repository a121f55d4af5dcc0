"""What one run of the embedded server was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vfsmount.server.dialect import OLD, Dialect

VOLUME = "volume1"
HOST = f"local:{VOLUME}"
DOMAIN = "default"
PROJECT = "default"
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - addresses that mean every interface


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Options of ``vfsmount serve``; every default is a plausible real installation.

    Attributes:
        port, storage_port: 0 lets the system choose.
        scandir_limit: entries of a listing, 0 for no limit. The real default.
        rate_limit: manager calls per key in any `rate_window` seconds. What sample installations set.
        rate_window: the real one's is 900 s, and fixed.
        token_life_s: life of transfer tokens; the real sample setting is a day.
        latency_ms: added to every reply of both halves.
        faults: the control endpoint exists. Anyone who can connect may use it.
        otp: user name → one-time password that a session-mode login must give.
        invited_create: 26.x only: whether an invited ``rw`` user may create and upload. The
            observed 26.9.6 refuses it.
        sessions: sessions can be made, and commands run in them, as processes of this machine.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    storage_port: int = 0
    dialect: Dialect = OLD
    scandir_limit: int = 1000
    rate_limit: int = 30000
    rate_window: int = 900
    token_life_s: float = 86400.0
    latency_ms: float = 0.0
    faults: bool = False
    otp: Mapping[str, str] = field(default_factory=dict, repr=False)
    invited_create: bool = False
    sessions: bool = False
