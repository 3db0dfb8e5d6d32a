"""The causal layers of the prior, each in two forms that are the same function.

The *parallel* form, `forward`, evaluates whole grids at once: for training and scoring.  The *incremental* form, made
by `incremental`, evaluates every activation of every position once while the codes are still being decided.  It works
in two phases.  When a row of codes is complete, `begin_row` of the next row computes all that looks up, for all
columns at once, in large convolutions.  Then `step` adds, column by column, what looks to the left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, elu, glu, pad

from mendscan.models.blocks import position_plane
from mendscan.models.dropout import ChannelDropout
from mendscan.models.memory import Memory
from mendscan.models.products import Product, RowConv, taps_last

__all__ = ["CausalBlock", "CausalLayer", "WeightNormConv", "folded_weights"]


class CausalLayer(nn.Module, ABC):
    """A layer whose output at a position depends on what lies before it in raster order, and on the position itself."""

    @abstractmethod
    def incremental(self, memory: Memory, *args: Any) -> Any:
        """Return the same function in its incremental form, with what it keeps in `memory`."""


class WeightNormConv(nn.Module):
    """A convolution whose weight is g · v / ‖v‖ per output channel (Salimans & Kingma 2016), without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, kernel)
        self.direction = nn.Parameter(plain.weight.detach().clone())
        self.gain = nn.Parameter(_first_gain(self.direction.detach()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._folded: Tensor | None = None

    @property
    def weight(self) -> Float[Tensor, "D C y x"]:
        """g · v / ‖v‖."""
        folded = self._folded
        return self.direction * (self.gain / _norms(self.direction)) if folded is None else folded

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        """Convolve; the caller pads, and thereby decides what is seen."""
        return conv2d(x, self.weight, self.bias)

    def product(self, memory: Memory) -> Product:
        """Return a 1×1 convolution as a product."""
        return Product(self.weight.flatten(1), self.bias, memory)


@contextmanager
def folded_weights(network: nn.Module) -> Iterator[None]:
    """Compute the weights of all `WeightNormConv` once, for passes in which parameters do not change."""
    convolutions = [module for module in network.modules() if isinstance(module, WeightNormConv)]
    for convolution in convolutions:
        convolution._folded = convolution.weight.detach()
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution._folded = None


def _norms(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


def _first_gain(direction: Tensor) -> Tensor:
    # Where tensors are only counted, arithmetic makes torch import its compiler: two seconds, and a folder in TMPDIR.
    return direction.new_empty(len(direction), 1, 1, 1) if direction.is_meta else _norms(direction)


class CausalBlock(CausalLayer):
    """A gated residual block that sees its own row and the one above: to both sides, or to the left only.

    Used with an odd number of columns in the vertical stack (2×3), an even one in the horizontal stack (2×2), and with
    a 1×1 kernel around the attention.  The slice coordinate is one more input channel where `conditioned`.

    Args:
        channels: C.
        kernel: (rows, columns).
        conditioned: Whether the slice coordinate enters.
        aux_channels: Width of a second input that is added after the first convolution; None for none.
        dropout: Probability with which a whole channel is dropped in training.
    """

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int],
        *,
        conditioned: bool = False,
        aux_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        rows, columns = kernel
        # (left, right, top, bottom): an even number of columns looks to the left only.
        self.padding = (columns // 2, (columns - 1) // 2, rows - 1, 0)
        self.conv1 = WeightNormConv(channels + conditioned, channels, kernel)
        self.aux = None if aux_channels is None else WeightNormConv(aux_channels, channels, (1, 1))
        self.dropout = ChannelDropout(dropout)
        self.conv2 = WeightNormConv(channels, 2 * channels, kernel)
        self.conditioned = conditioned

    def forward(
        self, x: Float[Tensor, "B C h w"], position_B: Float[Tensor, " B"], aux: Float[Tensor, "B D h w"] | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Return the input plus its gated change."""
        seen = torch.cat([x, position_plane(position_B, like=x)], dim=1) if self.conditioned else x
        hidden = self.conv1(pad(elu(seen), self.padding))
        if self.aux is not None and aux is not None:
            hidden = hidden + self.aux(elu(aux))
        hidden = self.conv2(pad(self.dropout(elu(hidden)), self.padding))
        return x + glu(hidden, dim=1)

    def incremental(self, memory: Memory, width: int) -> Any:
        """Return the incremental form for a width.

        Returns:
            `BlockByRows` where the block looks to the right, `BlockBySteps` where it looks up and to the left, and
            `BlockAtOnce` where it looks at its own position only.
        """
        _, right, top, _ = self.padding
        if right:
            return BlockByRows(self, memory, width)
        return BlockBySteps(self, memory, width) if top else BlockAtOnce(self, memory)


class BlockByRows:
    """A `CausalBlock` of the vertical stack, evaluated when a row is complete."""

    def __init__(self, block: CausalBlock, memory: Memory, width: int) -> None:
        left, right, top, _ = block.padding
        channels = len(block.conv1.direction)
        self._memory, self._inner = memory, slice(left, left + width)
        self._conv1 = RowConv(block.conv1.weight[:, :channels], memory)
        self._conv2 = RowConv(block.conv2.weight, memory, block.conv2.bias)
        self._coordinate = _Coordinate(block, memory, width)
        shape = (top + 1, left + width + right, channels)
        self._seen = memory.keep(*shape, dtype=memory.arithmetic)
        self._hidden = memory.keep(*shape, dtype=memory.arithmetic)

    def row(self, row: int, x_nwC: Float[Tensor, "n w C"], coordinate_n: Float[Tensor, " n"]) -> Float[Tensor, "n w C"]:
        """Return the output for the whole of a row; rows come in order."""
        hidden = self._conv1(self._with_row_above(self._seen, elu(x_nwC)))
        hidden = self._coordinate.added(hidden, row, coordinate_n)
        return x_nwC + glu(self._conv2(self._with_row_above(self._hidden, elu(hidden))), dim=2)

    def _with_row_above(self, kept: Tensor, x_nwC: Tensor) -> Tensor:
        alive = kept[: self._memory.rows]
        alive[:, :-1] = alive[:, 1:]
        alive[:, -1, self._inner] = x_nwC
        return alive


class BlockBySteps:
    """A `CausalBlock` of the horizontal stack: what looks up by whole rows, what looks left position by position."""

    def __init__(self, block: CausalBlock, memory: Memory, width: int) -> None:
        left, _, _, _ = block.padding
        channels, self._columns = len(block.conv1.direction), left + 1
        weight1, weight2 = block.conv1.weight[:, :channels], block.conv2.weight
        self._memory = memory
        self._above1 = RowConv(weight1[:, :, :-1], memory)
        self._above2 = RowConv(weight2[:, :, :-1], memory, block.conv2.bias)
        self._here1, self._here2 = (
            Product(taps_last(weight[:, :, -1:]), None, memory) for weight in (weight1, weight2)
        )
        self._coordinate = _Coordinate(block, memory, width)
        self._aux = None if block.aux is None else block.aux.product(memory)
        self._seen = memory.keep(left + width, channels, dtype=memory.arithmetic)
        self._hidden = memory.keep(left + width, channels, dtype=memory.arithmetic)
        self._before1, self._before2 = memory.keep(width, channels), memory.keep(width, 2 * channels)

    def begin_row(self, row: int, coordinate_n: Float[Tensor, " n"], aux_nwD: Float[Tensor, "n w D"]) -> None:
        """Compute what a row sees of the row above, and of the second input."""
        rows = self._memory.rows
        before1 = self._above1(self._seen[:rows, None])
        if self._aux is not None:
            before1 = before1 + self._aux(elu(aux_nwD).flatten(0, 1)).reshape(before1.shape)
        self._before1[:rows] = self._coordinate.added(before1, row, coordinate_n)
        self._before2[:rows] = self._above2(self._hidden[:rows, None])

    def step(self, column: int, x_nC: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """Return the output of a position."""
        rows = self._memory.rows
        hidden = self._here1(self._left_and_here(self._seen, column, elu(x_nC))) + self._before1[:rows, column]
        change = self._here2(self._left_and_here(self._hidden, column, elu(hidden))) + self._before2[:rows, column]
        return x_nC + glu(change, dim=1)

    def _left_and_here(self, kept: Tensor, column: int, x_nC: Tensor) -> Tensor:
        alive = kept[: self._memory.rows]
        alive[:, column + self._columns - 1] = x_nC
        return alive[:, column : column + self._columns].flatten(1)


class BlockAtOnce:
    """A `CausalBlock` with a 1×1 kernel: nothing to keep."""

    def __init__(self, block: CausalBlock, memory: Memory) -> None:
        if block.conditioned:
            raise ValueError("a block of a single position takes no slice coordinate")
        self._product1, self._product2 = block.conv1.product(memory), block.conv2.product(memory)
        self._aux = None if block.aux is None else block.aux.product(memory)

    def aux(self, aux_nD: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Return what a second input adds after the first product."""
        if self._aux is None:
            raise ValueError("this block has no second input")
        return self._aux(elu(aux_nD))

    def step(self, x_nC: Float[Tensor, "n C"], aux_nC: Float[Tensor, "n C"] | None = None) -> Float[Tensor, "n C"]:
        """Return the output of a position, given what `aux` returned for it."""
        hidden = self._product1(elu(x_nC))
        if aux_nC is not None:
            hidden = hidden + aux_nC
        return x_nC + glu(self._product2(elu(hidden)), dim=1)


class _Coordinate:
    """What the slice coordinate and the bias add after a block's first convolution.

    The coordinate is a constant plane, so its convolution is the coordinate times a plane that depends on the weights
    alone; rows differ only in whether there is a row above.
    """

    def __init__(self, block: CausalBlock, memory: Memory, width: int) -> None:
        channels, top = len(block.conv1.direction), block.padding[2]
        self._bias = block.conv1.bias
        self._plane_ywD: Tensor | None = None
        if block.conditioned:
            ones = torch.ones(1, 1, top + 1, width, device=memory.device, dtype=memory.dtype)
            plane = conv2d(pad(ones, block.padding), block.conv1.weight[:, channels:])
            self._plane_ywD = rearrange(plane, "1 D y w -> y w D").contiguous()

    def added(self, x_nwD: Tensor, row: int, coordinate_n: Tensor) -> Tensor:
        x_nwD = x_nwD + self._bias
        if self._plane_ywD is None:
            return x_nwD
        plane_wD = self._plane_ywD[min(row, len(self._plane_ywD) - 1)]
        return x_nwD.addcmul_(elu(coordinate_n)[:, None, None], plane_wD)
