"""Many restorations of one slice, decoded without computing again what they have in common.

A restored grid differs from the slice's own codes at some positions.  A convolution carries a difference only as far
as its kernel is wide, so that at each layer of the decoder the activations differ from those of the plain
reconstruction (of the slice's own codes) within a window alone.  Only the window is computed; what a convolution sees
around it is taken from the plain reconstruction, whose activations are kept.  The result is that of
`VQVAE.decode_codes`, the plain definition, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, glu, pad

from mendscan.models.blocks import GatedResidualBlock, position_plane
from mendscan.models.vqvae import VQVAE

__all__ = ["SliceDecoder", "receptive_field"]

_GRIDS_PER_PASS = 4
"""Grids decoded at once: with more, the activations of a real model leave the processor's cache."""
_WORTHWHILE = 0.7
"""Up to this share of a whole decode's multiplications the window is faster; above, copying it around is not."""


class Reach(NamedTuple):
    """How far a layer carries a change: inputs [a, b) change outputs [factor·a - before, factor·b + after)."""

    factor: int = 1
    before: float = 0
    after: float = 0

    def then(self, later: Reach) -> Reach:
        """Return the reach of this layer followed by another."""
        before, after = (later.factor * margin + more for margin, more in zip(self[1:], later[1:], strict=True))
        return Reach(self.factor * later.factor, before, after)


class Window(NamedTuple):
    """A rectangle of positions, pixels or anything between; the ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, x_BChw: Float[Tensor, "*B h w"]) -> Window:
        """Return the window that is everything."""
        return cls(0, x_BChw.shape[-2], 0, x_BChw.shape[-1])

    @property
    def area(self) -> int:
        """Pixels inside."""
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, x_BChw: Tensor) -> Tensor:
        """Return what is inside."""
        return x_BChw[..., self.top : self.bottom, self.left : self.right]

    def seen_from(self, row: int, column: int) -> Window:
        """Return the same rectangle, counted from another first row and column."""
        return Window(self.top - row, self.bottom - row, self.left - column, self.right - column)

    def union(self, other: Window) -> Window:
        """Return the smallest window that holds both."""
        first = (min(self.top, other.top), min(self.left, other.left))
        last = (max(self.bottom, other.bottom), max(self.right, other.right))
        return Window(first[0], last[0], first[1], last[1])

    def reached(self, reach: Reach, within: Window) -> Window:
        """Return the outputs that change with these inputs; `within` is all there are."""
        factor, before, after = reach
        top, left = (int(max(0, factor * start - before)) for start in (self.top, self.left))
        bottom = int(min(within.bottom, factor * self.bottom + after))
        return Window(top, bottom, left, int(min(within.right, factor * self.right + after)))


class _Step(Protocol):
    """One layer of the decoder."""

    @property
    def reach(self) -> Reach:
        """How far it carries a change."""

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        """Keep of the plain activations what windows will need, and return the layer's output."""

    def window(self, window: Window) -> Window:
        """Return where the output changes with this part of the input."""

    def work(self, window: Window) -> float:
        """Return the multiplications per grid for an input window."""

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        """Return the output's window, given the input's window and what is inside."""


class _Pointwise:
    """A layer that treats each pixel alone."""

    reach = Reach()

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
            raise TypeError(f"{layer} has no running statistics: it does not treat each pixel alone")

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        return self._layer(plain_1Chw)

    def window(self, window: Window) -> Window:
        return window

    def work(self, window: Window) -> float:
        return 0.0

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        return self._layer(x_DChw)


class _Everywhere:
    """A norm over the whole slice: one change anywhere changes everything."""

    reach = Reach(1, math.inf, math.inf)

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        self._plain = plain_1Chw
        return self._layer(plain_1Chw)

    def window(self, window: Window) -> Window:
        return Window.whole(self._plain)

    def work(self, window: Window) -> float:
        return 0.0

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        return self._layer(_changed(self._plain, window, x_DChw, needed=self.window(window)))


class _Convolution:
    """A convolution of stride 1."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self._layer = layer
        self._kernel, self._padding = _square(layer, stride=1)
        self.reach = Reach(1, self._kernel - 1 - self._padding, self._padding)

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        # Together with the zeros that the convolution itself pads: a window at the border needs no care.
        self._padded = pad(plain_1Chw, (self._padding,) * 4)
        self._inputs = Window.whole(plain_1Chw)
        output = self._layer(plain_1Chw)
        self._outputs = Window.whole(output)
        return output

    def window(self, window: Window) -> Window:
        return window.reached(self.reach, self._outputs)

    def work(self, window: Window) -> float:
        return self.window(window).area * self._layer.weight.numel()

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        if window == self._inputs:
            return self._layer(x_DChw)
        out, halo = self.window(window), self._kernel - 1
        needed = Window(out.top, out.bottom + halo, out.left, out.right + halo)
        at = window.seen_from(-self._padding, -self._padding)
        return conv2d(_changed(self._padded, at, x_DChw, needed=needed), self._layer.weight, self._layer.bias)


class _Transposed:
    """A transposed convolution: input i adds to the outputs stride·i - padding + (0 … kernel - 1)."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        self._layer, self._stride = layer, layer.stride[0]
        self._kernel, self._padding = _square(layer, stride=self._stride)
        self.reach = Reach(self._stride, self._padding, self._kernel - self._stride - self._padding)

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        self._plain = plain_1Chw
        output = self._layer(plain_1Chw)
        self._outputs = Window.whole(output)
        return output

    def window(self, window: Window) -> Window:
        return window.reached(self.reach, self._outputs)

    def work(self, window: Window) -> float:
        return self.window(window).area * self._layer.weight.numel() / self._stride**2

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        if window == Window.whole(self._plain):
            return self._layer(x_DChw)
        out, stride = self.window(window), self._stride
        # The inputs that add to any of these outputs: the same formula, read backwards.
        first, last = (self._padding - self._kernel) // stride + 1, (self._padding - 1) / stride + 1
        needed = Window(*(0, 0, 0, 0))
        patch_DChw = _changed(self._plain, window, x_DChw, needed=needed)
        return out.of(conv_transpose2d(patch_DChw, self._layer.weight, self._layer.bias, stride))
