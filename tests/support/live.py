"""Access to the real Backend.AI that `scripts/test --live` brings up."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from vfsmount.config import ApiSettings, load_settings
from vfsmount.config_sources import Places

DIRECTORY = "VFSMOUNT_LIVE_ENV_DIR"
# Set by scripts/test where the stack cannot be installed; the text says what is missing.
REASON = "VFSMOUNT_LIVE_SKIP"


def why_no_live() -> str:
    """What is missing for the live tests; empty where nothing is."""
    if os.environ.get(DIRECTORY):
        return ""
    return os.environ.get(REASON) or f"{DIRECTORY} is not set: run scripts/test --live"


def live_environment(user: str) -> Mapping[str, str]:
    """The ``BACKEND_…`` variables of `user`: ``owner``, ``friend`` or ``admin``."""
    return read_env_file(Path(os.environ[DIRECTORY]) / f"env-{user}.sh")


def read_env_file(path: Path) -> Mapping[str, str]:
    """The variables that a file of ``export NAME=value …`` lines sets."""
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def settings_of(environment: Mapping[str, str]) -> ApiSettings:
    """Settings from these variables and from nowhere else on this machine."""
    nowhere = Path("/nonexistent")
    return load_settings({}, environment, where=Places(nowhere, nowhere, nowhere, None))
