"""Results as DICOM: each voxel at its place, the series referred to, no patient, the same bytes every time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK

from mendscan.errors import GeometryError, ScanError, SettingsError, UnreadableScanError, WriteError
from mendscan.volumes import dicom_writing, volume_from_array
from mendscan.volumes.dicom_derivation import PATIENT_ATTRIBUTES
from mendscan.volumes.dicom_objects import MOST_SEGMENTS, Provenance
from mendscan.volumes.dicom_writing import write_dicom_results
from mendscan.volumes.volume import Volume
from source_series import (
    AXIAL,
    CANARY,
    CT,
    ENHANCED_MR,
    FRAME_OF_REFERENCE,
    GEOMETRIES,
    MR,
    SERIES,
    STUDY,
    write_source_series,
)

SHAPE = (11, 9, 6)
"""Columns, rows, slices: a frame of 99 pixels, so that the bits of frames do not begin at bytes."""
MARKER = (7, 2, 4)
PROVENANCE = Provenance(model="ab" * 32, seed=3, threshold=0.5)


@dataclass(frozen=True)
class Found:
    volume_mm3: float
    peak: float
    mean: float


FINDINGS = (Found(120.5, 0.97, 0.8), Found(33.25, 0.75, 0.625))


def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-200, 900, SHAPE).astype(np.int16)


def to_ras(values_IJK: np.ndarray, volume: Volume) -> np.ndarray:
    """Bring values in the order of columns, rows and slices onto the volume's grid, by nothing but millimetres."""
    indices = np.indices(volume.shape).reshape(3, -1)
    mm = volume.affine[:3, :3] @ indices + volume.affine[:3, 3:]
    native = np.rint(np.linalg.inv(volume.native.affine) @ np.vstack([mm, np.ones(mm.shape[1])]))[:3].astype(int)
    return values_IJK[tuple(native)].reshape(volume.shape)


def some_map() -> np.ndarray:
    values = np.random.default_rng(1).uniform(0, 0.9, SHAPE).astype(np.float32)
    values[MARKER] = 1
    return values


def some_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[1:4, 2:5, 1:3] = 1
    labels[6:8, 1:4, 2:5] = 2
    return labels


def write(folder: Path, affine: np.ndarray = AXIAL, *, series: dict[str, Any] | None = None, **options: Any):
    """Write a series and results of it; return the source files and the volume."""
    sources = write_source_series(folder / "source", voxels(), affine, **(series or {}))
    volume = volume_from_array(voxels(), affine, name="case")
    wanted = {
        "volume": volume,
        "sources": sources,
        "map_XYZ": to_ras(some_map(), volume),
        "labels_XYZ": to_ras(some_labels(), volume),
        "findings": FINDINGS,
        "provenance": PROVENANCE,
    }
    write_dicom_results(folder, **(wanted | options))
    return sources, volume


def read_map(folder: Path) -> Any:
    return hd.imread(folder / "dicom" / "case-map.dcm")


def read_findings(folder: Path) -> Any:
    return hd.seg.segread(folder / "dicom" / "case-findings.dcm")


def frame_affine(own: Any, shared: Any) -> np.ndarray:
    """Return column and row index of a frame to RAS+ mm, 4 x 3, from the standard's equation alone."""
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    corner = own.PlanePositionSequence[0].ImagePositionPatient
    lps = np.stack([across * between_columns, down * between_rows, np.array(corner, float)], axis=1)
    return np.diag([-1, -1, 1]) @ lps


