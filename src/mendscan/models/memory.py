"""What incremental evaluation keeps from one position to the next.

A *state row* stands for one prefix of codes of one slice: every activation that positions to come still need.  When
two restorations of a slice draw different codes, their row is forked: until then they are one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Memory"]

_SLAB_BYTES = 2**26
"""Tensors are cut from slabs of this size: the system takes large blocks back when they are freed, small ones stay with
the process.  What is never touched costs nothing."""
_ALIGNED = 64


class Memory:
    """The kept activations of up to `capacity` state rows; the first `rows` of each tensor are alive.

    Args:
        capacity: The most state rows there can be.
        device: Where.
        dtype: Of the activations that are added up.
        arithmetic: Of the activations that are multiplied by weights; bfloat16 is faster where the processor has it,
            and no longer exact.
    """

    def __init__(
        self, capacity: int, *, device: torch.device, dtype: torch.dtype, arithmetic: torch.dtype | None = None
    ) -> None:
        self.capacity, self.device, self.dtype = capacity, device, dtype
        self.arithmetic = arithmetic or dtype
        self.rows = 0
        self._kept: list[Tensor] = []
        self._slab = torch.empty(0, dtype=torch.uint8, device=device)

    def keep(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor with one entry of `shape` per state row; zeros when a row begins."""
        dtype = dtype or self.dtype
        size = self.capacity * math.prod(shape) * dtype.itemsize
        if size > len(self._slab):
            self._slab = torch.empty(max(size, _SLAB_BYTES), dtype=torch.uint8, device=self.device)
        kept = self._slab[:size].view(dtype).view(self.capacity, *shape)
        self._slab = self._slab[-(-size // _ALIGNED) * _ALIGNED :]
        self._kept.append(kept)
        return kept

    def begin(self, rows: int) -> None:
        """Forget everything and start with `rows` state rows of zeros."""
        self.rows = rows
        for kept in self._kept:
            kept[:rows] = 0

    def fork(self, parents_N: Int[Tensor, " N"]) -> None:
        """Append one copy of each state row named in `parents_N`.

        Raises:
            ValueError: If there is no room.
        """
        if not len(parents_N):
            return
        if self.rows + len(parents_N) > self.capacity:
            raise ValueError(f"{self.rows} state rows and {len(parents_N)} more, but room for {self.capacity}")
        first, self.rows = self.rows, self.rows + len(parents_N)
        for kept in self._kept:
            kept[first : self.rows] = kept[parents_N]
