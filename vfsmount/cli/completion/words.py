"""What may stand where a word is being typed.

Each function gets the words before it by way of the context, and gives what begins with `incomplete`.
Kinds of items: ``plain`` is a word of ours, ``path`` a name that a shell has to quote as it quotes the
names of files, ``dir`` and ``file`` have the shell look around on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from vfsmount.cli.completion import remote
from vfsmount.cli.options import flags_of

Items = list[CompletionItem]


def folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _paths(remote.folder_names(flags_of(ctx.params)), incomplete)


def places(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _places(ctx, _before(ctx, param), incomplete)


def download(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    before = _before(ctx, param)
    may_be_here = before and not _is_local(before[0])
    return _places(ctx, before, incomplete) + (directory(ctx, param, incomplete) if may_be_here else [])


def in_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _entries(ctx, _folder_before(ctx), incomplete)


def directory_in_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _entries(ctx, _folder_before(ctx), incomplete, files=False)


def upload_to(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    if _is_local(incomplete):
        return directory(ctx, param, incomplete)
    name, colon, path = incomplete.partition(":")
    if colon:
        return _entries(ctx, name, path, before=f"{name}:", files=False)
    return folder(ctx, param, incomplete)


def side(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    if _is_local(incomplete):
        return directory(ctx, param, incomplete)
    name, colon, path = incomplete.partition(":")
    if colon:
        return _entries(ctx, name, path, before=f"{name}:", files=False)
    return _spelt(ctx, incomplete) + directory(ctx, param, incomplete)


def mount(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    found = _mountpoints(ctx, incomplete)
    return found or directory(ctx, param, incomplete)


def mount_then_level(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    from vfsmount.log import LEVELS

    levels = [CompletionItem(level) for level in LEVELS if level.startswith(incomplete)]
    return levels + ([] if _before(ctx, param) else _mountpoints(ctx, incomplete))


def on_mount(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return file(ctx, param, incomplete) if incomplete else mount(ctx, param, incomplete)


def directory(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _directories(incomplete)


def file(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return [CompletionItem(incomplete, type="file")]


def profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    from vfsmount.config_sources import Places, profiles, read_toml

    names = profiles(read_toml(Places.of_this_user().config_file))
    return _paths(names, incomplete)


# --- parts -------------------------------------------------------------------------------------


def _directories(incomplete: str) -> Items:
    return [CompletionItem(incomplete, type="dir")]


def _places(ctx: click.Context, before: tuple[str, ...], incomplete: str) -> Items:
    """One of the words of ``NAME [PATH]…``; see `vfsmount.cli.target`."""
    if before and not _is_local(before[0]) and ":" not in before[0]:
        return _entries(ctx, before[0], incomplete)
    if _is_local(incomplete):
        return [CompletionItem(incomplete, type="file")]
    name, colon, path = incomplete.partition(":")
    if colon:
        return _entries(ctx, name, path, before=f"{name}:")
    if before:
        return _spelt(ctx, incomplete)
    return [*_paths(remote.folder_names(flags_of(ctx.params)), incomplete), *_directories(incomplete)]


def _is_local(word: str) -> bool:
    """Whether a word is a path on this machine: it has a slash, and no colon before that."""
    before, slash, _ = word.partition("/")
    return word.startswith("~") or word in (".", "..") or bool(slash and ":" not in before)


def _spelt(ctx: click.Context, incomplete: str) -> Items:
    """Folders as ``NAME:``; one whose own name has a colon cannot be named so."""
    names = remote.folder_names(flags_of(ctx.params))
    return _paths((f"{name}:" for name in names if ":" not in name), incomplete)


def _entries(ctx: click.Context, name: str, path: str, *, before: str = "", files: bool = True) -> Items:
    """Paths in a folder, as they are typed after `before`."""
    above, slash, _ = path.rpartition("/")
    if path.startswith("/"):
        return []
    found = (
        before + above + slash + entry + ("/" if is_dir else "")
        for entry, is_dir in remote.entries(flags_of(ctx.params), name, above)
        if files or is_dir
    )
    return _paths(found, before + path)


def _paths(names: Iterable[str], incomplete: str) -> Items:
    # What has control characters, or is not UTF-8, no shell would get back as it is.
    return [
        CompletionItem(name, type="path")
        for name in sorted(names)
        if name.startswith(incomplete) and name.isprintable()
    ]


def _mountpoints(ctx: click.Context, incomplete: str) -> Items:
    from vfsmount import places as where
    from vfsmount.cli.control import live_mounts

    given = ctx.params.get("state_dir")
    state = Path(given).absolute() if given else where.state_dir()
    return _paths((record.mountpoint for record in live_mounts(state)), incomplete)


def _before(ctx: click.Context, param: click.Parameter) -> tuple[str, ...]:
    """The words that an argument of several has already."""
    given = ctx.params.get(param.name or "")
    return tuple(map(os.fspath, given)) if isinstance(given, tuple) else ()


def _folder_before(ctx: click.Context) -> str:
    params: dict[str, Any] = ctx.params
    return str(params.get("name") or params.get("folder") or "")
