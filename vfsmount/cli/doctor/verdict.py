"""What one check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of `vfsmount doctor`.

    Attributes:
        check: what was looked at.
        level: ``bad`` is in the way, ``warn`` may be.
        cause: its name in docs/doctor.md and for programs; "" where all is well.
        says: a sentence.
        fix: the command, or what else to do.
    """

    check: str
    level: Literal["ok", "warn", "bad"]
    cause: str
    says: str
    fix: str = ""


def ok(check: str, says: str) -> Verdict:
    """All is well."""
    return Verdict(check, "ok", "", says)


def warn(check: str, cause: str, says: str, fix: str) -> Verdict:
    """Something may be in the way."""
    return Verdict(check, "warn", cause, says, fix)


def bad(check: str, cause: str, says: str, fix: str) -> Verdict:
    """Something is in the way."""
    return Verdict(check, "bad", cause, says, fix)
