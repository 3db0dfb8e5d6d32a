"""Fast restoration is the sequential definition, and the definition samples from the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from mendscan.config import PriorSettings
from mendscan.detection.restoration import Prior, draw_uniforms, restore_by_fixed_point, restore_sequentially
from mendscan.models.pixelsnail import PixelSNAIL

K = 6
NOTHING, EVERYTHING = 1e9, -1.0


def random_prior(seed: int, *, step: int = 1, factor: float = 1.5) -> PixelSNAIL:
    """A float64 prior with large weights: unlikely codes make others unlikely, so that changes cascade."""
    settings = PriorSettings(
        channels=5,
        blocks=2,
        layers_per_block=1,
        key_channels=3,
        value_channels=4,
        attention_downsampling=step,
        attention_kernel=3,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        prior = PixelSNAIL(settings, codes=K)
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter)).mul_(factor)
    return prior.double().eval()


def case(seed: int, grid: tuple[int, int], *, slices: int = 3, restorations: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, slice coordinates and uniforms."""
    generator = torch.Generator().manual_seed(seed)
    codes_Shw = torch.randint(K, (slices, *grid), generator=generator)
    position_S = torch.linspace(-0.5, 0.5, slices, dtype=torch.float64)
    return codes_Shw, position_S, draw_uniforms(restorations, slices, grid, generator=generator)


def median_nll(prior: PixelSNAIL, codes_Shw: Tensor, position_S: Tensor) -> float:
    with torch.no_grad():
        return float(prior.nll(codes_Shw, position_S).median())


def sequentially(prior: Prior, codes_Shw: Tensor, position_S: Tensor, uniforms_RShw: Tensor, nats: float) -> Tensor:
    """The definition, one restoration after the other."""
    return torch.stack(
        [restore_sequentially(prior, codes_Shw, position_S, each, threshold_nats=nats) for each in uniforms_RShw]
    )


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("threshold", ["nothing", "everything", "middle"])
def test_the_fixed_point_is_the_sequential_answer(grid: tuple[int, int], seed: int, threshold: str) -> None:
    prior = random_prior(seed)
    codes, position, uniforms = case(seed, grid)
    nats = {"nothing": NOTHING, "everything": EVERYTHING, "middle": median_nll(prior, codes, position)}[threshold]
    expected = sequentially(prior, codes, position, uniforms, nats)
    found = restore_by_fixed_point(prior, codes, position, uniforms, threshold_nats=nats)
    assert found.dtype == codes.dtype
    assert torch.equal(found, expected)
    changed = (found != codes).double().mean()
    assert (changed == 0) == (threshold == "nothing") or codes[0].numel() < 6


@pytest.mark.parametrize("restorations", [1, 2, 9])
@pytest.mark.parametrize("factor", [0.8, 3.0])
def test_also_with_attention_on_every_second_position(restorations: int, factor: float) -> None:
    prior = random_prior(7, step=2, factor=factor)
    codes, position, uniforms = case(5, (4, 6), slices=2, restorations=restorations)
    nats = median_nll(prior, codes, position)
    found = restore_by_fixed_point(prior, codes, position, uniforms, threshold_nats=nats)
    assert torch.equal(found, sequentially(prior, codes, position, uniforms, nats))
    assert 0.05 < (found != codes).double().mean() < 1


def test_a_prior_that_settles_one_position_per_pass() -> None:
    """The worst case: every code decides the next one, so that a change walks through the whole grid."""

    def copy_of_the_code_before(codes_Bhw: Tensor, _position_B: Tensor) -> Tensor:
        before_Bn = torch.nn.functional.pad(codes_Bhw.flatten(1)[:, :-1], (1, 0), value=0)
        logits_BnK = 50.0 * torch.nn.functional.one_hot((before_Bn + 1) % K, K).double()
        return logits_BnK.movedim(2, 1).reshape(len(codes_Bhw), K, *codes_Bhw.shape[1:])

    codes, position, uniforms = case(0, (4, 5), slices=1, restorations=2)
    found = restore_by_fixed_point(copy_of_the_code_before, codes, position, uniforms, threshold_nats=1.0)
    assert found[0, 0].flatten().tolist() == [(i + 1) % K for i in range(20)]
    assert torch.equal(found, sequentially(copy_of_the_code_before, codes, position, uniforms, 1.0))


