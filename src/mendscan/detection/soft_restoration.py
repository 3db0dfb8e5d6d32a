"""Soft restoration: unlikely codes give way to what the prior expects there, in one pass and without a draw.

A sampled restoration is one healthy version of a slice, and many have to be drawn until their mean is steady.  Where
one picture of what would be usual is all that is wanted, the mean can be taken before decoding: the vector of an
unlikely code is replaced by the mean vector of all codes, weighed by their probability.  Not part of the paper.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE

__all__ = ["restore_softly"]


@torch.inference_mode()
def restore_softly(
    vqvae: VQVAE,
    prior: PixelSNAIL,
    codes_Bhw: Int[Tensor, "B h w"],
    position_B: Float[Tensor, " B"],
    *,
    threshold_nats: float,
) -> Float[Tensor, "B H W"]:
    """Return slices decoded from their codes, the unlikely ones replaced by the expected code vector.

    A code is unlikely when −log p(z_i | z_<i) exceeds λ_p, `threshold_nats`; the vector decoded in its place is
    Σ_k p(k | z_<i) e_k.  Codes before it count as they are, unlikely ones too, so that one pass is enough.

    Args:
        vqvae: The auto-encoder, in evaluation mode.
        prior: The prior over its codes, in evaluation mode.
        codes_Bhw: Codes of slices.
        position_B: Slice coordinate of each.
        threshold_nats: λ_p.
    """
    logits_BKhw = prior(codes_Bhw, position_B).float()
    unlikely_Bhw = cross_entropy(logits_BKhw, codes_Bhw, reduction="none") > threshold_nats
    expected_BEhw = einsum(logits_BKhw.softmax(dim=1), vqvae.quantizer.vectors_KE, "B K h w, K E -> B E h w")
    vectors_BEhw = torch.where(unlikely_Bhw[:, None], expected_BEhw, vqvae.quantizer.embed(codes_Bhw))
    return vqvae.decode(vectors_BEhw, position_B)
