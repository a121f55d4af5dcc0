"""What ``-m`` of ``run`` says: which folder stands where, and how.

Four spellings, those of the official client of both generations and Docker's:

    NAME    NAME=PATH    NAME:PATH    NAME:PATH:ro
    type=bind,source=NAME/sub,target=/path,perm=ro

NAME is the folder as a mount shows it, or its id, and may go on with ``/`` and a directory in it. A
backslash takes the meaning from ``: = ,`` and from itself. A relative PATH is below the home directory.

Source: contract 3.10; Backend.AI client ``cli/session/execute.py``, ``cli/params.py`` (26.x).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfsmount.errors import ConfigError

HOME = "/home/work"  # of every session
PERMISSIONS = ("ro", "rw", "wd")

RESERVED = frozenset(
    (
        *(".terminfo", ".jupyter", ".tmux.conf", ".ssh", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64"),
        *("/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/usr", "/var"),
        *("/home", "/tmp"),  # noqa: S108 - a place that is refused
    )
)
_RESERVED_FORM = re.compile(r"\.[a-z0-9]+(rc|_profile)")

_LONG_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "perm": "permission",
    "permission": "permission",
}


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One folder in a session.

    Attributes:
        folder: as somebody names it: shown name, plain name or id.
        subpath: directory in it that is mounted instead of its root; "" for the root.
        target: absolute path in the session, normalised; None: the default, by the folder's name.
        permission: ``ro``, ``rw`` or ``wd`` where one was asked for; it can only lower the folder's own.
    """

    folder: str
    subpath: str = ""
    target: str | None = None
    permission: str | None = None

    @property
    def source(self) -> str:
        """Folder and directory in it, as written."""
        return f"{self.folder}/{self.subpath}" if self.subpath else self.folder

    def path(self, name: str) -> str:
        """Where it stands, `name` being the folder's plain name."""
        return self.target or f"{HOME}/{name}"


def parse_mounts(texts: Iterable[str]) -> tuple[MountSpec, ...]:
    """Every ``-m`` of one command.

    Raises:
        ConfigError: one makes no sense, or two name one source or one path; the message quotes it.
    """
    found: list[MountSpec] = []
    for text in texts:
        spec = parse_mount(text)
        for other in found:
            if other.source == spec.source:
                raise ConfigError(f"-m {text}: {spec.source!r} is mounted twice")
            if other.target is not None and other.target == spec.target:
                raise ConfigError(f"-m {text}: two folders at {spec.target}")
        found.append(spec)
    return tuple(found)


def parse_mount(text: str) -> MountSpec:
    """One ``-m``.

    Raises:
        ConfigError: it makes no sense; the message quotes it.
    """
    try:
        fields = _long(text)
        source, target, permission = _short(text) if fields is None else _of_fields(fields)
        folder, subpath = _source(source)
        if permission not in (None, *PERMISSIONS):
            raise ValueError(f"{permission!r} is no permission; there are {', '.join(PERMISSIONS)}")
        return MountSpec(folder, subpath, _target(target) if target else None, permission)
    except ValueError as e:
        raise ConfigError(f"-m {text}: {e}") from None


def check_places(places: Sequence[tuple[str, str]]) -> None:
    """Refuse what sessions refuse of (source, path) pairs: system paths, and one below another.

    Args:
        places: folder with directory in it, and where it stands.

    Raises:
        ConfigError: names both.

    Source: contract 3.10; Backend.AI manager ``defs.py``, ``models/vfolder.py``.
    """
    for n, (source, path) in enumerate(places):
        name = path.removeprefix(HOME + "/")
        if name in RESERVED or _RESERVED_FORM.fullmatch(name):
            raise ConfigError(f"{source} cannot stand at {path}: sessions have their own there")
        for other_source, other_path in places[:n]:
            if _overlap(source, other_source):
                raise ConfigError(f"{source} and {other_source} overlap")
            if _overlap(path, other_path):
                raise ConfigError(f"{source} at {path} and {other_source} at {other_path} overlap")


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(b + "/") or b.startswith(a + "/")


def split(text: str, mark: str, limit: int = -1) -> list[str]:
    """Parts between unescaped `mark`, at most `limit` cuts; the escapes stay in."""
    parts, start, at = [], 0, 0
    while at < len(text) and limit != 0:
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == mark:
            parts.append(text[start:at])
            start = at + 1
            limit -= 1
        at += 1
    return [*parts, text[start:]]


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _long(text: str) -> dict[str, str] | None:
    """Fields of the long spelling; None where it is a short one: only the long one has a source."""
    pairs = [split(piece, "=", 1) for piece in split(text, ",")]
    if not any(len(pair) == 2 and _LONG_KEYS.get(pair[0].strip()) == "source" for pair in pairs):
        return None
    fields: dict[str, str] = {}
    for pair in pairs:
        key = _LONG_KEYS.get(pair[0].strip())
        if key is None or len(pair) != 2:
            raise ValueError(f"{_plain(pair[0])!r} is no field; there are type, source, target and perm")
        if key in fields:
            raise ValueError(f"{key} is given twice")
        fields[key] = _unquoted(_plain(pair[1].strip()))
    return fields


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _of_fields(fields: dict[str, str]) -> tuple[str, str, str | None]:
    if fields.get("type", "bind") != "bind":
        raise ValueError(f"type {fields['type']!r} is unknown; there is bind")
    return fields["source"], fields.get("target", ""), fields.get("permission") or None


def _short(text: str) -> tuple[str, str, str | None]:
    source, *rest = split(text, "=", 1)
    if not rest:
        source, *rest = split(text, ":", 1)
    if not rest:
        return _plain(source), "", None
    path, *permission = split(rest[0], ":")
    if len(permission) > 1:
        raise ValueError("more than NAME:PATH:PERMISSION; write \\: for a colon in a name or path")
    return _plain(source), _plain(path), _plain(permission[0]) if permission else None


def _source(source: str) -> tuple[str, str]:
    folder, _, subpath = source.partition("/")
    if not folder:
        raise ValueError("it names no folder")
    return folder, "/".join(_components(subpath))


def _target(path: str) -> str:
    below = "" if path.startswith("/") else HOME.strip("/") + "/"
    whole = "/" + "/".join(_components(below + path))
    if whole in ("/", HOME):
        raise ValueError(f"a folder cannot stand at {whole} itself")
    return whole


def _components(path: str) -> Sequence[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{path!r} leads upwards")
    if any(not character.isprintable() for character in path):
        raise ValueError("a path with control characters")
    return parts
