"""Who may ask: decided from method, headers and query alone.

A page of another site can make a browser send requests to a local server, and a name can be made to point to
127.0.0.1.  So a request must name this server as its host, must not come from another origin, and, if there is a
token, must know it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from mendscan.errors import SettingsError

__all__ = ["Access", "Refusal", "is_loopback", "new_token", "open_to"]

_NAMES_OF_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_MADE = "auto"
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,128}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(?::([0-9]{1,5}))?")
_ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, never a default


@dataclass(frozen=True)
class Refusal:
    """Why a request gets no answer: a status of HTTP and a reason that repeats nothing of the request."""

    status: int
    reason: str


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Attributes:
        port: Where it listens.
        hosts: What the header Host may name, without the port; None = any literal address, no name but localhost.
        token: What every request must know; None = none.
    """

    port: int
    hosts: frozenset[str] | None = _NAMES_OF_LOOPBACK
    token: str | None = None

    @property
    def cookie(self) -> str:
        """Name of the cookie that carries the token; browsers do not keep cookies of two ports apart."""
        return f"mendscan_{self.port}"

    def refusal(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why a request is refused; None if it is not.

        Args:
            method: Of HTTP.
            path: What is asked for.
            query: What follows the question mark.
            headers: By lower-case name; the last of a name counts, for no header used here may be repeated.
        """
        if method not in ("GET", "HEAD"):
            return Refusal(405, "only GET and HEAD are answered")
        if not self._is_this_server(headers.get("host", "")):
            return Refusal(403, "the request names another host")
        if not self._is_own_origin(path, headers):
            return Refusal(403, "the request comes from another site")
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return Refusal(413, "a request has no body here")
        if self.token is not None and not self._knows_token(path, query, headers):
            return Refusal(401, "the token is missing or wrong; open the address that mendscan view printed")
        if query and not self.introduces(path, query):
            return Refusal(400, "the request has a query that means nothing here")
        return None

    def introduces(self, path: str, query: str) -> bool:
        """Return whether a request is a first visit that brings the right token in its query."""
        if path != "/" or self.token is None:
            return False
        try:
            fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=1)
        except ValueError:
            return False
        return len(fields) == 1 and fields[0][0] == "token" and _same(fields[0][1], self.token)

    def _is_this_server(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None or int(found[2] or 80) != self.port:
            return False
        name = found[1].lower()
        return name in self.hosts if self.hosts is not None else name == "localhost" or _is_address(name)

    def _is_own_origin(self, path: str, headers: Mapping[str, str]) -> bool:
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
            return False
        site = headers.get("sec-fetch-site", "none")
        # Another local page, such as a notebook, may link to this one; it may not load or embed anything of it.
        linked = path == "/" and site == "same-site" and headers.get("sec-fetch-dest") == "document"
        return site in ("none", "same-origin") or linked

    def _knows_token(self, path: str, query: str, headers: Mapping[str, str]) -> bool:
        token = self.token or ""
        given = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        known = [value for name, _, value in given if name == self.cookie]
        scheme, _, value = headers.get("authorization", "").partition(" ")
        known += [value] if scheme.lower() == "bearer" else []
        return any(_same(value, token) for value in known) or self.introduces(path, query)


def open_to(host: str, port: int, token: str | None) -> Access:
    """Return the rules of a server that listens on an address.

    Anywhere but on this machine's own address a token is needed; one is made if none is given.

    Args:
        host: Address or name to listen on.
        port: Port to listen on.
        token: The token; ``auto`` makes one; None = none where none is needed.

    Raises:
        SettingsError: If the token is short or could not stand in an address.
    """
    if token == _MADE or (token is None and not is_loopback(host)):
        token = new_token()
    if token is not None and not _TOKEN.fullmatch(token):
        raise SettingsError(
            "the token cannot be used",
            where="--token",
            expected="auto, or 16 to 128 letters, digits, dots, dashes, underscores or tildes",
        )
    named = f"[{host.lower()}]" if ":" in host else host.lower()
    if is_loopback(host):
        return Access(port, _NAMES_OF_LOOPBACK | {named}, token)
    return Access(port, None if host in _ANY_ADDRESS else frozenset({named}), token)


def new_token() -> str:
    """Return a token of 256 random bits."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Return whether an address or name to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())
