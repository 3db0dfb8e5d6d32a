"""Convolutional blocks shared by the auto-encoder and the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, glu

from mendscan.models.dropout import ChannelDropout

__all__ = ["GatedResidualBlock", "make_norm", "position_plane"]


class GatedResidualBlock(nn.Module):
    """Norm, ELU, convolution, (norm,) ELU, dropout, convolution, (norm,) GLU, added to the input.

    The gated residual unit of PixelSNAIL (Chen et al. 2018), without causality: the paper's encoder and decoder
    consist of it.

    Args:
        channels: C, of input and output.
        norm: Makes a normalisation for a number of channels.
        second_norm: ``before`` the second convolution, over C channels, or ``after`` it, over 2 C.
        dropout: Probability with which a whole channel is dropped in training.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: Callable[[int], nn.Module],
        second_norm: Literal["before", "after"] = "before",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.second_norm = second_norm
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels if second_norm == "before" else 2 * channels)
        self.dropout = ChannelDropout(dropout)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the input plus its gated change."""
        hidden = self.conv1(elu(self.norm1(x_BCHW)))
        if self.second_norm == "before":
            return x_BCHW + glu(self.conv2(self.dropout(elu(self.norm2(hidden)))), dim=1)
        return x_BCHW + glu(self.norm2(self.conv2(self.dropout(elu(hidden)))), dim=1)


def make_norm(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    """Return a normalisation of `channels` channels; ``group`` takes groups of 8 channels or as many as divide them."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = max(1, channels // 8)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def position_plane(position_B: Float[Tensor, " B"], *, like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """Return the slice coordinate as one constant channel beside `like`.

    Args:
        position_B: Slice coordinate in [-0.5, 0.5].
        like: The activations that it will be concatenated with.
    """
    batch, _, height, width = like.shape
    return position_B.to(like.dtype).reshape(batch, 1, 1, 1).expand(batch, 1, height, width)
