"""The storage chapter as typed, on both dialects."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import clean_environment
from tests.support.storage import Typist, storage_chapter


@pytest.mark.parametrize("group", ["vfsmount", "vfsmount vfolder"])
def test_storage_chapter_works_as_typed(both: Embedded, tmp_path: Path, group: str) -> None:
    typist = Typist(clean_environment(both.env("owner")), tmp_path)
    storage_chapter(typist, group, f"mydata-{secrets.token_hex(4)}", "local:volume1")
