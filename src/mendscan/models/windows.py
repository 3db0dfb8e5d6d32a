"""A window of changed activations, followed through the layers of a convolutional decoder.

A convolution carries a difference only as far as its kernel is wide.  At each layer, the activations of two inputs that
differ within a window therefore differ within a somewhat larger window; only that is computed, and what a convolution
sees around it is taken from the kept activations of one of the two, the *plain* one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, glu, pad

from mendscan.models.blocks import GatedResidualBlock

__all__ = ["Reach", "Step", "Window", "follow", "keep", "lay", "reach_of", "steps_of", "work_of"]


class Reach(NamedTuple):
    """How far a layer carries a change: inputs [a, b) change outputs [factor·a - before, factor·b + after)."""

    factor: int = 1
    before: float = 0
    after: float = 0

    def then(self, later: Reach) -> Reach:
        """Return the reach of this layer and a later one together."""
        factor, before, after = later
        return Reach(factor * self.factor, factor * self.before + before, factor * self.after + after)


class Window(NamedTuple):
    """A rectangle of a grid, of codes, pixels or anything between; `bottom` and `right` are the first outside."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, x_hw: Tensor) -> Window:
        """Return the window that is all of a tensor, whose last two axes are rows and columns."""
        return cls(0, x_hw.shape[-2], 0, x_hw.shape[-1])

    def of(self, x_hw: Tensor) -> Tensor:
        """Return what of a tensor is inside."""
        return x_hw[..., self.top : self.bottom, self.left : self.right]

    def seen_from(self, row: int, column: int) -> Window:
        """Return the same window, counted from another first row and column."""
        return Window(self.top - row, self.bottom - row, self.left - column, self.right - column)

    def reached(self, reach: Reach, within: Window) -> Window:
        """Return where outputs change with these inputs; `within` is all the outputs."""
        factor, before, after = reach
        top, left = (max(0, factor * start - before) for start in (self.top, self.left))
        bottom = min(within.bottom, factor * self.bottom + after)
        right = min(within.right, factor * self.right + after)
        return Window(int(top), int(bottom), int(left), int(right))


class Step:
    """A layer of the decoder through which a window is followed; this one treats each pixel alone."""

    reach = Reach()
    work_per_pixel: float = 0.0
    """Multiplications per pixel of the output."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
            _refuse(layer)  # its statistics would be those of the window

    def lay(self, inputs: Window) -> Window:
        """Take all of the input's window; return that of all the output."""
        self.inputs = inputs
        self.outputs = Window(0, self.reach.factor * inputs.bottom, 0, self.reach.factor * inputs.right)
        return self.outputs

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        """Return the layer's output for the plain reconstruction, and keep what windows will need."""
        return self.layer(plain_1Chw)

    def window(self, window: Window) -> Window:
        """Return where the output changes with a window of the input."""
        return window.reached(self.reach, self.outputs)

    def work(self, window: Window) -> float:
        """Return the multiplications for a window of the input, per grid."""
        top, bottom, left, right = self.window(window)
        return (bottom - top) * (right - left) * self.work_per_pixel

    def __call__(self, window: Window, x_DChw: Tensor) -> Tensor:
        """Return the output where it changes, given a window of the input and what is inside."""
        if window == self.inputs:
            return self.window(window).of(self.layer(x_DChw))
        return self.within(window, x_DChw)

    def within(self, window: Window, x_DChw: Tensor) -> Tensor:
        """Return the same where the window is not the whole input."""
        return self.layer(x_DChw)


class _Everywhere(Step):
    """A norm over the whole slice: one change anywhere changes everything."""

    reach = Reach(1, math.inf, math.inf)

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        self.plain_1Chw = plain_1Chw
        return super().keep(plain_1Chw)

    def within(self, window: Window, x_DChw: Tensor) -> Tensor:
        return self.layer(_changed(self.plain_1Chw, window, x_DChw, needed=self.inputs))


