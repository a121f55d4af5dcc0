"""What the server tells of files, in the words of fsspec; and listings that may lack some."""

from __future__ import annotations

import os
from typing import Any

from vfsmount.values import Folder, Kind, RemoteEntry, Validator

Info = dict[str, Any]

UPLOADS = ".upload"  # where the server keeps unfinished uploads, in a folder's root


class PartialListing(OSError):
    """The server cuts its listings, and has cut this one, as far as anybody can tell."""


class PartialListingWarning(UserWarning):
    """The number of entries is one at which servers cut listings; there may be more."""


def root() -> Info:
    """What holds the folders."""
    return {"name": "", "size": 0, "type": "directory"}


def of_folder(name: str, folder: Folder) -> Info:
    """A vfolder."""
    info: Info = {"name": name, "size": 0, "type": "directory", "id": folder.id, "host": folder.host}
    if folder.mtime_ns:
        info |= {"created": folder.mtime_ns / 1e9, "mtime": folder.mtime_ns / 1e9}
    return info | {"permission": folder.permission, "owner": folder.owner}


def of_directory(path: str) -> Info:
    """A directory of which nothing else is known."""
    return {"name": path, "size": 0, "type": "directory"}


def of_version(path: str, version: Validator) -> Info:
    """A file as it is now."""
    return {
        "name": path,
        "size": version.size,
        "type": "file",
        "mtime": version.mtime_ns / 1e9,
        "etag": version.etag,
    }


def of_entry(directory: str, entry: RemoteEntry) -> Info:
    """An entry of a listing. Symlinks are ``link`` until somebody has looked where they lead."""
    name = f"{directory}/{os.fsdecode(entry.name)}"
    kind = {Kind.FILE: "file", Kind.DIRECTORY: "directory"}.get(entry.kind, "link")
    size = 0 if entry.kind is Kind.DIRECTORY else entry.size
    return {
        "name": name,
        "size": size,
        "type": kind,
        "mtime": entry.mtime_ns / 1e9,
        "created": entry.ctime_ns / 1e9,
        "mode": entry.mode,
    }


def version_of(info: Info) -> Validator | None:
    """The version that an `of_version` tells."""
    return Validator.from_etag(str(info.get("etag", "")))
