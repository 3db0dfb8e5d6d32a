"""Running the viewer: a socket, a server, and an end without noise."""

from __future__ import annotations

import errno
import importlib.util
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mendscan.errors import SettingsError
from mendscan.viewer.access import Access, open_to

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn import Config

__all__ = ["DEFAULT_PORT", "address_of", "listen", "serve", "server_settings"]

DEFAULT_PORT = 8765
_CONNECTIONS = 64
_KEEP_ALIVE_SECONDS = 5
_GRACE_SECONDS = 2
_LONGEST_HEAD = 16 * 1024


def serve(
    results_folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    on_ready: Callable[[str, Access], None] = lambda address, access: None,
) -> None:
    """Show a results folder on a local page until interrupted.

    Args:
        results_folder: What ``mendscan detect`` wrote.
        host: Address to listen on; any but this machine's own makes a token if none is given.
        port: Port to listen on; 0 = any free one; None = `DEFAULT_PORT`, or any free one if that is taken.
        token: What every request must know; ``auto`` makes one.
        on_ready: Called with the page's address and the rules once requests are waited for.

    Raises:
        ResultsError: If it is no results folder.
        SettingsError: If the viewer is not installed, the address cannot be listened on, or the token is too short.
    """
    _check_installed()
    import uvicorn

    from mendscan.viewer.server import create_app

    open_to(host, 0, token)  # a token that cannot be used is told before anything is opened
    with listen(host, port) as listening:
        access = open_to(host, listening.getsockname()[1], token)
        app = create_app(results_folder, access)
        on_ready(address_of(host, access), access)
        with suppress(KeyboardInterrupt):  # uvicorn ends in order and then raises it again
            uvicorn.Server(server_settings(app)).run(sockets=[listening])


def server_settings(app: ASGIApp) -> Config:
    """Return how uvicorn serves the viewer: few connections, short waits, nothing logged about requests."""
    import uvicorn

    from mendscan.viewer.patience import PatientProtocol

    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingsError: If the port is taken, or the address is not one of this machine.
    """
    if port is not None:
        return _listen(host, port)
    try:
        return _listen(host, DEFAULT_PORT)
    except SettingsError as error:
        if error.code != "E_PORT":
            raise
        return _listen(host, 0)


def address_of(host: str, access: Access) -> str:
    """Return the address to open, with the token if there is one."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{access.port}/" + (f"?token={access.token}" if access.token else "")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(_CONNECTIONS)
    except (OSError, OverflowError) as error:
        opened.close()
        raise _cannot_listen(host, port, error) from None
    return opened


def _cannot_listen(host: str, port: int, error: OSError | OverflowError) -> SettingsError:
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    return SettingsError(
        "the port is taken" if taken else "cannot listen on this address",
        where=f"{host}:{port}",
        code="E_PORT" if taken else None,
        found=None if taken else getattr(error, "strerror", None) or error,
        remedy="give another --port, or --port 0 for a free one" if taken else "see --host and --port",
    )


def _check_installed() -> None:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            "the viewer is not installed",
            where="mendscan view",
            found=f"no {' and no '.join(missing)}",
            remedy="pip install 'mendscan[viewer]'",
        )
