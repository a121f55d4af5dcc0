"""Paths are checked and encoded so that what is signed is what is sent."""

from __future__ import annotations

from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount.api import paths
from vfsmount.api.files import mapped, token_claims
from vfsmount.errors import InvalidName, InvalidRequest, NameTooLong


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", ""), (".", ""), ("/", ""), ("a//b/./c/", "a/b/c"), (" a ", " a "), ("...", "...")],
)
def test_relative(path: str, expected: str) -> None:
    assert paths.relative(path) == expected


@pytest.mark.parametrize("path", ["..", "a/../b", "a/..", "nul\0", "x\udcff"])
def test_what_could_escape_or_not_be_stored_is_refused(path: str) -> None:
    with pytest.raises(InvalidName):
        paths.relative(path)


def test_name_length_counts_bytes() -> None:
    assert paths.relative("가" * 85)
    with pytest.raises(NameTooLong):
        paths.relative("가" * 85 + "x")


@pytest.mark.parametrize("path", ["", ".", "./.", "//"])
def test_root_is_refused_where_it_would_be_fatal(path: str) -> None:
    with pytest.raises(InvalidRequest):
        paths.below_root(path)


@pytest.mark.parametrize("name", ["a/b", "a/", "./a", "a\n", "a\r", ".."])
def test_bare_name(name: str) -> None:
    with pytest.raises((InvalidName, InvalidRequest)):
        paths.bare_name(name)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80))
def test_httpx_sends_encoded_text_unchanged(text: str) -> None:
    target = f"/folders/{paths.encode(text)}/files{paths.query({'path': text})}"
    url = httpx.URL("http://h:1" + target)
    # Dot segments are the one thing httpx takes out; no folder is called so on a by-name server.
    if text not in (".", ".."):
        assert url.raw_path.decode() == target
        assert unquote(target.split("/")[2]) == text


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_relative_never_leaves_the_root(path: str) -> None:
    try:
        rel = paths.relative(path)
    except (InvalidName, NameTooLong):
        return
    assert not rel.startswith("/")
    assert not {"", ".", ".."} & set(rel.split("/")) or rel == ""
    assert paths.relative(rel) == rel


URL = "http://storage.internal:6021/download"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((), URL),
        (((URL, "https://out/d"),), "https://out/d"),
        ((("http://storage.internal:6021", "https://out:1"),), "https://out:1/download"),
        ((("http://storage.internal:6021/", "https://out:1/"),), "https://out:1/download"),
        ((("http://other:6021", "https://out"),), URL),
        ((("http://storage.internal", "https://out"),), URL),
        ((("http://storage.internal:6021", "https://a"), (URL, "https://b/d")), "https://b/d"),
    ],
)
def test_storage_proxy_map(table: tuple[tuple[str, str], ...], expected: str) -> None:
    assert mapped(URL, table) == expected


@given(st.text(max_size=50))
def test_token_that_is_no_jwt_tells_nothing(text: str) -> None:
    assert isinstance(token_claims(text), dict)


def test_token_claims() -> None:
    token = "e30.eyJleHAiOjEyMywidmZpZCI6InVzZXI6eC95In0.sig"
    assert token_claims(token) == {"exp": 123, "vfid": "user:x/y"}