def placed(frames: np.ndarray, image: Any, affine: np.ndarray) -> np.ndarray:
    """Put each pixel of each frame where its millimetres say, in the order of columns, rows and slices."""
    values = np.zeros(SHAPE, frames.dtype)
    shared = image.SharedFunctionalGroupsSequence[0]
    for frame, own in zip(frames, image.PerFrameFunctionalGroupsSequence, strict=True):
        rows, columns = np.indices(frame.shape).reshape(2, -1)
        mm = frame_affine(own, shared) @ np.stack([columns, rows, np.ones_like(rows)])
        index = np.linalg.inv(affine) @ np.vstack([mm, np.ones(mm.shape[1])])
        np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
        values[tuple(np.rint(index[:3]).astype(int))] += frame.ravel()
    return values


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enhanced", [False, True], ids=["single frames", "enhanced"])
@pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_voxel_lies_where_it_did(tmp_path: Path, affine: np.ndarray, enhanced: bool) -> None:
    write(tmp_path, affine, series={"enhanced": enhanced, "seed": 4})
    read = pydicom.dcmread(tmp_path / "dicom" / "case-map.dcm")
    np.testing.assert_array_equal(placed(read.pixel_array, read, affine), some_map())
    read = pydicom.dcmread(tmp_path / "dicom" / "case-findings.dcm")
    numbers = [
        own.SegmentIdentificationSequence[0].ReferencedSegmentNumber for own in read.PerFrameFunctionalGroupsSequence
    ]
    labelled = read.pixel_array * np.array(numbers, np.uint8)[:, None, None]
    np.testing.assert_array_equal(placed(labelled, read, affine), some_labels())


@pytest.mark.parametrize("enhanced", [False, True], ids=["single frames", "enhanced"])
@pytest.mark.parametrize(
    "affine", [a for n, a in GEOMETRIES.items() if n != "tilted"], ids=[n for n in GEOMETRIES if n != "tilted"]
)
def test_highdicom_finds_the_marker_at_its_millimetre(tmp_path: Path, affine: np.ndarray, enhanced: bool) -> None:
    write(tmp_path, affine, series={"enhanced": enhanced})
    mapped = read_map(tmp_path).get_volume()
    assert_same_place(mapped, mapped.array == 1, affine, some_map() == 1)
    segmented = read_findings(tmp_path).get_volume(combine_segments=True, allow_missing_positions=True)
    for number in (1, 2):
        assert_same_place(segmented, segmented.array == number, affine, some_labels() == number)


def assert_same_place(volume: Any, found: np.ndarray, affine: np.ndarray, expected_IJK: np.ndarray) -> None:
    """Compare number and centre of voxels, in LPS+ mm by highdicom's affine and in RAS+ mm by the scan's."""
    assert found.sum() == expected_IJK.sum() > 0
    found_lps = volume.affine @ [*np.argwhere(found).mean(axis=0), 1]
    expected_ras = affine @ [*np.argwhere(expected_IJK).mean(axis=0), 1]
    np.testing.assert_allclose(found_lps * [-1, -1, 1, 1], expected_ras, atol=1e-4)


def test_simpleitk_reads_the_segments(tmp_path: Path) -> None:
    write(tmp_path)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "dicom" / "case-findings.dcm"))
    labels_KJI = some_labels().transpose()
    expected = [labels_KJI[k] == number for number, slices in ((1, (1, 2)), (2, (2, 3, 4))) for k in slices]
    whole_bytes = read.size // 8 * 8  # its GDCM does not read an incomplete last byte
    np.testing.assert_array_equal(read.ravel()[:whole_bytes] > 0, np.ravel(expected)[:whole_bytes])


@pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
def test_frames_of_the_map_ascend_along_rows_cross_columns(tmp_path: Path, affine: np.ndarray) -> None:
    # Readers that stack frames as they come, such as dcmqi in 3D Slicer, would show another order upside down.
    write(tmp_path, affine)
    read = read_map(tmp_path)
    shared, own = read.SharedFunctionalGroupsSequence[0], read.PerFrameFunctionalGroupsSequence
    normal = np.cross(*np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float))
    along = [normal @ np.array(item.PlanePositionSequence[0].ImagePositionPatient, float) for item in own]
    assert (np.diff(along) > 1).all()
    assert [item.FrameContentSequence[0].DimensionIndexValues for item in own] == list(range(1, SHAPE[2] + 1))


