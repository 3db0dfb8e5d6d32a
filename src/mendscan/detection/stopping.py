"""Requests to stop a batch: the first signal ends it in good order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mendscan.errors import Interrupted

__all__ = ["stopped_by_signals", "stopped_in_good_order"]

_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_SAME_REQUEST_S = 1.0
"""``timeout`` and terminals send a signal to a process and then to its group: a second one so soon is the same."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM, SIGHUP and SIGUSR1 raise `KeyboardInterrupt` in the block; in other threads, do nothing.

    A signal that is ignored, as under ``nohup``, stays so.  One that comes while the first one is dealt with ends that
    at once, unless it came together with the first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if asked and now - asked[0] < _SAME_REQUEST_S:
            return
        asked.append(now)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_in_good_order(remedy: str) -> Iterator[None]:
    """As `stopped_by_signals`, for a batch that leaves its results in order.

    Args:
        remedy: How to go on.

    Raises:
        Interrupted: In place of a `KeyboardInterrupt`.
    """
    try:
        with stopped_by_signals():
            yield
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was done is in the results", remedy=remedy) from None
