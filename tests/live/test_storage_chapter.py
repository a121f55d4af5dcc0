"""The storage chapter as typed, on the real 23.09."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from tests.support.live import live_environment
from tests.support.mounting import clean_environment
from tests.support.storage import Typist, storage_chapter

pytestmark = pytest.mark.live


@pytest.mark.parametrize("group", ["vfsmount", "vfsmount vfolder"])
def test_storage_chapter_works_as_typed(tmp_path: Path, group: str) -> None:
    typist = Typist(clean_environment(dict(live_environment("owner"))), tmp_path)
    host = json.loads(typist.type("vfsmount list-hosts --json"))["hosts"][0]["host"]
    storage_chapter(typist, group, f"chapter-{secrets.token_hex(4)}", host)
