"""Which command somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def alike(word: str, commands: Iterable[str]) -> list[str]:
    """Commands that look like the word, the likeliest first; at most three."""
    commands = list(commands)
    # Letters in the wrong order: what difflib finds too far off in a word as short as "sl".
    swapped = [name for name in commands if sorted(name) == sorted(word)]
    return list(dict.fromkeys([*swapped, *difflib.get_close_matches(word, commands)]))[:3]
