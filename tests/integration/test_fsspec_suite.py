"""fsspec's own suite for file systems, in both dialects; of its patterns each in one of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from fsspec.tests import abstract

from tests.support.embedded import Embedded
from tests.support.pythonic import filesystem
from vfsmount.fsspec import VfolderFileSystem


class Fixtures(abstract.AbstractFixtures):
    """What the suite works on: a directory of its own for each test, in one folder for each server."""

    @pytest.fixture(scope="module")
    @classmethod
    def shared_fs(cls, _shared_server: Embedded) -> tuple[VfolderFileSystem, str]:
        name = f"suite{secrets.token_hex(3)}"
        fs = filesystem(_shared_server.env("owner"))
        fs.mkdir(name)
        return fs, name

    @pytest.fixture
    def fs(self, shared_fs: tuple[VfolderFileSystem, str]) -> VfolderFileSystem:
        return shared_fs[0]

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self, shared_fs: tuple[VfolderFileSystem, str]) -> Iterator[str]:
        yield f"{shared_fs[1]}/{secrets.token_hex(4)}"


class Old(Fixtures):
    """On a 23.09 server."""

    @pytest.fixture(scope="module")
    @classmethod
    def _shared_server(cls, _shared_old: Embedded) -> Embedded:
        return _shared_old


class New(Fixtures):
    """On a 26.x server."""

    @pytest.fixture(scope="module")
    @classmethod
    def _shared_server(cls, _shared_new: Embedded) -> Embedded:
        return _shared_new


class TestCopyOld(Old, abstract.AbstractCopyTests):
    pass


class TestCopyNew(New, abstract.AbstractCopyTests):
    test_copy_glob_edge_cases = None  # a hundred patterns, the same for both; half of the time


class TestGetOld(Old, abstract.AbstractGetTests):
    test_get_glob_edge_cases = None


class TestGetNew(New, abstract.AbstractGetTests):
    pass


class TestPutOld(Old, abstract.AbstractPutTests):
    test_put_glob_edge_cases = None


class TestPutNew(New, abstract.AbstractPutTests):
    pass


class TestPipeOld(Old, abstract.AbstractPipeTests):
    pass


class TestPipeNew(New, abstract.AbstractPipeTests):
    pass


class TestOpenOld(Old, abstract.AbstractOpenTests):
    pass


class TestOpenNew(New, abstract.AbstractOpenTests):
    pass
