"""The prior: nothing leaks from the future, and each layer is the formula it claims to be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot

from mendscan.config import PRESETS, PriorSettings
from mendscan.models.attention import CausalAttention
from mendscan.models.causal import CausalBlock, WeightNormConv, folded_weights
from mendscan.models.masked import CodeConv, MaskedConv
from mendscan.models.pixelsnail import PixelSNAIL, SnailBlock

K, HEIGHT, WIDTH = 5, 4, 6
POSITIONS = HEIGHT * WIDTH
HUGE = 1e9


def small_prior(*, step: int = 1, kernel: int = 3, factor: float = 1.0, dropout: float = 0.1) -> PixelSNAIL:
    settings = PriorSettings(
        channels=6,
        blocks=2,
        layers_per_block=2,
        key_channels=3,
        value_channels=4,
        attention_downsampling=step,
        attention_kernel=kernel,
        dropout=dropout,
    )
    return multiplied(PixelSNAIL(settings, codes=K), factor)


def multiplied(module: nn.Module, factor: float) -> nn.Module:
    """In float64, with every parameter random, no bias at 0, and multiplied by a factor."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)).mul_(factor)
    return module.double().eval()


def some_codes(rows: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.randint(K, (rows, height, width))


def changed_codes(codes_hw: Tensor) -> Tensor:
    """One row per position i: code i and, at random, those after it are changed."""
    rows = codes_hw.flatten().repeat(POSITIONS, 1)
    later = torch.arange(POSITIONS)[None] > torch.arange(POSITIONS)[:, None]
    random = torch.randint(K, rows.shape)
    rows = torch.where(later, random, rows)
    rows.fill_diagonal_(0).add_(torch.diag((codes_hw.flatten() + 1) % K))
    return rows.reshape(POSITIONS, *codes_hw.shape)


def changed_activations(x: Tensor) -> Tensor:
    """One row per position i of x: what lies at i and after it becomes huge noise."""
    count = x.shape[-2] * x.shape[-1]
    rows = x.flatten(2).repeat(count, 1, 1)
    from_here_on = torch.arange(count)[None] >= torch.arange(count)[:, None]
    noise = HUGE * torch.randn_like(rows)
    return torch.where(from_here_on[:, None], noise, rows).reshape(count, *x.shape[1:])


def assert_only_later_moves(
    layer: Callable[[Tensor], Tensor], x: Tensor, *, strictly: bool = False, step: int = 1
) -> None:
    """Outputs before position i (at i too, if `strictly`) stay as they are when inputs from i on change."""
    reference, changed = layer(x).flatten(2), layer(changed_activations(x)).flatten(2)
    assert changed.isfinite().all()
    height, width = x.shape[-2:]
    place = torch.arange(height * width).reshape(height, width)[::step, ::step].flatten()
    for i in range(height * width):
        before = place <= i if strictly else place < i
        torch.testing.assert_close(changed[i, :, before], reference[0, :, before], rtol=1e-12, atol=1e-12)
        if (~before).any():
            assert not torch.allclose(changed[i, :, ~before], reference[0, :, ~before])


# --- nothing leaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("factor", [1.0, 4.0, 30.0])
def test_logits_depend_on_earlier_codes_only(step: int, kernel: int, factor: float) -> None:
    prior = small_prior(step=step, kernel=kernel, factor=factor)
    codes_hw = some_codes()[0]
    c = torch.tensor(0.25, dtype=torch.float64)
    with torch.no_grad():
        reference = prior(codes_hw[None], c[None])[0].flatten(1)
        logits = prior(changed_codes(codes_hw), c.expand(POSITIONS)).flatten(2)
    assert logits.isfinite().all()
    for i in range(POSITIONS):
        unmoved = torch.allclose(logits[i, :, : i + 1], reference[:, : i + 1], rtol=1e-12, atol=0)
        assert unmoved, f"changing codes from {i} on moved the logits at or before it"


def test_nothing_leaks_through_scores_larger_than_any_constant_mask() -> None:
    """The reference hides the future by −10⁴: with scores beyond that it shows through (method.md, 10)."""
    prior = small_prior(factor=1.0)
    with torch.no_grad():
        for block in prior.blocks:
            for name in ("query", "key"):
                getattr(block.attention, name).gain.mul_(1e4)
    scores: list[Tensor] = []
    attention = prior.blocks[0].attention
    attention.query.register_forward_hook(lambda _m, _i, out: scores.append(out))
    attention.key.register_forward_hook(lambda _m, _i, out: scores.append(out))
    codes_hw = some_codes()[0]
    c = torch.zeros(POSITIONS + 1, dtype=torch.float64)
    with torch.no_grad():
        logits = prior(torch.cat([codes_hw[None], changed_codes(codes_hw)]), c).flatten(2)
    query, key = (x.flatten(2) for x in scores)
    assert torch.einsum("bkn,bkm->bnm", query, key).abs().max() > 1e6
    for i in range(POSITIONS):
        torch.testing.assert_close(logits[i + 1, :, : i + 1], logits[0, :, : i + 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("step", [1, 2])
def test_every_code_influences_the_next_one_in_its_row(step: int) -> None:
    """The last code of a row cannot reach the first of the next one when the row is wider than the first layer."""
    prior = small_prior(step=step, kernel=5 if step == 2 else 1)
    codes_hw = some_codes()[0]
    for i in (i for i in range(POSITIONS) if (i + 1) % WIDTH):
        other = codes_hw.clone()
        other.view(-1)[i] = (other.view(-1)[i] + 1) % K
        with torch.no_grad():
            moved = (prior(torch.stack([codes_hw, other]), torch.zeros(2).double())).diff(dim=0).abs()
        assert moved.flatten(2)[0, :, i + 1].max() > 1e-6


def test_the_last_position_sees_the_first_code() -> None:
    """Attention reaches everything: neither the 7×7 convolution nor the stacks get from one corner to the other."""
    prior = small_prior()
    codes = some_codes(2, 12, 12)
    codes[1] = codes[0]
    codes[1, 0, 0] = (codes[0, 0, 0] + 1) % K
    with torch.no_grad():
        logits = prior(codes, torch.zeros(2).double())
    assert logits[:, :, -1, -1].diff(dim=0).abs().max() > 1e-9


def test_code_conv_sees_strictly_what_comes_before() -> None:
    layer = multiplied(CodeConv(K, 3), 10.0)
    codes_hw = some_codes()[0]
    reference, moved = layer(codes_hw[None])[0].flatten(1), layer(changed_codes(codes_hw)).flatten(2)
    for i in range(POSITIONS):
        assert torch.equal(moved[i, :, : i + 1], reference[:, : i + 1])
        if (i + 1) % WIDTH:
            assert not torch.allclose(moved[i, :, i + 1], reference[:, i + 1])


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("step", [1, 2])
def test_masked_conv_sees_what_comes_before_and_itself(kernel: int, step: int) -> None:
    layer = multiplied(MaskedConv(3, 2, kernel, step), 10.0)
    x = torch.randn(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    reference, changed = layer(x).flatten(2), layer(changed_activations(x)).flatten(2)
    place = torch.arange(POSITIONS).reshape(HEIGHT, WIDTH)[::step, ::step].flatten()
    for i in range(POSITIONS):
        assert torch.equal(changed[i, :, place < i], reference[0, :, place < i])
        at = place == i
        assert not at.any() or not torch.allclose(changed[i, :, at], reference[0, :, at])


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize("kernel", [(2, 2), (1, 1)])
def test_horizontal_block_sees_what_comes_before_and_itself(kernel: tuple[int, int], factor: float) -> None:
    block = multiplied(CausalBlock(4, kernel, conditioned=True), factor)
    x = torch.randn(1, 4, HEIGHT, WIDTH, dtype=torch.float64)
    assert_only_later_moves(lambda rows: block(rows, torch.zeros(len(rows)).double()), x)


def test_second_input_of_a_block_acts_where_it_is() -> None:
    block = multiplied(CausalBlock(4, (1, 1), aux_channels=2), 1.0)
    x, aux = torch.randn(1, 4, 3, 3).double(), torch.randn(1, 2, 3, 3).double()
    other = aux.clone()
    other[:, :, 1, 2] += 1
    moved = (block(x, torch.zeros(1), aux) - block(x, torch.zeros(1), other)).abs().amax(1)[0]
    assert moved[1, 2] > 1e-6
    moved[1, 2] = 0
    assert moved.max() == 0


def test_vertical_block_sees_no_row_below() -> None:
    block = multiplied(CausalBlock(4, (2, 3), conditioned=True), 10.0)
    x = torch.randn(1, 4, HEIGHT, WIDTH, dtype=torch.float64)
    reference = block(x, torch.zeros(1))
    for row in range(1, HEIGHT):
        changed = x.clone()
        changed[:, :, row:] = HUGE * torch.randn_like(changed[:, :, row:])
        torch.testing.assert_close(block(changed, torch.zeros(1))[:, :, :row], reference[:, :, :row])
    to_the_right = x.clone()
    to_the_right[:, :, 0, 3] += 1
    assert not torch.allclose(block(to_the_right, torch.zeros(1))[:, :, 0, 2], reference[:, :, 0, 2])


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_attention_sees_strictly_what_comes_before(factor: float) -> None:
    attention = multiplied(CausalAttention(4, key_channels=3, value_channels=5), factor)
    seeking = torch.randn(1, 4, HEIGHT, WIDTH, dtype=torch.float64)

    def attend(seen: Tensor) -> Tensor:
        return attention(seeking.expand(len(seen), -1, -1, -1), seen, torch.zeros(len(seen)))

    seen = torch.randn(1, 4, HEIGHT, WIDTH, dtype=torch.float64)
    reference, changed = attend(seen).flatten(2), attend(changed_activations(seen)).flatten(2)
    assert changed.isfinite().all()
    for i in range(POSITIONS):
        torch.testing.assert_close(changed[i, :, : i + 1], reference[0, :, : i + 1], rtol=1e-12, atol=1e-12)
    assert (reference[:, :, 0] == 0).all()


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_whole_block_sees_what_comes_before_and_itself(step: int, kernel: int) -> None:
    block = small_prior(step=step, kernel=kernel, factor=3.0).blocks[0]
    assert isinstance(block, SnailBlock)
    places = torch.randn(1, 2, HEIGHT, WIDTH, dtype=torch.float64)
    x = torch.randn(1, 6, HEIGHT, WIDTH, dtype=torch.float64)
    assert_only_later_moves(
        lambda rows: block(rows, torch.zeros(len(rows)).double(), places.expand(len(rows), -1, -1, -1)), x
    )


# --- each layer is its formula ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (9, 2), (2, 9)])
def test_code_conv_is_the_masked_convolution_of_one_hot_codes(shape: tuple[int, int]) -> None:
    layer = multiplied(CodeConv(K, 4), 1.0)
    codes = some_codes(3, *shape)
    mask = torch.zeros(49, dtype=torch.float64)
    mask[:24] = 1
    weight_TKC = torch.zeros(49, K, 4, dtype=torch.float64)
    weight_TKC[:24] = layer.weight_TKC.detach()
    weight = rearrange(weight_TKC * mask[:, None, None], "(y x) K C -> C K y x", y=7, x=7)
    one_hot_BKhw = rearrange(one_hot(codes, K).double(), "B h w K -> B K h w")
    torch.testing.assert_close(layer(codes), conv2d(one_hot_BKhw, weight, layer.bias, padding=3))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("step", [1, 2])
def test_masked_conv_is_the_convolution_with_its_later_taps_zeroed(kernel: int, step: int) -> None:
    layer = multiplied(MaskedConv(3, 2, kernel, step), 1.0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    weight = torch.zeros(2, 3, kernel * kernel, dtype=torch.float64)
    weight[:, :, : kernel**2 // 2 + 1] = layer.weight_taps.detach()
    expected = conv2d(x, weight.reshape(2, 3, kernel, kernel), layer.bias, padding=kernel // 2)[:, :, ::step, ::step]
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == (2, 2, 4 // step, 6 // step)


def test_weight_norm_conv_is_its_formula() -> None:
    layer = multiplied(WeightNormConv(3, 4, (2, 3)), 2.0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    rows = []
    for direction, gain in zip(layer.direction.detach(), layer.gain.detach().flatten(), strict=True):
        rows.append(gain * direction / (direction**2).sum().sqrt())
    torch.testing.assert_close(layer(x), conv2d(x, torch.stack(rows), layer.bias))
    before = layer(x)
    with torch.no_grad():
        layer.direction.mul_(7.0)
    torch.testing.assert_close(layer(x), before)


def test_weight_norm_starts_as_the_plain_convolution() -> None:
    layer = WeightNormConv(3, 4, (2, 2))
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(layer(x), conv2d(x, layer.direction))


def test_attention_is_a_loop_over_queries() -> None:
    attention = multiplied(CausalAttention(4, key_channels=3, value_channels=5), 2.0)
    seeking, seen = (torch.randn(2, 4, 3, 4, dtype=torch.float64) for _ in range(2))
    nowhere = torch.zeros(2)
    query = attention.query(attention.query_block(seeking, nowhere)).flatten(2)
    key = attention.key(attention.key_block(seen, nowhere)).flatten(2)
    value = attention.value(attention.value_block(seen, nowhere)).flatten(2)
    expected = torch.zeros(2, 5, 12, dtype=torch.float64)
    for row in range(2):
        for i in range(1, 12):
            score = key[row, :, :i].T @ query[row, :, i] / 3**0.5
            expected[row, :, i] = value[row, :, :i] @ torch.softmax(score, 0)
    torch.testing.assert_close(attention(seeking, seen, nowhere), expected.reshape(2, 5, 3, 4))


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
def test_nll_is_minus_log_softmax_at_the_code(step: int) -> None:
    prior = small_prior(step=step, factor=2.0)
    codes, c = some_codes(3), torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        expected = -torch.log_softmax(prior(codes, c), dim=1).gather(1, codes[:, None])[:, 0]
        torch.testing.assert_close(prior.nll(codes, c), expected.float())


def test_nll_stays_finite_where_a_softmax_would_underflow() -> None:
    prior = small_prior()
    with torch.no_grad():
        prior.logits.gain.mul_(1e4)
        nll = prior.nll(some_codes(2), torch.zeros(2).double())
    assert nll.isfinite().all()
    assert nll.max() > 800  # log(exp(-800)) is -inf even in float64


def test_the_slice_coordinate_moves_the_logits_of_every_position() -> None:
    prior = small_prior()
    with torch.no_grad():
        logits = prior(some_codes().expand(2, -1, -1), torch.tensor([-0.4, 0.3], dtype=torch.float64))
    assert logits.diff(dim=0).abs().amax(1).min() > 1e-6


def test_a_row_does_not_depend_on_its_batch() -> None:
    prior = small_prior(step=2, kernel=5)
    codes, c = some_codes(7), torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
    with torch.no_grad():
        together = prior(codes, c)
        alone = torch.cat([prior(codes[i : i + 1], c[i : i + 1]) for i in range(7)])
        backwards = prior(codes.flip(0), c.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together, backwards, rtol=1e-12, atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    prior, codes, c = small_prior(dropout=0.5), some_codes(2), torch.zeros(2).double()
    with torch.no_grad():
        assert torch.equal(prior(codes, c), prior(codes, c))
        prior.train()
        assert not torch.equal(prior(codes, c), prior(codes, c))


def test_every_parameter_is_learnt() -> None:
    prior = small_prior(step=2, kernel=3)
    prior.nll(some_codes(2), torch.tensor([0.1, 0.2]).double()).sum().backward()
    idle = [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize(("preset", "expected"), [("brain", 12_396_800), ("abdomen", 11_872_512)])
def test_presets_have_the_papers_size(preset: str, expected: int) -> None:
    settings = PRESETS[preset]
    with torch.device("meta"):
        prior = PixelSNAIL(settings.prior, codes=settings.vqvae.codes)
    assert sum(p.numel() for p in prior.parameters()) == expected


@pytest.mark.parametrize(("preset", "grid"), [("brain", (20, 20)), ("abdomen", (10, 10))])
def test_presets_return_logits_of_128_codes_on_their_grid(preset: str, grid: tuple[int, int]) -> None:
    settings = PRESETS[preset]
    assert settings.latent_shape == grid
    prior = PixelSNAIL(settings.prior, codes=settings.vqvae.codes).eval()
    with torch.inference_mode():
        logits = prior(torch.randint(128, (1, *grid)), torch.zeros(1))
    assert logits.shape == (1, 128, *grid)
    assert logits.isfinite().all()


def test_folded_weights_are_the_same_until_parameters_change() -> None:
    prior, codes_Bhw, c = small_prior(), some_codes(2), torch.zeros(2, dtype=torch.float64)
    reference = prior(codes_Bhw, c)
    with folded_weights(prior):
        assert torch.equal(prior(codes_Bhw, c), reference)
    with torch.no_grad():
        prior.logits.gain.mul_(2)
    assert not torch.allclose(prior(codes_Bhw, c), reference)
    assert "_folded" not in "".join(prior.state_dict())
