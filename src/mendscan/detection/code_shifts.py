"""The grid of codes lies on the pixels by chance: seen through shifted grids, a slice tells more than through one.

A code stands for a patch of pixels, and which code it gets, and how unlikely that is, depends on where patches begin.
Averaged over several places of the grid that chance is less, and the map finer than the codes.  Not part of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SHIFTS", "mean_over_shifts", "shifted"]

SHIFTS = ((0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Shifts of a slice in rows and columns, in the order in which they are used.

By one pixel: networks know slices that are displaced as little as subjects are, and were worse at two pixels."""


def shifted(slices_SHW: Float[Tensor, "S H W"], rows: int, columns: int) -> Float[Tensor, "S H W"]:
    """Return slices moved by so many pixels; what comes in is the border, repeated.

    Example:
        >>> shifted(torch.tensor([[[1.0, 2.0, 3.0]]]), 0, 1).tolist()
        [[[1.0, 1.0, 2.0]]]
    """
    height, width = slices_SHW.shape[1:]
    from_row = (torch.arange(height, device=slices_SHW.device) - rows).clamp(0, height - 1)
    from_column = (torch.arange(width, device=slices_SHW.device) - columns).clamp(0, width - 1)
    return slices_SHW[:, from_row[:, None], from_column]


def mean_over_shifts(
    slices_SHW: Float[Tensor, "S H W"],
    shifts: Sequence[tuple[int, int]],
    map_of: Callable[[Float[Tensor, "S H W"]], Float[Tensor, "S H W"]],
) -> Float[Tensor, "S H W"]:
    """Return the mean of the maps of slices that were moved, each map moved back.

    Args:
        slices_SHW: The slices.
        shifts: Of them in rows and columns.
        map_of: Makes a map of moved slices.
    """
    total_SHW = torch.zeros_like(slices_SHW)
    for rows, columns in shifts:
        total_SHW += shifted(map_of(shifted(slices_SHW, rows, columns)), -rows, -columns)
    return total_SHW / len(shifts)
