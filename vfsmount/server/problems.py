"""Refusals, as the real halves word them: ``application/problem+json`` with a dispatchable ``type``.

Handlers raise `Problem`; one place in each half turns it into a reply.
Source: contract 7 "Error body", 2.2, 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web

_MANAGER = "https://api.backend.ai/probs/"
_STORAGE = "https://api.backend.ai/probs/storage/"

# type suffix → (status, title). Only the suffix and the status mean something to clients.
_KNOWN: dict[str, tuple[int, str]] = {
    "url-not-found": (404, "Unknown URL path."),
    "method-not-allowed": (405, "HTTP Method Not Allowed."),
    "object-not-found": (404, "No such virtual folder."),
    "too-many-vfolders": (404, "There are two or more matching vfolders."),
    "generic-bad-request": (400, "Bad request."),
    "invalid-api-params": (400, "Missing or invalid API parameters."),
    "invalid-auth-params": (400, "Missing or invalid authorization parameters."),
    "auth-failed": (401, "Credential/signature mismatch."),
    "generic-forbidden": (403, "Forbidden operation."),
    "insufficient-privilege": (403, "Insufficient privilege."),
    "not-enough-permission": (403, "Not enough permission."),
    "ambiguous-entity-key": (409, "The entity key is ambiguous."),
    "vfolder-already-exists": (400, "The virtual folder already exists with the same name."),
    "vfolder-grant-already-exists": (409, "The virtual folder is already shared with the user."),
    "vfolder-invalid-parameter": (400, "Invalid virtual folder parameter."),
    "vfolder-operation-failed": (400, "Virtual folder operation has failed."),
    "vfolder-filter-status-failed": (400, "Virtual folder status filtering has failed."),
    "session-already-exists": (
        400,
        "The session already exists but you requested not to reuse existing one.",
    ),
    "rate-limit-exceeded": (429, "You have reached your API query rate limit."),
    "server-frozen": (503, "The server is frozen due to maintenance. Please try again later."),
    "internal-server-error": (500, "Internal server error."),
    "forwarded-error": (500, "An error was forwarded from another component."),
    "graphql-error": (400, "GraphQL-generated error."),
}


class Problem(Exception):
    """A refusal with a status and a problem type; raise it from a handler.

    Attributes:
        suffix: last part of the problem's ``type``.
        storage: the type lives below ``…/probs/storage/``.
        code: ``error_code`` of the 26.x dialect; left out in 23.09.
    """

    def __init__(
        self,
        suffix: str,
        msg: str | None = None,
        data: Any = None,
        *,
        status: int = 0,
        title: str = "",
        storage: bool = False,
        code: str = "",
    ) -> None:
        super().__init__(f"{suffix}: {msg}")
        known_status, known_title = _KNOWN.get(suffix, (400, suffix))
        self.suffix, self.msg, self.data = suffix, msg, data
        self.status = status or known_status
        self.title = title or known_title
        self.storage = storage
        self.code = code

    def response(self, *, with_code: bool, headers: Mapping[str, str] | None = None) -> web.Response:
        """The reply that says this."""
        body: dict[str, Any] = {"type": (_STORAGE if self.storage else _MANAGER) + self.suffix}
        body["title"] = self.title
        if self.msg is not None:
            body["msg"] = self.msg
        if self.data is not None:
            body["data"] = self.data
        if with_code and not self.storage:
            body["error_code"] = self.code or f"backendai_generic_{self.suffix}"
        return web.Response(
            status=self.status,
            text=json.dumps(body),
            content_type="application/problem+json",
            headers=headers,
        )


def no_such(what: str, data: Any = None, msg: str | None = None) -> Problem:
    """404 for a missing object, with the title the real manager builds from its kind."""
    return Problem("object-not-found", msg, data, title=f"No such {what}.")


def refuse_strange(request: web.Request, known: Collection[str]) -> None:
    """The old storage-proxy's 400 for a query key that is not `known`, or a blank ``dst_dir``."""
    errors: dict[str, Any] = {key: f"{key} is not allowed key" for key in request.query if key not in known}
    if request.query.get("dst_dir") == "":
        errors["dst_dir"] = {"0": "value should be None", "1": "blank value is not allowed"}
    if errors:
        raise storage_params(errors)


def storage_params(data: Mapping[str, Any], title: str = "Invalid API parameters") -> Problem:
    """The storage-proxy's 400, its way of saying that a token or a parameter is no good."""
    return Problem("invalid-api-params", data=data or None, title=title, storage=True)


def crash() -> web.Response:
    """What an uncaught exception of the real server looks like: 500 in text, connection closed."""
    reply = web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")
    reply.force_close()
    return reply
