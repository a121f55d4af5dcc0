"""`VfolderFileSystem`: the folders of a user as fsspec sees file systems.

Paths are ``FOLDER/path/in/it``, with the names that a mount shows. Nothing is cached here unless
`use_listings_cache` is given: what is told was so when it was asked for.
"""

from __future__ import annotations

from vfsmount.fsspec.content import Content
from vfsmount.fsspec.naming import Naming


class VfolderFileSystem(Content, Naming):
    """The folders that a user may access, as ``vfolder://FOLDER/PATH``.

    Calls block; any number of threads may make them at once. In a process that is forked off, an
    instance made before works on, over connections of that process.

    Args:
        deadline: seconds after which a call without progress fails with `TimeoutError`.
        partial_ok: take what the server shows of a directory whose listing it cuts, with a warning,
            where otherwise `PartialListing` is raised.
        staging_dir: where files lie that are being written; the system's temporary directory if None.
        use_listings_cache: believe listings for ``listings_expiry_time`` seconds.
        settings: ``profile``, ``endpoint`` and so on (`SETTINGS`).
    """
