"""What must not matter does not: storage, units of intensity, place, threads.

Where nothing is rounded on the way, results are the same to the last bit.  Scaling by what is no power of two rounds:
there the tolerance is `ROUNDING`, which `docs/determinism.md` states.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff

from detection.test_batch_formats import write_dicom
from mendscan.detection.detector import Detector
from mendscan.results import Detection, Finding
from tiny_model import OBLIQUE, head

PAGE = Path(__file__).parents[2] / "docs" / "determinism.md"
ROUNDING = 1e-5
"""What float32 intensities may do to the map, in [0, 1], when they are scaled by what is no power of two."""
SAME_MM = 1e-4
"""An origin in float32, as NIfTI has it: 7 digits."""
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product([1, -1], repeat=3)
]


@pytest.fixture(scope="module")
def right_angled() -> np.ndarray:
    """An oblique affine with right angles, so that every format can hold it; its digits fill a float32."""
    u, _, v = np.linalg.svd(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = (u @ v) * [1.25, 1.75, 2.5]
    return affine.astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def usual(detector: Detector, right_angled: np.ndarray) -> Detection:
    detection = detector.detect((head(0), right_angled))
    assert detection.findings, "else nothing is compared"
    assert np.ptp(detection.map_XYZ) > 0
    return detection


@pytest.fixture
def any_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_same(first: Detection, second: Detection, *, moved_mm: np.ndarray | float = 0.0) -> None:
    """Fail unless score, p-value, slices, map and restoration are bitwise the same, and findings in the same place."""
    assert (first.score, first.p_value, first.paper_score) == (second.score, second.p_value, second.paper_score)
    np.testing.assert_array_equal(first.slice_scores, second.slice_scores)
    np.testing.assert_array_equal(first.map_XYZ, second.map_XYZ)
    np.testing.assert_array_equal(first.restored_XYZ, second.restored_XYZ)
    assert len(first.findings) == len(second.findings)
    for one, other in zip(first.findings, second.findings, strict=True):
        assert figures(one) == figures(other)
        np.testing.assert_allclose(other.centre_mm, np.array(one.centre_mm) + moved_mm, atol=SAME_MM)


def figures(finding: Finding) -> tuple[object, ...]:
    """Return all of a finding but its place."""
    return finding.voxels, finding.peak, finding.mean, finding.expected_false


def prepared_otherwise(detector: Detector, **changes: object) -> Detector:
    """Return the detector with other settings of the preparation."""
    settings = detector.settings
    preparation = settings.preparation.model_copy(update=changes)
    networks = replace(detector.networks, settings=settings.model_copy(update={"preparation": preparation}))
    return Detector(networks, detector.calibration, model_hash=detector.model_hash)


# --- storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: str(o.tolist()))
def test_the_order_of_the_stored_axes_does_not_matter(detector, usual, right_angled, tmp_path, orientation) -> None:
    """Through a file: the header holds float32, and the origin of a flipped array is another number."""
    stored = apply_orientation(head(0), orientation)
    affine = right_angled @ inv_ornt_aff(orientation, head(0).shape)
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "scan.nii")
    found = detector.detect(tmp_path / "scan.nii")
    assert_same(usual, found)
    np.testing.assert_array_equal(apply_orientation(usual.anomaly_map, orientation), found.anomaly_map)


def test_nor_where_the_model_has_voxels_of_its_own(detector, right_angled) -> None:
    cropping = prepared_otherwise(detector, fit="resample", spacing_mm=(2.0, 2.0, 3.0), background_below=0.1)
    first = cropping.detect((head(0), right_angled))
    for orientation in ORIENTATIONS[::7]:
        affine = right_angled @ inv_ornt_aff(orientation, head(0).shape)
        assert_same(first, cropping.detect((apply_orientation(head(0), orientation), affine)))


def as_nifti(folder: Path, affine: np.ndarray, dtype: str, *, suffix: str = ".nii.gz", kind: type = nib.Nifti1Image):
    image = kind(head(0).astype(dtype), affine, dtype=dtype)
    if np.dtype(dtype).byteorder == ">":
        image = kind(head(0), affine, header=kind.header_class(endianness=">"))
    nib.save(image, folder / f"scan{suffix}")
    return folder / f"scan{suffix}"


def as_scaled(folder: Path, affine: np.ndarray) -> Path:
    """Return a file whose numbers are half the intensities, less 10, and whose header says so."""
    image = nib.Nifti1Image((head(0).astype(np.float32) - 20) / 2, affine)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([2.0, 20.0], "<f4").tobytes()
    (folder / "scan.nii").write_bytes(data)
    return folder / "scan.nii"


def by_simpleitk(folder: Path, affine: np.ndarray, name: str, *, compressed: bool) -> Path:
    nifti = as_nifti(folder, affine, "int16", suffix=".nii")
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(folder / name), compressed)
    return folder / name


def as_dicom(folder: Path, affine: np.ndarray) -> Path:
    write_dicom(folder / "series", head(0), affine)
    return folder / "series"


STORED = {
    "int16 .nii": lambda folder, affine: as_nifti(folder, affine, "int16", suffix=".nii"),
    "int16 .nii.gz": lambda folder, affine: as_nifti(folder, affine, "int16"),
    "float32": lambda folder, affine: as_nifti(folder, affine, "float32"),
    "float64": lambda folder, affine: as_nifti(folder, affine, "float64"),
    "int32": lambda folder, affine: as_nifti(folder, affine, "int32"),
    "big-endian": lambda folder, affine: as_nifti(folder, affine, ">i2"),
    "NIfTI-2": lambda folder, affine: as_nifti(folder, affine, "int16", kind=nib.Nifti2Image),
    "slope and intercept": as_scaled,
    "NRRD": lambda folder, affine: by_simpleitk(folder, affine, "scan.nrrd", compressed=True),
    "NRRD, detached": lambda folder, affine: by_simpleitk(folder, affine, "scan.nhdr", compressed=False),
    "MetaImage": lambda folder, affine: by_simpleitk(folder, affine, "scan.mha", compressed=True),
    "DICOM": as_dicom,
}


@pytest.mark.parametrize("stored", STORED)
def test_format_and_type_of_the_numbers_do_not_matter(detector, usual, right_angled, tmp_path, stored) -> None:
    assert_same(usual, detector.detect(STORED[stored](tmp_path, right_angled)))


# --- intensities and place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["robust", "foreground"])
@pytest.mark.parametrize("factor", [2.0, 0.25, 1024.0])
def test_scaling_by_a_power_of_two_changes_no_bit(detector, right_angled, recipe, factor) -> None:
    scaling = prepared_otherwise(detector, intensity=recipe)
    voxels = head(0).astype(np.float32)
    first, second = (scaling.detect((voxels * each, right_angled)) for each in (1.0, factor))
    assert_same(first, replace(second, restored_XYZ=second.restored_XYZ / np.float32(factor)))


@pytest.mark.parametrize("recipe", ["robust", "foreground"])
@pytest.mark.parametrize(("factor", "offset"), [(3.0, 0.0), (0.1, 0.0), (1.0, 100.0), (1 / 7, -1000.0)])
def test_any_other_unit_of_intensity_changes_the_last_digits(detector, right_angled, recipe, factor, offset) -> None:
    scaling = prepared_otherwise(detector, intensity=recipe)
    voxels = head(0).astype(np.float32)
    first = scaling.detect((voxels, right_angled))
    second = scaling.detect((voxels * np.float32(factor) + np.float32(offset), right_angled))
    assert second.p_value == first.p_value
    assert second.score == pytest.approx(first.score, rel=ROUNDING)
    np.testing.assert_allclose(second.map_XYZ, first.map_XYZ, atol=ROUNDING)
    assert [one.voxels for one in second.findings] == [one.voxels for one in first.findings]


def test_a_fixed_range_of_intensities_promises_nothing_of_the_kind(detector, right_angled) -> None:
    """CT has a unit of its own: the recipe `range` takes it at its word."""
    fixed = prepared_otherwise(detector, intensity="range", intensity_range=(-200.0, 1500.0))
    voxels = head(0).astype(np.float32)
    first, second = (fixed.detect((voxels * each, right_angled)) for each in (1.0, 2.0))
    assert first.score != second.score


@pytest.mark.parametrize("moved_mm", [(0.1, 0.2, 0.3), (-1000.0, 0.0, 12345.678), (1 / 3, 1e-4, -64.0)])
def test_where_the_scan_lies_does_not_matter(detector, usual, right_angled, moved_mm) -> None:
    affine = right_angled.copy()
    affine[:3, 3] += moved_mm
    assert_same(usual, detector.detect((head(0), affine)), moved_mm=np.array(moved_mm))


# --- threads; names, neighbours and processes are in test_batch.py ----------------------------------------------------


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_no_bit(model_folder, usual, right_angled, threads, workers) -> None:
    torch.set_num_threads(threads)
    found = Detector.load(model_folder, device="cpu", workers=workers).detect((head(0), right_angled))
    assert_same(usual, found)
    assert torch.get_num_threads() == threads, "left as it was found"


def test_the_page_states_the_tolerances() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for tolerance in (ROUNDING, SAME_MM):
        assert np.format_float_positional(tolerance) in page
