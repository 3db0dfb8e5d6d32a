"""The one recipe: the same scan gives the same slices however it is stored, and everything finds its way home."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import as_volume, structured_scan, write_scan
from mendscan.cohort.preparing import (
    Prepared,
    evenly_spaced,
    from_slices,
    prepare,
    slice_positions,
    to_slices,
)
from mendscan.config import PreparationSettings
from mendscan.errors import IntensityError
from mendscan.results.planes import shown_slice, upright
from mendscan.volumes import Volume, read_volume

SHAPE = (24, 20, 16)
INTENSITIES = ("foreground", "robust", "range")


def recipe(**changes: object) -> PreparationSettings:
    values = {"shape_XYZ": SHAPE, "fit": "resize", "intensity": "robust", "intensity_range": (0.0, 150.0)}
    return PreparationSettings.model_validate(values | changes)


RECIPES = {
    "resize": recipe(),
    "resample": recipe(fit="resample", spacing_mm=(3.5, 4.5, 5.5)),
    "crop": recipe(fit="resample", spacing_mm=(2.5, 2.5, 2.5), slice_axis="X"),
}


@pytest.fixture(scope="module")
def volume() -> Volume:
    return as_volume(structured_scan())


# The same scan, however it is stored


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR", "AIL", "IRP", "LAS"])
def test_orientation_does_not_matter(codes: str, settings: PreparationSettings, volume: Volume, tmp_path: Path) -> None:
    stored = read_volume(write_scan(tmp_path / "scan.nii.gz", volume.voxels_XYZ, codes=codes))
    assert stored.native.orientation != volume.native.orientation
    np.testing.assert_array_equal(prepare(stored, settings).slices_SHW, prepare(volume, settings).slices_SHW)


@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_file_and_number_format_do_not_matter(
    dtype: type, name: str, intensity: str, volume: Volume, tmp_path: Path
) -> None:
    stored = read_volume(write_scan(tmp_path / name, volume.voxels_XYZ, codes="LPS", dtype=dtype))
    step = 0.0 if np.issubdtype(dtype, np.floating) else volume.voxels_XYZ.max() / np.iinfo(dtype).max
    expected = prepare(volume, recipe(intensity=intensity))
    found = prepare(stored, recipe(intensity=intensity)).slices_SHW
    np.testing.assert_allclose(found, expected.slices_SHW, atol=1e-4 + 2 * step / expected.intensity_scale)


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("intensity", ["foreground", "robust"])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_unit_does_not_matter(scale: float, intensity: str, settings: PreparationSettings, volume: Volume) -> None:
    settings = settings.model_copy(update={"intensity": intensity})
    plain, scaled = prepare(volume, settings), prepare(as_volume(volume.voxels_XYZ * np.float32(scale)), settings)
    np.testing.assert_allclose(scaled.slices_SHW, plain.slices_SHW, atol=2e-3)
    assert scaled.intensity_scale == pytest.approx(scale * plain.intensity_scale, rel=1e-4)


def test_place_in_the_field_of_view_does_not_matter_when_resampled() -> None:
    voxels = structured_scan()
    settings = RECIPES["resample"]
    shifted = np.pad(voxels, ((9, 1), (0, 12), (4, 4)))
    plain, moved = (prepare(as_volume(v), settings).slices_SHW for v in (voxels, shifted))
    np.testing.assert_allclose(moved, plain, atol=0.01)


@pytest.mark.parametrize(("axis", "shape"), [("X", (24, 20, 16)), ("Y", (20, 24, 16)), ("Z", (16, 24, 20))])
def test_slices_come_first_and_the_other_axes_in_order(axis: str, shape: tuple[int, ...], volume: Volume) -> None:
    prepared, along_z = prepare(volume, recipe(slice_axis=axis)), prepare(volume, recipe())
    assert prepared.slices_SHW.shape == shape
    assert prepared.slices_SHW.dtype == np.float32
    assert prepared.slices_SHW.flags.c_contiguous
    assert prepared.slice_axis == axis
    on_grid_XYZ = np.moveaxis(along_z.slices_SHW, 0, 2)
    np.testing.assert_array_equal(np.moveaxis(prepared.slices_SHW, 0, "XYZ".index(axis)), on_grid_XYZ)


# Intensities


def test_foreground_is_the_papers(volume: Volume) -> None:
    prepared = prepare(volume, recipe(intensity="foreground"))
    model_XYZ = prepared.grid.to_model(volume.voxels_XYZ, outside=0.0)
    in_unit_range = np.moveaxis((model_XYZ - model_XYZ.min()) / np.ptp(model_XYZ), 2, 0)
    inside = in_unit_range >= 0.05
    assert 0.2 < inside.mean() < 0.9
    assert (prepared.slices_SHW[~inside] == 0).all()
    assert prepared.slices_SHW[inside].mean(dtype=np.float64) == pytest.approx(0, abs=1e-4)
    assert prepared.slices_SHW[inside].std(dtype=np.float64) == pytest.approx(1, abs=1e-4)


def test_range_maps_its_ends_to_one_and_clips_beyond() -> None:
    voxels = np.linspace(-200.0, 400.0, 24 * 20 * 16, dtype=np.float32).reshape(SHAPE)
    found = prepare(as_volume(voxels), recipe(intensity="range", intensity_range=(-100.0, 300.0)))
    slices_XYZ = np.moveaxis(found.slices_SHW, 0, 2)
    assert (slices_XYZ[voxels <= -100] == -1).all()
    assert (slices_XYZ[voxels >= 300] == 1).all()
    between = (voxels > -100) & (voxels < 300)
    np.testing.assert_allclose(slices_XYZ[between], (voxels[between] - 100) / 200, atol=1e-5)
    assert found.intensity_scale == 200


def test_robust_standardises_the_foreground() -> None:
    found = prepare(as_volume(structured_scan()), recipe(shape_XYZ=(40, 44, 36))).slices_SHW
    inside = np.moveaxis(structured_scan(), 2, 0) > 0
    low, high = np.percentile(found[inside], (1, 99))
    central = found[inside & (found >= low) & (found <= high)]
    assert central.mean() == pytest.approx(0, abs=0.01)
    assert central.std() == pytest.approx(1, abs=0.01)
    assert (found[~inside] < -3).all()


def test_a_bright_lesion_does_not_move_the_robust_scale() -> None:
    healthy = structured_scan()
    ill = healthy.copy()
    ill[18:23, 20:25, 16:20] = 1e4
    plain, other = (prepare(as_volume(v), recipe(shape_XYZ=(40, 44, 36))).slices_SHW for v in (healthy, ill))
    same = np.moveaxis(healthy == ill, 2, 0)
    np.testing.assert_allclose(other[same], plain[same], atol=0.05)
    assert other[~same] == pytest.approx(8.0)  # one absurd voxel cannot drown a slice


def test_padding_does_not_move_the_robust_scale() -> None:
    """A scan without background that is smaller than the model's grid is standardised as if it were not padded."""
    voxels = structured_scan(background=False)
    fits, larger = (
        recipe(shape_XYZ=shape, fit="resample", spacing_mm=(2.0, 2.0, 2.5), background_below=0.0)
        for shape in ((40, 44, 36), (48, 52, 40))
    )
    plain = prepare(as_volume(voxels), fits).slices_SHW
    padded = prepare(as_volume(voxels), larger).slices_SHW[2:38, 4:44, 4:48]
    np.testing.assert_allclose(padded, plain, atol=0.1)


