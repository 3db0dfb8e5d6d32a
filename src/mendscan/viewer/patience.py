"""A connection that asks for nothing is closed: uvicorn alone would wait for the end of a request for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["PatientProtocol"]

_SECONDS = 10.0


class PatientProtocol(H11Protocol):
    """HTTP/1.1 whose clients have ten seconds to say what they want."""

    _asking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._asking is not None:
            self._asking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a later request that has begun must be complete in time, too."""
        super().data_received(data)
        self._wait()

    def _wait(self) -> None:
        if self._asking is None:
            self._asking = self.loop.call_later(_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        self._asking = None
        cycle: Any = self.cycle
        answering = cycle is not None and not cycle.response_complete
        # Between two requests uvicorn's own, shorter time runs.
        if not answering and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.transport.close()
