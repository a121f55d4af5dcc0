"""From an HTTP reply that is no success to the error it means.

The manager and the storage-proxy answer ``application/problem+json``; what counts is the last part
of ``type`` and the status, never the title. 23.09 relays the errno of file operations, which then
decides.

Source: contract 2.2, 3.6, 7.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vfsmount import errors
from vfsmount.api.decode import loads
from vfsmount.errors import VfsError

DETAIL_MAX = 300

_BY_ERRNO: dict[int, type[VfsError]] = {
    errno.ENOENT: errors.NotFound,
    errno.EEXIST: errors.AlreadyExists,
    errno.ENOTDIR: errors.NotADirectory,
    errno.EISDIR: errors.IsADirectory,
    errno.ENOTEMPTY: errors.NotEmpty,
    errno.EACCES: errors.PermissionDenied,
    errno.EPERM: errors.PermissionDenied,
    errno.EROFS: errors.PermissionDenied,
    errno.ENAMETOOLONG: errors.NameTooLong,
    errno.EINVAL: errors.InvalidRequest,
    errno.ELOOP: errors.NotFound,
    errno.EDQUOT: errors.QuotaExceeded,
    errno.ENOSPC: errors.QuotaExceeded,
}

_BY_PROBLEM: dict[str, tuple[type[VfsError], str]] = {
    "object-not-found": (errors.NotFound, "the server knows no such object"),
    "file-not-found": (errors.NotFound, "no such file on the server"),
    "vfolder-gone": (errors.NotFound, "the folder is gone"),
    "too-many-vfolders": (errors.Ambiguous, "several folders share this name"),
    "ambiguous-entity-key": (errors.Ambiguous, "several folders share this name"),
    "url-not-found": (errors.NotSupported, "this server has no such call"),
    "method-not-allowed": (errors.NotSupported, "this server has no such call"),
    "password-expired": (errors.AuthFailed, "the password is too old: change it in the web console"),
    "generic-forbidden": (errors.PermissionDenied, "the server refuses this"),
    "vfolder-already-exists": (errors.AlreadyExists, "the name is taken"),
    "vfolder-grant-already-exists": (errors.AlreadyExists, "already shared with this user"),
    "vfolder-filter-status-failed": (errors.PermissionDenied, "the folder's status does not allow this now"),
    "vfolder-deletion-not-allowed": (errors.PermissionDenied, "the folder is in use by a session"),
    "storage-permission-not-allowed": (errors.PermissionDenied, "not permitted on this storage host"),
    "session-already-exists": (errors.AlreadyExists, "a session of this name runs"),
    "too-many-sessions-matched": (errors.Ambiguous, "several sessions have this name"),
    "quota-exceeded": (errors.QuotaExceeded, "the quota on the server is used up"),
    "rate-limit-exceeded": (errors.RateLimited, "the key's budget of requests is spent"),
    "server-frozen": (errors.ServerFrozen, "the server is in maintenance and refuses changes"),
    "invalid-api-params": (errors.InvalidRequest, "the server finds the request invalid"),
    "generic-bad-request": (errors.InvalidRequest, "the server finds the request invalid"),
    "vfolder-invalid-parameter": (errors.InvalidRequest, "the server finds the request invalid"),
    "vfolder-creation-failed": (errors.InvalidRequest, "the folder could not be created"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed reply, read.

    Attributes:
        kind: last part of the problem's ``type``, "" where the body is no problem.
        text: title and msg, free of query strings, at most `DETAIL_MAX` characters.
        errno: as 23.09 relays it; None where the reply has none.
        data: the problem's ``data`` object, empty where it is not an object.
    """

    status: int
    kind: str
    text: str
    errno: int | None
    data: Mapping[str, object]


def read_problem(status: int, body: bytes) -> Problem:
    """Read a failed reply's body, whatever it is."""
    try:
        obj = loads(body)
    except ValueError:
        obj = None
    if not isinstance(obj, dict):
        return Problem(status, "", _tidy(body[:DETAIL_MAX].decode("utf-8", "replace")), None, {})
    data = obj.get("data")
    data = data if isinstance(data, dict) else {}
    number = data.get("errno")
    texts = [str(obj[key]) for key in ("title", "msg") if obj.get(key)]
    return Problem(
        status,
        kind=str(obj.get("type", "")).rsplit("/", 1)[-1],
        text=_tidy(" ".join(texts)),
        errno=number if isinstance(number, int) else None,
        data=data,
    )


def to_error(p: Problem) -> VfsError:
    """The error a failed manager reply means where the caller knows nothing more."""
    if p.errno is not None and p.errno in _BY_ERRNO:
        # The reply's words hold names and the server's own paths; they stay in `detail`.
        return _BY_ERRNO[p.errno](f"the server says: {os.strerror(p.errno)}", detail=p.text)
    if p.kind in ("invalid-api-params", "vfolder-operation-failed"):
        said = _by_words(p)
        if said is not None:
            return said
    known = _BY_PROBLEM.get(p.kind)
    if known is not None:
        return known[0](_because(known[1], p), detail=p.text)
    return _by_status(p)


def is_token_problem(p: Problem) -> bool:
    """Whether the storage-proxy refuses the transfer token (contract 4.1: it says so with 400)."""
    return p.status == 400 and ("token" in p.data or "token" in p.text.lower())


# What only the words tell: errno null from shutil.move, and the refusals of a storage host.
_WORDS: tuple[tuple[str, type[VfsError]], ...] = (
    ("into itself", errors.InvalidRequest),
    ("already exists", errors.AlreadyExists),
    ("not allowed in vfolder host", errors.PermissionDenied),
    ("file name too long", errors.NameTooLong),
)


def _by_words(p: Problem) -> VfsError | None:
    lowered = p.text.lower()
    for words, cls in _WORDS:
        if words in lowered:
            return cls(f"the server says: {words}", detail=p.text)
    return None


def _by_status(p: Problem) -> VfsError:
    if p.status == 401:
        return errors.AuthFailed(_because("the server does not accept our login", p), detail=p.text)
    if p.status == 403:
        return errors.PermissionDenied(_because("the server refuses this", p), detail=p.text)
    if p.status in (404, 410):
        return errors.NotFound(_because("the server knows no such object", p), detail=p.text)
    if p.status == 429:
        return errors.RateLimited("the key's budget of requests is spent", detail=p.text)
    if p.status in (502, 503, 504):
        return errors.RemoteUnavailable(
            _because(f"the server answers {p.status}, it may be overloaded or restarting", p),
            status=p.status,
            detail=p.text,
        )
    return errors.RemoteError(
        _because(f"the server answers {p.status}", p), status=p.status, problem=p.kind, detail=p.text
    )


def _because(sentence: str, p: Problem) -> str:
    return f"{sentence} ({p.text})" if p.text else sentence


def _tidy(text: str) -> str:
    # A reply may quote a URL back at us; its query can hold a token.
    return " ".join(re.sub(r"\?\S*", "?…", text).split())[:DETAIL_MAX]