def test_spacing_and_thickness_are_those_of_the_source(tmp_path: Path) -> None:
    write(tmp_path, series={"SliceThickness": "2.5"})
    (measures,) = read_map(tmp_path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert (list(measures.PixelSpacing), measures.SliceThickness, measures.SpacingBetweenSlices) == (
        [1.25, 1.5],
        2.5,
        3,
    )
    write(tmp_path, series={"SliceThickness": None})
    (measures,) = read_map(tmp_path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == 3


def test_a_tilted_gantry_has_no_single_spacing(tmp_path: Path) -> None:
    write(tmp_path, GEOMETRIES["tilted"])
    (measures,) = read_map(tmp_path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert "SpacingBetweenSlices" not in measures


@pytest.mark.parametrize(("shift_mm", "fits"), [(0.005, True), (0.02, False), (1.5, False)])
def test_a_scan_that_lies_elsewhere_is_refused(tmp_path: Path, shift_mm: float, fits: bool) -> None:
    shifted = AXIAL.copy()
    shifted[0, 3] += shift_mm
    options = {"volume": volume_from_array(voxels(), shifted, name="case")}
    if fits:
        write(tmp_path, **options)
        return
    with pytest.raises(GeometryError) as caught:
        write(tmp_path, **options)
    assert caught.value.code == "E_GRID"
    assert not (tmp_path / "dicom").exists()


def test_a_scan_of_another_spacing_or_shape_is_refused(tmp_path: Path) -> None:
    finer = AXIAL @ np.diag([1, 1, 0.5, 1])
    for scan, affine in ((voxels(), finer), (voxels()[:-1], AXIAL), (voxels()[:, :, 1:], AXIAL)):
        volume = volume_from_array(scan, affine, name="case")
        nothing = np.zeros(volume.shape)
        with pytest.raises(GeometryError) as caught:
            write(tmp_path, volume=volume, map_XYZ=nothing.astype(np.float32), labels_XYZ=nothing.astype(int))
        assert caught.value.code == "E_GRID"
    with pytest.raises(GeometryError) as caught:
        write(tmp_path, map_XYZ=np.zeros((2, 2, 2), np.float32), labels_XYZ=np.zeros((2, 2, 2), int))
    assert caught.value.code == "E_GRID"


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enhanced", [False, True], ids=["single frames", "enhanced"])
def test_the_objects_refer_to_what_they_come_from(tmp_path: Path, enhanced: bool) -> None:
    sources, _ = write(tmp_path, series={"enhanced": enhanced})
    headers = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, sources)}
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        assert (read.StudyInstanceUID, read.FrameOfReferenceUID) == (STUDY, FRAME_OF_REFERENCE)
        assert (read.StudyDate, read.StudyTime) == ("20240229", "101112")
        assert (read.ContentDate, read.ContentTime) == ("20240229", "102030.5")
        (series,) = read.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == SERIES
        referenced = {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in
                      series.ReferencedInstanceSequence}  # fmt: skip
        assert referenced == {(ENHANCED_MR if enhanced else MR, instance) for instance in headers}
        for own in read.PerFrameFunctionalGroupsSequence:
            (source,) = own.DerivationImageSequence[0].SourceImageSequence
            place = headers[source.ReferencedSOPInstanceUID]
            if enhanced:
                frame = place.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
                place = frame.PlanePositionSequence[0]
            assert place.ImagePositionPatient == own.PlanePositionSequence[0].ImagePositionPatient


def test_what_the_map_says_of_itself(tmp_path: Path) -> None:
    write(tmp_path)
    read = read_map(tmp_path)
    assert read.SOPClassUID.name == "Parametric Map Storage"
    assert (read.Modality, read.SeriesNumber, read.ContentQualification) == ("OT", 501, "RESEARCH")
    assert (read.ManufacturerModelName, read.DeviceSerialNumber) == ("mendscan", PROVENANCE.model)
    assert read.SeriesDescription == "mendscan anomaly map (research use only)"
    for words in ("not a medical device", "seed 3", PROVENANCE.model, "healthy threshold 0.5"):
        assert words in read.DerivationDescription
    (mapping,) = read.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "ANOMALY"
    (window,) = read.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth, window.VOILUTFunction) == (0.5, 1, "LINEAR_EXACT")


