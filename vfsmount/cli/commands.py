"""Which commands there are. Each is loaded when it is called.

``vfsmount vfolder COMMAND`` is the same as ``vfsmount COMMAND`` for those that the official client has
in its group of that name, so that fingers trained on it keep working.
"""

from __future__ import annotations

import importlib

import click

# name → (module that holds the command under the name `command`, or as MODULE:NAME; one line for --help),
# by chapter
CHAPTERS: dict[str, dict[str, tuple[str, str]]] = {
    "Mounts": {
        "mount": ("vfsmount.cli.mount", "Mount every accessible vfolder (the default command)."),
        "umount": ("vfsmount.cli.umount", "Unmount and wait until everything is on the server."),
        "status": ("vfsmount.cli.status", "Show what is not on the server yet, errors and conflicts."),
        "top": ("vfsmount.cli.top", "Watch requests, bytes, hits, calls and latencies of a mount."),
        "queue": ("vfsmount.cli.queue", "List what is on its way to the server, the next file first."),
        "wait": ("vfsmount.cli.wait", "Wait until what was written is on the server."),
        "health": ("vfsmount.cli.health", "Exit status 0 where a mount is well, for probes."),
        "doctor": ("vfsmount.cli.doctor.command", "Find what stands in the way, and what mends it."),
        "log-level": ("vfsmount.cli.log_level", "Have a running mount log more, or less."),
        "upgrade": ("vfsmount.cli.upgrade", "Have this version serve a mount, under open files."),
        "refresh": ("vfsmount.cli.refresh", "Believe nothing that was learnt before now of what is mounted."),
        "warmup": ("vfsmount.cli.warmup", "Fetch files into the cache on disk before they are read."),
        "pin": ("vfsmount.cli.pin", "Fetch files and keep them on disk for when the server is away."),
        "unpin": ("vfsmount.cli.unpin", "Let pinned files go when the cache needs their room."),
        "profile": ("vfsmount.cli.profile", "Show where a mount's time went, from its access log."),
        "cache": ("vfsmount.cli.cache", "Look at, empty or check what is kept on disk of what was read."),
    },
    "Folders": {
        "list": ("vfsmount.cli.folders.listing", "List the vfolders you may access."),
        "info": ("vfsmount.cli.folders.info", "Show all that the server tells of one folder."),
        "create": ("vfsmount.cli.folders.create", "Create a folder."),
        "list-hosts": ("vfsmount.cli.folders.hosts", "List the storage hosts you may use."),
        "rename": ("vfsmount.cli.folders.rename", "Give a folder another name."),
        "clone": ("vfsmount.cli.folders.clone", "Copy a folder on the server."),
        "options": ("vfsmount.cli.folders.options_cmd", "Show or change a folder's options."),
        "delete": ("vfsmount.cli.folders.delete", "Delete a folder with all it holds."),
        "trash": ("vfsmount.cli.folders.trash", "List, restore or purge deleted folders (26.x)."),
    },
    "Sharing": {
        "invite": ("vfsmount.cli.sharing.invite", "Offer a folder of yours to other users."),
        "invitations": ("vfsmount.cli.sharing.invitations", "List invitations that wait for an answer."),
        "accept": ("vfsmount.cli.sharing.answers:accept", "Accept an invitation."),
        "reject": ("vfsmount.cli.sharing.answers:reject", "Reject an invitation."),
        "cancel": ("vfsmount.cli.sharing.answers:cancel", "Take an invitation of yours back."),
        "shared": ("vfsmount.cli.sharing.shared", "List who may use which folder of yours."),
        "permission": ("vfsmount.cli.sharing.permission", "Change what somebody may do in a folder."),
        "share": ("vfsmount.cli.sharing.share:share", "Give members of a project a permission of their own."),
        "unshare": ("vfsmount.cli.sharing.share:unshare", "Take a folder back from users."),
        "leave": ("vfsmount.cli.sharing.leave", "Give up a folder that somebody shares with you."),
    },
    "Files": {
        "ls": ("vfsmount.cli.files.ls", "List files of a folder."),
        "upload": ("vfsmount.cli.transfers.upload", "Send files and directories into a folder."),
        "download": ("vfsmount.cli.transfers.download", "Fetch files and directories of a folder."),
        "sync": ("vfsmount.cli.transfers.sync", "Make a directory like another, one of them in a folder."),
        "cat": ("vfsmount.cli.files.cat", "Write files of a folder to standard output."),
        "du": ("vfsmount.cli.files.du", "Add up the sizes of files of a folder."),
        "mkdir": ("vfsmount.cli.files.mkdir", "Make directories in a folder."),
        "mv": ("vfsmount.cli.files.mv", "Move or rename files within a folder."),
        "rename-file": ("vfsmount.cli.files.rename_file", "Rename a file of a folder in its directory."),
        "rm": ("vfsmount.cli.files.rm", "Remove files of a folder."),
    },
    "Sessions and dotfiles": {
        "dotfile": ("vfsmount.cli.dotfile", "Small files that every session starts with."),
        "run": ("vfsmount.cli.run", "Run a command where folders stand as a session sees them."),
    },
    "Settings and servers": {
        "login": ("vfsmount.cli.login", "Log in through a webserver (session mode)."),
        "logout": ("vfsmount.cli.logout", "Forget the session-mode login."),
        "config": ("vfsmount.cli.config_cmd", "Show the settings in force, secrets masked."),
        "completion": (
            "vfsmount.cli.completion.command",
            "Print the script that teaches a shell to complete.",
        ),
        "serve": ("vfsmount.cli.serve", "Run the embedded Backend.AI-compatible server."),
    },
}
# Of the official client's `backend.ai vfolder`; other spellings it knows → our name.
VFOLDER = {
    "list": "list",
    "list-hosts": "list-hosts",
    "info": "info",
    "create": "create",
    "rename": "rename",
    "clone": "clone",
    "update-options": "options",
    "delete": "delete",
    "trash": "trash",
    "invite": "invite",
    "invitations": "invitations",
    "share": "share",
    "unshare": "unshare",
    "leave": "leave",
    "upload": "upload",
    "download": "download",
    "ls": "ls",
    "mkdir": "mkdir",
    "mv": "mv",
    "rename-file": "rename-file",
    "rm": "rm",
    "delete-file": "rm",
}

COMMANDS = {name: entry for chapter in CHAPTERS.values() for name, entry in chapter.items()}


def load(name: str) -> click.Command:
    """The command of that name."""
    module, _, own_name = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), own_name or "command")
    assert isinstance(command, click.Command)
    return command


class Vfolder(click.Group):
    """The official client's group of commands about folders."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VFOLDER)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load(VFOLDER[cmd_name]) if cmd_name in VFOLDER else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[own][1]) for name, own in VFOLDER.items()])


@click.command("vfolder", cls=Vfolder)
def vfolder() -> None:
    """The folder commands under the name that the official client gives them."""
