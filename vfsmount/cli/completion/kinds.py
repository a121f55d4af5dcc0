"""What a word on the command line names, for completion. Nothing is loaded until somebody presses TAB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Word(click.types.StringParamType):
    """Text like any other, completed by the function of this name in `words`."""

    def __init__(self, what: str) -> None:
        self.what = what

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from vfsmount.cli.completion import words

        found: list[CompletionItem] = getattr(words, self.what)(ctx, param, incomplete)
        return found


FOLDER = Word("folder")  # the name of a folder
PLACES = Word("places")  # the words of NAME [PATH]…, NAME:PATH, or paths on a mount
DOWNLOAD = Word("download")  # the same, and a directory here at the end
IN_FOLDER = Word("in_folder")  # a path in the folder that an argument before names
DIRECTORY_IN_FOLDER = Word("directory_in_folder")
UPLOAD_TO = Word("upload_to")  # a folder, a directory in one, or one on a mount
SIDE = Word("side")  # of sync: a directory here, or NAME:PATH
MOUNT = Word("mount")  # the mountpoint of a running mount
MOUNT_THEN_LEVEL = Word("mount_then_level")  # of log-level
ON_MOUNT = Word("on_mount")  # a path on a running mount
DIRECTORY = Word("directory")  # a directory here
FILE = Word("file")  # anything here
PROFILE = Word("profile")  # of config.toml
