"""What slices a gap away say of a slice: they show the same subject, and are beyond a small anomaly.

The paper's prior knows a slice by its coordinate alone.  Next to it the slices hold the same anomaly, and would explain
it; a gap away they hold the same anatomy without it.  Not part of the paper; what it is worth is in docs/evidence.md.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, silu

__all__ = ["SliceContext", "beside"]

_EMBEDDING = 32
"""Numbers that stand for a code."""


class SliceContext(nn.Module):
    """Activations made of the codes of two slices, which join those of the prior's first layer.

    Args:
        codes: K; code K stands for a slice beyond the scan.
        channels: Width of the prior.
    """

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codes = codes
        self.embedding = nn.Embedding(codes + 1, _EMBEDDING)
        self.gather = nn.Conv2d(2 * _EMBEDDING, channels, 3, padding=1)
        self.spread = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, beside_B2hw: Int[Tensor, "B 2 h w"]) -> Float[Tensor, "B C h w"]:
        """Return the activations; 0 where both slices are missing, so that the prior is then one without context."""
        embedded = rearrange(self.embedding(beside_B2hw), "B n h w E -> B (n E) h w")
        known_B = (beside_B2hw != self.codes).flatten(1).any(dim=1)
        return self.spread(silu(self.gather(embedded))) * known_B[:, None, None, None]


def beside(codes_Shw: Int[Tensor, "S h w"], gap: int, *, missing: int) -> Int[Tensor, "S 2 h w"]:
    """Return the codes of the slices `gap` before and after each slice of a scan.

    Args:
        codes_Shw: Codes of all slices of a scan, in order.
        gap: Slices, at least 1.
        missing: Stands for the codes of a slice beyond the scan.

    Example:
        >>> beside(torch.tensor([[[5]], [[6]], [[7]]]), 1, missing=9).flatten(1).tolist()
        [[9, 6], [5, 7], [6, 9]]
    """
    reach = min(gap, len(codes_Shw))
    around = pad(codes_Shw, (0, 0, 0, 0, reach, reach), value=missing)
    return torch.stack([around[: len(codes_Shw)], around[2 * reach :]], dim=1)
