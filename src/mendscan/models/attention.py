"""Causal attention: a position looks up what was found anywhere before it."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mendscan.models.causal import CausalBlock, CausalLayer, WeightNormConv
from mendscan.models.memory import Memory

__all__ = ["CausalAttention"]


class CausalAttention(CausalLayer):
    """One head of attention in which a position sees those strictly before it; the first sees nothing, and gets 0."""

    def __init__(self, channels: int, *, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.query_block, self.query = CausalBlock(channels, (1, 1)), WeightNormConv(channels, key_channels, (1, 1))
        self.key_block, self.key = CausalBlock(channels, (1, 1)), WeightNormConv(channels, key_channels, (1, 1))
        self.value_block, self.value = CausalBlock(channels, (1, 1)), WeightNormConv(channels, value_channels, (1, 1))

    def forward(
        self, seeking: Float[Tensor, "B C h w"], seen: Float[Tensor, "B C h w"], position_B: Float[Tensor, " B"]
    ) -> Float[Tensor, "B V h w"]:
        """Attend from `seeking` to `seen`."""
        query = self._sequence(self.query(self.query_block(seeking, position_B)))
        key = self._sequence(self.key(self.key_block(seen, position_B)))
        value = self._sequence(self.value(self.value_block(seen, position_B)))
        # Query i against keys 0 … i-1 is query i-1 of the shortened sequences against keys 0 … i-1.
        found = scaled_dot_product_attention(query[:, :, 1:], key[:, :, :-1], value[:, :, :-1], is_causal=True)
        height, width = seeking.shape[-2:]
        return rearrange(pad(found, (0, 0, 1, 0)), "B 1 (h w) V -> B V h w", h=height, w=width)

    def incremental(self, memory: Memory, positions: int) -> AttentionSteps:
        """Return the incremental form for a number of positions."""
        return AttentionSteps(self, memory, positions)

    @staticmethod
    def _sequence(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 n C"]:
        return rearrange(x, "B C h w -> B 1 (h w) C")


class AttentionSteps:
    """`CausalAttention` position by position; it keeps the keys and values so far."""

    def __init__(self, layer: CausalAttention, memory: Memory, positions: int) -> None:
        self._memory = memory
        self._query_block, self._query = layer.query_block.incremental(memory, 1), layer.query.product(memory)
        self._key_block, self._key = layer.key_block.incremental(memory, 1), layer.key.product(memory)
        self._value_block, self._value = layer.value_block.incremental(memory, 1), layer.value.product(memory)
        self._keys = memory.keep(positions, len(layer.key.direction))
        self._values = memory.keep(positions, len(layer.value.direction))

    def step(self, index: int, seeking_nC: Float[Tensor, "n C"], seen_nC: Float[Tensor, "n C"]) -> Float[Tensor, "n V"]:
        """Return what position `index` finds among those before it, and let it be found by later ones."""
        keys, values = self._keys[: self._memory.rows], self._values[: self._memory.rows]
        found = torch.zeros_like(values[:, 0])
        if index:
            query = self._query(self._query_block.step(seeking_nC))
            found = scaled_dot_product_attention(query[:, None], keys[:, :index], values[:, :index])[:, 0]
        keys[:, index] = self._key(self._key_block.step(seen_nC))
        values[:, index] = self._value(self._value_block.step(seen_nC))
        return found
