"""The map overlays the scan: 48 orientations, four tilts, two readers, and what `docs/determinism.md` says of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from scipy import ndimage

from mendscan.cohort.preparing import prepare
from mendscan.config import PreparationSettings
from mendscan.results import Detection
from mendscan.volumes import Volume, read_volume, volume_from_array, write_map
from volumes.test_volume import MARKER, ORIENTATIONS, TILTS, affine_of, marked_voxels

PAGE = Path(__file__).parents[2] / "docs" / "determinism.md"
FOLDERS = ("maps", "scans")
RAS_LPS = np.array([-1.0, -1.0, 1.0])
REFUSALS = ("ITK only supports orthonormal direction cosines", "Unable to determine ImageIO reader")
"""Why SimpleITK does not read a file: its axes are sheared, or it is NIfTI-2."""
SAME_MM = 1e-5
"""The digits of float32, in which a NIfTI header holds an affine; SimpleITK recomputes it from them."""


@dataclass(frozen=True)
class Overlay:
    """How a scan, its map and its copy in a results folder lie on each other."""

    in_nibabel: bool
    in_simpleitk: bool
    refused_by_simpleitk: bool


def written_scan(path: Path, affine: np.ndarray, *, sheared: bool, kind: type = nib.Nifti1Image) -> Path:
    image = kind(marked_voxels(), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 0 if sheared else 1)
    nib.save(image, path)
    return path


def saved_detection(scan: Path, results: Path) -> list[Path]:
    """Save a detection whose map is the scan itself; return the map and the copy of the scan."""
    volume = read_volume(scan)
    values_XYZ = np.array(volume.voxels_XYZ)
    none = np.zeros(1)
    Detection(volume, 0.0, 1.0, none, none, "Z", values_XYZ, None, threshold=0.5).save(results)
    return [results / folder / f"{volume.name}.nii.gz" for folder in FOLDERS]


def same_in_nibabel(scan: Path, written: Path) -> bool:
    first, second = nib.load(scan), nib.load(written)
    codes = ("sform_code", "qform_code", "xyzt_units")
    forms = [(image.get_sform(coded=True), image.get_qform(coded=True)) for image in (first, second)]
    return (
        type(first) is type(second)
        and first.shape == second.shape
        and np.array_equal(first.affine, second.affine)
        and all(int(first.header[code]) == int(second.header[code]) for code in codes)
        and first.header.get_zooms() == second.header.get_zooms()
        and all(_same_form(one, other) for one, other in zip(*forms, strict=True))
        and np.array_equal(first.get_fdata(), second.get_fdata())
        and np.unravel_index(second.get_fdata().argmax(), second.shape) == MARKER
    )


def _same_form(one: tuple[np.ndarray | None, int], other: tuple[np.ndarray | None, int]) -> bool:
    if one[0] is None or other[0] is None:
        return one[0] is other[0]
    return one[1] == other[1] and bool((one[0] == other[0]).all())


def in_simpleitk(path: Path) -> sitk.Image | None:
    """Return what SimpleITK reads; None if it refuses the file."""
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        if any(reason in str(error) for reason in REFUSALS):
            return None
        raise


def marker_in_simpleitk(image: sitk.Image) -> np.ndarray:
    """Return where the brightest voxel lies, in RAS+ millimetres."""
    values_KJI = sitk.GetArrayFromImage(image)
    k, j, i = np.unravel_index(values_KJI.argmax(), values_KJI.shape)
    return np.array(image.TransformIndexToPhysicalPoint([int(i), int(j), int(k)])) * RAS_LPS


def marker_in_nibabel(path: Path) -> np.ndarray:
    image = nib.load(path)
    return nib.affines.apply_affine(image.affine, np.unravel_index(image.get_fdata().argmax(), image.shape))


def same_in_simpleitk(scan: sitk.Image | None, written: sitk.Image | None) -> bool:
    if scan is None or written is None:
        return scan is written
    return (
        scan.GetSize() == written.GetSize()
        and scan.GetOrigin() == written.GetOrigin()
        and scan.GetSpacing() == written.GetSpacing()
        and scan.GetDirection() == written.GetDirection()
        and np.array_equal(sitk.GetArrayFromImage(scan), sitk.GetArrayFromImage(written))
    )


def overlay(folder: Path, orientation: tuple, tilt: str) -> Overlay:
    folder.mkdir(parents=True)
    affine = affine_of(orientation, tilt)
    scan = written_scan(folder / "scan.nii.gz", affine, sheared=tilt == "sheared")
    written = saved_detection(scan, folder)
    there, images = in_simpleitk(scan), [in_simpleitk(path) for path in written]
    expected_mm = nib.affines.apply_affine(affine, MARKER)
    overlays = there is not None and all(
        same_in_simpleitk(there, image) and np.abs(marker_in_simpleitk(image) - expected_mm).max() < SAME_MM
        for image in images
    )
    return Overlay(
        in_nibabel=all(same_in_nibabel(scan, path) for path in written)
        and all((marker_in_nibabel(path) == expected_mm).all() for path in written),
        in_simpleitk=overlays,
        refused_by_simpleitk=there is None and all(image is None for image in images),
    )


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Overlay]]:
    folder = tmp_path_factory.mktemp("overlays")
    return {
        tilt: [overlay(folder / tilt / str(n), orientation, tilt) for n, orientation in enumerate(ORIENTATIONS)]
        for tilt in TILTS
    }


@pytest.mark.parametrize("tilt", TILTS)
def test_what_is_written_overlays_the_scan_in_every_orientation(overlays, tilt) -> None:
    """What SimpleITK reads lies where nibabel has it; a sheared scan it refuses, and so its map."""
    assert len(overlays[tilt]) == len(set(ORIENTATIONS)) == 48
    for orientation, found in zip(ORIENTATIONS, overlays[tilt], strict=True):
        sheared = tilt == "sheared"
        assert found == Overlay(True, not sheared, sheared), orientation


def test_the_page_says_how_many_overlay(overlays) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for tilt, found in overlays.items():
        exact, read = (sum(getattr(each, name) for each in found) for name in ("in_nibabel", "in_simpleitk"))
        refused = sum(each.refused_by_simpleitk for each in found)
        second = f"refuses {refused} scans and their {refused} maps" if refused else f"{read} of {len(found)}"
        assert f"| {tilt.replace('_', ' ')} | {exact} of {len(found)} | {second} |" in page
    every = list(itertools.chain.from_iterable(overlays.values()))
    assert f"**{sum(each.in_nibabel for each in every)} of {len(every)}**" in page


@pytest.mark.parametrize("unit", ["unknown", "meter", "mm", "micron"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_version_compression_and_unit_change_nothing(tmp_path, kind, suffix, unit) -> None:
    """The file's own unit is kept; in memory, all are millimetres."""
    factor = {"meter": 1e3, "micron": 1e-3}.get(unit, 1.0)
    for number, orientation in enumerate(ORIENTATIONS[5::14]):
        affine = affine_of(orientation, "oblique_20")
        scan = tmp_path / f"scan{number}{suffix}"
        image = kind(marked_voxels(), affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units(unit)
        nib.save(image, scan)
        volume = read_volume(scan)
        marker_XYZ = np.unravel_index(volume.voxels_XYZ.argmax(), volume.shape)
        expected_mm = factor * nib.affines.apply_affine(affine, MARKER)
        np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, marker_XYZ), expected_mm, rtol=1e-9)
        for path in saved_detection(scan, tmp_path):
            assert same_in_nibabel(scan, path)
            there = in_simpleitk(scan)
            assert same_in_simpleitk(there, in_simpleitk(path))
            assert there is not None or kind is nib.Nifti2Image


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5], ids=str)
def test_where_sform_and_qform_differ_the_sform_is_obeyed_and_both_are_kept(tmp_path, orientation) -> None:
    """Whichever a reader prefers, it puts scan and map in the same place."""
    affine, other = affine_of(orientation, "oblique_20"), affine_of(orientation, "axis_aligned")
    image = nib.Nifti1Image(marked_voxels(), affine)
    image.set_sform(affine, 2)
    image.set_qform(other, 1)
    scan = tmp_path / "scan.nii.gz"
    nib.save(image, scan)
    volume = read_volume(scan)
    marker_XYZ = np.unravel_index(volume.voxels_XYZ.argmax(), volume.shape)
    expected_mm = nib.affines.apply_affine(affine, MARKER)
    np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, marker_XYZ), expected_mm, atol=1e-9)
    for path in saved_detection(scan, tmp_path):
        assert same_in_nibabel(scan, path)
        assert same_in_simpleitk(in_simpleitk(scan), in_simpleitk(path))