@pytest.mark.parametrize(("said", "expected"), [({}, "U"), ({"Laterality": "L"}, "L"), ({"Laterality": CANARY}, "U")])
def test_the_side_is_that_of_the_source(tmp_path: Path, said: dict[str, str], expected: str) -> None:
    write(tmp_path, series=said)
    (anatomy,) = read_map(tmp_path).SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert (anatomy.FrameLaterality, anatomy.AnatomicRegionSequence[0].CodeMeaning) == (expected, "Body structure")


def test_what_the_segments_say_of_their_findings(tmp_path: Path) -> None:
    write(tmp_path)
    read = read_findings(tmp_path)
    assert (read.SegmentationType, read.Modality, read.SeriesNumber) == ("BINARY", "SEG", 502)
    assert [segment.SegmentLabel for segment in read.SegmentSequence] == ["Finding 1", "Finding 2"]
    for segment, words in zip(read.SegmentSequence, ("120.5 mm3, peak 0.970", "33.2 mm3, peak 0.750"), strict=True):
        assert words in segment.SegmentDescription
        assert "Research use only" in segment.SegmentDescription
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "mendscan")
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmParameters == f"model={PROVENANCE.model},seed=3,threshold=0.5"
    assert len({segment.TrackingUID for segment in read.SegmentSequence}) == 2
    assert len({tuple(segment.RecommendedDisplayCIELabValue) for segment in read.SegmentSequence}) == 2


def test_without_findings_there_is_no_segmentation_and_none_of_an_earlier_run(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, findings=(), labels_XYZ=np.zeros(SHAPE, int))
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["case-map.dcm"]


def test_a_single_finding_is_a_segmentation_of_one_segment(tmp_path: Path) -> None:
    volume = volume_from_array(voxels(), AXIAL, name="case")
    labels = to_ras(some_labels() == 1, volume).astype(int)
    write(tmp_path, findings=FINDINGS[:1], labels_XYZ=labels)
    read = read_findings(tmp_path)
    assert read.number_of_segments == 1
    np.testing.assert_array_equal(placed(read.pixel_array, read, AXIAL), some_labels() == 1)


def test_of_very_many_findings_the_first_are_written(tmp_path: Path) -> None:
    volume = volume_from_array(voxels(), AXIAL, name="case")
    labels = np.zeros(SHAPE, np.int32)
    labels.ravel()[: MOST_SEGMENTS + 5] = np.arange(1, MOST_SEGMENTS + 6)
    write(tmp_path, labels_XYZ=to_ras(labels, volume), findings=[Found(5.6, 0.6, 0.6)] * (MOST_SEGMENTS + 5))
    read = read_findings(tmp_path)
    assert read.number_of_segments == read.NumberOfFrames == MOST_SEGMENTS
    assert read.pixel_array.sum() == MOST_SEGMENTS


# --- the same bytes --------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "dicom").iterdir())}


def uids(image: Any) -> list[str]:
    return [str(element.value) for element in [*image.file_meta, *image.iterall()] if element.VR == "UI"]


def test_the_same_input_gives_the_same_bytes_in_any_order_of_files(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path / str(seed), series={"seed": seed})
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) == 2


def test_other_content_has_other_identifiers(tmp_path: Path) -> None:
    volume = volume_from_array(voxels(), AXIAL, name="case")
    other_map, other_labels = to_ras(some_map(), volume), to_ras(some_labels(), volume)
    other_map[0, 0, 0] += 0.01
    other_labels[0, 0, 0] = 2
    variants: dict[str, dict[str, Any]] = {
        "as it is": {},
        "seed": {"provenance": Provenance("ab" * 32, 4, 0.5)},
        "model": {"provenance": Provenance("cd" * 32, 3, 0.5)},
        "threshold": {"provenance": Provenance("ab" * 32, 3, 0.25)},
        "patient": {"patient": True},
        "source": {"series": {"SeriesInstanceUID": "1.2.3"}},
        "content": {"map_XYZ": other_map, "labels_XYZ": other_labels},
    }
    seen = [set(), set()]
    for name, options in variants.items():
        write(tmp_path / name, **options)
        for read, known in zip((read_map(tmp_path / name), read_findings(tmp_path / name)), seen, strict=True):
            own = {read.SOPInstanceUID, read.SeriesInstanceUID}
            assert len(own) == 2
            assert not own & known, name
            known |= own


