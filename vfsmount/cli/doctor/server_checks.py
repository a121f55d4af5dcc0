"""What the facts of a server mean: a small function for each thing, and no other input."""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlsplit

from vfsmount.api.probe import FEW_CALLS, ServerFacts, Way
from vfsmount.cli.doctor.verdict import Verdict, bad, ok, warn

LOW_SHARE = 0.5  # of the calls; about there a mount begins to save (core.governor)
SKEW_S, SKEW_DOUBTFUL_S = 900.0, 60.0
# The generations that were tried: 23.09 and 26.x.
OLDEST, NEWEST = (7, 20230615), (9, 20250722)

Entry = tuple[str, str, str]  # cause, what is the matter, what to do

_CHECK_ADDRESS = "vfsmount config show   (is BACKEND_ENDPOINT right, and the network or VPN up?)"
_CHECK_RUNS = "vfsmount config show   (is BACKEND_ENDPOINT right, its port too, and does the server run?)"
_CLOCK = "sudo timedatectl set-ntp true"
_FAILURES: dict[str, Entry] = {
    "dns": (
        "dns",
        "the name cannot be resolved",
        "getent hosts {host}   (is the name right, is the VPN up?)",
    ),
    "refused": ("refused", "refuses the connection: nothing listens there", _CHECK_RUNS),
    "unreachable": ("unreachable", "cannot be reached", _CHECK_ADDRESS),
    "silent": ("unreachable", "does not answer a connection", _CHECK_ADDRESS),
    "mute": ("no-reply", "takes the connection and says nothing", _CHECK_RUNS),
    "tls-expired": (
        "tls-expired",
        "its certificate has expired (or this clock is far ahead)",
        "ask who runs the server for a new certificate; date -u shows this machine's clock",
    ),
    "tls-early": (
        "tls-expired",
        "its certificate is not valid yet (or this clock is far behind)",
        f"{_CLOCK}   (date -u shows this machine's clock)",
    ),
    "tls-untrusted": (
        "tls-untrusted",
        "its certificate is signed by nobody known here",
        "export SSL_CERT_FILE=/path/to/the/cluster's/ca.pem   "
        "(BACKEND_SKIP_SSLCERT_VALIDATION=yes gives up the protection)",
    ),
    "tls-host": (
        "tls-host",
        "its certificate is for another name",
        "vfsmount config show   (use the name that the certificate has)",
    ),
    "tls-other": (
        "tls",
        "does not speak TLS there",
        "vfsmount config show   (http:// instead of https://, or another port?)",
    ),
    "other": ("no-reply", "gives no usable reply", _CHECK_RUNS),
}


def check_server(f: ServerFacts) -> list[Verdict]:
    """All of them, as far as the way goes."""
    found = [reach(way, any(not w.failure for w in f.ways)) for way in f.ways]
    if any(not way.failure for way in f.ways):
        found += [v for v in (api_version(f), clock(f)) if v is not None]
        if f.api_version:
            found += [v for v in (login(f), budget(f), maintenance(f), *storage(f)) if v is not None]
    return found


def reach(way: Way, another_works: bool) -> Verdict:
    """One endpoint: name, connection, TLS, reply."""
    check = f"server {way.host}"
    through = f" through the proxy {way.proxy} ({way.proxy_variable})" if way.proxy else ""
    if not way.failure:
        return ok(check, f"answers{through}")
    cause, says, fix = _explained(way)
    return warn(check, cause, says, fix) if another_works else bad(check, cause, says, fix)


def _explained(way: Way) -> Entry:
    host = urlsplit(way.url).hostname or ""
    if way.failure == "proxy":
        return (
            "proxy",
            f"the proxy {way.proxy}, from {way.proxy_variable}, is in the way ({way.detail})",
            f"export NO_PROXY={shlex.quote(host)}   (or unset {way.proxy_variable})",
        )
    cause, says, fix = _FAILURES[way.failure]
    return cause, f"{says} ({way.detail})" if way.detail else says, fix.replace("{host}", shlex.quote(host))


