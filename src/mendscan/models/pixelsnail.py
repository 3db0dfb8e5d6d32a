"""PixelSNAIL: the autoregressive prior over the codes of a slice.

p(z | c) = Π_i p(z_i | z_<i, c) in raster order, c the slice coordinate (Chen et al. 2018; the paper, section 2.2).
Every layer keeps the order: activations at position i depend on codes before i only.  Two stacks share the work as in
PixelCNN++: the *vertical* one sees all rows above, through a shift by one row; the *horizontal* one what lies to the
left and above.  Causal attention then reaches everything before i.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, elu, embedding_bag, glu, pad, scaled_dot_product_attention

from mendscan.config import PriorSettings
from mendscan.models.blocks import position_plane

__all__ = ["PixelSNAIL"]


class WeightNormConv(nn.Module):
    """A convolution whose weight is g · v / ‖v‖ per output channel (Salimans & Kingma 2016), without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, kernel)
        self.direction = nn.Parameter(plain.weight.detach().clone())
        self.gain = nn.Parameter(_norms(self.direction.detach()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        """Convolve; the caller pads, and thereby decides what is seen."""
        return conv2d(x, self.direction * (self.gain / _norms(self.direction)), self.bias)


def _norms(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


class CodeConv(nn.Module):
    """A 7×7 convolution of the one-hot codes that sees only what comes before: the first layer.

    Computed as a sum of weight rows, one per earlier neighbour, which equals the convolution and skips its zeros.
    """

    offsets_T2: Tensor

    def __init__(self, codes: int, channels: int, kernel: int = 7) -> None:
        super().__init__()
        self.codes, self.reach = codes, kernel // 2
        before = (kernel * kernel) // 2
        offsets = [divmod(tap, kernel) for tap in range(before)]
        self.register_buffer("offsets_T2", torch.tensor(offsets), persistent=False)
        self.weight_TKC = nn.Parameter(torch.randn(before, codes, channels) / before**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, codes_Bhw: Int[Tensor, "B h w"]) -> Float[Tensor, "B C h w"]:
        """Return the first activations; those at (0, 0) are the bias."""
        batch, height, width = codes_Bhw.shape
        taps = len(self.offsets_T2)
        outside = self.codes
        padded = pad(codes_Bhw, (self.reach, self.reach, self.reach, 0), value=outside)
        rows_Thw = torch.stack(
            [padded[:, dy : dy + height, dx : dx + width] for dy, dx in self.offsets_T2.tolist()], dim=-1
        )
        # Row `codes` of every tap is the zero vector of a neighbour outside the grid.
        table = pad(self.weight_TKC, (0, 0, 0, 1)).flatten(0, 1)
        index = rows_Thw + torch.arange(taps, device=codes_Bhw.device) * (self.codes + 1)
        summed = embedding_bag(rearrange(index, "B h w T -> (B h w) T"), table, mode="sum")
        return rearrange(summed + self.bias, "(B h w) C -> B C h w", B=batch, h=height, w=width)


class CausalBlock(nn.Module):
    """A gated residual block that sees its own row and the one above: to both sides, or to the left only.

    Used with `to_the_right` in the vertical stack (2×3) and without in the horizontal stack (2×2), and with a 1×1
    kernel around the attention.  The slice coordinate is one more input channel where `conditioned`.

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
        self.dropout = nn.Dropout2d(dropout)
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


class MaskedConv(nn.Module):
    """A strided convolution that sees what comes before and the position itself ("type B" of PixelCNN)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        seen = (kernel * kernel) // 2 + 1
        self.weight_taps = nn.Parameter(torch.randn(outputs, inputs, seen) / (inputs * seen) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h2 w2"]:
        """Return one output per `stride` × `stride` positions, at their upper left one."""
        k = self.kernel
        weight = rearrange(pad(self.weight_taps, (0, k * k // 2)), "o i (y x) -> o i y x", y=k, x=k)
        return conv2d(x, weight, self.bias, stride=self.stride, padding=k // 2)


class CausalAttention(nn.Module):
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

    @staticmethod
    def _sequence(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 n C"]:
        return rearrange(x, "B C h w -> B 1 (h w) C")


class SnailBlock(nn.Module):
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
        for vertical, horizontal in zip(self.vertical, self.horizontal, strict=True):
            above = vertical(above, position_B)
            left = horizontal(left, position_B, _down_one_row(above))
        seen = elu(self.gather_seen(torch.cat([x, left, places], dim=1)))
        seeking = elu(self.gather_seeking(torch.cat([left, places], dim=1)))
        found = self.spread(elu(self.attention(seeking, seen, position_B)))
        return self.merge(left, position_B, found)


def _down_one_row(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return pad(x[:, :, :-1], (0, 0, 1, 0))


class PixelSNAIL(nn.Module):
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
        self.first = CodeConv(codes, settings.channels)
        self.blocks = nn.ModuleList(SnailBlock(settings) for _ in range(settings.blocks))
        self.head = nn.Conv2d(settings.channels, settings.channels, 1)
        self.logits = WeightNormConv(settings.channels, codes, (1, 1))

    def forward(self, codes_Bhw: Int[Tensor, "B h w"], position_B: Float[Tensor, " B"]) -> Float[Tensor, "B K h w"]:
        """Return the logits of every code given those before it.

        Args:
            codes_Bhw: Codes, 0 … K-1.
            position_B: Slice coordinate in [-0.5, 0.5].
        """
        x = self.first(codes_Bhw)
        places = _places(x)
        for block in self.blocks:
            x = block(x, position_B, places)
        return self.logits(elu(self.head(elu(x))))

    def nll(self, codes_Bhw: Int[Tensor, "B h w"], position_B: Float[Tensor, " B"]) -> Float[Tensor, "B h w"]:
        """Return −log p(z_i | z_<i, c) of each code in nats; higher = less likely."""
        return cross_entropy(self(codes_Bhw, position_B).float(), codes_Bhw, reduction="none")


def _places(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2 h w"]:
    """Return the row and column of each position, in [-0.5, 0.5)."""
    batch, _, height, width = x.shape
    rows = (torch.arange(height, device=x.device, dtype=x.dtype) - height / 2) / height
    columns = (torch.arange(width, device=x.device, dtype=x.dtype) - width / 2) / width
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(batch, 2, height, width)
