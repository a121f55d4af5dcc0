"""Transfer tokens: HS256 JWTs that the manager half mints and the storage half believes.

Source: contract 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

from vfsmount.server.problems import storage_params


class Tokens:
    """Mints and reads tokens of one server.

    Args:
        life_s: seconds until a new token expires.
    """

    def __init__(self, secret: str, life_s: float) -> None:
        self._secret = secret
        self._life_s = life_s

    def mint(self, claims: Mapping[str, Any]) -> str:
        """A token that carries `claims` and an ``exp`` in whole seconds."""
        return jwt.encode({**claims, "exp": int(time.time() + self._life_s)}, self._secret, "HS256")

    def read(self, token: str | None, op: str) -> dict[str, Any]:
        """The claims of a valid token for `op`.

        Raises:
            Problem: 400 that names ``token``, for a missing, bad, expired or foreign one.
        """
        if token is None:
            raise storage_params({"token": "is required"})
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"])
        except jwt.PyJWTError as e:
            raise storage_params({"token": f"cannot decode the given value as JWT: {e}"}) from None
        if claims.get("op") != op:
            raise storage_params({"token": f"op: value is not exactly '{op}'"})
        return claims
