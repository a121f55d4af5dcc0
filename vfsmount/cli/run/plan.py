"""What stands where in the home directory of a local run: decided before anything is mounted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from vfsmount.cli.remote import choose_folder
from vfsmount.core.foldernames import shown_folders
from vfsmount.core.mountspec import HOME, MountSpec
from vfsmount.errors import ConfigError
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.dotfiles import Dotfile as RemoteDotfile

# Where the session's own things are (contract 3.9). The server refuses dotfiles of these paths; one
# that is there all the same is not to replace a directory that is needed.
RESERVED = frozenset({".terminfo", ".jupyter", ".ssh", ".ssh/authorized_keys", ".local", ".config"})
_DEFAULT_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Placed:
    """A directory of the mount and where it stands.

    Attributes:
        source: path below the mountpoint; its first part is a folder as the mount shows it.
        target: absolute path.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Dotfile:
    """A file of the home directory; `path` is relative to it."""

    path: str
    mode: int
    data: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a home directory.

    Attributes:
        left_out: sentences about what will not be there.
    """

    folders: list[Placed] = field(default_factory=list)
    dotfiles: list[Dotfile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[str]:
        """The folders that the mount has to show."""
        return sorted({placed.source.split("/")[0] for placed in self.folders})

    def to_json(self) -> bytes:
        """For another process. ASCII, so that names that are not UTF-8 keep their bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Plan:
        """What `to_json` made."""
        found = json.loads(raw)
        folders = [Placed(**placed) for placed in found["folders"]]
        return cls(folders, [Dotfile(**dotfile) for dotfile in found["dotfiles"]], found["left_out"])


def make_plan(
    specs: Sequence[MountSpec],
    folders: Sequence[Folder],
    dotfiles: Sequence[RemoteDotfile],
    *,
    addressed_by_name: bool,
) -> Plan:
    """The folders asked for, those whose name begins with a dot as on the cluster, and the dotfiles.

    Raises:
        NotFound, Ambiguous: a folder that is asked for.
        ConfigError: two folders at one place.
    """
    shown = shown_folders(folders, addressed_by_name=addressed_by_name)
    names = {entry.folder.id: os.fsdecode(entry.name) for entry in shown if entry.reachable}
    placed: dict[str, Placed] = {}
    for spec in specs:
        folder = choose_folder(folders, spec.folder, addressed_by_name=addressed_by_name)
        label = names.get(folder.id)
        if label is None:
            raise ConfigError(
                f"{spec.folder!r} cannot be reached: the server knows another folder of that name"
            )
        target = spec.path(folder.name)
        if target in placed:
            raise ConfigError(f"two folders at {target}: give one of them another path (NAME:PATH)")
        source = f"{label}/{spec.subpath}" if spec.subpath else label
        placed[target] = Placed(source, target, spec.permission == "ro")
    for entry in shown:
        name, target = entry.folder.name, f"{HOME}/{entry.folder.name}"
        if name.startswith(".") and entry.reachable and target not in placed:
            placed[target] = Placed(os.fsdecode(entry.name), target)
    kept, left_out = _sort_out(dotfiles)
    return Plan(list(placed.values()), kept, left_out)


def _sort_out(dotfiles: Sequence[RemoteDotfile]) -> tuple[list[Dotfile], list[str]]:
    kept: dict[str, Dotfile] = {}
    left_out = []
    for dotfile in dotfiles:
        path = dotfile.path.removeprefix(f"{HOME}/").removeprefix("~/")
        parts = path.split("/")
        if path in RESERVED or not fit_for_home(parts):
            left_out.append(f"the dotfile {dotfile.path!r} is left out: nothing may stand there")
        elif path in kept or any(path.startswith(f"{k}/") or k.startswith(f"{path}/") for k in kept):
            left_out.append(f"the dotfile {dotfile.path!r} is left out: another stands in its way")
        else:
            kept[path] = Dotfile(path, _mode(dotfile.permission), dotfile.data)
    return list(kept.values()), left_out


def fit_for_home(parts: Sequence[str]) -> bool:
    """Whether a path of these parts lies below the home directory and can be made there."""
    return all(
        part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) <= 255 for part in parts
    )


def _mode(permission: str) -> int:
    try:
        mode = int(permission, 8)
    except ValueError:
        return _DEFAULT_MODE
    return mode if 0 <= mode <= 0o777 else _DEFAULT_MODE
