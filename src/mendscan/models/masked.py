"""The prior's layers over codes and over wide neighbourhoods, each in its parallel and its incremental form."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding_bag, pad

from mendscan.models.causal import CausalLayer
from mendscan.models.memory import Memory
from mendscan.models.products import Product, RowConv, taps_last

__all__ = ["CodeConv", "MaskedConv"]


class CodeConv(CausalLayer):
    """A square convolution of the one-hot codes that sees only what comes before: the first layer.

    Computed as a sum of weight rows, one per earlier neighbour, which equals the convolution and skips its zeros.
    """

    offsets_T2: Tensor

    def __init__(self, codes: int, channels: int, kernel: int = 7) -> None:
        super().__init__()
        self.codes, self.reach = codes, kernel // 2
        before = (kernel * kernel) // 2
        offsets = [divmod(tap, kernel) for tap in range(before)]
        self.register_buffer("offsets_T2", torch.tensor(offsets), persistent=False)
        self.weight_TKC = nn.Parameter(torch.randn(before, codes, channels).div_(before**0.5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, codes_Bhw: Int[Tensor, "B h w"]) -> Float[Tensor, "B C h w"]:
        """Return the first activations; those at (0, 0) are the bias."""
        batch, height, width = codes_Bhw.shape
        outside = self.codes
        padded = pad(codes_Bhw, (self.reach, self.reach, self.reach, 0), value=outside)
        rows_Thw = torch.stack(
            [padded[:, dy : dy + height, dx : dx + width] for dy, dx in self.offsets_T2.tolist()], dim=-1
        )
        index = rearrange(rows_Thw, "B h w T -> (B h w) T") + self._first_rows()
        summed = embedding_bag(index, self._table(), mode="sum")
        return rearrange(summed + self.bias, "(B h w) C -> B C h w", B=batch, h=height, w=width)

    def incremental(self, memory: Memory, height: int, width: int) -> CodeSteps:
        """Return the incremental form for a grid."""
        return CodeSteps(self, memory, height, width)

    def _table(self) -> Float[Tensor, "rows C"]:
        # Row `codes` of every tap is the zero vector of a neighbour outside the grid.
        return pad(self.weight_TKC, (0, 0, 0, 1)).flatten(0, 1)

    def _first_rows(self) -> Int[Tensor, " T"]:
        return torch.arange(len(self.offsets_T2), device=self.weight_TKC.device) * (self.codes + 1)


class CodeSteps:
    """`CodeConv` position by position; it keeps the codes."""

    def __init__(self, layer: CodeConv, memory: Memory, height: int, width: int) -> None:
        self._memory, self._reach, self._outside = memory, layer.reach, layer.codes
        self._table, self._bias, self._first_rows = layer._table(), layer.bias, layer._first_rows()
        self._codes = memory.keep(height + layer.reach, width + 2 * layer.reach, dtype=torch.long)

    def begin(self) -> None:
        """Start with nothing but what lies outside the grid."""
        self._codes[: self._memory.rows] = self._outside

    def write(self, row: int, column: int, codes_n: Int[Tensor, " n"]) -> None:
        """Decide the codes of a position."""
        self._codes[: self._memory.rows, row + self._reach, column + self._reach] = codes_n

    def step(self, row: int, column: int) -> Float[Tensor, "n C"]:
        """Return the first activation of a position."""
        reach = self._reach
        seen = self._codes[: self._memory.rows, row : row + reach + 1, column : column + 2 * reach + 1].flatten(1)
        index = seen[:, : len(self._first_rows)] + self._first_rows
        return embedding_bag(index, self._table, mode="sum") + self._bias


class MaskedConv(CausalLayer):
    """A strided convolution that sees what comes before and the position itself ("type B" of PixelCNN).

    Args:
        inputs: Channels of the input, of which the last two are the same for every grid: `places`.
        outputs: D.
        kernel: Positions along one side.
        stride: Positions per output, along either side.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        seen = (kernel * kernel) // 2 + 1
        self.weight_taps = nn.Parameter(torch.randn(outputs, inputs, seen).div_((inputs * seen) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def weight(self) -> Float[Tensor, "D C y x"]:
        """The taps, and zeros for what comes later."""
        k = self.kernel
        return rearrange(pad(self.weight_taps, (0, k * k // 2)), "o i (y x) -> o i y x", y=k, x=k)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h2 w2"]:
        """Return one output per `stride` × `stride` positions, at their upper left one."""
        return conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.kernel // 2)

    def incremental(self, memory: Memory, places_2hw: Float[Tensor, "2 h w"]) -> GatherSteps:
        """Return the incremental form for a grid with the given `places`."""
        return GatherSteps(self, memory, places_2hw)


class GatherSteps:
    """A `MaskedConv`: what looks up by whole rows, what looks left position by position."""

    def __init__(self, layer: MaskedConv, memory: Memory, places_2hw: Float[Tensor, "2 h w"]) -> None:
        self._memory, self._reach, self._stride = memory, layer.kernel // 2, layer.stride
        reach, weight = self._reach, layer.weight
        weight_places, weight = weight[:, -2:], weight[:, :-2]
        constant_1Dhw = conv2d(places_2hw[None], weight_places, layer.bias, stride=layer.stride, padding=reach)
        self._constant_hwD = rearrange(constant_1Dhw, "1 D h w -> h w D")
        self._above = RowConv(weight[:, :, :reach], memory, stride=layer.stride) if reach else None
        self._here = Product(taps_last(weight[:, :, reach : reach + 1, : reach + 1]), None, memory)
        outputs, inputs = weight.shape[:2]
        width = places_2hw.shape[2]
        self._rows_above = memory.keep(reach + 1, width + 2 * reach, inputs, dtype=memory.arithmetic)
        self._before = memory.keep(self._constant_hwD.shape[1], outputs)

    def begin_row(self, row: int) -> None:
        """Compute what a row sees of the rows above."""
        kept = self._rows_above[: self._memory.rows]
        kept[:, :-1] = kept[:, 1:].clone()
        if row % self._stride == 0:
            constant_wD = self._constant_hwD[row // self._stride]
            above = constant_wD if self._above is None else constant_wD + self._above(kept[:, :-1])
            self._before[: self._memory.rows] = above

    def step(self, row: int, column: int, *parts_nC: Float[Tensor, "n _"]) -> Float[Tensor, "n D"] | None:
        """Take in a position, whose channels come in one part or several; return its output if it has one."""
        rows, reach, first = self._memory.rows, self._reach, 0
        line = self._rows_above[:rows, -1]
        for part in parts_nC:
            line[:, column + reach, first : first + part.shape[1]] = part
            first += part.shape[1]
        if row % self._stride or column % self._stride:
            return None
        return self._here(line[:, column : column + reach + 1].flatten(1)) + self._before[:rows, column // self._stride]
