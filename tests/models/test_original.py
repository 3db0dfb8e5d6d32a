"""The original's weights here give the original's numbers; what does not fit is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mendscan.config import PriorSettings, VqvaeSettings
from mendscan.errors import ModelError
from mendscan.models.memory import Memory
from mendscan.models.original import prior_from_original, published_variant, vqvae_from_original
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from models import original_layout as original
from models.original_layout import ABDOMEN, BRAIN, SMALL, SUBMITTED_ABDOMEN, Layout, State


def vqvae_settings(layout: Layout, *, padding: bool = False) -> VqvaeSettings:
    return VqvaeSettings(
        channels=layout.channels,
        blocks_per_level=layout.per_level,
        codes=layout.codes,
        stem_padding=padding,
        second_norm="after",
    )


def prior_settings(layout: Layout) -> PriorSettings:
    return PriorSettings(
        channels=layout.width,
        blocks=layout.blocks,
        layers_per_block=layout.pairs,
        key_channels=layout.key,
        value_channels=layout.width,
        attention_downsampling=layout.step,
        first_kernel=layout.first,
    )


def imported_vqvae(state: State, layout: Layout, *, padding: bool = False) -> VQVAE:
    return vqvae_from_original(state, vqvae_settings(layout, padding=padding), where="feats.pt")


def imported_prior(state: State, layout: Layout) -> PixelSNAIL:
    return prior_from_original(
        state, prior_settings(layout), codes=layout.codes, latent_shape=layout.grid, where="la.pt"
    )


def random_codes(layout: Layout, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(layout.codes, (count, *layout.grid), generator=generator)


def refusal(call: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        call()
    return caught.value


# The same numbers


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("layout", [SMALL, BRAIN, ABDOMEN], ids=["small", "brain", "abdomen"])
def test_the_auto_encoder_gives_the_originals_latents_codes_and_slices(layout: Layout, padding: bool) -> None:
    state = original.vqvae_state(layout, padding=padding)
    vqvae = imported_vqvae(state, layout, padding=padding)
    slices, coordinate = original.random_slices(layout, 2, seed=11)
    with torch.inference_mode():
        latents = original.encode(state, slices, coordinate, padding=padding)
        assert latents.shape[2:] == layout.grid
        torch.testing.assert_close(vqvae.encode(slices, coordinate), latents, rtol=1e-4, atol=1e-4)
        nearest = original.distances(state, latents).sort(-1)
        codes = vqvae.codes(slices, coordinate)
        certain = nearest.values[..., 1] - nearest.values[..., 0] > 1e-4 * nearest.values[..., 1]
        assert certain.float().mean() > 0.95
        assert torch.equal(codes[certain], nearest.indices[..., 0][certain])
        assert len(codes.unique()) > layout.codes // 4
        drawn = original.decode(state, codes, coordinate)
        assert drawn.shape == slices.shape
        assert drawn.std() > 0.02
        torch.testing.assert_close(vqvae.decode_codes(codes, coordinate), drawn, rtol=1e-4, atol=1e-4)


def test_padding_makes_another_network_of_the_same_tensors() -> None:
    state = original.vqvae_state(SMALL)
    slices, coordinate = original.random_slices(SMALL, 2)
    with torch.inference_mode():
        padded, plain = (imported_vqvae(state, SMALL, padding=p).encode(slices, coordinate) for p in (True, False))
    assert padded.shape == plain.shape
    assert (padded - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [(SMALL, None), (BRAIN, 12_396_800), (ABDOMEN, None), (SUBMITTED_ABDOMEN, None)],
    ids=["small", "brain", "abdomen", "submitted abdomen"],
)
def test_the_prior_gives_the_originals_logits(layout: Layout, parameters: int | None) -> None:
    state = original.prior_state(layout)
    prior = imported_prior(state, layout)
    count = sum(parameter.numel() for parameter in prior.parameters())
    constants = ("background", "rest_of_filter", "mask")
    assert count == sum(tensor.numel() for name, tensor in state.items() if not name.endswith(constants))
    if parameters is not None:
        assert count == parameters
    codes, coordinate = random_codes(layout, 2), torch.tensor([-0.4, 0.3])
    with torch.inference_mode():
        expected = original.logits(state, codes, coordinate, layout)
        found = prior(codes, coordinate)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first", [3, 5, 7])
def test_the_incremental_prior_takes_every_first_kernel(first: int) -> None:
    layout = Layout(**{**SMALL.__dict__, "first": first})
    prior = imported_prior(original.prior_state(layout), layout)
    codes, coordinate = random_codes(layout, 3), torch.tensor([-0.5, 0.0, 0.4])
    with torch.inference_mode():
        expected = prior(codes, coordinate)
        steps = prior.incremental(Memory(3, device=torch.device("cpu"), dtype=torch.float32), *layout.grid)
        steps.begin(coordinate)
        for row in range(layout.grid[0]):
            steps.begin_row(row)
            for column in range(layout.grid[1]):
                found = steps.step(row, column)
                torch.testing.assert_close(found, expected[:, :, row, column], rtol=1e-4, atol=1e-4)
                steps.write(row, column, codes[:, row, column])


def test_where_the_original_leaks_the_future_the_imported_prior_does_not() -> None:
    """Scores far below −10⁴ make the original's mask the likeliest key; this is the one deliberate difference."""
    layout = Layout(**{**SMALL.__dict__, "step": 1})
    state = original.prior_state(layout)
    for b in range(layout.blocks):
        linear = f"blocks.{b}.causal_attention"
        state[f"{linear}.query.1.linear.weight_g"] *= 3e4
        state[f"{linear}.key.1.linear.weight_g"] *= 1e2
    prior, codes, coordinate = imported_prior(state, layout), random_codes(layout, 8), torch.zeros(8)
    changed = codes.clone()
    changed[:, 2:] = (codes[:, 2:] + 1) % layout.codes
    with torch.inference_mode():
        theirs = [original.logits(state, grid, coordinate, layout)[:, :, :2] for grid in (codes, changed)]
        ours = [prior(grid, coordinate)[:, :, :2] for grid in (codes, changed)]
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3
    torch.testing.assert_close(ours[0], ours[1], rtol=0, atol=1e-6)


