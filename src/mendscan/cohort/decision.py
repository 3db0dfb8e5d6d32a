"""One choice of a plan, with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SET_BY_USER", "Decision"]

SET_BY_USER = "set by the user"
"""The reason of such a decision; what it names is not chosen otherwise."""


@dataclass(frozen=True)
class Decision:
    """One choice of the plan."""

    setting: str
    value: str
    reason: str
