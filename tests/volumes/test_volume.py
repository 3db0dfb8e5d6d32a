"""Orientation: every way a file can lie, there and back."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import GeometryError, IntensityError, MendscanError
from mendscan.volumes import read_volume, volume_from_array, write_map

SHAPE = (5, 6, 7)
MARKER = (1, 2, 5)
ORIENTATIONS = [
    tuple(zip(axes, flips, strict=True))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def rotation(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return about_x @ about_z


TILTS = {
    "axis_aligned": np.eye(3),
    "oblique_20": rotation(20),
    "oblique_45": rotation(45),
    "sheared": np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1]]),
}


def affine_of(orientation: tuple, tilt: str) -> np.ndarray:
    affine = np.eye(4)
    for file_axis, (ras_axis, flip) in enumerate(orientation):
        affine[:3, file_axis] = TILTS[tilt][:, ras_axis] * flip * (0.9, 1.1, 2.5)[file_axis]
    affine[:3, 3] = (-31.5, 12.25, 7.75)
    return affine.astype(np.float32).astype(np.float64)


def marked_voxels() -> np.ndarray:
    voxels = np.random.default_rng(0).uniform(0, 100, SHAPE).astype(np.float32)
    voxels[MARKER] = 1000
    return voxels


def marker_mm(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.unravel_index(np.argmax(voxels), voxels.shape))


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_scan_turns_to_ras_and_its_map_comes_back_exactly(tmp_path, orientation, tilt):
    voxels, affine = marked_voxels(), affine_of(orientation, tilt)
    scan = nib.Nifti1Image(voxels, affine)
    scan.set_sform(affine, 1)
    if tilt != "sheared":
        scan.set_qform(affine, 1)
    nib.save(scan, tmp_path / "scan.nii")

    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.native.affine, affine)
    np.testing.assert_array_equal(volume.to_native(volume.voxels_XYZ), voxels)
    np.testing.assert_allclose(marker_mm(volume.voxels_XYZ, volume.affine), marker_mm(voxels, affine), atol=1e-9)

    write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), voxels)
    assert written.header.get_zooms() == scan.header.get_zooms()
    for form in ("get_sform", "get_qform"):
        expected, code = getattr(nib.load(tmp_path / "scan.nii"), form)(coded=True)
        found, found_code = getattr(written, form)(coded=True)
        assert found_code == code
        assert (expected is None and found is None) or (found == expected).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_axis_aligned_and_slightly_oblique_scans_become_ras(orientation):
    for tilt in ("axis_aligned", "oblique_20"):
        volume = volume_from_array(marked_voxels(), affine_of(orientation, tilt), name="case")
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")


def test_same_anatomy_in_all_orientations_gives_equal_voxels():
    reference = volume_from_array(marked_voxels(), np.diag([1.0, 2.0, 3.0, 1.0]), name="case")
    image = nib.Nifti1Image(reference.voxels_XYZ, reference.affine)
    for orientation in ORIENTATIONS:
        turned = image.as_reoriented(np.array(orientation))
        volume = volume_from_array(turned.get_fdata(), turned.affine, name="case")
        np.testing.assert_array_equal(volume.voxels_XYZ, reference.voxels_XYZ)
        np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-12)


def test_to_native_keeps_any_type_and_refuses_another_grid():
    volume = volume_from_array(marked_voxels(), affine_of(((1, -1), (2, 1), (0, -1)), "axis_aligned"), name="case")
    mask = volume.voxels_XYZ == 1000
    native_mask = volume.to_native(mask)
    assert native_mask.dtype == bool
    assert np.argwhere(native_mask).tolist() == [list(MARKER)]
    with pytest.raises(GeometryError) as caught:
        volume.to_native(mask[1:])
    assert caught.value.code == "E_GRID"


def test_spacing_and_extent_follow_the_axes_of_the_voxels():
    affine = np.array([[0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    volume = volume_from_array(marked_voxels(), affine, name="case")
    assert volume.shape == (7, 5, 6)
    assert volume.spacing_mm == (3.0, 1.0, 2.0)
    assert volume.extent_mm == (21.0, 5.0, 12.0)


def test_volume_neither_shares_nor_exposes_its_voxels():
    voxels = marked_voxels()
    volume = volume_from_array(voxels, np.eye(4), name="case")
    voxels[:] = 0
    assert volume.voxels_XYZ.max() == 1000
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels_XYZ[0, 0, 0] = 1


def test_content_hash_depends_on_voxels_and_affine_but_not_on_the_name():
    voxels, affine = marked_voxels(), np.eye(4)
    first = volume_from_array(voxels, affine, name="a")
    assert first.content_hash == volume_from_array(voxels.astype(np.float64), affine, name="b").content_hash
    assert len(first.content_hash) == 64
    shifted = affine.copy()
    shifted[0, 3] = 1e-2
    assert first.content_hash != volume_from_array(voxels, shifted, name="a").content_hash
    voxels[0, 0, 0] += 1
    assert first.content_hash != volume_from_array(voxels, affine, name="a").content_hash


def test_very_small_voxels_are_not_taken_for_a_singular_affine():
    micro = np.diag([1e-4, 1e-4, 1e-4, 1.0])
    assert volume_from_array(marked_voxels(), micro, name="case").spacing_mm == (1e-4, 1e-4, 1e-4)


def with_value(value: float) -> np.ndarray:
    voxels = marked_voxels().astype(np.float64)
    voxels[0, 0, 0] = value
    return voxels


def nan_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[1, 3] = np.nan
    return affine


@pytest.mark.parametrize(
    ("voxels", "affine", "error", "code"),
    [
        (with_value(np.nan), np.eye(4), IntensityError, "E_NAN"),
        (with_value(-np.inf), np.eye(4), IntensityError, "E_NAN"),
        (with_value(1e30), np.eye(4), IntensityError, "E_SCALING"),
        (with_value(1e39), np.eye(4), IntensityError, "E_SCALING"),
        (np.zeros(SHAPE), np.eye(4), IntensityError, "E_CONSTANT"),
        (marked_voxels().astype(complex), np.eye(4), IntensityError, "E_COMPLEX"),
        (np.full(SHAPE, "a"), np.eye(4), IntensityError, "E_DATATYPE"),
        (np.zeros((5, 6)), np.eye(4), GeometryError, "E_DIMENSIONS"),
        (np.zeros((5, 6, 7, 2)), np.eye(4), GeometryError, "E_DIMENSIONS"),
        (np.zeros((5, 6, 3)), np.eye(4), GeometryError, "E_DIMENSIONS"),
        (marked_voxels(), nan_affine(), GeometryError, "E_GEOMETRY"),
        (marked_voxels(), np.diag([1.0, 0.0, 1.0, 1.0]), GeometryError, "E_GEOMETRY"),
        (marked_voxels(), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), None, "E_GEOMETRY"),
        (marked_voxels(), np.eye(3), GeometryError, "E_GEOMETRY"),
    ],
)
def test_senseless_arrays_are_refused_with_their_code(voxels, affine, error, code):
    with pytest.raises(error or MendscanError) as caught:
        volume_from_array(voxels, affine, name="case")
    assert caught.value.code == code
    assert str(caught.value).startswith("case: ")


# --- voxels without a value ------------------------------------------------------------------------------------------


def test_missing_voxels_get_the_lowest_value_and_are_known():
    voxels = marked_voxels().astype(np.float32) + 10
    holes = np.zeros(voxels.shape, bool)
    holes[0], holes[2, 3, 4] = True, True
    affine = np.array([[0.0, -2, 0, 5], [3, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
    holed = np.where(holes, np.nan, voxels)
    volume = volume_from_array(holed, affine, name="holed", nan="fill")
    assert volume.missing_XYZ is not None
    np.testing.assert_array_equal(volume.to_native(volume.missing_XYZ), holes)
    native = volume.to_native(volume.voxels_XYZ)
    assert (native[holes] == voxels[~holes].min()).all()
    np.testing.assert_array_equal(native[~holes], voxels[~holes])
    whole = volume_from_array(native, affine, name="holed", nan="fill")
    assert whole.missing_XYZ is None
    assert whole.content_hash != volume.content_hash


def test_a_scan_without_holes_is_the_same_whatever_becomes_of_holes():
    first, second = (volume_from_array(marked_voxels(), np.eye(4), name="a", nan=nan) for nan in ("refuse", "fill"))
    assert first.content_hash == second.content_hash
    assert second.missing_XYZ is None


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_only_nan_is_filled(value):
    voxels = with_value(np.nan)
    voxels[1, 1, 1] = value
    with pytest.raises(IntensityError) as caught:
        volume_from_array(voxels, np.eye(4), name="a", nan="fill")
    assert caught.value.code == "E_NAN"


def test_all_nan_and_nan_around_one_value_are_refused():
    flat = np.full(SHAPE, np.nan)
    for voxels, code in ((flat, "E_NAN"), (np.where(np.arange(SHAPE[2]) > 2, flat, 7.0), "E_CONSTANT")):
        with pytest.raises(IntensityError) as caught:
            volume_from_array(voxels, np.eye(4), name="a", nan="fill")
        assert caught.value.code == code


def test_axes_of_one_at_the_end_are_left_out_as_of_files():
    voxels = marked_voxels()
    found = volume_from_array(voxels[..., None, None], np.eye(4), name="case")
    np.testing.assert_array_equal(found.voxels_XYZ, volume_from_array(voxels, np.eye(4), name="case").voxels_XYZ)
