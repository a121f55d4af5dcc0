"""Which vfolders show on a mount, and under which names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vfsmount.values import NAME_MAX, Folder

# Everything else is vanishing, in the trash or broken (contract 6.7).
SHOWN_STATUSES = frozenset({"ready", "mounted", "performing", "cloning"})


@dataclass(frozen=True, slots=True)
class ShownFolder:
    """A folder under the name it has on the mount.

    Attributes:
        reachable: False where the server's name lookup would answer with another folder.
    """

    name: bytes
    folder: Folder
    reachable: bool = True


def fit_for_directory_entry(name: bytes) -> bool:
    """Whether a server's name can be a directory entry here (26.x allows ``a/b`` and ``.``)."""
    return (
        0 < len(name) <= NAME_MAX
        and name not in (b".", b"..")
        and not any(byte in name for byte in (b"/", b"\0", b"\r", b"\n"))
    )


def shown_folders(
    folders: Iterable[Folder], *, addressed_by_name: bool, only: Collection[str] = ()
) -> list[ShownFolder]:
    """The folders of a mount, each under a name of its own.

    One's own folder keeps its plain name whatever others share; of several namesakes the others get
    ``@owner`` appended, and their id where that is not enough either.

    Args:
        addressed_by_name: the 23.09 dialect, in which only the first of several namesakes can be
            reached: own before invited before project folders (contract 3.2).
        only: names to show, as the user typed them (plain or with ``@owner``); all when empty.
    """
    namesakes: defaultdict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        if folder.status in SHOWN_STATUSES and not folder.unmanaged:
            namesakes[folder.name].append(folder)
    shown: list[ShownFolder] = []
    for name, group in namesakes.items():
        first = _first_match(group)
        plain = group[0] if len(group) == 1 else next((f for f in group if _rank(f) == 0), None)
        taken: set[str] = set()
        for folder in sorted(group, key=lambda f: (_rank(f), f.id)):
            label = name if folder is plain else f"{name}@{folder.owner or folder.id[:8]}"
            if label in taken or (label != name and label in namesakes):
                label = f"{label}~{folder.id[:8]}"
            taken.add(label)
            encoded = label.encode("utf-8", "surrogateescape")
            if fit_for_directory_entry(encoded) and (not only or label in only or name in only):
                shown.append(ShownFolder(encoded, folder, folder is first or not addressed_by_name))
    return shown


def _rank(folder: Folder) -> int:
    """Order in which the 23.09 manager looks a name up."""
    if folder.ownership != "user":
        return 2
    return 0 if folder.is_owner else 1


def _first_match(group: list[Folder]) -> Folder | None:
    """The one folder that a name reaches on 23.09; None where the database's order decides."""
    best = min(_rank(f) for f in group)
    firsts = [f for f in group if _rank(f) == best]
    return firsts[0] if len(firsts) == 1 else None