def test_identifiers_are_valid(tmp_path: Path) -> None:
    write(tmp_path)
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
        for uid in uids(read):
            assert len(uid) <= 64
            assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", uid)
            assert uid != "2.25.0"


def test_nothing_comes_from_the_clock(tmp_path: Path) -> None:
    dates = {"StudyDate": "", "SeriesDate": "", "StudyTime": "", "SeriesTime": ""}
    write(tmp_path, series=dates)
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        found = {str(element.value) for element in read.iterall() if element.VR in ("DA", "TM", "DT")}
        assert found == {"", "19000101", "000000"}
    write(tmp_path, series=dates | {"AcquisitionDate": "20240301", "AcquisitionTime": "25"})
    assert (read_map(tmp_path).ContentDate, read_map(tmp_path).ContentTime) == ("20240301", "000000")


# --- the patient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enhanced", [False, True], ids=["single frames", "enhanced"])
def test_the_patient_is_nowhere_by_default(tmp_path: Path, enhanced: bool, caplog: pytest.LogCaptureFixture) -> None:
    sources, _ = write(tmp_path, series={"enhanced": enhanced})
    assert all(CANARY.encode() in path.read_bytes() for path in sources)
    for data in contents(tmp_path).values():
        assert CANARY.encode() not in data
        assert b"19700704" not in data
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        assert (read.PatientName, read.PatientID, read.PatientBirthDate, read.PatientSex) == ("", "", "", "")
        assert (read.AccessionNumber, read.StudyID, read.ReferringPhysicianName) == ("", "", "")
    assert CANARY not in caplog.text


def test_on_request_patient_and_request_are_taken_over_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, patient=True)
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        assert (read.PatientName, read.PatientID, read.PatientSex) == (f"{CANARY}^Name", CANARY, "F")
        assert read.PatientBirthDate == "19700704"
        assert "SpecificCharacterSet" not in read
        named = {element.keyword for element in read.iterall() if CANARY in str(element.value) and element.VR != "SQ"}
        assert named <= set(PATIENT_ATTRIBUTES)
        assert {"PatientName", "PatientID", "AccessionNumber", "StudyID"} <= named


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Ωmega^Ž")],
)
def test_names_are_kept_in_any_character_set(tmp_path: Path, character_set: Any, name: str) -> None:
    write(tmp_path, series={"SpecificCharacterSet": character_set, "PatientName": name}, patient=True)
    for read in (read_map(tmp_path), read_findings(tmp_path)):
        assert read.SpecificCharacterSet == "ISO_IR 192"
        assert str(read.PatientName) == name


# --- what cannot be done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "kind", "code"),
    [
        ({"FrameOfReferenceUID": None}, GeometryError, "E_DICOM_SOURCES"),
        ({"StudyInstanceUID": "1.02.3"}, UnreadableScanError, "E_DICOM_SOURCES"),
        ({"ImagePositionPatient": None}, GeometryError, "E_DICOM_GEOMETRY"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, GeometryError, "E_DICOM_GEOMETRY"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, GeometryError, "E_GRID"),
        ({"PixelSpacing": None}, GeometryError, "E_DICOM_GEOMETRY"),
        ({"PixelSpacing": [0, 0]}, GeometryError, "E_GRID"),
        ({"PixelSpacing": ["nan", "1"]}, GeometryError, "E_DICOM_GEOMETRY"),
        ({"ImagePositionPatient": ["1", "2", "3"]}, GeometryError, "E_GRID"),
        ({"Rows": 5}, GeometryError, "E_GRID"),
        ({"SOPClassUID": "1.2.3.4"}, UnreadableScanError, "E_DICOM_SOURCES"),
        ({"SOPClassUID": ENHANCED_MR}, UnreadableScanError, "E_DICOM_SOURCES"),
        ({"enhanced": True, "SOPClassUID": MR}, UnreadableScanError, "E_DICOM_SOURCES"),
        ({"enhanced": True, "PerFrameFunctionalGroupsSequence": []}, GeometryError, "E_DICOM_GEOMETRY"),
        ({"enhanced": True, "SharedFunctionalGroupsSequence": []}, GeometryError, "E_DICOM_GEOMETRY"),
    ],
)
def test_series_that_cannot_be_derived_from(tmp_path: Path, attributes, kind, code) -> None:
    with pytest.raises(kind) as caught:
        write(tmp_path, series=attributes)
    assert caught.value.code == code
    assert CANARY not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "dicom").glob("*"))