class _Convolution(Step):
    """A convolution of stride 1: output o sees the inputs o - padding + (0 … kernel - 1)."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.kernel, self.padding = _square(layer, stride=1)
        if self.kernel != 2 * self.padding + 1:
            _refuse(layer)
        self.reach = Reach(1, self.padding, self.padding)
        self.work_per_pixel = float(layer.weight.numel())

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        # With the zeros that the convolution pads at the true border, every window has surroundings to take.
        self.padded_1Chw = pad(plain_1Chw, (self.padding,) * 4)
        return super().keep(plain_1Chw)

    def within(self, window: Window, x_DChw: Tensor) -> Tensor:
        out, halo = self.window(window), self.kernel - 1
        # Counted from the first padded row and column, output o sees the inputs o + (0 … kernel - 1).
        needed = Window(out.top, out.bottom + halo, out.left, out.right + halo)
        at = window.seen_from(-self.padding, -self.padding)
        return conv2d(_changed(self.padded_1Chw, at, x_DChw, needed=needed), self.layer.weight, self.layer.bias)


class _Transposed(Step):
    """A transposed convolution: input i adds to the outputs stride·i - padding + (0 … kernel - 1)."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__(layer)
        self.stride = layer.stride[0]
        self.kernel, self.padding = _square(layer, stride=self.stride)
        if self.kernel + layer.output_padding[0] - 2 * self.padding != self.stride:
            _refuse(layer)
        self.reach = Reach(self.stride, self.padding, self.kernel - self.stride - self.padding)
        self.work_per_pixel = layer.weight.numel() / self.stride**2

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        self.plain_1Chw = plain_1Chw
        return super().keep(plain_1Chw)

    def within(self, window: Window, x_DChw: Tensor) -> Tensor:
        out = self.window(window)
        # All inputs that add to these outputs: the formula above, solved for i.
        top, left = ((start + self.padding - self.kernel) // self.stride + 1 for start in (out.top, out.left))
        bottom, right = ((stop - 1 + self.padding) // self.stride + 1 for stop in (out.bottom, out.right))
        needed = Window(top, bottom, left, right).reached(Reach(), self.inputs)
        patch_DChw = _changed(self.plain_1Chw, window, x_DChw, needed=needed)
        wide_DChw = conv_transpose2d(patch_DChw, self.layer.weight, self.layer.bias, self.stride)
        row, column = (self.stride * start - self.padding for start in (needed.top, needed.left))
        return out.seen_from(row, column).of(wide_DChw)


class _Residual(Step):
    """A gated residual block: the layers of the gated change, and the addition."""

    def __init__(self, layer: GatedResidualBlock) -> None:
        super().__init__(layer)
        first, second = [layer.norm1, nn.ELU(), layer.conv1], [nn.ELU(), layer.conv2]
        before = layer.second_norm == "before"
        self.change = steps_of([*first, layer.norm2, *second] if before else [*first, *second, layer.norm2])
        self.reach = reach_of(self.change)

    def lay(self, inputs: Window) -> Window:
        lay(self.change, inputs)
        return super().lay(inputs)

    def keep(self, plain_1Chw: Tensor) -> Tensor:
        self.plain_1Chw = plain_1Chw
        return plain_1Chw + glu(keep(self.change, plain_1Chw), dim=1)

    def work(self, window: Window) -> float:
        return work_of(self.change, window)

    def within(self, window: Window, x_DChw: Tensor) -> Tensor:
        out, hidden_DChw = follow(self.change, window, x_DChw)
        return _changed(self.plain_1Chw, window, x_DChw, needed=out) + glu(hidden_DChw, dim=1)


_STEP_OF: dict[type[nn.Module], Callable[[Any], Step]] = {
    nn.BatchNorm2d: Step,
    nn.ELU: Step,
    nn.GroupNorm: _Everywhere,
    nn.Conv2d: _Convolution,
    nn.ConvTranspose2d: _Transposed,
    GatedResidualBlock: _Residual,
}


def steps_of(layers: Iterable[nn.Module]) -> list[Step]:
    """Return the layers as steps that follow a window.

    Raises:
        TypeError: If there is one that a window cannot be followed through.
    """
    return [_STEP_OF.get(type(layer), _refuse)(layer) for layer in layers]


def _refuse(layer: nn.Module) -> Never:
    known = ", ".join(sorted(kind.__name__ for kind in _STEP_OF))
    raise TypeError(f"no window can be followed through {layer}; known are {known}, that keep or multiply the size")


def reach_of(steps: list[Step]) -> Reach:
    """Return the reach of all layers together."""
    return reduce(Reach.then, (step.reach for step in steps), Reach())


def lay(steps: list[Step], inputs: Window) -> None:
    """Tell each layer how large its input is; the first one's is `inputs`."""
    for step in steps:
        inputs = step.lay(inputs)


def keep(steps: list[Step], plain_1Chw: Tensor) -> Tensor:
    """Return the last layer's output for the plain reconstruction; each layer keeps what windows will need."""
    for step in steps:
        plain_1Chw = step.keep(plain_1Chw)
    return plain_1Chw


def work_of(steps: list[Step], window: Window) -> float:
    """Return the multiplications of all layers for a window of the first one's input, per grid."""
    total = 0.0
    for step in steps:
        total += step.work(window)
        window = step.window(window)
    return total


def follow(steps: list[Step], window: Window, x_DChw: Tensor) -> tuple[Window, Tensor]:
    """Return where the last layer's output changes with a window of the first layer's input, and what is there."""
    for step in steps:
        window, x_DChw = step.window(window), step(window, x_DChw)
    return window, x_DChw


def _changed(plain_1Chw: Tensor, window: Window, x_DChw: Tensor, *, needed: Window) -> Tensor:
    """Return the plain activations in the window `needed`, once per grid, with what is inside `window` replaced."""
    if needed == window:
        return x_DChw
    channels_last = plain_1Chw.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    patch_DChw = needed.of(plain_1Chw).expand(len(x_DChw), -1, -1, -1).clone(memory_format=layout)
    window.seen_from(needed.top, needed.left).of(patch_DChw).copy_(x_DChw)
    return patch_DChw


def _square(layer: nn.Conv2d | nn.ConvTranspose2d, *, stride: int) -> tuple[int, int]:
    """Return kernel and padding of a convolution that treats both axes alike; of others no window is followed."""
    kernel, padding = layer.kernel_size[0], layer.padding[0]
    found = (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.padding_mode)
    if found != ((kernel, kernel), (padding, padding), (stride, stride), (1, 1), "zeros") or layer.groups != 1:
        _refuse(layer)
    return kernel, int(padding)
