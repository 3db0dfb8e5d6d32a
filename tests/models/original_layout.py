"""The original system's state dicts with random weights, and what its networks compute with them.

Names and shapes are those of snavalm/lsr_mood_challenge_2020.  The forward passes are written from the description of
the operations with torch.nn.functional alone, straight from a state dict, and know nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Sizes of one experiment."""

    channels: tuple[int, ...]
    grid: tuple[int, int]
    codes: int = 128
    per_level: int = 2
    width: int = 128
    blocks: int = 4
    pairs: int = 4
    key: int = 16
    first: int = 7
    step: int = 2


BRAIN = Layout((16, 32, 64, 256), (20, 20))
ABDOMEN = Layout((16, 32, 64, 128, 256), (10, 10), step=1)
SUBMITTED_ABDOMEN = Layout((16, 32, 64, 128, 256), (10, 10), step=1, first=3)
SMALL = Layout((4, 6, 8, 10), (4, 4), codes=12, per_level=1, width=6, blocks=2, pairs=2)


class Weights:
    """Makes random tensors by the names of the original."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.state[name] = scale * torch.randn(shape, generator=self._generator)

    def spread(self, name: str, *shape: int, low: float, high: float) -> None:
        self.state[name] = low + (high - low) * torch.rand(shape, generator=self._generator)

    def conv(self, name: str, *shape: int) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        self.normal(f"{name}.weight", *shape, scale=fan_in**-0.5)
        self.normal(f"{name}.bias", shape[0], scale=0.1)

    def transposed(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        self.normal(f"{name}.weight", inputs, outputs, kernel, kernel, scale=2 / (inputs**0.5 * kernel))
        self.normal(f"{name}.bias", outputs, scale=0.1)

    def batch_norm(self, name: str, channels: int) -> None:
        self.spread(f"{name}.weight", channels, low=0.5, high=1.5)
        self.normal(f"{name}.bias", channels, scale=0.2)
        self.normal(f"{name}.running_mean", channels, scale=0.2)
        self.spread(f"{name}.running_var", channels, low=0.3, high=2.0)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(4321)

    def weight_norm(self, name: str, *shape: int, gain: float = 1.0) -> None:
        self.normal(f"{name}.bias", shape[0], scale=0.1)
        self.spread(f"{name}.weight_g", shape[0], *[1] * (len(shape) - 1), low=0.5 * gain, high=1.5 * gain)
        self.normal(f"{name}.weight_v", *shape)

    def gated(self, name: str, channels: int) -> None:
        self.batch_norm(f"{name}.norm1", channels)
        self.conv(f"{name}.conv1", channels, channels, 3, 3)
        self.conv(f"{name}.conv2", 2 * channels, channels, 3, 3)
        self.batch_norm(f"{name}.norm2", 2 * channels)

    def causal(self, name: str, width: int, kernel: tuple[int, int], *, conditioned: bool, aux: bool) -> None:
        self.weight_norm(f"{name}.conv1.conv", width, width + conditioned, *kernel)
        if aux:
            self.weight_norm(f"{name}.conv1_aux.conv", width, width, 1, 1)
        self.weight_norm(f"{name}.conv2.conv", 2 * width, width, *kernel)

    def masked(self, name: str, outputs: int, inputs: int, kernel: int, seen: int) -> None:
        self.normal(f"{name}.bias", outputs, scale=0.1)
        self.normal(f"{name}.weight", outputs, inputs, seen, scale=(inputs * seen) ** -0.5)
        self.state[f"{name}.rest_of_filter"] = torch.zeros(outputs, inputs, kernel * kernel - seen)


def vqvae_state(layout: Layout, *, seed: int = 0, padding: bool = False) -> State:
    """A VQ-VAE whose codes lie among its own latents, so that slices use many of them."""
    weights, c = Weights(seed), layout.channels
    weights.conv("Q.0", c[0], 2, 7, 7)
    weights.batch_norm("Q.1", c[0])
    at = 2
    for level in range(len(c) - 1):
        for _ in range(layout.per_level):
            weights.gated(f"Q.{at}", c[level])
            at += 1
        weights.conv(f"Q.{at}", c[level + 1], c[level], 5, 5)
        weights.batch_norm(f"Q.{at + 1}", c[level + 1])
        at += 2
    weights.gated(f"Q.{at}", c[-1])
    weights.normal("codebook.embedding.weight", layout.codes, c[-1])
    weights.conv("P.0", c[-1], c[-1] + 1, 3, 3)
    weights.batch_norm("P.1", c[-1])
    at = 2
    for level in range(len(c) - 1, 0, -1):
        for _ in range(layout.per_level):
            weights.gated(f"P.{at}", c[level])
            at += 1
        weights.transposed(f"P.{at}", c[level], c[level - 1], 6)
        weights.batch_norm(f"P.{at + 1}", c[level - 1])
        at += 2
    weights.gated(f"P.{at}", c[0])
    weights.conv(f"P.{at + 2}", 1, c[0], 1, 1)  # P.at+1 is an ELU
    slices, coordinate = random_slices(layout, max(4, -(-layout.codes // (layout.grid[0] * layout.grid[1]))))
    latents = encode(weights.state, slices, coordinate, padding=padding).movedim(1, -1).flatten(0, -2)
    chosen = torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))[: layout.codes]
    weights.state["codebook.embedding.weight"] = latents[chosen].clone()
    return weights.state


def prior_state(layout: Layout, *, seed: int = 0) -> State:
    """A PixelSNAIL."""
    weights, n, value = Weights(seed + 100), layout.width, layout.width
    height, width = layout.grid
    weights.masked("ini_conv", n, layout.codes, layout.first, layout.first**2 // 2)
    rows = ((torch.arange(height) - height / 2) / height)[None, None, :, None].expand(1, 1, height, width)
    columns = ((torch.arange(width) - width / 2) / width)[None, None, None, :].expand(1, 1, height, width)
    weights.state["background"] = torch.cat([rows, columns], 1)
    positions = (height // layout.step) * (width // layout.step)
    for b in range(layout.blocks):
        for p in range(layout.pairs):
            weights.causal(f"blocks.{b}.v_resblocks.{p}", n, (2, 3), conditioned=True, aux=False)
            weights.causal(f"blocks.{b}.h_resblocks.{p}", n, (2, 2), conditioned=True, aux=True)
        weights.masked(f"blocks.{b}.downsample_key", n, 2 * n + 2, 5, 13)
        weights.masked(f"blocks.{b}.downsample_query", n, n + 2, 5, 13)
        attention = f"blocks.{b}.causal_attention"
        for what, size in (("query", layout.key), ("key", layout.key), ("value", value)):
            weights.causal(f"{attention}.{what}.0", n, (1, 1), conditioned=False, aux=False)
            weights.weight_norm(f"{attention}.{what}.1.linear", size, n)
        weights.state[f"{attention}.mask"] = torch.ones(1, positions, positions, dtype=torch.uint8).tril(-1)
        start = torch.ones(positions, 1)
        start[0] = 0
        weights.state[f"{attention}.start_mask"] = start
        weights.transposed(f"blocks.{b}.upsample", value, n, layout.step)
        weights.causal(f"blocks.{b}.out_resblock", n, (1, 1), conditioned=False, aux=True)
    weights.transposed("upsample", n, n, 1)
    weights.weight_norm("out.conv", layout.codes, n, 1, 1, gain=2.0)
    return weights.state


def random_slices(layout: Layout, count: int, *, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Smooth random slices and their coordinates."""
    generator = torch.Generator().manual_seed(seed)
    factor = 2 ** (len(layout.channels) - 1)
    height, width = (n * factor for n in layout.grid)
    coarse = torch.randn(count, 1, height // 4, width // 4, generator=generator)
    slices = F.interpolate(coarse, size=(height, width), mode="bilinear")[:, 0]
    return slices, torch.linspace(-0.5, 0.5, count)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance, gain, shift = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * gain + shift


def _gated(state: State, name: str, x: Tensor) -> Tensor:
    hidden = F.elu(_norm(state, f"{name}.norm1", x))
    hidden = F.elu(F.conv2d(hidden, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], padding=1))
    hidden = F.conv2d(hidden, state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"], padding=1)
    one, two = _norm(state, f"{name}.norm2", hidden).chunk(2, 1)
    return x + one * two.sigmoid()


def _with_coordinate(x: Tensor, coordinate: Tensor) -> Tensor:
    return torch.cat([x, coordinate[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


def encode(state: State, slices: Tensor, coordinate: Tensor, *, padding: bool) -> Tensor:
    """Latents before quantisation."""
    x = _with_coordinate(slices[:, None], coordinate)
    last = max(int(name.split(".")[1]) for name in state if name.startswith("Q."))
    for at in range(last + 1):
        name = f"Q.{at}"
        if f"{name}.running_mean" in state:
            x = _norm(state, name, x)
        elif f"{name}.norm1.weight" in state:
            x = _gated(state, name, x)
        elif at == 0:
            x = F.conv2d(x, state["Q.0.weight"], state["Q.0.bias"], padding=3 if padding else 0)
        else:
            x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=2)
    return x


def distances(state: State, latents: Tensor) -> Tensor:
    """Squared distance of each latent to each code, codes last, in double precision."""
    flat = latents.movedim(1, -1).double()
    return ((flat[..., None, :] - state["codebook.embedding.weight"].double()) ** 2).sum(-1)


def decode(state: State, codes: Tensor, coordinate: Tensor) -> Tensor:
    """Slices of a grid of codes."""
    x = _with_coordinate(state["codebook.embedding.weight"][codes].permute(0, 3, 1, 2), coordinate)
    last = max(int(name.split(".")[1]) for name in state if name.startswith("P."))
    for at in range(last + 1):
        name = f"P.{at}"
        if f"{name}.running_mean" in state:
            x = _norm(state, name, x)
        elif f"{name}.norm1.weight" in state:
            x = _gated(state, name, x)
        elif f"{name}.weight" not in state:
            x = F.elu(x)
        elif at == 0:
            x = F.conv2d(x, state["P.0.weight"], state["P.0.bias"], padding=1)
        elif at == last:
            x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        else:
            x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=2)
    return x[:, 0]


def _normed(state: State, name: str) -> Tensor:
    direction = state[f"{name}.weight_v"]
    length = direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
    return state[f"{name}.weight_g"] * direction / length


def _same_and_cut(x: Tensor, state: State, name: str) -> Tensor:
    """A convolution padded by half its kernel on every side; an even kernel then gives one too many, the last."""
    weight = _normed(state, name)
    rows, columns = weight.shape[2:]
    out = F.conv2d(x, weight, state[f"{name}.bias"], padding=(rows // 2, columns // 2))
    return out[:, :, : x.shape[2], : x.shape[3]]


def _causal(state: State, name: str, x: Tensor, coordinate: Tensor | None = None, aux: Tensor | None = None) -> Tensor:
    seen = x if coordinate is None else _with_coordinate(x, coordinate)
    hidden = _same_and_cut(F.elu(seen), state, f"{name}.conv1.conv")
    if aux is not None:
        hidden = hidden + _same_and_cut(F.elu(aux), state, f"{name}.conv1_aux.conv")
    one, two = _same_and_cut(F.elu(hidden), state, f"{name}.conv2.conv").chunk(2, 1)
    return x + one * two.sigmoid()


def _masked(state: State, name: str, x: Tensor, kernel: int, step: int = 1) -> Tensor:
    taps = torch.cat([state[f"{name}.weight"], state[f"{name}.rest_of_filter"]], 2)
    weight = taps.reshape(*taps.shape[:2], kernel, kernel)
    return F.conv2d(x, weight, state[f"{name}.bias"], stride=step, padding=kernel // 2)


def _looked_up(state: State, name: str, x: Tensor) -> Tensor:
    """A block and a linear layer, whose result gets a shape that is not its own: channels where positions are."""
    x = _causal(state, f"{name}.0", x)
    rows = F.linear(x.flatten(2).transpose(1, 2), _normed(state, f"{name}.1.linear"), state[f"{name}.1.linear.bias"])
    return rows.reshape(len(x), -1, *x.shape[2:])


def _attention(state: State, name: str, query_in: Tensor, key_in: Tensor) -> Tensor:
    batch, _, height, width = key_in.shape
    query, key, value = (
        _looked_up(state, f"{name}.{what}", x) for what, x in (("query", query_in), ("key", key_in), ("value", key_in))
    )
    heads, key_size, value_size = 1, query.shape[1], value.shape[1]
    query, key = (x.reshape(batch, -1, heads, key_size).transpose(1, 2) for x in (query, key))
    value = value.reshape(batch, -1, heads, value_size).transpose(1, 2)
    scores = query @ key.transpose(2, 3) / (heads * key_size) ** 0.5
    scores = torch.where(state[f"{name}.mask"] == 0, torch.tensor(-1e4), scores)
    found = (scores.softmax(3) * state[f"{name}.start_mask"]) @ value
    return found.transpose(1, 2).reshape(batch, height, width, value_size).permute(0, 3, 1, 2)


def logits(state: State, codes: Tensor, coordinate: Tensor, layout: Layout) -> Tensor:
    """Logits of every code at every position."""
    x = F.one_hot(codes, layout.codes).permute(0, 3, 1, 2).float()
    x = _masked(state, "ini_conv", x, layout.first)
    background = state["background"].expand(len(x), -1, -1, -1)
    for b in range(layout.blocks):
        above = left = x
        for p in range(layout.pairs):
            above = _causal(state, f"blocks.{b}.v_resblocks.{p}", above, coordinate)
            shifted = torch.cat([torch.zeros_like(above[:, :, :1]), above[:, :, :-1]], 2)
            left = _causal(state, f"blocks.{b}.h_resblocks.{p}", left, coordinate, shifted)
        key = F.elu(_masked(state, f"blocks.{b}.downsample_key", torch.cat([x, left, background], 1), 5, layout.step))
        query = F.elu(_masked(state, f"blocks.{b}.downsample_query", torch.cat([left, background], 1), 5, layout.step))
        found = F.elu(_attention(state, f"blocks.{b}.causal_attention", query, key))
        up = f"blocks.{b}.upsample"
        found = F.conv_transpose2d(found, state[f"{up}.weight"], state[f"{up}.bias"], stride=layout.step)
        x = _causal(state, f"blocks.{b}.out_resblock", left, aux=found)
    x = F.conv_transpose2d(F.elu(x), state["upsample.weight"], state["upsample.bias"])
    return F.conv2d(F.elu(x), _normed(state, "out.conv"), state["out.conv.bias"])
