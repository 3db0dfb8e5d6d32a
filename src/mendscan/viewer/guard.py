"""Every request passes here, and every answer: rules first, headers last."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mendscan.viewer.access import Access

__all__ = ["POLICY", "Guard"]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may load and do: its own scripts, styles and data; nothing from elsewhere, no text as markup."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An ASGI application that lets another one answer what `Access` allows.

    Args:
        app: Who answers.
        access: The rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        answer = self._refusal(scope) or self._introduction(scope) or self._app
        await answer(scope, receive, _with_headers(send))

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(Headers(scope=scope).items())
        query = scope["query_string"].decode("latin-1")
        refusal = self._access.refusal(scope["method"], scope["path"], query, headers)
        if refusal is None:
            return None
        extra = {405: {"allow": "GET, HEAD"}, 401: {"www-authenticate": "Bearer"}}.get(refusal.status)
        return JSONResponse({"error": refusal.reason}, refusal.status, headers=extra)

    def _introduction(self, scope: Scope) -> Response | None:
        """The token goes from the address, where it would be seen, into a cookie that no script can read."""
        access = self._access
        if access.token is None or not access.introduces(scope["path"], scope["query_string"].decode("latin-1")):
            return None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(access.cookie, access.token, path="/", httponly=True, samesite="strict")
        return answer


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
