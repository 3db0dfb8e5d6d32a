"""DICOM series in order: voxels and millimetres as they were written, and as SimpleITK sees them."""

from __future__ import annotations

import logging
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from mendscan.volumes import dicom_sources, read_volume, volume_from_array, write_map
from volumes.dicom_files import AXIAL, LPS, some_voxels, with_pixels, write_multiframe, write_series


def turned(degrees: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    """An oblique affine: rotations about x, y and z."""
    affine = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        rotation, (a, b) = np.eye(4), [n for n in range(3) if n != axis]
        rotation[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        affine = rotation @ affine
    affine[:3, :3] *= spacing
    affine[:3, 3] = 12.5, -33, 7.25
    return affine


ORIENTATIONS = {
    "axial": AXIAL,
    "axial, head first": AXIAL @ np.diag([1, 1, -1, 1]),
    "coronal": AXIAL[:, [0, 2, 1, 3]],
    "sagittal": AXIAL[:, [1, 2, 0, 3]],
    "oblique": turned((20, -15, 30), (1.2, 0.9, 2.5)),
    "very oblique": turned((44, 0, 43), (1, 1, 1)),
    "nearly 45 degrees": turned((44.9, 0.1, 0), (0.7, 0.7, 0.8)),
}


def read_by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return array_and_affine(sitk.ReadImage(names))


def array_and_affine(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ affine


def assert_same(volume, voxels_IJK: np.ndarray, affine: np.ndarray, *, atol: float = 1e-5) -> None:
    """The same voxels at the same millimetres, in whatever order they were stored."""
    expected = volume_from_array(voxels_IJK.astype(np.float32), affine, name="expected")
    np.testing.assert_array_equal(volume.voxels_XYZ, expected.voxels_XYZ)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=atol)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_series_is_read_as_it_was_written_and_as_simpleitk_reads_it(tmp_path, orientation):
    affine = ORIENTATIONS[orientation]
    write_series(tmp_path / "T1", some_voxels(), affine)
    volume = read_volume(tmp_path / "T1")
    assert volume.name == "T1"
    assert_same(volume, some_voxels(), affine)
    assert_same(volume, *read_by_simpleitk(tmp_path / "T1"))
    assert volume.native.sform_code == 1


def test_the_order_of_files_and_instance_numbers_does_not_matter(tmp_path):
    write_series(tmp_path / "a", shuffled=True)
    write_series(tmp_path / "b", shuffled=False, name="IM{index}")
    assert read_volume(tmp_path / "a").content_hash == read_volume(tmp_path / "b").content_hash


def test_each_slice_has_its_own_scaling(tmp_path):
    voxels, slopes = some_voxels(), np.array([0.5, 1.25, 2, 0.125, 3, 1])

    def scale(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slopes[k]), str(-k)

    write_series(tmp_path / "pet", voxels, change=scale, Modality="PT")
    assert_same(read_volume(tmp_path / "pet"), voxels * slopes - np.arange(6), AXIAL)


def test_low_values_that_are_bright_are_mirrored(tmp_path, caplog):
    voxels = some_voxels(low=10, high=2000)
    write_series(tmp_path / "cr", voxels, PhotometricInterpretation="MONOCHROME1")
    with caplog.at_level(logging.WARNING):
        assert_same(read_volume(tmp_path / "cr"), 2010 - voxels, AXIAL)
    assert "mirrored" in caplog.text


@pytest.mark.parametrize(("signed", "bits"), [(False, 16), (False, 12), (True, 16), (True, 12)])
def test_signed_and_short_values(tmp_path, signed, bits):
    voxels = some_voxels(low=-2000 if signed else 0, high=2000)

    def change(dataset, k):
        with_pixels(dataset, voxels[:, :, k], signed=signed, bits=bits)

    write_series(tmp_path / "ct", voxels, change=change)
    assert_same(read_volume(tmp_path / "ct"), voxels, AXIAL)
    assert_same(read_volume(tmp_path / "ct"), *read_by_simpleitk(tmp_path / "ct"))


def test_bits_above_those_stored_say_nothing(tmp_path):
    voxels = some_voxels(high=4095)

    def overlay(dataset, k):
        with_pixels(dataset, voxels[:, :, k] + 0x8000, bits=12)

    write_series(tmp_path / "old", voxels, change=overlay)
    assert_same(read_volume(tmp_path / "old"), voxels, AXIAL)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_compressed_pixels(tmp_path, syntax):
    voxels = some_voxels((40, 36, 4))
    write_series(tmp_path / "small", voxels, change=lambda dataset, _: dataset.compress(syntax))
    assert_same(read_volume(tmp_path / "small"), voxels, AXIAL)
    if syntax != RLELossless:  # which SimpleITK does not read
        assert_same(read_volume(tmp_path / "small"), *read_by_simpleitk(tmp_path / "small"))


def test_tilted_gantry_gives_a_sheared_affine_and_a_warning(tmp_path, caplog):
    sheared = AXIAL.copy()
    sheared[1, 2] = 3 * np.tan(np.radians(15))
    write_series(tmp_path / "ct", affine=sheared)
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "ct")
    assert_same(volume, some_voxels(), sheared)
    assert "sheared by 15.0 degrees" in caplog.text
    write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(written.affine, sheared, atol=1e-5)


def test_a_slice_that_is_there_twice_is_dropped_with_a_warning(tmp_path, caplog):
    paths = write_series(tmp_path / "T1")
    (tmp_path / "T1" / "copy").write_bytes(paths[2].read_bytes())
    with caplog.at_level(logging.WARNING):
        assert_same(read_volume(tmp_path / "T1"), some_voxels(), AXIAL)
    assert "1 slices are there twice" in caplog.text
    assert len(dicom_sources(tmp_path / "T1")) == 6


def test_many_frames_in_one_file(tmp_path):
    voxels, order = some_voxels(), np.array([3, 0, 5, 1, 4, 2])
    write_multiframe(tmp_path / "enhanced.dcm", voxels, order=order)
    assert read_volume(tmp_path / "enhanced.dcm").name == "enhanced"
    assert_same(read_volume(tmp_path / "enhanced.dcm"), voxels, AXIAL)
    assert_same(read_volume(tmp_path), voxels, AXIAL)
    assert dicom_sources(tmp_path) == [tmp_path / "enhanced.dcm"]


def test_each_frame_has_its_own_scaling(tmp_path):
    voxels, slopes = some_voxels(), np.array([1, 2, 0.5, 3, 1.5, 0.25])
    write_multiframe(tmp_path / "a.dcm", voxels, order=np.arange(6)[::-1], slopes=slopes)
    assert_same(read_volume(tmp_path / "a.dcm"), voxels * slopes - 5, AXIAL)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_source_files_are_those_of_the_slices_of_a_map(tmp_path, orientation):
    """What writes DICOM needs the file that each slice of a result belongs to."""
    written = write_series(tmp_path / "T1", affine=ORIENTATIONS[orientation])
    volume = read_volume(tmp_path / "T1")
    stored = volume.to_native(volume.voxels_XYZ)
    for k, path in enumerate(dicom_sources(tmp_path / "T1")):
        np.testing.assert_array_equal(stored[:, :, k], some_voxels()[:, :, written.index(path)])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_map_lies_on_the_series_in_nibabel_and_simpleitk(tmp_path, orientation):
    affine, marker = ORIENTATIONS[orientation], (1, 5, 4)
    voxels = some_voxels(high=100)
    voxels[marker] = 4000
    write_series(tmp_path / "T1", voxels, affine)
    volume = read_volume(tmp_path / "T1")
    write_map(tmp_path / "map.nii.gz", (volume.voxels_XYZ == 4000).astype(np.float32), volume)
    expected_mm = (affine @ [*marker, 1])[:3]
    image = nib.load(tmp_path / "map.nii.gz")
    (found,) = np.argwhere(np.asarray(image.dataobj) == 1)
    np.testing.assert_allclose((image.affine @ [*found, 1])[:3], expected_mm, atol=1e-4)
    array, itk_affine = array_and_affine(sitk.ReadImage(str(tmp_path / "map.nii.gz")))
    (found,) = np.argwhere(array == 1)
    np.testing.assert_allclose((itk_affine @ [*found, 1])[:3], expected_mm, atol=1e-4)
    series, series_affine = read_by_simpleitk(tmp_path / "T1")
    (found,) = np.argwhere(series == 4000)
    np.testing.assert_allclose((series_affine @ [*found, 1])[:3], expected_mm, atol=1e-4)


def as_lossless_jpeg(path: Path) -> None:
    """Pack a file as scanners often do; of the plugins that are installed, GDCM alone unpacks it."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def test_lossless_jpeg_is_unpacked_in_a_process_of_its_own(tmp_path):
    voxels = some_voxels((16, 12, 5))
    for path in write_series(tmp_path / "ct", voxels):
        as_lossless_jpeg(path)
    assert_same(read_volume(tmp_path / "ct"), voxels, AXIAL)
    assert_same(read_volume(tmp_path / "ct"), *read_by_simpleitk(tmp_path / "ct"))
