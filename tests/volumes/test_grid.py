"""The model's grid: where things land, and that they come back."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from mendscan.volumes import Grid, resampled_grid, resized_grid

SHAPE = (20, 24, 28)


def smooth_voxels(shape: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=shape)
    return ndimage.gaussian_filter(noise, 4).astype(np.float32)


def blob(shape: tuple[int, int, int], affine: np.ndarray, centre_mm: np.ndarray, width_mm: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-((mm - centre_mm) ** 2).sum(-1) / (2 * width_mm**2)).astype(np.float32)


def centroid_mm(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ ndimage.center_of_mass(values) + affine[:3, 3]


@pytest.mark.parametrize(
    "grid", [resized_grid(SHAPE, SHAPE), resampled_grid(SHAPE, (0.7, 1.1, 3.0), SHAPE, (0.7, 1.1, 3.0))]
)
def test_identity_grid_returns_a_copy_of_exactly_the_input(grid):
    voxels = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    for result in (grid.to_model(voxels, outside=-9.0), grid.to_source(voxels, outside=-9.0)):
        np.testing.assert_array_equal(result, voxels)
        assert not np.shares_memory(result, voxels)
    np.testing.assert_array_equal(grid.label_to_model(voxels > 0), voxels > 0)
    np.testing.assert_array_equal(grid.model_affine(np.eye(4)), np.eye(4))


@pytest.mark.parametrize("model_shape", [(10, 12, 14), (40, 24, 9), (33, 17, 28)])
def test_linear_ramp_stays_linear_inside(model_shape):
    grid = resized_grid(SHAPE, model_shape)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    ramp = (2.0 * x - 3.0 * y + 0.5 * z).astype(np.float32)
    positions = [
        np.arange(n) * scale + offset for n, scale, offset in zip(model_shape, grid.scale, grid.offset, strict=True)
    ]
    x, y, z = np.meshgrid(*positions, indexing="ij")
    inside = np.ix_(*[(p >= 5) & (p <= n - 6) for p, n in zip(positions, SHAPE, strict=True)])
    expected = 2.0 * x - 3.0 * y + 0.5 * z
    np.testing.assert_allclose(grid.to_model(ramp, outside=0.0)[inside], expected[inside], atol=1e-3)


def test_interpolation_equals_map_coordinates():
    grid = resampled_grid(SHAPE, (2.0, 2.0, 2.0), (31, 27, 33), (1.3, 1.7, 1.9), centre_index=(9.2, 11.7, 13.1))
    voxels = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    axes = [
        np.arange(n) * scale + offset for n, scale, offset in zip(grid.shape_XYZ, grid.scale, grid.offset, strict=True)
    ]
    expected = ndimage.map_coordinates(voxels, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    beyond = [(p < -0.5) | (p > n - 0.5) for p, n in zip(axes, SHAPE, strict=True)]
    expected[beyond[0]] = expected[:, beyond[1]] = expected[:, :, beyond[2]] = -9
    assert any(axis.any() for axis in beyond)
    np.testing.assert_allclose(grid.to_model(voxels, outside=-9.0), expected, atol=1e-5)


@pytest.mark.parametrize("model_shape", [(16, 20, 20), (20, 24, 28), (40, 48, 40)])
def test_smooth_scan_comes_back_close(model_shape):
    voxels = smooth_voxels(SHAPE)
    grid = resized_grid(SHAPE, model_shape)
    returned = grid.to_source(grid.to_model(voxels, outside=0.0))
    assert returned.shape == SHAPE
    assert returned.dtype == np.float32
    assert np.abs(returned - voxels)[2:-2, 2:-2, 2:-2].max() < 0.06 * np.ptp(voxels)


@pytest.mark.parametrize(
    "grid",
    [
        resized_grid((60, 70, 40), (32, 32, 32)),
        resized_grid((60, 70, 40), (128, 96, 80)),
        resampled_grid((60, 70, 40), (1.0, 1.0, 2.0), (40, 48, 44), (1.7, 1.7, 1.7)),
        resampled_grid((60, 70, 40), (1.0, 1.0, 2.0), (48, 48, 48), (0.9, 1.1, 1.3), centre_index=(25.3, 40.6, 18.2)),
    ],
)
def test_blob_stays_at_its_millimetre_on_both_grids(grid):
    affine = np.array([[0.9, -0.2, 0, -40], [0.2, 0.9, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
    centre_mm = affine[:3, :3] @ (27.0, 38.0, 19.0) + affine[:3, 3]
    on_model = grid.to_model(blob((60, 70, 40), affine, centre_mm, 4.0), outside=0.0)
    model_voxel_mm = np.array(grid.model_spacing_mm(affine))
    model_affine = grid.model_affine(affine)
    assert (np.abs(centroid_mm(on_model, model_affine) - centre_mm) < 0.05 * model_voxel_mm.min()).all()
    back = grid.to_source(blob(grid.shape_XYZ, model_affine, centre_mm, 4.0))
    assert (np.abs(centroid_mm(back, affine) - centre_mm) < 0.05).all()


def test_padding_takes_the_outside_value_and_cropping_comes_back_with_it():
    grid = resampled_grid((10, 10, 10), (1.0, 1.0, 1.0), (14, 10, 6), (1.0, 1.0, 1.0))
    voxels = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    on_model = grid.to_model(voxels, outside=-7.0)
    np.testing.assert_array_equal(on_model[2:12], voxels[:, :, 2:8])
    assert (on_model[:2] == -7).all()
    assert (on_model[12:] == -7).all()
    back = grid.to_source(on_model, outside=3.0)
    np.testing.assert_array_equal(back[:, :, 2:8], voxels[:, :, 2:8])
    assert (back[:, :, :2] == 3).all()
    assert (back[:, :, 8:] == 3).all()


def test_resizing_never_leaves_the_field_of_view():
    for model_shape in [(7, 9, 11), (64, 64, 64), (20, 1, 29)]:
        grid = resized_grid(SHAPE, model_shape)
        ones = np.ones(SHAPE, dtype=np.float32)
        np.testing.assert_allclose(grid.to_model(ones, outside=-9.0), 1, atol=1e-6)
        np.testing.assert_allclose(grid.to_source(grid.to_model(ones, outside=0.0), outside=-9.0), 1, atol=1e-6)


def test_shrinking_averages_noise_instead_of_picking_voxels():
    noise = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
    shrunk = resized_grid((48, 48, 48), (16, 16, 16)).to_model(noise, outside=0.0)
    assert shrunk.std() < 0.35 * noise[1::3, 1::3, 1::3].std()


def test_only_the_axis_that_becomes_coarser_is_smoothed():
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    grid = resized_grid(SHAPE, (20, 24, 14))
    sigma = np.sqrt(3) / (2 * np.sqrt(2 * np.log(2)))
    smooth = ndimage.gaussian_filter1d(noise, sigma, axis=2, mode="nearest")
    np.testing.assert_allclose(grid.to_model(noise, outside=0.0), (smooth[..., ::2] + smooth[..., 1::2]) / 2, atol=1e-5)


def test_labels_keep_their_values_and_type_and_are_zero_outside():
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels[3:7, 3:7, 3:7] = 5
    grid = resampled_grid((10, 10, 10), (1.0, 1.0, 1.0), (30, 24, 20), (0.5, 0.5, 0.5))
    on_model = grid.label_to_model(labels)
    assert on_model.dtype == np.uint8
    assert set(np.unique(on_model)) == {0, 5}
    assert (on_model == 5).sum() == 8 * 8 * 8
    assert (grid.label_to_model(labels + 1)[:5] == 0).all()


def test_wrong_shapes_and_impossible_grids_are_refused():
    grid = resized_grid(SHAPE, (8, 8, 8))
    with pytest.raises(ValueError, match="does not fit"):
        grid.to_model(np.zeros((8, 8, 8), dtype=np.float32), outside=0.0)
    with pytest.raises(ValueError, match="does not fit"):
        grid.to_source(np.zeros(SHAPE, dtype=np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        grid.label_to_model(np.zeros((8, 8, 8), dtype=bool))
    with pytest.raises(ValueError, match="scale"):
        resampled_grid(SHAPE, (1.0, 1.0, 1.0), SHAPE, (-1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="shapes"):
        Grid((0, 1, 1), SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def test_grids_of_the_same_numbers_are_equal():
    assert resized_grid(SHAPE, (8, 8, 8)) == resized_grid(list(SHAPE), [8, 8, 8])


def test_a_whole_head_is_resampled_in_seconds():
    voxels = np.zeros((181, 217, 181), dtype=np.float32)
    grid = resampled_grid(voxels.shape, (1.0, 1.0, 1.0), (128, 160, 128), (1.4, 1.4, 1.4))
    start = time.perf_counter()
    grid.to_source(grid.to_model(voxels, outside=0.0))
    assert time.perf_counter() - start < 20  # about one second on an idle machine
