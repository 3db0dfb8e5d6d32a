"""How long work tells those who wait: stages say where they are, and know nothing of terminals."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "Silent"]


@runtime_checkable
class Progress(Protocol):
    """What a stage may say while it works.

    Stages may run at once, each in a thread of its own: what a thread says is about the stage that it began last.
    """

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """A stage of `total` units begins, `done` of which were done before."""

    def advance(self, units: int = 1, **facts: float) -> None:
        """Some units are done; `facts` are figures worth showing, such as the loss."""

    def say(self, message: str) -> None:
        """One line for the reader, such as a warning about one scan."""


class Silent:
    """Says nothing."""

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """Ignore."""

    def advance(self, units: int = 1, **facts: float) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""
