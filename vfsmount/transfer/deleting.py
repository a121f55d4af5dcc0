"""What `sync --delete` removes, from a folder and from this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from vfsmount.errors import NotFound, VfsError
from vfsmount.transfer.disk import Tree, in_thread
from vfsmount.transfer.remote import Remote
from vfsmount.transfer.report import Report

BATCH = 100  # paths in one call to the manager


class Doomed:
    """Paths that are not in the source.

    Attributes:
        files: everything that is no directory.
        directories: with all that is in them.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.directories: list[str] = []

    def __len__(self) -> int:
        return len(self.files) + len(self.directories)

    def shown(self) -> Iterator[str]:
        """For people; directories end with a slash."""
        yield from self.files
        yield from (f"{d}/" for d in self.directories)


async def delete_there(remote: Remote, report: Report, doomed: Doomed) -> None:
    """Delete paths of the folder."""
    for paths, recursive in ((doomed.files, False), (doomed.directories, True)):
        for at in range(0, len(paths), BATCH):
            await _delete(remote, report, paths[at : at + BATCH], recursive)


async def _delete(remote: Remote, report: Report, paths: list[str], recursive: bool) -> None:
    """Delete these; where the call fails, halves of them, until it is known which one it is."""
    try:
        await remote.client.delete_files(remote.folder, paths, recursive=recursive, known=True)
    except VfsError as e:
        if e.retryable:
            raise
        if len(paths) > 1:
            middle = len(paths) // 2
            await _delete(remote, report, paths[:middle], recursive)
            await _delete(remote, report, paths[middle:], recursive)
        elif not isinstance(e, NotFound):
            report.fail(paths[0], e)
        return
    report.deleted += len(paths)
    for path in paths:
        report.touch(path)


async def delete_here(tree: Tree, report: Report, doomed: Doomed) -> None:
    """Delete paths of a tree on this machine."""
    for path in doomed.files:
        await _remove(tree, report, path, os.unlink)
    for path in doomed.directories:
        await _remove(tree, report, path, shutil.rmtree)


async def _remove(tree: Tree, report: Report, path: str, remove: Any) -> None:
    *above, name = path.split("/")

    def work() -> None:
        fd = tree.open_directory(above, create=False)
        try:
            remove(name, dir_fd=fd)
        finally:
            os.close(fd)

    try:
        await in_thread(work, tree.path((*above, name)))
        report.deleted += 1
    except NotFound:
        pass
    except VfsError as e:
        report.fail(path, e)
