"""Session mode: logging in and out at a webserver, and the cookie that remains.

The webserver answers 200 to a wrong password as well; what counts is ``authenticated``.

Source: contract 2.5.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import msgspec

from vfsmount.api.decode import loads
from vfsmount.api.http import Http, read_body
from vfsmount.api.manager import REPLY_MAX, SESSION_COOKIE, USER_AGENT
from vfsmount.api.problems import read_problem, to_error
from vfsmount.config import ApiSettings
from vfsmount.errors import AuthFailed, ConfigError, NotSupported, OtpRequired, ProtocolError, RateLimited
from vfsmount.login_file import read_login


def stored_cookie(settings: ApiSettings) -> str:
    """The cookie of the stored login in session mode, "" in api mode.

    Raises:
        AuthFailed: nobody is logged in, or the login was made for another endpoint.
    """
    if settings.mode != "session" or settings.cookie_file is None:
        return ""
    login = read_login(settings.cookie_file)
    if login.endpoint.rstrip("/") not in (e.rstrip("/") for e in settings.endpoints):
        # A cookie is as good as a password: it goes to the server that issued it and no other.
        raise AuthFailed(
            "the stored login belongs to another endpoint: check BACKEND_ENDPOINT, or run `vfsmount login`"
        )
    return login.cookie


async def login(settings: ApiSettings, username: str, password: str, otp: str | None = None) -> str:
    """Log in at the first endpoint and return the cookie's value, which is a secret.

    Raises:
        OtpRequired: repeat with the one-time password.
        AuthFailed: wrong name or password, or the account cannot log in this way.
        RateLimited: too many failed attempts; the webserver is closed to this user for a while.
        RemoteUnavailable: no usable reply.
    """
    fields = {"username": username, "password": password}
    if otp is not None:
        fields["otp"] = otp
    response, raw = await _post(settings, "/server/login", fields)
    if response.status_code == 429:
        raise RateLimited("too many failed logins: the webserver refuses more for about 20 minutes")
    if response.status_code == 404:
        raise NotSupported("there is no login at this address: session mode needs a webserver, not a manager")
    if response.status_code != 200:
        raise to_error(read_problem(response.status_code, raw))
    reply = _object(raw)
    if reply.get("authenticated") is not True:
        raise _refusal(reply.get("data"), otp)
    cookie = _cookie_of(response)
    if not cookie:
        raise ProtocolError("the webserver accepted the login but sent no cookie")
    return cookie


async def logout(settings: ApiSettings, cookie: str) -> None:
    """End the login on the server.

    Raises:
        AuthFailed: the server has forgotten it already.
        RemoteUnavailable: no usable reply.
    """
    response, raw = await _post(settings, "/server/logout", {}, cookie)
    if not 200 <= response.status_code < 300:
        raise to_error(read_problem(response.status_code, raw))


async def _post(
    settings: ApiSettings, path: str, fields: Mapping[str, str], cookie: str = ""
) -> tuple[httpx.Response, bytes]:
    if not settings.endpoints:
        raise ConfigError("no endpoint is set: set BACKEND_ENDPOINT")
    content = msgspec.json.encode(fields)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
    }
    if cookie:
        headers["Cookie"] = f"{SESSION_COOKIE}={cookie}"
    http = Http(settings)
    try:
        url = httpx.URL(settings.endpoints[0].rstrip("/") + path)
        async with http.exchange("POST", url, headers=headers, content=content) as response:
            return response, await read_body(response, REPLY_MAX)
    except httpx.InvalidURL as e:
        raise ConfigError("BACKEND_ENDPOINT holds no usable address") from e
    finally:
        await http.aclose()


def _refusal(data: object, otp: str | None) -> AuthFailed:
    fields = data if isinstance(data, dict) else {}
    kind, details = str(fields.get("type", "")), str(fields.get("details", ""))
    if kind.endswith("require-totp-registration"):
        return AuthFailed("the account must first be set up for one-time passwords, in the web console")
    if otp is None and (details == "OTP not provided" or kind.endswith("require-totp-authentication")):
        return OtpRequired("the account needs a one-time password as well")
    if otp is not None:
        return AuthFailed("the server does not accept user id, password and one-time password together")
    return AuthFailed("the server does not accept this user id and password")


def _object(raw: bytes) -> Mapping[str, object]:
    try:
        reply = loads(raw)
    except ValueError as e:
        raise ProtocolError("the webserver does not answer in JSON. Check BACKEND_ENDPOINT") from e
    return reply if isinstance(reply, dict) else {}


def _cookie_of(response: httpx.Response) -> str:
    for line in response.headers.get_list("set-cookie"):
        name, _, rest = line.partition("=")
        if name.strip() == SESSION_COOKIE:
            return rest.partition(";")[0].strip().strip('"')
    return ""