@pytest.mark.parametrize("grids_per_pass", [1, 3, 64])
def test_the_number_of_grids_per_pass_changes_nothing(grids_per_pass: int) -> None:
    prior = random_prior(3)
    codes, position, uniforms = case(3, (4, 4), slices=5, restorations=4)
    nats = median_nll(prior, codes, position)
    expected = sequentially(prior, codes, position, uniforms, nats)
    sizes: list[int] = []

    def counting(codes_Bhw: Tensor, position_B: Tensor) -> Tensor:
        sizes.append(len(codes_Bhw))
        return prior(codes_Bhw, position_B)

    found = restore_by_fixed_point(
        counting, codes, position, uniforms, threshold_nats=nats, grids_per_pass=grids_per_pass
    )
    assert torch.equal(found, expected)
    assert max(sizes) <= grids_per_pass


def test_the_first_pass_is_shared_and_finished_restorations_leave() -> None:
    prior = random_prior(4)
    codes, position, uniforms = case(4, (4, 4), slices=2, restorations=6)
    sizes: list[int] = []

    def counting(codes_Bhw: Tensor, position_B: Tensor) -> Tensor:
        sizes.append(len(codes_Bhw))
        return prior(codes_Bhw, position_B)

    restore_by_fixed_point(counting, codes, position, uniforms, threshold_nats=NOTHING)
    assert sum(sizes) == 2
    sizes.clear()
    restore_by_fixed_point(counting, codes, position, uniforms, threshold_nats=median_nll(prior, codes, position))
    assert sizes[0] == 2
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert len(sizes) < 1 + codes[0].numel()


def test_the_first_restorations_are_the_same_however_many_there_are() -> None:
    prior = random_prior(5)
    codes, position, _ = case(5, (5, 5))
    nats = median_nll(prior, codes, position)
    few, many = (
        restore_by_fixed_point(
            prior,
            codes,
            position,
            draw_uniforms(count, 3, (5, 5), generator=torch.Generator().manual_seed(8)),
            threshold_nats=nats,
        )
        for count in (2, 7)
    )
    assert torch.equal(few, many[:2])
    assert not torch.equal(many[0], many[2])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (32, 20, 20)])
def test_uniforms_do_not_depend_on_how_many_are_drawn(shape: tuple[int, int, int]) -> None:
    slices, height, width = shape
    few, many = (
        draw_uniforms(count, slices, (height, width), generator=torch.Generator().manual_seed(1)) for count in (3, 5)
    )
    assert few.dtype == torch.float64
    assert few.shape == (3, *shape)
    assert torch.equal(few, many[:3])
    assert float(many.min()) >= 0
    assert float(many.max()) < 1


def test_a_slice_is_restored_as_if_it_were_alone() -> None:
    prior = random_prior(6)
    codes, position, uniforms = case(6, (4, 4), slices=4, restorations=3)
    nats = median_nll(prior, codes, position)
    together = restore_by_fixed_point(prior, codes, position, uniforms, threshold_nats=nats)
    for s in range(4):
        part = slice(s, s + 1)
        alone = restore_by_fixed_point(prior, codes[part], position[part], uniforms[:, part], threshold_nats=nats)
        assert torch.equal(together[:, part], alone)


def test_inputs_are_left_alone() -> None:
    prior = random_prior(6)
    codes, position, uniforms = case(6, (4, 4))
    before = codes.clone(), position.clone(), uniforms.clone()
    restore_by_fixed_point(prior, codes, position, uniforms, threshold_nats=0.5)
    sequentially(prior, codes, position, uniforms, 0.5)
    assert all(map(torch.equal, before, (codes, position, uniforms)))