def test_files_that_are_not_the_slices_of_the_scan(tmp_path: Path) -> None:
    sources = write_source_series(tmp_path / "source", voxels(), AXIAL)
    other = write_source_series(tmp_path / "other", voxels(), AXIAL, SeriesInstanceUID="1.2.3")
    enhanced = write_source_series(tmp_path / "enhanced", voxels(), AXIAL, enhanced=True)
    (tmp_path / "note.txt").write_text("no DICOM file")
    (tmp_path / "cut.dcm").write_bytes(sources[0].read_bytes()[:300])
    for wrong, code in (
        ([], "E_DICOM_SOURCES"),
        (sources[:-1], "E_GRID"),
        ([*sources, sources[0]], "E_GRID"),
        ([*sources[:-1], other[-1]], "E_DICOM_SOURCES"),
        ([*enhanced, *enhanced], "E_DICOM_SOURCES"),
        ([*sources, tmp_path / "note.txt"], "E_DICOM_SOURCES"),
        ([*sources[1:], tmp_path / "cut.dcm"], "E_DICOM_SOURCES"),
        ([*sources, tmp_path / "absent"], "E_DICOM_SOURCES"),
    ):
        with pytest.raises(ScanError) as caught:
            write(tmp_path, sources=wrong)
        assert caught.value.code == code
    assert not (tmp_path / "dicom").exists()


@pytest.mark.parametrize("enhanced", [False, True], ids=["single frames", "enhanced"])
def test_damaged_headers_are_one_typed_error_or_harmless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, enhanced: bool
) -> None:
    generator = np.random.default_rng(0)
    sources = write_source_series(tmp_path / "source", voxels(), AXIAL, enhanced=enhanced)
    whole = sources[0].read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(132, len(whole), 4):
            damaged[place] = generator.integers(256)
        sources[0].write_bytes(damaged)
        said = ""
        try:
            write(tmp_path / "results", sources=sources)
        except (ScanError, WriteError) as error:
            said = str(error)
        assert CANARY not in said + caplog.text


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", no_space)
        with pytest.raises(WriteError, match="No space left"):
            write(tmp_path)
    assert list((tmp_path / "dicom").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "dicom").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be made"):
        write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom", "source"]


@pytest.mark.parametrize("name", ["map_object", "findings_object"])
def test_an_object_that_does_not_hold_the_result_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = getattr(dicom_writing, name)

    def wrong(series: Any, values_XYZ: np.ndarray, *arguments: Any, **options: Any) -> Any:
        return right(series, values_XYZ[::-1], *arguments, **options)

    monkeypatch.setattr(dicom_writing, name, wrong)
    with pytest.raises(WriteError) as caught:
        write(tmp_path)
    assert caught.value.code == "E_READ_BACK"
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ([] if name == "map_object" else ["case-map.dcm"])


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'mendscan[dicom]'")) as caught:
        write(tmp_path)
    assert caught.value.code == "E_EXTRA"


# --- validated by another program ------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
@pytest.mark.parametrize("series", [{}, {"enhanced": True}, {"sop_class": CT}], ids=["MR", "enhanced", "CT"])
@pytest.mark.parametrize("patient", [False, True])
def test_dciodvfy_has_no_errors(tmp_path: Path, series: dict[str, Any], patient: bool) -> None:
    write(tmp_path, series=series, patient=patient)
    for path in (tmp_path / "dicom").iterdir():
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert "Error" not in said, said
        assert ("ParametricMap" if "map" in path.name else "Segmentation") in said
