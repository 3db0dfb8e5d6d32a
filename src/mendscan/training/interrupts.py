"""Stop requests: signals end training at the next step, with everything saved; other work at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "stop_requests"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C, the end of a batch job, the end of a terminal, and the warning before the end of a batch job."""


class StopRequest:
    """Whether someone asked to stop; a second request stops at once.

    Attributes:
        made: Whether it was asked for.
        prompt: Whether the first request, too, stops at once, outside what is `deferred`.
    """

    def __init__(self, *, prompt: bool = False) -> None:
        self.made = False
        self.prompt = prompt
        self._deferring = 0

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Note the request (a signal handler).

        Raises:
            KeyboardInterrupt: To stop at once.
        """
        at_once = self.made or (self.prompt and not self._deferring)
        self.made = True
        if at_once:
            raise KeyboardInterrupt

    def ask(self) -> None:
        """Ask to stop at the next step, as the first signal does."""
        self.made = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note requests while the block lasts: it looks at `made` itself, between two steps.

        For the main thread, in which signals are heard; blocks may lie within each other.
        """
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1


@contextmanager
def stop_requests(*, prompt: bool = False) -> Iterator[StopRequest]:
    """Turn signals to stop into a note for as long as the block lasts; outside the main thread, do nothing.

    A signal that is ignored, as under ``nohup``, stays so.

    Args:
        prompt: Whether a request stops at once, by a `KeyboardInterrupt`, outside what is deferred.
    """
    request = StopRequest(prompt=prompt)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