def api_version(f: ServerFacts) -> Verdict | None:
    """Whether it is a Backend.AI of a generation that was tried."""
    way = next(way for way in f.ways if not way.failure)
    fix = "vfsmount config show   (is BACKEND_ENDPOINT right, and BACKEND_ENDPOINT_TYPE?)"
    if not f.api_version:
        if 300 <= way.status < 400:
            target = urlsplit(way.headers.get("location", ""))
            to = f"{target.scheme}://{target.netloc}" if target.netloc else "the address it leads to"
            return bad("API", "redirect", "the address leads elsewhere", f"export BACKEND_ENDPOINT={to}")
        says = f"what answers is no Backend.AI server (status {way.status})"
        return bad("API", "not-backendai", says, fix)
    match = re.fullmatch(r"v(\d+)\.(\d{8})", f.api_version)
    shown = f"{f.api_version} of Backend.AI {f.manager or 'of unknown version'}"
    if match is None:
        return bad("API", "unknown-api", f"a version of unknown form: {shown[:80]}", "vfsmount --version")
    version = int(match[1]), int(match[2])
    if version < OLDEST:
        return warn(
            "API",
            "old-server",
            f"{shown} is older than 23.09, with which vfsmount was tried",
            "ask who runs the server for a newer one, and use --read-only until you trust it",
        )
    if version[0] > NEWEST[0]:
        return warn(
            "API",
            "new-server",
            f"{shown} is newer than 26.x, with which vfsmount was tried",
            "look for a newer vfsmount",
        )
    return ok("API", shown)


def clock(f: ServerFacts) -> Verdict | None:
    """Whether signatures of ours are of the server's time."""
    offset = next((w.clock_offset_s for w in f.ways if not w.failure), None)
    if offset is None and f.signed != "skew":
        return None
    way = "behind" if (offset or 0) > 0 else "ahead of"
    says = f"{_span(abs(offset or 0))} {way} the server's; 15 minutes and more are refused"
    if f.signed == "skew" or abs(offset or 0) >= SKEW_S:
        return bad("clock", "clock-skew", says, _CLOCK)
    if abs(offset or 0) >= SKEW_DOUBTFUL_S:
        return warn("clock", "clock-skew", says, _CLOCK)
    return ok("clock", "the server's")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def login(f: ServerFacts) -> Verdict | None:
    """Whether the key, or the login, is accepted."""
    check = "login" if f.session else "key"
    if f.signed == "ok":
        return ok(check, "accepted")
    if f.signed == "key":
        if f.session:
            return bad(check, "login-expired", f.signed_detail, "vfsmount login")
        return bad(
            check,
            "wrong-key",
            f.signed_detail,
            "vfsmount config show   (where does the pair come from, is it active, is it this server's?)",
        )
    if f.signed == "failed" and re.fullmatch(r"v(\d+)\.(\d{8})", f.api_version):
        return bad(check, "no-reply", f.signed_detail, _CHECK_RUNS)
    return None  # told by another check


def budget(f: ServerFacts) -> Verdict | None:
    """Calls that the key has left."""
    shown = f"{f.remaining} of {f.limit} calls left"
    fix = "wait up to 15 minutes, and stop what else uses this key"
    if f.signed == "spent":
        return bad("rate limit", "rate-spent", f.signed_detail, fix)
    if f.limit is None or f.remaining is None:
        return None
    if f.left is not None and f.left < FEW_CALLS:
        says = f"{shown}: vfsmount leaves the last fifth to your other programs, and waits"
        return bad("rate limit", "rate-spent", says, fix)
    if f.remaining <= LOW_SHARE * f.limit:
        return warn(
            "rate limit", "rate-low", f"{shown}: a mount asks for less ahead, and soon has to wait", fix
        )
    return ok("rate limit", shown)


def maintenance(f: ServerFacts) -> Verdict | None:
    """Whether the manager is frozen."""
    if f.status is None:
        return None
    if f.status == "frozen":
        return bad(
            "maintenance",
            "frozen",
            "the manager is frozen: it refuses changes",
            "wait, or ask who runs the server; what you write is kept and sent afterwards",
        )
    return ok("maintenance", f.status)


def storage(f: ServerFacts) -> list[Verdict]:
    """Whether one gets to the storage-proxies, where all content goes."""
    if not f.storage_asked:
        return []
    found = []
    if f.storage_detail:
        fix = "vfsmount list   (and try again)"
        if f.storage_mapped:
            fix = "vfsmount config show   (does BACKEND_OVERRIDE_STORAGE_PROXY have every address?)"
        found.append(warn("storage-proxy", "storage-unknown", f.storage_detail, fix))
    for way in f.storage:
        check = f"storage-proxy {way.host}"
        if not way.failure:
            found.append(ok(check, "answers"))
            continue
        cause, says, fix = _explained(way)
        if cause not in ("proxy", "tls-expired"):
            fix = (
                "vfsmount config show   (BACKEND_OVERRIDE_STORAGE_PROXY leads there: is it right?)"
                if f.storage_mapped
                else f"export BACKEND_OVERRIDE_STORAGE_PROXY={way.url}=ADDRESS-THAT-YOU-REACH"
            )
        found.append(bad(check, "proxy" if cause == "proxy" else "storage-unreachable", says, fix))
    if not found:
        found.append(ok("storage-proxy", "not tried: there is no folder to ask for"))
    return found
