"""Any affine, any grid: the way there and back is exact, or the geometry is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mendscan.errors import GeometryError
from mendscan.volumes import resampled_grid, resized_grid
from mendscan.volumes.volume import ras_orientation, volume_from_array

ANGLES = st.floats(-np.pi, np.pi)
ROTATIONS = st.tuples(ANGLES, ANGLES, ANGLES).map(lambda a: nib.eulerangles.euler2mat(*a))
SPACINGS = arrays(np.float64, 3, elements=st.floats(0.05, 20))
SHEARS = arrays(np.float64, 3, elements=st.floats(-0.5, 0.5))
SIGNS = st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)
ORIGINS = arrays(np.float64, 3, elements=st.floats(-1e4, 1e4))
SHAPES = st.tuples(*[st.integers(4, 9)] * 3)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Turned, mirrored, sheared, with axes in any order."""
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = draw(SHEARS)
    axes = draw(ROTATIONS) @ shear @ np.diag(draw(SPACINGS) * draw(SIGNS))
    affine = np.eye(4)
    affine[:3, :3] = axes[:, draw(st.permutations(range(3)))]
    affine[:3, 3] = draw(ORIGINS)
    return affine


@given(affines(), SHAPES)
@settings(max_examples=200, deadline=None)
def test_every_voxel_keeps_its_place_and_comes_back(affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    volume = volume_from_array(voxels, affine, name="a")
    np.testing.assert_array_equal(volume.to_native(volume.voxels_XYZ), voxels)
    np.testing.assert_array_equal(volume.from_native(voxels), volume.voxels_XYZ)
    scale = np.abs(affine).max()
    for index in ((0, 0, 0), tuple(n - 1 for n in shape), (1, 2, 3)):
        where = np.argwhere(volume.voxels_XYZ == voxels[index])[0]
        there = volume.affine @ np.append(where, 1)
        np.testing.assert_allclose(there, affine @ np.append(index, 1), atol=1e-9 * scale)
        np.testing.assert_allclose(volume.native_index(where.astype(float)), index, atol=1e-5)


@given(affines())
@settings(max_examples=200, deadline=None)
def test_an_orientation_is_a_permutation_with_signs(affine: np.ndarray) -> None:
    orientation = ras_orientation(affine, where="a")
    assert sorted(axis for axis, _ in orientation) == [0, 1, 2]
    assert {flip for _, flip in orientation} <= {-1, 1}


@given(arrays(np.float64, (4, 4), elements=st.floats(allow_nan=True, allow_infinity=True)))
@settings(max_examples=200, deadline=None)
def test_any_matrix_is_an_affine_or_refused(affine: np.ndarray) -> None:
    for last in (affine[3], [0, 0, 0, 1]):
        affine[3] = last
        try:
            orientation = ras_orientation(affine, where="a")
        except GeometryError:
            continue
        assert (np.abs(affine) <= 1e12).all()  # NaN is not
        assert affine[3].tolist() == [0, 0, 0, 1]
        assert (np.linalg.norm(affine[:3, :3], axis=0) > 0).all()
        assert sorted(axis for axis, _ in orientation) == [0, 1, 2]
        assert {flip for _, flip in orientation} <= {-1, 1}


@given(SHAPES, SHAPES, st.floats(-1e3, 1e3))
@settings(max_examples=100, deadline=None)
def test_a_constant_scan_stays_constant_on_any_stretched_grid(
    source: tuple[int, int, int], model: tuple[int, int, int], value: float
) -> None:
    grid = resized_grid(source, model)
    there = grid.to_model(np.full(source, value, np.float32), outside=7.0)
    assert there.shape == model
    np.testing.assert_allclose(there, np.float32(value), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grid.to_source(there), np.float32(value), rtol=1e-5, atol=1e-6)


@given(SHAPES, SPACINGS, SHAPES, SPACINGS, affines())
@settings(max_examples=100, deadline=None)
def test_any_resampled_grid_lies_where_its_affine_says(
    source: tuple[int, int, int],
    spacing: np.ndarray,
    model: tuple[int, int, int],
    wanted: np.ndarray,
    affine: np.ndarray,
) -> None:
    assume((wanted / spacing).max() < 1e3)
    grid = resampled_grid(source, spacing.tolist(), model, wanted.tolist())
    centre_model = grid.model_affine(affine) @ np.append((np.array(model) - 1) / 2, 1)
    centre_source = affine @ np.append((np.array(source) - 1) / 2, 1)
    np.testing.assert_allclose(centre_model, centre_source, atol=1e-6 * max(1.0, np.abs(affine).max()))
    np.testing.assert_allclose(grid.scale, wanted / spacing, rtol=1e-12)
    assert np.isfinite(grid.to_model(np.ones(source, np.float32), outside=0.0)).all()