@pytest.mark.parametrize("intensity", ["foreground", "robust"])
def test_a_constant_foreground_is_refused_by_name(intensity: str) -> None:
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[4:20, 4:16, 4:12] = 7.0
    with pytest.raises(IntensityError, match="case: the scan has no contrast") as caught:
        prepare(as_volume(voxels), recipe(intensity=intensity))
    assert caught.value.code == "E_CONSTANT"


def test_no_foreground_is_refused_by_name() -> None:
    voxels = np.full(SHAPE, 7.0, dtype=np.float32)
    voxels[3, 3, 3] = 0.0
    with pytest.raises(IntensityError, match="case: the scan has no foreground"):
        prepare(as_volume(voxels), recipe())


# The way home


def marker(prepared: Prepared, centre: tuple[float, ...]) -> np.ndarray:
    """A blob on the model grid, at a place given slice axis first."""
    axes = np.meshgrid(*map(np.arange, prepared.slices_SHW.shape), indexing="ij")
    squared = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    return np.exp(-squared / (2 * 1.5**2)).astype(np.float32)


def expected_place(prepared: Prepared, centre: tuple[float, ...]) -> np.ndarray:
    """Where a model index given slice axis first lies in the scan."""
    centre_XYZ = np.insert(np.array(centre[1:]), "XYZ".index(prepared.slice_axis), centre[0])
    return centre_XYZ * prepared.grid.scale + prepared.grid.offset