def blob(shape: tuple[int, int, int], affine: np.ndarray, centre_mm: np.ndarray, width_mm: float) -> np.ndarray:
    mm = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-((mm - centre_mm) ** 2).sum(-1) / (2 * width_mm**2)).astype(np.float32)


def resampled_map(volume: Volume, fit: str) -> np.ndarray:
    """Bring a scan onto a coarser model grid and its intensities back as if they were the map."""
    settings = PreparationSettings(
        shape_XYZ=(18, 15, 21), fit=fit, spacing_mm=(2.0, 2.5, 1.75), intensity="robust", background_below=0.0
    )
    prepared = prepare(volume, settings)
    return prepared.to_scan(prepared.slices_SHW - prepared.slices_SHW.min())


@pytest.mark.parametrize("fit", ["resize", "resample"])
@pytest.mark.parametrize("tilt", TILTS)
def test_a_resampled_map_is_not_shifted(tmp_path, tilt, fit) -> None:
    """A blob at a known place goes through the model's grid and comes back there, in each of the 48 orientations."""
    shape, worst = (33, 28, 31), 0.0
    for orientation in ORIENTATIONS:
        affine = affine_of(orientation, tilt) @ np.diag([1.2, 1.1, 0.5, 1.0])
        centre_mm = nib.affines.apply_affine(affine, [17.3, 12.6, 14.4])
        volume = volume_from_array(blob(shape, affine, centre_mm, 3.5), affine, name="blob")
        write_map(tmp_path / "map.nii.gz", resampled_map(volume, fit), volume)
        written = nib.load(tmp_path / "map.nii.gz")
        assert written.shape == shape
        found = ndimage.center_of_mass(np.asarray(written.dataobj) ** 2)
        worst = max(worst, np.abs(found - np.array([17.3, 12.6, 14.4])).max())
    assert worst < 0.1, "half a voxel would be a convention mixed up"
