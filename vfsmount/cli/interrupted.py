"""What to say to who pressed Ctrl-C: what was left behind, and what goes on with it."""

from __future__ import annotations

from collections.abc import Sequence

_HOW = {
    "wait": "files are sent all the same; 'vfsmount wait' waits again, 'vfsmount status' tells what is left",
    "umount": "the mount goes on ending, with everything sent or kept; 'vfsmount status' tells what is left",
    "warmup": "what came by now stays in the cache; the same command again goes on where this one was",
    "pin": "what came by now stays pinned; the same command again goes on where this one was",
    "clone": "the server goes on with a copy that was begun; 'vfsmount list' shows how it is",
    "delete": "'vfsmount list' shows whether it is still there",
    "create": "'vfsmount list' shows whether it was made",
    "rename": "'vfsmount list' shows what it is called",
    "rm": "what was removed by now is gone; with -f the same command again removes the rest",
    "mkdir": "what was made by now is there; the same command again with -p makes the rest",
    "mv": "'vfsmount ls' shows what was moved by now",
    "cat": "--offset goes on after what was written by now",
    "trash": "'vfsmount trash list' shows what is still there",
}


def how_to_go_on(words: Sequence[str]) -> str:
    """What follows "stopped"; empty for a command that leaves nothing behind."""
    names = [word for word in words[:2] if word != "vfolder"]
    told = _HOW.get(names[0]) if names else None
    return f"; {told}" if told else ""
