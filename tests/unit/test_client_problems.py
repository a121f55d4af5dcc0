"""What failed replies mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsmount import errors
from vfsmount.api.problems import is_token_problem, read_problem, to_error


def problem(kind: str, **more: object) -> bytes:
    return json.dumps({"type": f"https://api.backend.ai/probs/{kind}", "title": "T", **more}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "more", "expected"),
    [
        (400, "invalid-api-params", {"data": {"errno": 2}}, errors.NotFound),
        (400, "invalid-api-params", {"data": {"errno": 17}}, errors.AlreadyExists),
        (400, "invalid-api-params", {"data": {"errno": 20}}, errors.NotADirectory),
        (400, "invalid-api-params", {"data": {"errno": 21}}, errors.IsADirectory),
        (400, "invalid-api-params", {"data": {"errno": 36}}, errors.NameTooLong),
        (400, "invalid-api-params", {"data": {"errno": 39}}, errors.NotEmpty),
        (400, "invalid-api-params", {"data": {"errno": 122}}, errors.QuotaExceeded),
        (
            400,
            "invalid-api-params",
            {"msg": "Destination path '/x' already exists", "data": {"errno": None}},
            errors.AlreadyExists,
        ),
        (
            400,
            "invalid-api-params",
            {"msg": "`upload-file` Not allowed in vfolder host(`h`)"},
            errors.PermissionDenied,
        ),
        (400, "invalid-api-params", {"data": {"name": "x is not allowed key"}}, errors.InvalidRequest),
        (400, "vfolder-operation-failed", {}, errors.RemoteError),
        (400, "vfolder-filter-status-failed", {}, errors.PermissionDenied),
        (401, "auth-failed", {}, errors.AuthFailed),
        (403, "not-enough-permission", {}, errors.PermissionDenied),
        (403, "generic-forbidden", {}, errors.PermissionDenied),
        (404, "object-not-found", {}, errors.NotFound),
        (404, "too-many-vfolders", {}, errors.Ambiguous),
        (404, "url-not-found", {}, errors.NotSupported),
        (405, "method-not-allowed", {}, errors.NotSupported),
        (409, "ambiguous-entity-key", {}, errors.Ambiguous),
        (409, "vfolder-already-exists", {}, errors.AlreadyExists),
        (409, "vfolder-grant-already-exists", {}, errors.AlreadyExists),
        (410, "vfolder-gone", {}, errors.NotFound),
        (412, "quota-exceeded", {}, errors.QuotaExceeded),
        (429, "rate-limit-exceeded", {}, errors.RateLimited),
        (500, "internal-server-error", {}, errors.RemoteError),
        (502, "bad-gateway", {}, errors.RemoteUnavailable),
        (503, "server-frozen", {}, errors.ServerFrozen),
        (503, "service-unavailable", {}, errors.RemoteUnavailable),
        (504, "storage-proxy-timeout", {}, errors.RemoteUnavailable),
    ],
)
def test_meaning(status: int, kind: str, more: dict[str, object], expected: type[errors.VfsError]) -> None:
    assert type(to_error(read_problem(status, problem(kind, **more)))) is expected


@pytest.mark.parametrize(
    "data", [{"token": "Signature has expired"}, {"token": "Signature verification failed"}]
)
def test_refused_token(data: dict[str, str]) -> None:
    assert is_token_problem(read_problem(400, problem("storage/invalid-api-params", data=data)))


def test_directory_is_no_refused_token() -> None:
    body = b'{"type": "https://api.backend.ai/probs/storage/The file is not a regular file.", "title": "x"}'
    assert not is_token_problem(read_problem(400, body))


@given(st.integers(300, 599), st.binary(max_size=200))
def test_any_body_gives_an_error(status: int, body: bytes) -> None:
    assert isinstance(to_error(read_problem(status, body)), errors.VfsError)


def test_query_strings_are_struck_out() -> None:
    body = problem("x", msg="GET http://s/download?token=eyJhbGciOi.secret.sig&dst_dir=a failed")
    error = to_error(read_problem(500, body))
    assert "secret" not in str(error) + error.detail
