"""Random changes of slices: a function of the generator, and each does what its setting says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from mendscan.cohort.augmentation import augment
from mendscan.config import AugmentationSettings

NOTHING = AugmentationSettings(
    probability=1,
    flip=False,
    rotation_degrees=0,
    scale_range=(1.0, 1.0),
    elastic_pixels=0,
    elastic_affine_pixels=0,
    brightness=0,
    contrast=0,
    contrast_about=0,
    blur_least_sigma_pixels=0.05,
    blur_sigma_pixels=0,
    noise=0,
    noise_even_in="deviation",
    clip_again=False,
)
PAPER = AugmentationSettings()


def only(**changes: object) -> AugmentationSettings:
    return AugmentationSettings.model_validate(NOTHING.model_dump() | changes)


def run(slices: Tensor, settings: AugmentationSettings, *, seed: int = 0, flip_axis: int | None = 1) -> Tensor:
    return augment(slices, settings, flip_axis=flip_axis, generator=torch.Generator().manual_seed(seed))


def noise_slices(count: int = 6, shape: tuple[int, int] = (40, 56), seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).clamp(-2.9, 2.9)


def coordinates(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return rows, columns


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float, count: int = 32) -> Tensor:
    """A soft-edged disc, `count` times."""
    rows, columns = coordinates(shape)
    distance = torch.sqrt((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2)
    return torch.sigmoid(2 * (radius - distance)).expand(count, *shape).clone()


def centroids(slices: Tensor) -> np.ndarray:
    return np.array([ndimage.center_of_mass(one) for one in slices.numpy()])


def aspect_ratios(slices: Tensor) -> np.ndarray:
    """Longest over shortest axis of what is bright in each slice."""
    ratios = []
    for one in slices.numpy():
        places = np.argwhere(one > 0.05)
        covariance = np.cov(places.T, aweights=one[one > 0.05])
        shortest, longest = np.linalg.eigvalsh(covariance)
        ratios.append(np.sqrt(longest / shortest))
    return np.array(ratios)


# Chance


@pytest.mark.parametrize("settings", [PAPER, PAPER.model_copy(update={"keep_zero": True})])
def test_same_generator_same_slices(settings: AugmentationSettings) -> None:
    slices = noise_slices()
    before = slices.clone()
    first, again, other = run(slices, settings, seed=1), run(slices, settings, seed=1), run(slices, settings, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(slices, before)
    assert first.shape == slices.shape
    assert first.dtype == torch.float32


def test_global_chance_is_neither_used_nor_moved() -> None:
    state = torch.get_rng_state()
    run(noise_slices(), PAPER)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "fewest", "most"),
    [
        ({"flip": True}, 2, 2),
        ({"rotation_degrees": 5.0}, 24, 24),
        ({"scale_range": (0.85, 1.1)}, 24, 24),
        ({"elastic_pixels": 2.0}, 24, 24),
        ({"brightness": 0.15}, 24, 24),
        ({"contrast": 0.15}, 24, 24),
        ({"blur_sigma_pixels": 0.7}, 6, 20),  # half of the slices
        ({"noise": 0.05}, 24, 24),
    ],
)
def test_each_slice_has_its_own_draw(changes: dict[str, object], fewest: int, most: int) -> None:
    same = noise_slices(1).expand(24, -1, -1).clone()
    found = run(same, only(**changes))
    distinct = {tuple(one.flatten().tolist()) for one in found}
    assert fewest <= len(distinct) <= most


# Nothing, and not too much


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (33, 17)])
@pytest.mark.parametrize("keep_zero", [False, True])
def test_ranges_of_nothing_change_nothing(shape: tuple[int, int], keep_zero: bool) -> None:
    slices = noise_slices(shape=shape)
    slices[:, :5] = 0
    torch.testing.assert_close(run(slices, only(keep_zero=keep_zero)), slices, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 8), (12, 64), (64, 60)])
def test_intensities_stay_finite_and_within_reach(shape: tuple[int, int]) -> None:
    slices = 50 * noise_slices(8, shape)
    found = run(slices, PAPER)
    assert torch.isfinite(found).all()
    assert found.abs().max() == PAPER.clip_sigma
    assert run(slices, PAPER.model_copy(update={"clip_again": False})).abs().max() > PAPER.clip_sigma


# Background


def test_background_stays_exactly_zero() -> None:
    slices = noise_slices(16, (48, 64)) + 5
    rows, columns = coordinates((48, 64))
    inside = ((rows - 24) / 16) ** 2 + ((columns - 32) / 20) ** 2 < 1
    slices[:, ~inside] = 0
    gentle = PAPER.model_copy(update={"elastic_affine_pixels": 1.0})
    kept = run(slices, gentle.model_copy(update={"keep_zero": True}))
    well_outside = ((rows - 24) / 21) ** 2 + ((columns - 32) / 25) ** 2 > 1
    well_inside = ((rows - 24) / 9) ** 2 + ((columns - 32) / 13) ** 2 < 1
    assert (kept[:, well_outside] == 0).all()
    assert (kept[:, well_inside] != 0).all()
    every = gentle.model_copy(update={"probability": 1.0})
    assert (run(slices, every)[:, well_outside] != 0).float().mean() > 0.99


def test_background_does_not_move_when_nothing_does() -> None:
    slices = noise_slices(16)
    slices[:, :12] = 0
    kept = run(slices, only(keep_zero=True, brightness=0.15, contrast=0.15, noise=0.05, blur_sigma_pixels=0.7))
    assert torch.equal(kept == 0, slices == 0)


# Geometry


@pytest.mark.parametrize("flip_axis", [1, 2])
def test_flip_mirrors_along_the_axis_from_left_to_right(flip_axis: int) -> None:
    slices = noise_slices(40)
    found = run(slices, only(flip=True), flip_axis=flip_axis)
    mirrored = slices.flip(flip_axis)
    is_same, is_mirrored = (((found - one).abs().amax((1, 2)) < 1e-3) for one in (slices, mirrored))
    assert (is_same | is_mirrored).all()
    assert 10 <= is_mirrored.sum() <= 30


def test_no_flip_without_left_and_right_or_when_told_not_to() -> None:
    slices = noise_slices(20)
    torch.testing.assert_close(run(slices, only(flip=True), flip_axis=None), slices, atol=1e-4, rtol=0)
    torch.testing.assert_close(run(slices, only(flip=False), flip_axis=1), slices, atol=1e-4, rtol=0)


def test_background_is_mirrored_with_the_slice() -> None:
    slices = noise_slices(40) + 5
    slices[:, :13] = 0
    found = run(slices, only(flip=True, keep_zero=True))
    top = (found[:, :13] == 0).all(2).all(1)
    bottom = (found[:, -13:] == 0).all(2).all(1)
    assert (top ^ bottom).all()
    assert top.any()
    assert bottom.any()
    assert ((found == 0).sum((1, 2)) == 13 * 56).all()


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (96, 48)])
def test_rotation_turns_about_the_middle_and_keeps_circles(shape: tuple[int, int]) -> None:
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    centre = (middle[0] - 8.0, middle[1] + 11.0)
    found = run(disc(shape, centre, 7.0), only(rotation_degrees=20.0))
    assert aspect_ratios(found).max() < 1.03
    offsets = centroids(found) - middle
    distance, angle = np.hypot(*offsets.T), np.degrees(np.arctan2(*offsets.T))
    np.testing.assert_allclose(distance, np.hypot(8, 11), rtol=0.02)
    turned = angle - np.degrees(np.arctan2(-8, 11))
    assert np.abs(turned).max() < 20.5
    assert turned.min() < -10 < 10 < turned.max()


@pytest.mark.parametrize("flip_axis", [1, 2])
def test_rotation_of_a_mirrored_slice_keeps_circles(flip_axis: int) -> None:
    found = run(disc((64, 64), (31.5, 31.5), 12.0), only(rotation_degrees=20.0, flip=True), flip_axis=flip_axis)
    assert aspect_ratios(found).max() < 1.03


@pytest.mark.parametrize("scale", [0.85, 1.1])
def test_scale_magnifies(scale: float) -> None:
    original = disc((64, 64), (31.5, 31.5), 14.0, count=2)
    found = run(original, only(scale_range=(scale, scale)))
    assert (found.sum() / original.sum()).sqrt().item() == pytest.approx(scale, rel=0.01)
    assert aspect_ratios(found).max() < 1.01


def displacement(shape: tuple[int, int], settings: AugmentationSettings, count: int = 24) -> np.ndarray:
    """How many pixels each inner pixel moved along rows and columns, read from ramps that say where they were."""
    inner = np.s_[:, 8:-8, 8:-8]
    moved = []
    for ramp in coordinates(shape):
        scaled = ramp / 100  # within the intensities that are not clipped
        moved.append((100 * run(scaled.expand(count, *shape), settings) - ramp).numpy()[inner])
    return np.stack(moved)


def test_elastic_displacement_is_alike_along_both_axes_and_hardly_ever_folds() -> None:
    found = displacement((64, 128), only(elastic_pixels=PAPER.elastic_pixels))
    along_rows, along_columns = found.std(axis=(1, 2, 3))
    assert along_rows == pytest.approx(along_columns, rel=0.1)
    (dyy, dyx), (dxy, dxx) = (np.gradient(one, axis=(1, 2)) for one in found)
    assert ((1 + dyy) * (1 + dxx) - dyx * dxy < 0).mean() < 1e-4


def test_elastic_displacement_grows_with_its_setting() -> None:
    small, large = (displacement((64, 64), only(elastic_pixels=pixels)).std() for pixels in (0.5, 1.5))
    assert large == pytest.approx(3 * small, rel=0.01)


def test_elastic_displacement_has_the_standard_deviation_it_is_said_to_have() -> None:
    found = displacement((64, 128), only(elastic_pixels=PAPER.elastic_pixels))
    assert found.std() == pytest.approx(PAPER.elastic_pixels, rel=0.2)


@pytest.mark.parametrize("centre", [(20.0, 44.0), (40.0, 30.0), (32.0, 32.0)])
def test_a_blob_stays_roughly_in_place(centre: tuple[float, float]) -> None:
    found = run(3 * disc((64, 80), centre, 5.0), PAPER.model_copy(update={"flip": False}))
    bright = torch.where(found > 1.0, found, torch.zeros(()))
    assert np.abs(centroids(bright) - centre).max() < 10
    mass = bright.sum((1, 2)) / (3 * disc((64, 80), centre, 5.0)).sum((1, 2))
    assert 0.3 < mass.min() < mass.max() < 1.8


# Intensities


def test_brightness_shifts_and_contrast_stretches() -> None:
    slices = noise_slices(64)
    shifts = run(slices, only(brightness=0.15)) - slices
    assert shifts.std((1, 2)).max() < 1e-4
    assert 0.1 < shifts.abs().max() <= 0.1501
    gains = run(slices, only(contrast=0.15)).std((1, 2)) / slices.std((1, 2))
    assert 0.85 <= gains.min() < 0.9
    assert 1.1 < gains.max() <= 1.1501


def test_colours_change_within_three_standard_deviations() -> None:
    found = run(10 * noise_slices(), only(clip_sigma=3.0))
    assert found.abs().max() <= 3.0
    assert run(10 * noise_slices(), only(clip_sigma=40.0)).abs().max() > 20


def test_blur_smooths_half_of_the_slices_and_keeps_their_mean() -> None:
    slices = noise_slices(200, (32, 32))
    found = run(slices, only(blur_sigma_pixels=0.7))
    changed = (found - slices).abs().amax((1, 2)) > 1e-3
    rougher = found.std((1, 2)) > slices.std((1, 2)) * 1.0001
    assert 60 < changed.sum() < 110  # the faintest blurs change nothing
    assert not rougher.any()
    assert found[changed].std((1, 2)).min() < 0.6
    torch.testing.assert_close(found.mean((1, 2)), slices.mean((1, 2)), atol=0.02, rtol=0)


def test_blur_is_as_wide_as_its_setting_and_alike_along_both_axes() -> None:
    point = torch.zeros(400, 21, 21)
    point[:, 10, 10] = 1.0
    found = run(point, only(blur_sigma_pixels=0.7))
    rows, columns = coordinates((21, 21))
    variances = [(found * (axis - 10) ** 2).sum((1, 2)) for axis in (rows, columns)]
    torch.testing.assert_close(variances[0], variances[1], atol=1e-4, rtol=0)
    assert 0.6 < variances[0].sqrt().max() <= 0.71


def test_noise_is_at_most_as_strong_as_its_setting() -> None:
    spreads = run(torch.zeros(100, 64, 64), only(noise=0.05)).std((1, 2))
    assert spreads.max() < 0.053
    assert spreads.max() > 0.045
    assert spreads.min() < 0.005


# The original's recipe, beyond ranges


@pytest.mark.parametrize(
    "changes",
    [
        {"rotation_degrees": 5.0},
        {"scale_range": (0.85, 0.95)},
        {"elastic_pixels": 2.0},
        {"elastic_affine_pixels": 5.0},
        {"brightness": 0.9},
        {"contrast": 0.15},
        {"noise": 0.19},
    ],
)
def test_each_change_befalls_as_many_slices_as_its_probability_says(changes: dict[str, object]) -> None:
    slices = noise_slices(400, (24, 24))
    for probability in (0.0, 0.25, 0.5):
        changed = (run(slices, only(probability=probability, **changes)) - slices).abs().amax((1, 2)) > 1e-3
        assert changed.sum() == pytest.approx(400 * probability, abs=4 * (400 * probability * (1 - probability)) ** 0.5)


def test_brightness_and_contrast_come_together_and_other_changes_by_themselves() -> None:
    slices = noise_slices(200)
    found = run(slices, only(probability=0.5, brightness=0.9, contrast=0.15))
    shifted = (found.mean((1, 2)) - slices.mean((1, 2))).abs() > 1e-3
    stretched = (found.std((1, 2)) / slices.std((1, 2)) - 1).abs() > 1e-4
    assert (shifted == stretched).float().mean() > 0.97
    both = run(slices, only(probability=0.5, brightness=0.9, noise=0.19))
    noisy = (both - slices).std((1, 2)) > 1e-3
    moved = (both.mean((1, 2)) - slices.mean((1, 2))).abs() > 0.02
    assert 0.15 < (noisy & moved).float().mean() < 0.35


def test_an_affine_displacement_moves_three_points_by_as_much_as_it_says_and_lines_stay_straight() -> None:
    shape = (61, 91)
    rows, columns = displacement_of_ramps(shape, only(elastic_affine_pixels=5.0), count=200)
    for moved in (rows, columns):
        curved = np.abs(np.diff(moved[:, 15:-15, 15:-15], n=2, axis=1)).max()
        assert curved < 1e-2
        for row, column in ((50, 65), (10, 65), (10, 25)):  # 20 pixels, a third of 61, from the middle
            at_point = moved[:, row, column]
            assert np.abs(at_point).max() <= 5.01
            assert at_point.std() == pytest.approx(5 / 3**0.5, rel=0.15)


def displacement_of_ramps(shape: tuple[int, int], settings: AugmentationSettings, count: int) -> list[np.ndarray]:
    """How far every pixel moved along rows and columns in `count` slices that are displaced alike."""
    moved = [
        100 * run((ramp / 100).expand(count, *shape), settings, flip_axis=None) - ramp for ramp in coordinates(shape)
    ]
    return [one.numpy() for one in moved]


def test_contrast_leaves_its_own_intensity_where_it_is() -> None:
    slices = torch.full((40, 8, 8), -3.0)
    torch.testing.assert_close(run(slices, only(contrast=0.15, contrast_about=-3.0)), slices)
    assert (run(slices, only(contrast=0.15, contrast_about=0.0)) - slices).abs().max() > 0.3


def test_colour_is_the_formula_of_intensities_mapped_to_zero_and_one() -> None:
    """x → 6 · clip(g · (clip(x, ±3) + 3) / 6 + b) − 3, with g - 1 within ±0.15 and b within ±0.15 of the range."""
    slices = noise_slices(64)
    found = run(slices, only(brightness=6 * 0.15, contrast=0.15, contrast_about=-3.0))
    share, target = (slices + 3) / 6, (found + 3) / 6
    for x, y in zip(share.flatten(1), target.flatten(1), strict=True):
        (gain, shift), *_ = np.linalg.lstsq(np.stack([x, torch.ones_like(x)], 1), y.numpy(), rcond=None)
        assert abs(gain - 1) <= 0.1501
        assert abs(shift) <= 0.1501
        torch.testing.assert_close(float(gain) * x + float(shift), y, atol=1e-4, rtol=0)


def test_the_variance_of_noise_is_even() -> None:
    variances = run(torch.zeros(2000, 16, 16), only(noise=0.2, noise_even_in="variance")).var((1, 2))
    assert variances.mean() == pytest.approx(0.2**2 / 2, rel=0.05)
    assert run(torch.zeros(2000, 16, 16), only(noise=0.2)).var((1, 2)).mean() == pytest.approx(0.2**2 / 3, rel=0.1)


def test_a_wide_blur_is_as_wide_as_it_says() -> None:
    point = torch.zeros(400, 31, 31)
    point[:, 15, 15] = 1.0
    found = run(point, only(blur_least_sigma_pixels=0.8, blur_sigma_pixels=1.4))
    widths = (found * (coordinates((31, 31))[0] - 15) ** 2).sum((1, 2)).sqrt()
    blurred = widths > 0.01
    assert 150 < blurred.sum() < 250
    assert 0.75 < widths[blurred].min() < 0.85
    assert 1.25 < widths[blurred].max() < 1.4


def test_slices_of_one_scan_change_alike_but_for_their_noise() -> None:
    without_noise = PAPER.model_copy(update={"noise": 0.0, "probability": 1.0})
    same = noise_slices(1).expand(5, -1, -1)

    def changed(settings: AugmentationSettings, *, alike: bool) -> Tensor:
        return augment(same, settings, flip_axis=1, generator=torch.Generator().manual_seed(3), alike=alike)

    together, apart = (changed(without_noise, alike=alike) for alike in (True, False))
    torch.testing.assert_close(together, together[:1].expand(5, -1, -1))
    assert not torch.allclose(together[0], same[0], atol=0.1)
    assert all(not torch.allclose(apart[0], other, atol=0.1) for other in apart[1:])
    noisy = changed(PAPER.model_copy(update={"probability": 1.0}), alike=True) - together
    assert noisy.std() > 0
    assert abs(float(torch.corrcoef(noisy.flatten(1))[0, 1])) < 0.1