# --- what a restoration is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_likely_codes_stay_and_unlikely_ones_become_the_sample_of_their_uniform(seed: int) -> None:
    """One pass over the result shows every decision: each position's logits depend on its restored prefix only."""
    prior = random_prior(seed, factor=2.0)
    codes, position, uniforms = case(seed, (4, 5))
    nats = median_nll(prior, codes, position)
    found = restore_by_fixed_point(prior, codes, position, uniforms, threshold_nats=nats)
    kept = replaced = 0
    for restored, uniform in zip(found, uniforms, strict=True):
        with torch.no_grad():
            probability = torch.softmax(prior(restored, position), dim=1).numpy()
        for s, y, x in np.ndindex(*codes.shape):
            original, p_K = int(codes[s, y, x]), probability[s, :, y, x]
            if -np.log(p_K[original]) <= nats:
                assert restored[s, y, x] == original
                kept += 1
            else:
                assert restored[s, y, x] == int(np.searchsorted(np.cumsum(p_K), float(uniform[s, y, x]), side="right"))
                replaced += 1
    assert min(kept, replaced) > 10


def fixed_prior(probability_K: list[float]) -> Prior:
    log_p_K = torch.tensor(probability_K, dtype=torch.float64).log()
    return lambda codes_Bhw, _position_B: log_p_K[None, :, None, None].expand(len(codes_Bhw), -1, *codes_Bhw.shape[1:])


@pytest.mark.parametrize("probability", [[0.05, 0.4, 0.25, 0.2, 0.02, 0.08], [0.01, 0.0, 0.0, 0.0, 0.0, 0.99]])
def test_samples_follow_the_prior(probability: list[float]) -> None:
    uniforms = draw_uniforms(6_000, 1, (1, 1), generator=torch.Generator().manual_seed(0))
    restored = restore_by_fixed_point(
        fixed_prior(probability),
        torch.zeros(1, 1, 1, dtype=torch.int64),
        torch.zeros(1),
        uniforms,
        threshold_nats=2.0,
        grids_per_pass=6_000,
    )
    counts, expected = np.bincount(restored.flatten(), minlength=K), 6_000 * np.array(probability)
    assert (counts[expected == 0] == 0).all()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.01


def test_samples_at_a_second_position_follow_the_first_ones() -> None:
    """p(z_2 | z_1), not p(z_2): the second code copies the restored first one."""

    def copying(codes_Bhw: Tensor, _position_B: Tensor) -> Tensor:
        logits = torch.zeros(len(codes_Bhw), K, 1, 2, dtype=torch.float64)
        logits[:, :, 0, 1] = 30.0 * torch.nn.functional.one_hot(codes_Bhw[:, 0, 0], K)
        return logits

    uniforms = draw_uniforms(600, 1, (1, 2), generator=torch.Generator().manual_seed(0))
    restored = restore_by_fixed_point(
        copying, torch.tensor([[[0, 0]]]), torch.zeros(1), uniforms, threshold_nats=1.0
    ).flatten(1)
    assert torch.equal(restored[:, 0], restored[:, 1])
    assert len(restored[:, 0].unique()) == K


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (0.2999, 1), (0.3, 3), (0.9999999999, 3), (1 - 1e-16, 3)])
def test_the_inverse_of_the_cumulative_distribution(uniform: float, expected: int) -> None:
    """A code of probability 0 is never drawn, even by the uniform 0 or the largest one below 1."""
    restored = restore_by_fixed_point(
        fixed_prior([0.0, 0.3, 0.0, 0.7, 0.0, 0.0]),
        torch.zeros(1, 1, 1, dtype=torch.int64),
        torch.zeros(1),
        torch.full((1, 1, 1, 1), uniform, dtype=torch.float64),
        threshold_nats=2.0,
    )
    assert restored.item() == expected


def test_a_code_exactly_at_the_threshold_stays() -> None:
    half = fixed_prior([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    codes, uniforms = torch.zeros(1, 1, 1, dtype=torch.int64), torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)
    at = -float(torch.log_softmax(half(codes, torch.zeros(1)), 1)[0, 0, 0, 0])
    assert restore_by_fixed_point(half, codes, torch.zeros(1), uniforms, threshold_nats=at).item() == 0
    below = float(np.nextafter(at, 0))
    assert restore_by_fixed_point(half, codes, torch.zeros(1), uniforms, threshold_nats=below).item() == 1
