"""Scores and maps from codes and restorations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mendscan.detection.scoring import (
    clipped_nll_score,
    nll_map,
    pooled_residual,
    unclipped_residual,
    weigh_restorations,
)

# --- the scan's score ------------------------------------------------------------------------------------------------


def test_only_codes_above_the_threshold_count() -> None:
    nll_Bhw = torch.tensor([[[1.0, 7.0], [7.5, 0.0]], [[9.0, 8.0], [0.5, 100.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert clipped_nll_score(nll_Bhw, threshold_nats=7.0).tolist() == [7.5, 117.0, 0.0]
    assert clipped_nll_score(nll_Bhw, threshold_nats=0.0).tolist() == [15.5, 117.5, 0.0]


def test_the_score_is_brute_force() -> None:
    nll_Bhw = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    expected = [sum(v for v in row.flatten().tolist() if v > 6.5) for row in nll_Bhw]
    assert clipped_nll_score(nll_Bhw, threshold_nats=6.5).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_score_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        clipped_nll_score(torch.tensor([[[1.0, bad]]]), threshold_nats=1.0)


def test_the_score_refuses_a_negative_threshold() -> None:
    with pytest.raises(ValueError, match="threshold_nats is -1"):
        clipped_nll_score(torch.ones(1, 1, 1), threshold_nats=-1.0)


# --- the restorations' weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.05, 3.0])
def test_weights_are_the_papers_formula(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    slice_HW = torch.randn(5, 7, generator=generator)
    restorations_RHW = slice_HW + torch.randn(4, 5, 7, generator=generator) * torch.tensor([1, 2, 3, 4])[:, None, None]
    y, r = slice_HW.double().numpy(), restorations_RHW.double().numpy()
    exponent = temperature / np.array([np.abs(y - each).mean() for each in r])
    phi = np.exp(exponent - exponent.max())
    phi /= phi.sum()
    found = weigh_restorations(slice_HW, restorations_RHW, temperature=temperature)
    np.testing.assert_allclose(found.restored_HW, sum(p * each for p, each in zip(phi, r, strict=True)), atol=1e-5)
    expected = sum(p * np.abs(y - each) for p, each in zip(phi, r, strict=True))
    np.testing.assert_allclose(found.residual_HW, expected, atol=1e-5)


def test_a_restoration_that_drifted_away_has_no_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    slice_HW = torch.randn(16, 16, generator=generator)
    near_RHW = slice_HW + 0.1 * torch.randn(3, 16, 16, generator=generator)
    with_far = torch.cat([near_RHW, torch.full((1, 16, 16), 50.0)])
    without, found = (weigh_restorations(slice_HW, r, temperature=3.0) for r in (near_RHW, with_far))
    torch.testing.assert_close(found.restored_HW, without.restored_HW, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.residual_HW, without.residual_HW, atol=1e-5, rtol=0)
    plain_mean = weigh_restorations(slice_HW, with_far, temperature=0.0)
    assert plain_mean.residual_HW.mean() > 10


def test_a_perfect_restoration_is_finite_and_wins() -> None:
    slice_HW = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    found = weigh_restorations(slice_HW, torch.stack([slice_HW, slice_HW + 1]), temperature=3.0)
    assert torch.equal(found.restored_HW, slice_HW)
    assert (found.residual_HW == 0).all()


def test_equal_restorations_weigh_the_same() -> None:
    slice_HW, one_HW = torch.zeros(3, 4), torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    found = weigh_restorations(slice_HW, one_HW.expand(5, -1, -1), temperature=3.0)
    torch.testing.assert_close(found.restored_HW, one_HW)
    torch.testing.assert_close(found.residual_HW, one_HW)


def test_the_residual_is_of_each_restoration_not_of_their_mean() -> None:
    """Two restorations on either side of the slice: their mean is perfect, but both are 1 away."""
    found = weigh_restorations(torch.zeros(2, 2), torch.stack([torch.ones(2, 2), -torch.ones(2, 2)]), temperature=3.0)
    assert found.restored_HW.abs().max() < 1e-6
    torch.testing.assert_close(found.residual_HW, torch.ones(2, 2))


# --- pooling ---------------------------------------------------------------------------------------------------------


def brute_force_pooling(residual_SHW: np.ndarray, min_pool: int, mean_pool: tuple[int, int, int]) -> np.ndarray:
    """What the definition says, with the edge going on beyond the border at each of the two steps."""

    def windows(values: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
        padded = np.pad(values, [(n // 2, n // 2) for n in size], mode="edge")
        return np.lib.stride_tricks.sliding_window_view(padded, size)

    eroded = windows(residual_SHW, (min_pool,) * 3).min(axis=(3, 4, 5))
    return np.clip(windows(eroded, mean_pool).mean(axis=(3, 4, 5)), 0, 1)


@pytest.mark.parametrize(("min_pool", "mean_pool"), [(3, (3, 7, 7)), (1, (1, 1, 1)), (3, (1, 3, 5)), (1, (3, 1, 5))])
def test_pooling_is_brute_force(min_pool: int, mean_pool: tuple[int, int, int]) -> None:
    residual_SHW = np.random.default_rng(0).exponential(0.8, size=(9, 12, 14)).astype(np.float32)
    found = pooled_residual(residual_SHW, min_pool=min_pool, mean_pool_SHW=mean_pool)
    assert found.shape == residual_SHW.shape
    np.testing.assert_allclose(found, brute_force_pooling(residual_SHW, min_pool, mean_pool), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_pooled_residuals_stay_in_the_unit_interval(scale: float) -> None:
    residual_SHW = np.random.default_rng(1).exponential(scale, size=(6, 10, 10)).astype(np.float32)
    found = pooled_residual(residual_SHW, min_pool=3, mean_pool_SHW=(3, 7, 7))
    assert found.min() >= 0
    assert found.max() <= 1
    assert pooled_residual(np.zeros((4, 8, 8), np.float32), min_pool=3, mean_pool_SHW=(3, 7, 7)).max() == 0


def test_unclipped_residuals_tell_apart_what_the_paper_clips() -> None:
    residual_SHW = np.random.default_rng(2).exponential(3, size=(6, 10, 10)).astype(np.float32)
    options = {"min_pool": 1, "mean_pool_SHW": (1, 3, 3)}
    clipped, found = pooled_residual(residual_SHW, **options), unclipped_residual(residual_SHW, **options)
    np.testing.assert_array_equal(clipped, np.clip(found, 0, 1))
    assert len(np.unique(found[clipped == 1])) > 0.9 * (clipped == 1).sum() > 100


def test_thin_edges_vanish_and_thick_anomalies_stay() -> None:
    residual_SHW = np.zeros((12, 24, 24), np.float32)
    residual_SHW[:, 3:5] = 0.9
    assert pooled_residual(residual_SHW, min_pool=3, mean_pool_SHW=(3, 7, 7)).max() == 0
    residual_SHW[2:9, 12:20, 12:20] = 0.9
    found = pooled_residual(residual_SHW, min_pool=3, mean_pool_SHW=(3, 7, 7))
    assert np.unravel_index(found.argmax(), found.shape)[1:] in [(y, x) for y in (15, 16) for x in (15, 16)]


# --- codes to pixels -------------------------------------------------------------------------------------------------


def test_the_nll_of_a_code_lies_on_the_pixels_of_its_patch() -> None:
    nll_Shw = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
    found = nll_map(nll_Shw, downsampling=4)
    assert found.shape == (2, 8, 12)
    for s, y, x in np.ndindex(2, 8, 12):
        assert found[s, y, x] == nll_Shw[s, y // 4, x // 4]
