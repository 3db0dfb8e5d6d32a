"""Kinds of evidence: what each makes of a scan."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from detection.evidence_cases import EVERY_KIND, SHAPE, STANDARDISED, healthy_evidence
from mendscan.config import DetectionSettings
from mendscan.detection.evidence import KINDS, TEXTURE_FLOOR, texture_energy
from mendscan.detection.voxel_calibration import calibrate_voxels

TEXTURE = EVERY_KIND.model_copy(update={"evidence": ("texture",)})


def noise(seed: int, shape: tuple[int, int, int] = (20, 24, 24)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_its_channels_on_the_model_grid(name: str) -> None:
    channels = KINDS[name].channels(healthy_evidence(1)[0])
    assert channels.shape == (KINDS[name].n_channels, *SHAPE)
    assert channels.dtype == np.float32
    assert KINDS[name].sigma(DetectionSettings()) == getattr(DetectionSettings(), f"{name}_sigma")


def test_a_constant_has_no_texture() -> None:
    energy = texture_energy(np.full(SHAPE, 0.7, np.float32))
    np.testing.assert_allclose(energy, np.log(TEXTURE_FLOOR), atol=1e-3)


def test_texture_does_not_depend_on_brightness_and_grows_with_contrast() -> None:
    slices = noise(0)
    np.testing.assert_allclose(texture_energy(slices + 3), texture_energy(slices), atol=2e-3)
    gain = texture_energy(2 * slices) - texture_energy(slices)
    assert gain.min() > 0
    assert gain[0].mean() == pytest.approx(np.log(4), rel=0.01)  # where the floor matters least


def test_blur_takes_fine_texture_most() -> None:
    change = texture_energy(gaussian_filter(noise(1), 1.0)) - texture_energy(noise(1))
    finest, middle, coarsest = change.mean(axis=(1, 2, 3))
    assert finest < middle < coarsest < 0


def test_two_sided_evidence_sees_less_and_more_alike() -> None:
    kind = KINDS["texture"]
    channels = noise(2, (3, 8 * 10, 10)).reshape(3, 8, 10, 10)
    everywhere = np.ones(channels.shape[1:], bool)
    more, less = (kind.excess(sign * channels, everywhere, STANDARDISED) for sign in (1, -1))
    np.testing.assert_array_equal(more, less)
    assert KINDS["nll"].excess(-np.abs(channels[:1]), everywhere, STANDARDISED).max() <= 0


@pytest.mark.parametrize("factor", [0.1, 4.0])
def test_a_place_without_texture_and_one_with_too_much_both_stand_out(factor: float) -> None:
    voxels = calibrate_voxels(healthy_evidence(8), TEXTURE)
    new = healthy_evidence(1, seed=9)[0]
    before = voxels.map_of(new)
    where = np.zeros(SHAPE, bool)
    where[1:5, 3:9, 4:10] = True
    new.slices_SHW[where] = 0.5 + factor * (new.slices_SHW[where] - 0.5)
    found = voxels.map_of(new)
    assert found[where].mean() > 0.5 > before[where].mean()
