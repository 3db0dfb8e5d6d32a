"""Weights that no longer change, brought into the processor's own layout once and multiplied many times."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, linear

from mendscan.models.memory import Memory

__all__ = ["Product", "RowConv", "taps_last"]


class Product:
    """x Wᵀ + b for many x and one weight, which is brought into the processor's own layout once.

    On the CPU in float32 that is oneDNN's: on some processors twice as fast as torch's default, which packs the
    weight at every call.

    Args:
        weight_OI: W.
        bias_O: b.
        memory: Says in which arithmetic, and of which type the result is.
    """

    def __init__(self, weight_OI: Float[Tensor, "O I"], bias_O: Float[Tensor, " O"] | None, memory: Memory) -> None:
        self._weight_OI = weight_OI.to(memory.arithmetic).contiguous()
        self._bias_O = None if bias_O is None else bias_O.to(memory.arithmetic)
        self._dtype, self._arithmetic = memory.dtype, memory.arithmetic
        self._packed: Tensor | None = None
        if (
            weight_OI.device.type == "cpu"
            and memory.arithmetic == torch.float32
            and torch.backends.mkldnn.is_available()
        ):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight_OI, memory.capacity)

    def __call__(self, x_nI: Float[Tensor, "n I"]) -> Float[Tensor, "n O"]:
        """Multiply."""
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x_nI, self._packed, self._bias_O, "none", [], "")
        return linear(x_nI.to(self._arithmetic), self._weight_OI, self._bias_O).to(self._dtype)


class RowConv:
    """A convolution of channels-last rows without padding, down to one row."""

    def __init__(
        self, weight_DCyx: Float[Tensor, "D C y x"], memory: Memory, bias_D: Tensor | None = None, stride: int = 1
    ) -> None:
        weight = weight_DCyx.to(memory.arithmetic)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = None if bias_D is None else bias_D.to(memory.arithmetic)
        self._stride, self._dtype = (1, stride), memory.dtype

    def __call__(self, rows_nywC: Float[Tensor, "n y w C"]) -> Float[Tensor, "n w2 D"]:
        """Convolve."""
        channels_last = rearrange(rows_nywC, "n y w C -> n C y w")
        out = conv2d(channels_last, self._weight, self._bias, stride=self._stride)
        return rearrange(out, "n D 1 w -> n w D").to(self._dtype)


def taps_last(weight_DC1x: Float[Tensor, "D C 1 x"]) -> Float[Tensor, "D xC"]:
    """Order a weight as the flattened (x, C) of channels-last positions."""
    return rearrange(weight_DC1x, "D C 1 x -> D (x C)")
