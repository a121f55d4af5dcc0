"""Exit codes of every command, documented in docs/exit-codes.md."""

from __future__ import annotations

from vfsmount import errors

OK = 0
FAILED = 1  # anything that has no code of its own
USAGE = 2  # wrong arguments, missing or contradictory settings
AUTH = 3  # wrong key, expired login, clock off
UNREACHABLE = 4  # wrong host, server down, no usable reply in time
MOUNT = 5  # the mountpoint cannot be used, or FUSE is missing
UNSENT = 6  # unmounted, but some data is not on the server
NOT_FOUND = 7  # no such folder, file, invitation or dotfile
DENIED = 8  # the server refuses this user this operation, or what is named is read-only
CONFLICT = 9  # the name is taken, the directory not empty, or somebody else was faster
QUOTA = 10  # no room: the server's quota, or a disk here
INTERRUPTED = 130  # Ctrl-C
READER_GONE = 141  # nobody reads the output any more, as SIGPIPE would tell

_BY_CLASS: tuple[tuple[type[errors.VfsError], int], ...] = (
    (errors.ConfigError, USAGE),
    (errors.AuthFailed, AUTH),
    (errors.RemoteUnavailable, UNREACHABLE),
    (errors.MountError, MOUNT),
    (errors.Unsent, UNSENT),
    (errors.NotFound, NOT_FOUND),
    (errors.PermissionDenied, DENIED),
    (errors.ReadOnly, DENIED),
    (errors.AlreadyExists, CONFLICT),
    (errors.NotEmpty, CONFLICT),
    (errors.Conflict, CONFLICT),
    (errors.Stale, CONFLICT),
    (errors.Ambiguous, CONFLICT),
    (errors.QuotaExceeded, QUOTA),
    (errors.NoSpace, QUOTA),
    (errors.VfsError, FAILED),
)


def exit_code(error: BaseException) -> int | None:
    """The exit status for `error`, or None where it is a bug and deserves its traceback."""
    return next((code for cls, code in _BY_CLASS if isinstance(error, cls)), None)