@pytest.mark.parametrize("fit", [{"fit": "resize"}, {"fit": "resample", "spacing_mm": (3.0, 4.0, 5.0)}])
@pytest.mark.parametrize("axis", "XYZ")
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_marker_comes_home(every: int, axis: str, fit: dict[str, object], volume: Volume) -> None:
    prepared = prepare(volume, recipe(slice_axis=axis, **fit))
    count = len(prepared.slices_SHW)
    centre = (count * 0.55, *(n * 0.4 for n in prepared.slices_SHW.shape[1:]))
    at = None if every == 1 else evenly_spaced(count, count // every)
    values = marker(prepared, centre)
    home_XYZ = prepared.to_scan(values if at is None else values[at], at=at)
    assert home_XYZ.shape == volume.shape
    assert home_XYZ.dtype == np.float32
    found = np.array(ndimage.center_of_mass(home_XYZ))
    half_model_voxel = 0.5 * np.array(prepared.grid.scale)
    assert (np.abs(found - expected_place(prepared, centre)) < half_model_voxel).all()


@pytest.mark.parametrize("axis", "XYZ")
def test_a_bright_spot_of_the_scan_comes_home_to_itself(axis: str) -> None:
    voxels = structured_scan(background=False)
    axes = np.ogrid[:40, :44, :36]
    voxels += 200.0 * np.exp(-sum((i - c) ** 2 for i, c in zip(axes, (26, 15, 22), strict=True)) / 18)
    prepared = prepare(as_volume(voxels), recipe(slice_axis=axis, background_below=0.0))
    home_XYZ = prepared.to_scan(np.maximum(prepared.slices_SHW - 4, 0))
    np.testing.assert_allclose(ndimage.center_of_mass(home_XYZ), (26, 15, 22), atol=0.5 * max(prepared.grid.scale))


def test_slices_between_are_interpolated_and_beyond_repeated(volume: Volume) -> None:
    prepared = prepare(volume, recipe())
    at = np.array([3, 7, 8, 12])
    values = np.broadcast_to(np.array([1.0, 5.0, 2.0, 4.0], np.float32)[:, None, None], (4, 24, 20))
    every = np.interp(np.arange(16), at, [1.0, 5.0, 2.0, 4.0]).astype(np.float32)
    expected = prepared.to_scan(np.broadcast_to(every[:, None, None], (16, 24, 20)))
    np.testing.assert_allclose(prepared.to_scan(values, at=at), expected, atol=1e-5)


def test_one_slice_fills_all(volume: Volume) -> None:
    prepared = prepare(volume, recipe())
    home = prepared.to_scan(np.full((1, 24, 20), 3.0, np.float32), at=np.array([5]))
    np.testing.assert_allclose(home, 3.0)


def test_all_slices_given_one_by_one_are_all_slices(volume: Volume) -> None:
    prepared = prepare(volume, recipe())
    one_by_one = prepared.to_scan(prepared.slices_SHW, at=np.arange(16))
    np.testing.assert_allclose(one_by_one, prepared.to_scan(prepared.slices_SHW), atol=1e-6)


def test_outside_the_models_field_of_view_is_zero(volume: Volume) -> None:
    prepared = prepare(volume, RECIPES["crop"])
    home = prepared.to_scan(np.ones_like(prepared.slices_SHW))
    assert set(np.unique(home)) == {0.0, 1.0}
    inside = np.argwhere(home > 0)
    np.testing.assert_allclose((np.ptp(inside, axis=0) + 1) * (2.0, 2.0, 2.5), np.array(SHAPE) * 2.5, atol=3.0)


# The restored scan


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("intensity", INTENSITIES)
def test_no_change_returns_the_scan_exactly(intensity: str, settings: PreparationSettings, volume: Volume) -> None:
    prepared = prepare(volume, settings.model_copy(update={"intensity": intensity}))
    restored = prepared.restored_scan(volume, prepared.slices_SHW)
    np.testing.assert_array_equal(restored, volume.voxels_XYZ)
    at = evenly_spaced(len(prepared.slices_SHW), 7)
    np.testing.assert_array_equal(prepared.restored_scan(volume, prepared.slices_SHW[at], at=at), volume.voxels_XYZ)


@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize("every", [1, 3])
def test_a_change_comes_home_in_the_scans_unit(every: int, intensity: str) -> None:
    volume = as_volume(structured_scan() * np.float32(50.0))
    prepared = prepare(volume, recipe(intensity=intensity, intensity_range=(0.0, 7500.0)))
    at = None if every == 1 else evenly_spaced(16, 6)
    scored = prepared.slices_SHW if at is None else prepared.slices_SHW[at]
    restored = prepared.restored_scan(volume, scored - np.float32(0.5), at=at)
    expected = volume.voxels_XYZ - 0.5 * prepared.intensity_scale
    np.testing.assert_allclose(restored, expected, rtol=1e-5, atol=1e-3 * prepared.intensity_scale)
    on_grid = np.moveaxis(prepared.grid.to_model(volume.voxels_XYZ, outside=0.0), 2, 0)
    bright = on_grid > 4000
    scale = np.polyfit(prepared.slices_SHW[bright], on_grid[bright], 1)[0]
    assert prepared.intensity_scale == pytest.approx(scale, rel=1e-3)


# Slices


def test_slice_positions_run_from_minus_to_plus_one_half() -> None:
    np.testing.assert_allclose(slice_positions(5), [-0.5, -0.25, 0.0, 0.25, 0.5])
    assert slice_positions(5).dtype == np.float32
    np.testing.assert_array_equal(slice_positions(1), [0.0])


def test_prepared_knows_the_position_of_each_slice(volume: Volume) -> None:
    np.testing.assert_array_equal(prepare(volume, recipe(slice_axis="Y")).positions_S, slice_positions(20))


@pytest.mark.parametrize(
    ("slices", "wanted", "expected"),
    [
        (9, 3, [0, 4, 8]),
        (5, None, [0, 1, 2, 3, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 50, [0, 1, 2, 3, 4]),
        (7, 2, [0, 6]),
        (8, 4, [0, 2, 5, 7]),
        (7, 1, [0]),
        (1, 4, [0]),
    ],
)
def test_evenly_spaced(slices: int, wanted: int | None, expected: list[int]) -> None:
    assert evenly_spaced(slices, wanted).tolist() == expected


@pytest.mark.parametrize("slices", range(32, 60))
def test_evenly_spaced_gives_what_was_wanted_with_even_gaps(slices: int) -> None:
    found = evenly_spaced(slices, 32)
    assert len(found) == 32
    assert (found[0], found[-1]) == (0, slices - 1)
    assert np.ptp(np.diff(found)) <= 1


@pytest.mark.parametrize("axis", "XYZ")
@pytest.mark.parametrize("view", ["array", "image"])
def test_slices_are_a_volume_seen_otherwise(axis: str, view: str) -> None:
    voxels_XYZ = np.random.default_rng(0).normal(size=(3, 4, 5))
    slices_SHW = to_slices(voxels_XYZ, axis, view)
    np.testing.assert_array_equal(from_slices(slices_SHW, axis, view), voxels_XYZ)
    on_a_screen = upright(slices_SHW[1], view)
    np.testing.assert_array_equal(on_a_screen, shown_slice(voxels_XYZ, "XYZ".index(axis), 1))
