"""The vector-quantised auto-encoder of slices."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, cat, nn

from mendscan.config import VqvaeSettings
from mendscan.models.blocks import GatedResidualBlock, make_norm, position_plane
from mendscan.models.quantizer import Quantised, VectorQuantizer

__all__ = ["VQVAE", "Reconstruction"]


class Reconstruction(NamedTuple):
    """A slice through the auto-encoder."""

    slices_BHW: Float[Tensor, "B H W"]
    latents_BEhw: Float[Tensor, "B E h w"]
    quantised: Quantised | None
    """None when quantisation was left out."""


class VQVAE(nn.Module):
    """Encoder, codebook and decoder (the paper, section 2.1).

    The encoder is a stem convolution, then per level gated residual blocks and a stride-2 convolution, then one more
    block; the decoder mirrors it with transposed convolutions.  The slice coordinate is an extra input channel of
    both.  Unlike the paper, the stem may have stride 2 and the norm may be by groups; the presets keep the paper's.
    Without padding in the stem the encoder may see a border less than the decoder draws; the latent grid is the same.
    """

    def __init__(self, settings: VqvaeSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = nn.Sequential(*_encoder_layers(settings))
        self.quantizer = VectorQuantizer(settings.codes, settings.channels[-1])
        self.decoder = nn.Sequential(*_decoder_layers(settings))

    def encode(self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]) -> Float[Tensor, "B E h w"]:
        """Return z_e, the latents before quantisation."""
        x_BCHW = slices_BHW[:, None]
        return self.encoder(cat([x_BCHW, position_plane(position_B, like=x_BCHW)], dim=1))

    def decode(
        self, embedded_BEhw: Float[Tensor, "B E h w"], position_B: Float[Tensor, " B"]
    ) -> Float[Tensor, "B H W"]:
        """Return the slices of a grid of code vectors."""
        planes = position_plane(position_B, like=embedded_BEhw)
        return self.decoder(cat([embedded_BEhw, planes], dim=1)).squeeze(1)

    def codes(self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]) -> Int[Tensor, "B h w"]:
        """Return the codes of slices."""
        return self.quantizer.nearest(self.encode(slices_BHW, position_B))

    def decode_codes(self, codes_Bhw: Int[Tensor, "B h w"], position_B: Float[Tensor, " B"]) -> Float[Tensor, "B H W"]:
        """Return the slices of a grid of codes."""
        return self.decode(self.quantizer.embed(codes_Bhw), position_B)

    def forward(
        self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"], *, quantise: bool = True
    ) -> Reconstruction:
        """Encode, quantise (unless told not to, as in the first steps of training) and decode."""
        latents = self.encode(slices_BHW, position_B)
        if not quantise:
            return Reconstruction(self.decode(latents, position_B), latents, None)
        quantised = self.quantizer(latents)
        return Reconstruction(self.decode(quantised.embedded_BEhw, position_B), latents, quantised)


def _blocks(settings: VqvaeSettings, level: int, count: int) -> list[nn.Module]:
    channels = settings.channels[level]
    return [
        GatedResidualBlock(
            channels,
            norm=lambda n: make_norm(settings.norm, n),
            second_norm=settings.second_norm,
            dropout=settings.dropout,
        )
        for _ in range(count)
    ]


def _level_blocks(settings: VqvaeSettings, level: int) -> list[nn.Module]:
    finest = settings.blocks_per_level if settings.stem_blocks is None else settings.stem_blocks
    return _blocks(settings, level, finest if level == 0 else settings.blocks_per_level)


def _encoder_layers(settings: VqvaeSettings) -> list[nn.Module]:
    widths, kernel = settings.channels, settings.stem_kernel
    padding = (kernel - 1) // 2 if settings.stem_padding else 0
    layers: list[nn.Module] = [
        nn.Conv2d(2, widths[0], kernel, stride=settings.stem_stride, padding=padding),
        make_norm(settings.norm, widths[0]),
    ]
    for level, width in enumerate(widths[1:]):
        layers += _level_blocks(settings, level)
        down = nn.Conv2d(widths[level], width, settings.down_kernel, stride=2, padding=(settings.down_kernel - 1) // 2)
        layers += [down, make_norm(settings.norm, width)]
    return layers + _blocks(settings, len(widths) - 1, 1)


def _decoder_layers(settings: VqvaeSettings) -> list[nn.Module]:
    widths = settings.channels
    layers: list[nn.Module] = [
        nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1),
        make_norm(settings.norm, widths[-1]),
    ]
    for level in range(len(widths) - 1, 0, -1):
        layers += _level_blocks(settings, level)
        layers += [_doubling(settings, widths[level], widths[level - 1]), make_norm(settings.norm, widths[level - 1])]
    layers += _blocks(settings, 0, 1)
    last = _doubling(settings, widths[0], 1) if settings.stem_stride == 2 else nn.Conv2d(widths[0], 1, 1)
    return [*layers, nn.ELU(), last]


def _doubling(settings: VqvaeSettings, inputs: int, outputs: int) -> nn.Module:
    """Return a transposed convolution that doubles height and width exactly, for an even or odd kernel."""
    kernel = settings.up_kernel
    odd = kernel % 2
    padding = (kernel - 1) // 2 if odd else (kernel - 2) // 2
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=padding, output_padding=odd)
