"""fsspec over a server: an instance that has its settings from one user's variables and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from vfsmount.fsspec import VfolderFileSystem


@contextmanager
def only_settings(variables: Mapping[str, str]) -> Iterator[None]:
    """This process, and those it starts, see these server settings and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_PROFILE"))]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def filesystem(variables: Mapping[str, str], **options: Any) -> VfolderFileSystem:
    """A new instance of that user."""
    with only_settings(variables):
        fs = VfolderFileSystem(skip_instance_cache=True, **options)
    assert isinstance(fs, VfolderFileSystem)
    return fs
