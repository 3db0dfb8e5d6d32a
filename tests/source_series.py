"""DICOM series made for tests: any geometry, single frames in shuffled files or one multi-frame file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

CANARY = "ZZCANARY"
CT, MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.826.0.1.7.1", "1.2.826.0.1.7.2", "1.2.826.0.1.7.3"

AXIAL = np.array([[-1.5, 0, 0, 30], [0, -1.25, 0, 40], [0, 0, 3, -20], [0, 0, 0, 1.0]])
"""Column, row and slice index to RAS+ mm: columns run to the left, rows to the back, slices upwards."""
CORONAL = np.array([[-1.5, 0, 0, 30], [0, 0, -3, 40], [0, -1.25, 0, 20], [0, 0, 0, 1.0]])
SAGITTAL = np.array([[0, 0, 3, -15], [-1.5, 0, 0, 40], [0, -1.25, 0, 20], [0, 0, 0, 1.0]])


def rotated(affine: np.ndarray, *degrees: float) -> np.ndarray:
    """Return the affine turned about each of the axes in turn."""
    turned = affine.copy()
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = [other for other in range(3) if other != axis]
        rotation = np.eye(4)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        turned = rotation @ turned
    return turned


def tilted(affine: np.ndarray, degrees: float) -> np.ndarray:
    """Return the affine of a tilted gantry: slices are shifted along their own rows."""
    sheared = affine.copy()
    down = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    sheared[:3, 2] += down * np.linalg.norm(affine[:3, 2]) * np.tan(np.deg2rad(degrees))
    return sheared


GEOMETRIES = {
    "axial": AXIAL,
    "axial, feet last": AXIAL @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1.0]]),
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "oblique": rotated(AXIAL, 12, -17, 8),
    "near 45 degrees": rotated(CORONAL, 44, 3, 46),
    "tilted": tilted(AXIAL, 18),
}


def write_source_series(
    folder: Path,
    voxels_IJK: np.ndarray,
    affine: np.ndarray,
    *,
    enhanced: bool = False,
    seed: int = 0,
    sop_class: str = MR,
    **attributes: object,
) -> list[Path]:
    """Write a series; return its files in shuffled order.

    Args:
        folder: Where to; it is made.
        voxels_IJK: By column, row and slice.
        affine: Of those indices, to RAS+ mm.
        enhanced: One multi-frame file, frames in shuffled order.
        seed: Of the order.
        sop_class: Of single frames.
        attributes: Set in every file; None leaves an attribute out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(voxels_IJK.shape[2])
    if enhanced:
        return [_write_enhanced(folder / "enhanced.dcm", voxels_IJK, affine, order, attributes)]
    paths = []
    for number, k in enumerate(order):
        image = _common(sop_class, f"{SERIES}.{k + 1}", voxels_IJK, attributes)
        image.InstanceNumber = int(k) + 1
        _place(image, affine, k)
        _orient(image, affine)
        _measure(image, affine)
        image.PixelData = np.ascontiguousarray(voxels_IJK[:, :, k].T.astype("<i2")).tobytes()
        _apply(image, attributes)
        paths.append(_save(image, folder / f"IM{number:04d}.dcm"))
    return paths


def _write_enhanced(path: Path, voxels_IJK: np.ndarray, affine: np.ndarray, order: np.ndarray, attributes) -> Path:
    image = _common(ENHANCED_MR, f"{SERIES}.1", voxels_IJK, attributes)
    shared = Dataset()
    measures = Dataset()
    _measure(measures, affine)
    shared.PixelMeasuresSequence = Items([measures])
    frames = []
    for k in order:
        own, position, orientation = Dataset(), Dataset(), Dataset()
        _place(position, affine, k)
        _orient(orientation, affine)
        own.PlanePositionSequence, own.PlaneOrientationSequence = Items([position]), Items([orientation])
        frames.append(own)
    image.NumberOfFrames = len(frames)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    image.PixelData = np.ascontiguousarray(voxels_IJK[:, :, order].T.astype("<i2")).tobytes()
    _apply(image, attributes)
    return _save(image, path)


def _common(sop_class: str, instance: str, voxels_IJK: np.ndarray, attributes: dict[str, object]) -> Dataset:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = sop_class, instance
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    image.SpecificCharacterSet = attributes.get("SpecificCharacterSet", "ISO_IR 100")
    image.Modality, image.SeriesNumber = "CT" if sop_class == CT else "MR", 5
    image.StudyDate, image.StudyTime, image.SeriesDate, image.SeriesTime = "20240229", "101112", "20240229", "102030.5"
    # Every place where a scanner or a hospital leaves the patient's name.
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = f"{CANARY}^Name", CANARY, "", "F"
    for keyword in (
        "AccessionNumber", "StudyID", "ReferringPhysicianName", "InstitutionName", "InstitutionAddress", "StationName",
        "StudyDescription", "SeriesDescription", "OperatorsName", "PatientComments", "IssuerOfPatientID",
        "OtherPatientNames", "PatientAddress", "ImageComments", "ProtocolName", "DeviceSerialNumber", "Manufacturer",
        "ManufacturerModelName", "PositionReferenceIndicator", "ContentLabel", "EthnicGroup", "RequestingPhysician",
    ):  # fmt: skip
        setattr(image, keyword, CANARY)
    image.PatientBirthDate = "19700704"
    nested = Dataset()
    nested.RequestedProcedureDescription, nested.RequestedProcedureID = CANARY, CANARY
    image.RequestAttributesSequence = Items([nested])
    image.private_block(0x0029, CANARY, create=True).add_new(0x01, "LO", CANARY)
    image.Rows, image.Columns = voxels_IJK.shape[1], voxels_IJK.shape[0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    return image


def _place(item: Dataset, affine: np.ndarray, k: int) -> None:
    item.ImagePositionPatient = _decimals(_lps(affine[:3, :3] @ [0, 0, int(k)] + affine[:3, 3]))


def _orient(item: Dataset, affine: np.ndarray) -> None:
    directions = [affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1)]
    item.ImageOrientationPatient = _decimals([*_lps(directions[0]), *_lps(directions[1])])


def _measure(item: Dataset, affine: np.ndarray) -> None:
    item.PixelSpacing = _decimals([np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 0])])
    item.SliceThickness = _decimals([np.linalg.norm(affine[:3, 2])])[0]


def _apply(image: Dataset, attributes: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tests want invalid values, too
        for keyword, value in attributes.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)


def _lps(ras: np.ndarray) -> np.ndarray:
    return np.asarray(ras) * [-1, -1, 1]


def _decimals(values) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _save(image: Dataset, path: Path) -> Path:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    return path
