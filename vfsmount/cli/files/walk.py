"""Doing the same for many paths at a time, and walking trees in order while listings come in any order."""

from __future__ import annotations

import heapq
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

import trio

from vfsmount.cli.files.tree import Look, Tree
from vfsmount.errors import VfsError
from vfsmount.values import Kind, RemoteEntry

T = TypeVar("T")

# Tasks; how many calls are in flight is the governor's business, and some 30 a second is all a manager
# does whatever the number (contract 7).
AT_ONCE = 8


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Do it for all of them, some at a time.

    Raises:
        VfsError: the first one; the rest is not begun.
    """
    todo = iter(list(items))
    failed: list[VfsError] = []

    async def run(nursery: trio.Nursery) -> None:
        for item in todo:
            try:
                await work(item)
            except VfsError as e:
                failed.append(e)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(run, nursery)
    if failed:
        raise failed[0]


class Walk:
    """A directory and all below it, each before those in it, names in order, links not followed.

    Args:
        visit: called with each directory's path, its depth below the top, and its listing, or why there
            is none.
        known: listings that are there already.
    """

    def __init__(
        self,
        tree: Tree,
        visit: Callable[[str, int, Look | VfsError], None],
        known: Mapping[str, Look] = MappingProxyType({}),
    ) -> None:
        self._tree = tree
        self._visit = visit
        # By components, so that the least is the one to be visited first of those not asked for yet.
        self._todo: list[tuple[tuple[str, ...], str]] = []
        self._found: dict[str, Look | VfsError] = {}
        self._known = known
        self._changed = trio.Event()

    async def run(self, top: str) -> None:
        """Visit everything.

        Raises:
            whatever `visit` does.
        """
        async with trio.open_nursery() as nursery:
            self._put(top)
            for _ in range(AT_ONCE):
                nursery.start_soon(self._list)
            error = await self._go_through(top)
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _go_through(self, top: str) -> Exception | None:
        stack = [(top, 0)]
        while stack:
            path, depth = stack.pop()
            while path not in self._found:
                await self._changed.wait()
            found = self._found.pop(path)
            try:
                self._visit(path, depth, found)
            except Exception as e:  # as it is, not in a group
                return e
            if isinstance(found, Look):
                stack += [(p, depth + 1) for p in reversed(_directories(path, found))]
        return None

    async def _list(self) -> None:
        while True:
            while not self._todo:
                await self._changed.wait()
            _, path = heapq.heappop(self._todo)
            try:
                found: Look | VfsError = self._known.get(path) or await self._tree.list(path)
            except VfsError as e:
                found = e
            self._found[path] = found
            if isinstance(found, Look):
                for below in _directories(path, found):
                    self._put(below)
            self._tell()

    def _put(self, path: str) -> None:
        heapq.heappush(self._todo, (tuple(path.split("/")), path))

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def in_order(entries: Iterable[RemoteEntry]) -> list[RemoteEntry]:
    """Entries by name."""
    return sorted(entries, key=lambda e: os.fsdecode(e.name))


def joined(directory: str, name: bytes) -> str:
    """Path of a name in a directory."""
    text = os.fsdecode(name)
    return f"{directory}/{text}" if directory else text


def _directories(path: str, found: Look) -> list[str]:
    entries = in_order(found.listing.entries)
    return [joined(path, e.name) for e in entries if e.kind is Kind.DIRECTORY]
