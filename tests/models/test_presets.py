"""The presets' networks have the original's size and work, and each part is its formula, written out plainly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, elu, pad
from torch.utils.flop_counter import FlopCounterMode

from mendscan.config import PRESETS
from mendscan.models.blocks import GatedResidualBlock
from mendscan.models.causal import CausalBlock, WeightNormConv
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE

# Size and work


@pytest.mark.parametrize(
    ("preset", "prior", "vqvae"), [("brain", 12_396_800, 7_677_185), ("abdomen", 11_872_512, 10_951_169)]
)
def test_parameters(preset: str, prior: int, vqvae: int) -> None:
    settings = PRESETS[preset]
    with torch.device("meta"):
        networks = PixelSNAIL(settings.prior, codes=settings.vqvae.codes), VQVAE(settings.vqvae)
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [prior, vqvae]


def counted(network: nn.Module, call: Callable[[], object]) -> int:
    """Floating-point operations of a call: 2 for every multiply-add of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("preset", "gigaflop", "in_the_original"), [("brain", 8.587, 9.035), ("abdomen", 2.870, 3.097)]
)
def test_work_of_one_pass_of_the_prior(preset: str, gigaflop: float, in_the_original: float) -> None:
    """The first layer, here a sum of weight rows, counts as the convolution of one-hot codes that it is.

    The original pads the two stacks on all sides and cuts the results back: one row more of every vertical convolution
    and one row and one column more of every horizontal one are computed there.
    """
    settings = PRESETS[preset]
    prior, (height, width) = PixelSNAIL(settings.prior, codes=128).eval(), settings.latent_shape
    first = 2 * settings.prior.first_kernel**2 * 128 * 128 * height * width
    ours = first + counted(prior, lambda: prior(torch.zeros(1, height, width, dtype=torch.long), torch.zeros(1)))
    assert ours / 1e9 == pytest.approx(gigaflop, abs=0.001)
    pairs = settings.prior.blocks * settings.prior.layers_per_block
    per_tap = 2 * (129 * 128 + 128 * 256) * pairs
    vertical, horizontal = width, height + width + 1
    assert (ours + per_tap * (6 * vertical + 4 * horizontal)) / 1e9 == pytest.approx(in_the_original, abs=0.001)


@pytest.mark.parametrize(("preset", "encode", "decode"), [("brain", 4.275, 6.019), ("abdomen", 3.921, 4.248)])
def test_work_of_encoding_and_decoding_one_slice(preset: str, encode: float, decode: float) -> None:
    settings = PRESETS[preset]
    vqvae = VQVAE(settings.vqvae).eval()
    embedded, nowhere = torch.zeros(1, settings.vqvae.channels[-1], *settings.latent_shape), torch.zeros(1)
    assert counted(vqvae, lambda: vqvae.encode(torch.zeros(1, 160, 160), nowhere)) / 1e9 == pytest.approx(
        encode, abs=1e-3
    )
    assert counted(vqvae, lambda: vqvae.decode(embedded, nowhere)) / 1e9 == pytest.approx(decode, abs=1e-3)


# Parts: formulas


def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """(x − mean) / √(variance + ε) · γ + β, channel by channel, with the running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    shape = (1, -1, 1, 1)
    scaled = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + norm.eps)
    return scaled * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def gated(change_and_gate: Tensor) -> Tensor:
    change, gate = change_and_gate.chunk(2, dim=1)
    return change / (1 + torch.exp(-gate))


def stirred(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, in double precision, with no parameter or statistic at a special value."""
    network = network.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.dtype == torch.float64 and value.ndim == 1:  # biases, and what norms learn and measure
                value.add_(torch.rand(value.shape, generator=generator, dtype=torch.float64), alpha=0.2)
    return network