def test_the_submitted_variants_are_read_off_the_shapes() -> None:
    assert published_variant(original.prior_state(SMALL)) == ["prior.first_kernel=7", "prior.attention_downsampling=2"]
    small_abdomen = Layout(**{**SMALL.__dict__, "first": 3, "step": 1})
    found = published_variant(original.prior_state(small_abdomen))
    assert found == ["prior.first_kernel=3", "prior.attention_downsampling=1"]
    assert published_variant({"ini_conv.weight": torch.zeros(3), "x": torch.zeros(1)}) == []


# Refusals


def test_missing_tensors_are_named_and_counted() -> None:
    state = original.vqvae_state(SMALL)
    whole = len(state)
    for name in [name for name in state if name.startswith("P.2.")]:
        del state[name]
    error = refusal(lambda: imported_vqvae(state, SMALL))
    assert error.code == "E_ORIGINAL_NAMES"
    assert error.found == "14 missing: P.2.norm1.weight, P.2.norm1.bias, P.2.norm1.running_mean, …; 0 unexpected"
    assert error.expected == f"{whole} tensors"
    assert error.where == "feats.pt"


def test_unexpected_tensors_are_named() -> None:
    state = original.prior_state(SMALL) | {"extra.weight": torch.zeros(2)}
    error = refusal(lambda: imported_prior(state, SMALL))
    assert error.found == "0 missing; 1 unexpected: extra.weight"


@pytest.mark.parametrize("name", ["Q.0.weight", "codebook.embedding.weight", "Q.2.norm2.running_var", "P.9.bias"])
def test_another_shape_is_named_with_both_shapes(name: str) -> None:
    state = original.vqvae_state(SMALL)
    expected = "×".join(map(str, state[name].shape))
    state[name] = torch.zeros(3, 2)
    error = refusal(lambda: imported_vqvae(state, SMALL))
    assert error.problem == f"{name} does not fit"
    assert str(error.found).startswith("3×2 ")
    assert str(error.expected).startswith(expected)


def test_whole_numbers_are_no_weights() -> None:
    state = original.vqvae_state(SMALL)
    state["Q.0.bias"] = state["Q.0.bias"].long()
    assert "int64" in str(refusal(lambda: imported_vqvae(state, SMALL)).found)


def test_the_other_experiment_is_refused() -> None:
    state = original.vqvae_state(BRAIN)
    error = refusal(lambda: imported_vqvae(state, ABDOMEN))
    assert "--preset" in error.remedy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ini_conv.rest_of_filter", lambda tensor: tensor + 0.1),
        ("blocks.1.downsample_key.rest_of_filter", lambda tensor: tensor + 0.1),
        ("background", lambda tensor: tensor.flip(2)),
        ("blocks.0.causal_attention.mask", lambda tensor: torch.ones_like(tensor)),
        ("blocks.0.causal_attention.start_mask", lambda tensor: torch.ones_like(tensor)),
        ("out.conv.weight_v", lambda tensor: tensor * (torch.arange(len(tensor)) > 0)[:, None, None, None]),
    ],
)
def test_what_contradicts_its_meaning_is_refused(name: str, change: Any) -> None:
    state = original.prior_state(SMALL)
    state[name] = change(state[name])
    error = refusal(lambda: imported_prior(state, SMALL))
    assert error.code == "E_ORIGINAL_VALUES"
    assert error.problem == f"{name} makes no sense"


def test_a_negative_variance_is_refused() -> None:
    state = original.vqvae_state(SMALL)
    state["Q.1.running_var"][0] = -0.5
    assert refusal(lambda: imported_vqvae(state, SMALL)).code == "E_ORIGINAL_VALUES"


def test_a_prior_for_another_grid_is_refused() -> None:
    state = original.prior_state(SMALL)
    settings = prior_settings(SMALL)
    error = refusal(lambda: prior_from_original(state, settings, codes=12, latent_shape=(6, 4), where="la.pt"))
    assert error.problem == "background does not fit"
