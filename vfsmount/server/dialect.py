"""The two protocols in one place: what a 23.09 and what a 26.x installation does differently.

Handlers are shared; where the versions part, they ask one of these properties. A difference that
needs more than a yes or no is a function here or in the module that tells its story.
Source: contract 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

_COMMON_VERSIONS = frozenset(
    f"v{version}"
    for version in (
        *("4.20181215", "4.20190115", "4.20190315", "4.20190615", "5.20191215", "6.20200815"),
        *("6.20220315", "6.20220615", "6.20230315", "7.20230615"),
    )
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which of two behaviours the server shows; each attribute is a row of the contract's table.

    Attributes:
        by_id: folders may be addressed by id; ambiguous names are 409; missing rights are 403.
        strict: unknown keys and blank strings are 400; a body beats the query, on GET as well.
        errno: storage errors carry ``errno`` and ``paths``.
        trash: deleting a folder is the first of several steps.
        quiet_delete: delete-files ignores what is missing or is a directory.
        many_mkdir: mkdir takes a list and reports per path.
        tus_checks: PATCH needs the right offset and a lease, and only whole PATCHes count.
        contained: downloads resolve symlinks before they check that the file is in the folder.
        looks_then_opens: a download has the validator and length of what was there before it was opened.
        codes: problems carry ``error_code``.
    """

    name: str
    api_version: str
    manager_version: str
    api_versions: frozenset[str]
    by_id: bool
    strict: bool
    errno: bool
    trash: bool
    quiet_delete: bool
    many_mkdir: bool
    tus_checks: bool
    contained: bool
    looks_then_opens: bool
    codes: bool
    manager_keepalive_s: float = 30.0
    storage_keepalive_s: float = 75.0

    def done(self, status: int = 201) -> web.Response:
        """Success without content: an empty `status` in 23.09, 200 with an empty message in 26.x."""
        if not self.codes:
            return web.Response(status=201) if status == 201 else web.json_response({}, status=status)
        return web.json_response({"msg": ""})

    def mode(self, st_mode: int) -> str | int:
        """A file's mode as listings have it: three octal digits, or the whole number."""
        return st_mode if self.codes else oct(st_mode)[2:][-3:]


OLD = Dialect(
    name="23.09",
    api_version="v7.20230615",
    manager_version="23.09.10",
    api_versions=_COMMON_VERSIONS | {"v6.20210815"},
    by_id=False,
    strict=True,
    errno=True,
    trash=False,
    quiet_delete=False,
    many_mkdir=False,
    tus_checks=False,
    contained=False,
    looks_then_opens=True,
    codes=False,
)

NEW = Dialect(
    name="26",
    api_version="v9.20250722",
    manager_version="26.9.6",
    api_versions=_COMMON_VERSIONS | {"v6.20221201", "v8.20240315", "v8.20240915", "v9.20250722"},
    by_id=True,
    strict=False,
    errno=False,
    trash=True,
    quiet_delete=True,
    many_mkdir=True,
    tus_checks=True,
    contained=True,
    looks_then_opens=False,
    codes=True,
    storage_keepalive_s=3630.0,
)

DIALECTS = {d.name: d for d in (OLD, NEW)}