def residual(block: GatedResidualBlock, x: Tensor) -> Tensor:
    """x + GLU(norm(conv(ELU(conv(ELU(norm(x))))))): the second norm after the second convolution."""
    hidden = conv2d(elu(normalised(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    hidden = conv2d(elu(hidden), block.conv2.weight, block.conv2.bias, padding=1)
    return x + gated(normalised(hidden, block.norm2))


def test_gated_residual_block_with_the_originals_second_norm() -> None:
    block = stirred(GatedResidualBlock(4, norm=nn.BatchNorm2d, second_norm="after"))
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), residual(block, x))


@pytest.mark.parametrize("preset", ["brain", "abdomen"])
def test_encoder_level_by_level(preset: str) -> None:
    vqvae = stirred(VQVAE(PRESETS[preset].vqvae))
    x, c = torch.randn(1, 48, 32, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    layers = iter(vqvae.encoder)
    with torch.no_grad():
        stem, norm = next(layers), next(layers)
        hidden = torch.stack([x, torch.full_like(x, 0.3)], dim=1)
        hidden = normalised(conv2d(hidden, stem.weight, stem.bias, padding=3), norm)
        for width in PRESETS[preset].vqvae.channels[1:]:
            for _ in range(2):
                hidden = residual(next(layers), hidden)
            down, norm = next(layers), next(layers)
            hidden = normalised(conv2d(hidden, down.weight, down.bias, padding=2)[:, :, ::2, ::2], norm)
            assert down.weight.shape[0] == width
        hidden = residual(next(layers), hidden)
        assert next(layers, None) is None
        torch.testing.assert_close(vqvae.encode(x, c), hidden)


@pytest.mark.parametrize("preset", ["brain", "abdomen"])
def test_decoder_level_by_level(preset: str) -> None:
    channels = PRESETS[preset].vqvae.channels
    vqvae = stirred(VQVAE(PRESETS[preset].vqvae))
    embedded, c = torch.randn(1, channels[-1], 3, 2, dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
    layers = iter(vqvae.decoder)
    with torch.no_grad():
        first, norm = next(layers), next(layers)
        hidden = torch.cat([embedded, torch.full_like(embedded[:, :1], -0.4)], dim=1)
        hidden = normalised(conv2d(hidden, first.weight, first.bias, padding=1), norm)
        for _ in channels[1:]:
            for _ in range(2):
                hidden = residual(next(layers), hidden)
            up, norm = next(layers), next(layers)
            # Every pixel puts 6×6 pixels two apart; the outer two on all sides are cut off.
            spread = conv_transpose2d(hidden, up.weight, up.bias, stride=2)[:, :, 2:-2, 2:-2]
            hidden = normalised(spread, norm)
        hidden = residual(next(layers), hidden)
        assert isinstance(next(layers), nn.ELU)
        last = next(layers)
        expected = torch.einsum("dc,bchw->bdhw", last.weight[:, :, 0, 0], elu(hidden)) + last.bias
        torch.testing.assert_close(vqvae.decode(embedded, c), expected[:, 0])


def plain_weight(layer: WeightNormConv) -> Tensor:
    length = layer.direction.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
    return layer.gain * layer.direction / length


@pytest.mark.parametrize("kernel", [(2, 3), (2, 2), (1, 1)])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("second_input", [False, True])
def test_causal_block_is_its_formula(kernel: tuple[int, int], conditioned: bool, second_input: bool) -> None:
    """x + GLU(conv(ELU(conv(ELU(x, c)) + conv1×1(ELU(a))))), every convolution cut so that it sees up and left."""
    block = stirred(CausalBlock(3, kernel, conditioned=conditioned, aux_channels=2 if second_input else None))
    x, c = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.tensor([-0.5, 0.25], dtype=torch.float64)
    a = torch.randn(2, 2, 4, 5, dtype=torch.float64) if second_input else None

    def cut(layer: WeightNormConv, seen: Tensor) -> Tensor:
        rows, columns = kernel
        wide = conv2d(seen, plain_weight(layer), layer.bias, padding=(rows // 2, columns // 2))
        return wide[:, :, : seen.shape[2], : seen.shape[3]]

    with torch.no_grad():
        seen = torch.cat([x, c[:, None, None, None].expand(2, 1, 4, 5)], dim=1) if conditioned else x
        hidden = cut(block.conv1, elu(seen))
        if a is not None:
            hidden = hidden + conv2d(elu(a), plain_weight(block.aux), block.aux.bias)
        torch.testing.assert_close(block(x, c, a), x + gated(cut(block.conv2, elu(hidden))))


def test_one_block_of_the_prior_is_its_parts_in_order() -> None:
    prior = stirred(PixelSNAIL(PRESETS["brain"].prior.model_copy(update={"channels": 4, "blocks": 1}), codes=5))
    block = prior.blocks[0]
    x, c = torch.randn(1, 4, 4, 6, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    rows = torch.tensor([-0.5, -0.25, 0.0, 0.25], dtype=torch.float64)
    columns = torch.arange(6, dtype=torch.float64) / 6 - 0.5
    places = torch.stack([rows[:, None].expand(4, 6), columns.expand(4, 6)])[None]
    with torch.no_grad():
        above, left = x, x
        for number in range(4):
            above = block.vertical[number](above, c)
            left = block.horizontal[number](left, c, pad(above, (0, 0, 1, 0))[:, :, :-1])
        key = elu(block.gather_seen(torch.cat([x, left, places], dim=1)))
        query = elu(block.gather_seeking(torch.cat([left, places], dim=1)))
        found = elu(block.attention(query, key, c))
        spread = torch.einsum("bvhw,vcyx->bchywx", found, block.spread.weight).reshape(1, 4, 4, 6)
        expected = block.merge(left, c, spread + block.spread.bias[None, :, None, None])
        torch.testing.assert_close(block(x, c, places), expected)
