"""How many slices are computed at once, on a CPU and on an accelerator."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FILLS_AN_ACCELERATOR", "FITS_A_CPU", "Batching"]


class Batching(NamedTuple):
    """How much is computed at once; fixed, so that a scan's result depends on nothing but the scan."""

    slices: int
    """Slices encoded and scored."""
    state_rows: int
    """Restorations whose codes are computed together."""
    group: int
    """Slices whose restorations are: few restorations still make enough groups for several cores."""


FITS_A_CPU = Batching(slices=8, state_rows=120, group=16)
FILLS_AN_ACCELERATOR = Batching(slices=64, state_rows=1024, group=1024)
