"""PixelSNAIL: the autoregressive prior over the codes of a slice.

p(z | c) = Π_i p(z_i | z_<i, c) in raster order, c the slice coordinate (Chen et al. 2018; the paper, section 2.2).
Every layer keeps the order: activations at position i depend on codes before i only.  Two stacks share the work as in
PixelCNN++: the *vertical* one sees all rows above, through a shift by one row; the *horizontal* one what lies to the
left and above.  Causal attention then reaches everything before i.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, elu, pad

from mendscan.config import PriorSettings
from mendscan.models.attention import CausalAttention
from mendscan.models.causal import CausalBlock, CausalLayer, WeightNormConv
from mendscan.models.masked import CodeConv, MaskedConv
from mendscan.models.memory import Memory
from mendscan.models.products import Product
from mendscan.models.slice_context import SliceContext

__all__ = ["PixelSNAIL", "PriorSteps", "places_of"]


class SnailBlock(CausalLayer):
    """`layers_per_block` pairs of vertical and horizontal blocks, then causal attention over what they found."""

    def __init__(self, settings: PriorSettings) -> None:
        super().__init__()
        width, dropout, step = settings.channels, settings.dropout, settings.attention_downsampling
        self.vertical = nn.ModuleList(
            CausalBlock(width, (2, 3), conditioned=True, dropout=dropout) for _ in range(settings.layers_per_block)
        )
        self.horizontal = nn.ModuleList(
            CausalBlock(width, (2, 2), conditioned=True, aux_channels=width, dropout=dropout)
            for _ in range(settings.layers_per_block)
        )
        self.gather_seen = MaskedConv(2 * width + 2, width, settings.attention_kernel, step)
        self.gather_seeking = MaskedConv(width + 2, width, settings.attention_kernel, step)
        self.attention = CausalAttention(
            width, key_channels=settings.key_channels, value_channels=settings.value_channels
        )
        self.spread = nn.ConvTranspose2d(settings.value_channels, width, step, stride=step)
        self.merge = CausalBlock(width, (1, 1), aux_channels=width, dropout=dropout)

    def forward(
        self, x: Float[Tensor, "B C h w"], position_B: Float[Tensor, " B"], places: Float[Tensor, "B 2 h w"]
    ) -> Float[Tensor, "B C h w"]:
        """Return the activations of the horizontal stack, enriched by attention."""
        above, left = x, x
        for vertical, horizontal in self.pairs():
            above = vertical(above, position_B)
            left = horizontal(left, position_B, _down_one_row(above))
        seen = elu(self.gather_seen(torch.cat([x, left, places], dim=1)))
        seeking = elu(self.gather_seeking(torch.cat([left, places], dim=1)))
        found = self.spread(elu(self.attention(seeking, seen, position_B)))
        return self.merge(left, position_B, found)

    def pairs(self) -> list[tuple[CausalBlock, CausalBlock]]:
        """Return the layers of the two stacks, pair by pair."""
        return cast("list[tuple[CausalBlock, CausalBlock]]", list(zip(self.vertical, self.horizontal, strict=True)))

    def incremental(self, memory: Memory, places_2hw: Float[Tensor, "2 h w"]) -> SnailSteps:
        """Return the incremental form for a grid with the given `places`."""
        return SnailSteps(self, memory, places_2hw)


class SnailSteps:
    """A `SnailBlock`: the vertical stack by whole rows, the rest position by position."""

    def __init__(self, block: SnailBlock, memory: Memory, places_2hw: Float[Tensor, "2 h w"]) -> None:
        height, width = places_2hw.shape[1:]
        channels, step = block.spread.weight.shape[1:3]
        self._memory, self._step, self._across = memory, step, width // step
        self._pairs = [
            (vertical.incremental(memory, width), horizontal.incremental(memory, width))
            for vertical, horizontal in block.pairs()
        ]
        self._gather_seen = block.gather_seen.incremental(memory, places_2hw)
        self._gather_seeking = block.gather_seeking.incremental(memory, places_2hw)
        self._attention = block.attention.incremental(memory, (height // step) * self._across)
        spread = rearrange(block.spread.weight, "V C y x -> (y x C) V")
        self._spread = Product(spread, repeat(cast("Tensor", block.spread.bias), "C -> (yx C)", yx=step * step), memory)
        self._merge = block.merge.incremental(memory, width)
        self._row = memory.keep(width, channels)
        self._found = memory.keep(step, width, channels)

    def begin_row(self, row: int, coordinate_n: Float[Tensor, " n"]) -> None:
        """Compute all that looks up from a row, now that the one above is complete."""
        above = self._row[: self._memory.rows]
        for vertical, horizontal in self._pairs:
            above = torch.zeros_like(above) if row == 0 else vertical.row(row - 1, above, coordinate_n)
            horizontal.begin_row(row, coordinate_n, above)
        self._gather_seen.begin_row(row)
        self._gather_seeking.begin_row(row)

    def step(self, row: int, column: int, x_nC: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """Return the output of a position."""
        self._row[: self._memory.rows, column] = x_nC
        left = x_nC
        for _, horizontal in self._pairs:
            left = horizontal.step(column, left)
        seen = self._gather_seen.step(row, column, x_nC, left)
        seeking = self._gather_seeking.step(row, column, left)
        found = self._found[: self._memory.rows]
        if seen is not None and seeking is not None:
            found[:, :, column : column + self._step] = self._look_up(row, column, elu(seeking), elu(seen))
        return self._merge.step(left, found[:, row % self._step, column])

    def _look_up(self, row: int, column: int, seeking_nC: Tensor, seen_nC: Tensor) -> Float[Tensor, "n y x C"]:
        """Attend once for `step` × `step` positions."""
        index = (row // self._step) * self._across + column // self._step
        spread = self._spread(elu(self._attention.step(index, seeking_nC, seen_nC)))
        merged = self._merge.aux(rearrange(spread, "n (yx C) -> (n yx) C", yx=self._step**2))
        return rearrange(merged, "(n y x) C -> n y x C", y=self._step, x=self._step)


def _down_one_row(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return pad(x[:, :, :-1], (0, 0, 1, 0))


class PixelSNAIL(CausalLayer):
    """The prior.

    Unlike the paper's implementation, future keys are hidden from the attention by −∞ instead of a large number, so
    that nothing leaks however large the scores are.

    Args:
        settings: Width and depth.
        codes: K.
    """

    def __init__(self, settings: PriorSettings, *, codes: int) -> None:
        super().__init__()
        self.settings, self.codes = settings, codes
        self.first = CodeConv(codes, settings.channels, settings.first_kernel)
        self.blocks = nn.ModuleList(SnailBlock(settings) for _ in range(settings.blocks))
        self.head = nn.Conv2d(settings.channels, settings.channels, 1)
        self.logits = WeightNormConv(settings.channels, codes, (1, 1))
        self.context = SliceContext(codes, settings.channels) if settings.context_slices else None

    def forward(
        self,
        codes_Bhw: Int[Tensor, "B h w"],
        position_B: Float[Tensor, " B"],
        beside_B2hw: Int[Tensor, "B 2 h w"] | None = None,
    ) -> Float[Tensor, "B K h w"]:
        """Return the logits of every code given those before it.

        Args:
            codes_Bhw: Codes, 0 … K-1.
            position_B: Slice coordinate in [-0.5, 0.5].
            beside_B2hw: Codes of the slices some way before and after; K beyond the scan.  None = as if there were none
                for any slice, which is all that a prior without context knows.
        """
        x = self.first(codes_Bhw)
        if self.context is not None and beside_B2hw is not None:
            x = x + self.context(beside_B2hw)
        places = places_of(x).expand(len(x), -1, -1, -1)
        for block in self.blocks:
            x = block(x, position_B, places)
        return self.logits(elu(self.head(elu(x))))

    def nll(
        self,
        codes_Bhw: Int[Tensor, "B h w"],
        position_B: Float[Tensor, " B"],
        beside_B2hw: Int[Tensor, "B 2 h w"] | None = None,
    ) -> Float[Tensor, "B h w"]:
        """Return −log p(z_i | z_<i, c) of each code in nats, also given the slices a gap away; higher = less likely."""
        return cross_entropy(self(codes_Bhw, position_B, beside_B2hw).float(), codes_Bhw, reduction="none")

    def incremental(self, memory: Memory, height: int, width: int) -> PriorSteps:
        """Return the prior in its incremental form, for a grid of codes.

        Args:
            memory: An empty memory; it decides how many state rows there can be, and in which arithmetic.
            height: h.
            width: w.
        """
        return PriorSteps(self, memory, height, width)


class PriorSteps:
    """A `PixelSNAIL` position by position, in raster order, for state rows that may fork.

    For each row `begin_row`; then for each column `step`, which returns the logits, and `write`, which decides the
    codes.  Between two positions, `Memory.fork` may copy state rows.
    """

    def __init__(self, prior: PixelSNAIL, memory: Memory, height: int, width: int) -> None:
        self._memory = memory
        places = places_of(torch.empty(1, 1, height, width, device=memory.device, dtype=memory.dtype))[0]
        self._first = prior.first.incremental(memory, height, width)
        blocks = cast("list[SnailBlock]", list(prior.blocks))
        self._blocks = [block.incremental(memory, places) for block in blocks]
        self._head = Product(prior.head.weight.flatten(1), prior.head.bias, memory)
        self._logits = prior.logits.product(memory)
        self._coordinate = memory.keep()

    def begin(self, position_n: Float[Tensor, " n"]) -> None:
        """Start anew, with one state row per slice, given the slice coordinates."""
        self._memory.begin(len(position_n))
        self._coordinate[: len(position_n)] = position_n
        self._first.begin()

    def begin_row(self, row: int) -> None:
        """Compute all that looks up from a row, now that the one above is complete."""
        for block in self._blocks:
            block.begin_row(row, self._coordinate[: self._memory.rows])

    def step(self, row: int, column: int) -> Float[Tensor, "n K"]:
        """Return the logits of a position, given the codes before it."""
        x = self._first.step(row, column)
        for block in self._blocks:
            x = block.step(row, column, x)
        return self._logits(elu(self._head(elu(x))))

    def write(self, row: int, column: int, codes_n: Int[Tensor, " n"]) -> None:
        """Decide the codes of a position."""
        self._first.write(row, column, codes_n)


def places_of(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "1 2 h w"]:
    """Return the row and column of each position, in [-0.5, 0.5)."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device, dtype=x.dtype) - height / 2) / height
    columns = (torch.arange(width, device=x.device, dtype=x.dtype) - width / 2) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
