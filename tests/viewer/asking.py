"""Raw requests to a viewer: what clients of good will cannot send must be sent, too."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, request: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        stored = b""
        while part := connection.recv(2**16):
            stored += part
    head, _, body = stored.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


Ask = Callable[..., Answer]


def asking(port: int) -> Ask:
    def ask(path: str = "/", *, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        fields = {"host": f"127.0.0.1:{port}", "connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        return send(port, f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)

    return ask
