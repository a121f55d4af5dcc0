"""Trouble on demand: what a test may order, and what it may ask about the calls that came.

An order is a rule (for the next calls that match) or a switch (until changed). The control
endpoint exists only with ``--faults`` and is neither counted nor limited. docs/embedded-server.md
has the table.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

Action = Literal[
    "status", "reset", "stall", "delay", "cut_down", "cut_up", "lose_reply", "hold_reply", "refuse_token"
]
Half = Literal["manager", "storage"]


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """What to do to the next calls that match.

    Attributes:
        path: prefix or shell pattern of the request path (without ``/func`` and query).
        times: calls it still applies to; None until cleared.
        after_bytes: of the body, for the two cuts.
    """

    action: Action
    path: str = "/"
    method: str = ""
    half: Half | None = None
    times: int | None = 1
    status: int = 503
    after_bytes: int = 0
    delay_ms: float = 0.0

    def matches(self, half: Half, method: str, path: str) -> bool:
        """Whether it is about this call."""
        return (
            self.times != 0
            and self.half in (None, half)
            and self.method in ("", method)
            and (path.startswith(self.path) or fnmatchcase(path, self.path))
        )


class Switches(msgspec.Struct, forbid_unknown_fields=True):
    """How the server is, until told otherwise.

    Attributes:
        frozen: the manager is in maintenance.
        invited_create: an invited ``rw`` user may create and upload (26.x).
        gz_sibling: ``x.gz`` is served for ``x`` to who accepts gzip.
        folder_token: a token for ``.`` works with ``dst_dir``; else 404.
        archive: directory archives end, are cut, or hang.
        hold_open: a file that is downloaded was looked at, and is not opened while this is on.
        clock_offset_s: what the server's clock is ahead of this machine's.
        usage: which of ``percentage used total`` the hosts reply shows.
        anonymous_limit: unsigned calls per address and 900 s (26.x).
        quota: hard limits in bytes by quota scope. A scope that stands here is of a filesystem with quotas
            (0: without a limit); of others nothing is known, as on a plain one. Nothing is refused for them.
    """

    frozen: bool = False
    invited_create: bool = False
    gz_sibling: bool = True
    folder_token: bool = True
    archive: Literal["ok", "cut", "hang"] = "ok"
    hold_open: bool = False
    clock_offset_s: float = 0.0
    usage: list[str] = msgspec.field(default_factory=lambda: ["percentage", "used", "total"])
    anonymous_limit: int = 1000
    rate_limit: int = 30000
    announcement: str = ""
    quota: dict[str, int] = msgspec.field(default_factory=dict)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /__faults``, carried out top to bottom.

    Attributes:
        clear: drop all rules and delays, put the switches back, release the stalled.
        release: let the stalled calls go on.
        latency_ms: per class of call: ``manager``, ``storage``, or a route as in /__calls.
    """

    clear: bool = False
    release: bool = False
    rules: list[Rule] = msgspec.field(default_factory=list)
    switches: dict[str, Any] = msgspec.field(default_factory=dict)
    latency_ms: dict[str, float] = msgspec.field(default_factory=dict)


class Faults:
    """The orders in force."""

    def __init__(self, switches: Switches, latency_ms: float = 0.0) -> None:
        self._first = switches
        self._base_latency_ms = latency_ms
        self._released = asyncio.Event()
        self.switches = switches
        self.rules: list[Rule] = []
        self.latency_ms: dict[str, float] = {}

    def apply(self, order: Order) -> None:
        """Carry out one order.

        Raises:
            msgspec.ValidationError: a switch that does not exist or has the wrong type.
        """
        base = self._first if order.clear else self.switches
        changed = {**msgspec.to_builtins(base), **order.switches}
        self.switches = msgspec.convert(changed, Switches)
        if order.clear:
            self.rules.clear()
            self.latency_ms.clear()
        if order.clear or order.release:
            self._released.set()
            self._released = asyncio.Event()
        self.rules += order.rules
        self.latency_ms |= order.latency_ms

    def take(self, half: Half, method: str, path: str) -> Rule | None:
        """The first rule about this call, with one of its times used up."""
        rule = next((r for r in self.rules if r.matches(half, method, path)), None)
        if rule is not None and rule.times is not None:
            rule.times -= 1
        return rule

    def delay_s(self, half: Half, route: str) -> float:
        """How long this call has to wait."""
        extra = self.latency_ms.get(half, 0.0) + self.latency_ms.get(route, 0.0)
        return (self._base_latency_ms + extra) / 1000

    async def stalled(self) -> None:
        """Wait until a test releases the stalled calls."""
        await self._released.wait()


@dataclass(slots=True)
class Received:
    """What came for one upload target."""

    bytes: int = 0
    patches: int = 0
    sessions: int = 0


@dataclass(slots=True)
class Calls:
    """Counts of calls by half, method and route, of reply statuses, and of bytes per upload target.

    Attributes:
        refused: calls beyond a rate limit since the server began; `reset` leaves it.
    """

    arrived: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    statuses: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    uploads: dict[str, Received] = field(default_factory=dict)
    refused: int = 0

    def reset(self) -> None:
        """Start again from zero."""
        self.arrived.clear()
        self.statuses.clear()
        self.uploads.clear()

    def upload(self, path: str) -> Received:
        """The counter of one upload target (path within its folder)."""
        return self.uploads.setdefault(path, Received())

    def report(self) -> Mapping[str, Any]:
        """As JSON; calls that got no reply are in `count` but in no status."""
        return {
            "calls": [
                {
                    "half": key[0],
                    "method": key[1],
                    "route": key[2],
                    "count": count,
                    "statuses": {str(s[3]): n for s, n in sorted(self.statuses.items()) if s[:3] == key},
                }
                for key, count in sorted(self.arrived.items())
            ],
            "uploads": {
                path: {"bytes": r.bytes, "patches": r.patches, "sessions": r.sessions}
                for path, r in self.uploads.items()
            },
            "refused": self.refused,
        }
