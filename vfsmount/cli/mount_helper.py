"""``mount.vfsmount`` and ``umount.vfsmount``: what mount(8), fstab and systemd's mount units call.

    mount.vfsmount SOURCE DIRECTORY [-sfnvrw] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]
    umount.vfsmount DIRECTORY [-flnrv] [-N NAMESPACE] [-t TYPE]

SOURCE is the name of a folder that alone is shown, or ``none`` for all of them. OPTIONS are those of
mount(8) and fstab, and every long option of ``vfsmount mount``, as ``profile=lab``, ``cache_size=20480``.

Source: mount(8) "EXTERNAL HELPERS", umount(8) "EXTERNAL HELPERS".
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from vfsmount.cli import exit_codes, main

# Exit statuses of mount(8).
USAGE, INTERRUPTED, FAILED = 1, 8, 32

# A mount that stays in the foreground would keep mount(8) waiting; the other two have forms of their own.
_NOT_FROM_FSTAB = frozenset({"foreground", "mount_options", "folders"})
# Words of fstab that mean something else there, without a value, than the option of ours.
_FSTABS_OWN = frozenset({"group", "sync"})
_ALL_FOLDERS = ("none", "vfsmount", "")


class Misused(Exception):
    """The arguments make no sense; the sentence says which."""


@dataclass(slots=True)
class Asked:
    """A call of the helper, taken apart."""

    source: str
    directory: str
    options: list[str] = field(default_factory=list)
    sloppy: bool = False
    fake: bool = False
    verbose: bool = False


def parse(args: Sequence[str]) -> Asked:
    """Take the arguments apart.

    Raises:
        Misused
    """
    try:
        found, rest = getopt.gnu_getopt(list(args), "sfnvrwiN:t:o:")
    except getopt.GetoptError as e:
        raise Misused(str(e)) from e
    if len(rest) != 2:
        raise Misused("a source (a folder's name, or none) and a directory are needed")
    asked = Asked(rest[0], rest[1])
    for name, value in found:
        match name:
            case "-o":
                asked.options += [o for o in value.split(",") if o]
            case "-r":
                asked.options.append("ro")
            case "-w":
                asked.options.append("rw")
            case "-s":
                asked.sloppy = True
            case "-f":
                asked.fake = True
            case "-v":
                asked.verbose = True
            case "-N":
                raise Misused("-N: mounting in another namespace is not supported")
            # -n: there is no /etc/mtab any more. -i and -t are for mount(8) itself.
    return asked


def translate(asked: Asked) -> list[str]:
    """The arguments of ``vfsmount mount`` that mean the same.

    Raises:
        Misused: an option nobody knows, unless it is to be tolerated.
    """
    from vfsmount.cli.mount_options import parse_mount_options
    from vfsmount.errors import ConfigError

    own = _long_options()
    args, for_o = ["mount", asked.directory], []
    for option in asked.options:
        name, has_value, value = option.partition("=")
        key = name.replace("_", "-")
        if key in own and (name not in _FSTABS_OWN or has_value):
            if own[key] is not bool(has_value):
                raise Misused(f"-o {name}: {'needs a value' if own[key] else 'takes no value'}")
            args.append(f"--{key}={value}" if has_value else f"--{key}")
            continue
        if name == "remount":
            raise Misused("-o remount: not supported; unmount, and mount anew")
        try:
            parse_mount_options(option)
        except ConfigError as e:
            if not asked.sloppy:
                raise Misused(str(e)) from e
        else:
            for_o.append(option)
    if for_o:
        args += ["-o", ",".join(for_o)]
    if asked.source not in _ALL_FOLDERS:
        args.append(f"--folder={asked.source}")
    return args


def _long_options() -> dict[str, bool]:
    """Long options of ``vfsmount mount``, without their dashes; whether each takes a value."""
    from vfsmount.cli.commands import load

    found = {}
    for param in load("mount").params:
        if isinstance(param, click.Option) and param.name not in _NOT_FROM_FSTAB:
            for spelling in [*param.opts, *param.secondary_opts]:
                if spelling.startswith("--"):
                    found[spelling[2:]] = not param.is_flag
    return found


def mount(argv: Sequence[str] | None = None) -> int:
    """``mount.vfsmount``: mount, and return when the mount answers, with an exit status of mount(8)."""
    try:
        asked = parse(sys.argv[1:] if argv is None else argv)
        args = translate(asked)
    except Misused as e:
        click.echo(f"mount.vfsmount: {e}", err=True)
        return USAGE
    if asked.verbose:
        click.echo(f"mount.vfsmount: vfsmount {' '.join(args)}", err=True)
    return 0 if asked.fake else _status(main(args))


def umount(argv: Sequence[str] | None = None) -> int:
    """``umount.vfsmount``: unmount, and return when all is on the server; a status of umount(8).

    Under the name ``umount.fuse`` it is called for every FUSE mount (umount(8) knows no more of one
    that answers); those that are not ours are left to umount(8).
    """
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type, real_path

    args = list(sys.argv[1:] if argv is None else argv)
    try:
        found, rest = getopt.gnu_getopt(args, "flnrviN:t:")
        if len(rest) != 1:
            raise getopt.GetoptError("a directory is needed, and nothing else")
    except getopt.GetoptError as e:
        click.echo(f"umount.vfsmount: {e}", err=True)
        return USAGE
    if mounted_type(real_path(rest[0])) not in (None, FS_TYPE):
        os.execvp("umount", ["umount", "-i", *args])  # noqa: S606 (the caller itself, told to look for no helper)
    given = {name for name, _ in found}
    if "-r" in given:
        click.echo("umount.vfsmount: -r: not supported", err=True)
        return USAGE
    return _status(main(["umount", *(["--lazy"] if given & {"-l", "-f"} else []), "--", rest[0]]))


def _status(code: int) -> int:
    if code == exit_codes.OK:
        return 0
    return {exit_codes.USAGE: USAGE, exit_codes.INTERRUPTED: INTERRUPTED}.get(code, FAILED)
