"""Everything that is acknowledged at one moment, waited for until the server has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from vfsmount.core.inodes import Node
from vfsmount.core.staging import State
from vfsmount.errors import VfsError
from vfsmount.vfs.removals import Removals
from vfsmount.vfs.uploader import Uploader, Wanted


@dataclass(frozen=True, slots=True)
class Refused:
    """What will not get to the server by itself.

    Attributes:
        name: folder and path, for people.
        reason: a sentence.
    """

    name: str
    reason: str


class Barrier:
    """Files and removals as they stood when it was made; what is changed later is not waited for."""

    def __init__(
        self,
        uploader: Uploader,
        removals: Removals,
        files: Iterable[Node],
        directories: Iterable[Node],
        names: Iterable[tuple[Node, bytes]],
        patient: bool,
    ) -> None:
        """Args:
        directories, names: removals below them, and of them.
        patient: a server that cannot be reached is waited for.
        """
        self._uploader = uploader
        self._removals = removals
        self._patient = patient
        self._files = uploader.want(files, patient=patient)
        self._gone = removals.want(directories, names)
        self._error: VfsError | None = None

    @property
    def left(self) -> tuple[int, int]:
        """(how many, bytes) are not on the server yet; a removal counts as one of no bytes."""
        left = [w for n, w in self._files.items() if not w.is_there(n)]
        removals = sum(not p.done.is_set() for p in self._gone)
        return len(left) + removals, sum(map(_bytes_left, left))

    @property
    def refused(self) -> list[Refused]:
        """What the server or this machine's disk refuses, as far as is known."""
        files = [
            Refused(self._uploader.name_of(n), str(w.staged.error))
            for n, w in self._files.items()
            if w.staged.error is not None and (_is_parked(w) or w.failure is self._error)
        ]
        return files + [
            Refused(p.shown, f"removed here, but {p.error}") for p in self._gone if p.error is not None
        ]

    async def run(self) -> None:
        """Return when everything is on the server, verified.

        Raises:
            VfsError: why something is not; see `refused`.
        """
        async with trio.open_nursery() as nursery:

            async def or_end(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except VfsError as e:
                    self._error = self._error or e
                    nursery.cancel_scope.cancel()

            patient = self._patient
            nursery.start_soon(or_end, lambda: self._removals.wait_for(self._gone, patient=patient))
            nursery.start_soon(or_end, lambda: self._uploader.wait_for(self._files, patient=patient))
        if self._error is not None:
            raise self._error


def _is_parked(wanted: Wanted) -> bool:
    detail = wanted.staged.detail
    return detail is not None and detail.state is State.PARKED


def _bytes_left(wanted: Wanted) -> int:
    staged = wanted.staged
    size = staged.detail.size if staged.detail is not None else staged.content.size
    return size - min(size, staged.upload.done_bytes) if staged.upload is not None else size
