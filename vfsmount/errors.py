"""Everything that can go wrong, named by what happened.

One tree under `VfsError`. Context travels as fields, the cause is chained with ``from``. Numbers
(errno, HTTP status) are for the edges: ``api/`` and ``store/`` turn them into these classes,
``errnos.py`` turns these classes into errno. Messages are sentences for a user and never
hold a key, a token, a cookie or a query string.
"""

from __future__ import annotations

from vfsmount.values import Validator


class VfsError(Exception):
    """Base of all errors this project raises on purpose.

    Attributes:
        retryable: a later attempt of the same request may succeed by itself.
        detail: what the server or the disk said, already free of secrets.
        request_id: under which the server's log knows the failed call, "" where it had no name.
    """

    retryable = False

    def __init__(self, message: str = "", *, detail: str = "", request_id: str = "") -> None:
        super().__init__(message or self.__class__.__name__)
        self.detail = detail
        self.request_id = request_id


# --- the namespace -----------------------------------------------------------------------------


class NotFound(VfsError):
    """No such file, directory, folder, invitation or dotfile."""


class AlreadyExists(VfsError):
    """The name is taken."""


class NotADirectory(VfsError):
    """A directory was needed and something else stands there."""


class IsADirectory(VfsError):
    """A file was needed and a directory stands there."""


class NotEmpty(VfsError):
    """The directory still has entries, or may have some that a cut listing did not show."""


class CrossFolder(VfsError):
    """A move from one vfolder to another; the server has no such call."""


class InvalidName(VfsError):
    """A name the server cannot store or give back (CR, LF, NUL, not UTF-8, reserved)."""


class NameTooLong(VfsError):
    """A name component over 255 bytes, or a path over what a request line can carry."""


class InvalidRequest(VfsError):
    """The arguments make no sense (a directory into itself, a negative size)."""


class Ambiguous(VfsError):
    """Several accessible folders share the name and the server will not choose."""


# --- permission --------------------------------------------------------------------------------


class ReadOnly(VfsError):
    """The folder, or the whole mount, is read-only. Nothing was sent."""


class PermissionDenied(VfsError):
    """The server refuses this user this operation."""


class NotSupported(VfsError):
    """The server has no form for this (links, special files, exchange of two names)."""


class AuthFailed(VfsError):
    """Unknown key, wrong signature, expired cookie: no request of ours will be accepted."""


class ClockSkew(AuthFailed):
    """Our clock and the server's are 15 minutes or more apart, so no signature is accepted."""


class OtpRequired(AuthFailed):
    """The account needs a one-time password beside the password."""


# --- versions ----------------------------------------------------------------------------------


class Stale(VfsError):
    """The remote file is no longer the version that was opened."""


class Conflict(VfsError):
    """The target is not the version the content was made from; nothing was put in place.

    Attributes:
        found: the version that stands there.
    """

    def __init__(self, message: str = "", *, found: Validator | None = None) -> None:
        super().__init__(message)
        self.found = found


class NoAttribute(VfsError):
    """The extended attribute is not set."""


class AttributeUnsupported(VfsError):
    """An extended attribute outside the ``user.`` namespace."""


class BadHandle(VfsError):
    """A file handle that is not open, or not open for this."""


# --- room --------------------------------------------------------------------------------------


class QuotaExceeded(VfsError):
    """The server's quota for this user or project is used up."""


class NoSpace(VfsError):
    """No room left on the disk that holds staging files."""


# --- the way to the server ---------------------------------------------------------------------


class RemoteUnavailable(VfsError):
    """No usable reply: connection refused or cut, 502, 503, 504, or silence. Outcome unknown.

    Attributes:
        sent: the request may have reached the server and been executed; False only where no
            connection came about.
        status: HTTP status of the reply, 0 where there was none.
    """

    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        sent: bool = True,
        status: int = 0,
        detail: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message, detail=detail, request_id=request_id)
        self.sent = sent
        self.status = status


class DeadlineExceeded(RemoteUnavailable):
    """The operation did not finish within its deadline. Outcome unknown."""


class RateLimited(VfsError):
    """429: the key's budget of manager calls is spent."""

    retryable = True


class TooLate(VfsError):
    """What a call was based on was seen too long ago when its turn came. It was not executed."""

    retryable = True


class ServerFrozen(VfsError):
    """The manager is in maintenance and refuses changes."""


class RemoteError(VfsError):
    """The server failed or refused in a way that has no class of its own here.

    Attributes:
        status: HTTP status of the reply, 0 where there was none.
        problem: last part of the problem's ``type``, empty where there was none.
    """

    def __init__(
        self, message: str = "", *, status: int = 0, problem: str = "", detail: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, detail=detail, request_id=request_id)
        self.status = status
        self.problem = problem


class ProtocolError(RemoteError):
    """A reply that breaks the protocol: wrong length, missing header, not JSON."""


# --- transfers (raised and handled inside api/) ------------------------------------------------


class TokenExpired(VfsError):
    """The transfer token is refused; a new one may work."""

    retryable = True


class RangeOutside(VfsError):
    """The range starts at or past the file's end.

    Attributes:
        size: the file's size as the server told it.
    """

    def __init__(self, message: str = "", *, size: int) -> None:
        super().__init__(message)
        self.size = size


class UploadFailed(VfsError):
    """The upload did not end with the file in place, for a reason that is not the network's."""


# --- this machine ------------------------------------------------------------------------------


class LocalIOError(VfsError):
    """The disk that holds our files failed."""


class FileTooLarge(LocalIOError):
    """Larger than a file may be on that disk."""


class RecordsFull(LocalIOError):
    """The disk that holds the records is full; what was to be recorded is not."""


class Unsent(VfsError):
    """What a mount holds is not on the server and does not get there by itself, or not in time."""


class ConfigError(VfsError):
    """Settings are missing or contradict each other; the message names the variable."""


class MountError(VfsError):
    """The mountpoint cannot be used; the message says why and what to do."""
