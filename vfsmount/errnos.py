"""The only place that knows errno: one table by class."""

from __future__ import annotations

import errno

from vfsmount import errors

# Looked up along the class's ancestors, so every leaf has an entry or inherits one on purpose.
ERRNO: dict[type[errors.VfsError], int] = {
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.CrossFolder: errno.EXDEV,  # mv and rename callers fall back to copying
    errors.InvalidName: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.InvalidRequest: errno.EINVAL,
    errors.Ambiguous: errno.EACCES,  # a permission the name cannot carry; the log says which folders
    errors.ReadOnly: errno.EROFS,
    errors.PermissionDenied: errno.EACCES,
    errors.NotSupported: errno.EPERM,  # as link(2), symlink(2) and mknod(2) say it for such filesystems
    errors.AuthFailed: errno.EACCES,
    errors.Stale: errno.ESTALE,
    errors.Conflict: errno.ESTALE,
    errors.NoAttribute: errno.ENODATA,
    errors.AttributeUnsupported: errno.EOPNOTSUPP,  # as tmpfs says it; EPERM would make cp -a complain
    errors.BadHandle: errno.EBADF,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.NoSpace: errno.ENOSPC,
    errors.FileTooLarge: errno.EFBIG,
    errors.RemoteUnavailable: errno.EIO,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.RateLimited: errno.EBUSY,  # EAGAIN would make programs spin
    errors.TooLate: errno.EBUSY,  # never reaches a program: who asks for the limit looks again
    errors.ServerFrozen: errno.EROFS,  # in maintenance the server is just that
    errors.RemoteError: errno.EIO,
    errors.TokenExpired: errno.EIO,  # api/ renews tokens; one that gets here could not be renewed
    errors.RangeOutside: errno.ESTALE,  # the file shrank under the reader
    errors.UploadFailed: errno.EIO,
    errors.Unsent: errno.EIO,  # only commands raise it
    errors.LocalIOError: errno.EIO,
    errors.RecordsFull: errno.ENOSPC,
    errors.ConfigError: errno.EINVAL,  # never at run time
    errors.MountError: errno.EIO,  # never at run time
}


def errno_of(error: errors.VfsError) -> int:
    """The errno a program gets for an error."""
    return next((ERRNO[cls] for cls in type(error).__mro__ if cls in ERRNO), errno.EIO)
