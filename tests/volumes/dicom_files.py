"""DICOM files made for tests: what scanners write, small, and every way in which it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

Change = Callable[[Dataset, int], None]

CANARY = "ZZCANARY"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = np.array([[-1.5, 0, 0, 12], [0, -1.25, 0, 11], [0, 0, 3, -9], [0, 0, 0, 1.0]])
"""Columns run to the left and rows to the back, as axial slices are stored."""


def some_voxels(shape: tuple[int, int, int] = (7, 8, 6), *, low: int = 0, high: int = 4000) -> np.ndarray:
    """Different everywhere, so that nothing can be mixed up unnoticed."""
    return (
        np.random.default_rng(0)
        .permutation(np.linspace(low, high, int(np.prod(shape))).astype(np.int32))
        .reshape(shape)
    )


def write_series(
    folder: Path,
    voxels_IJK: np.ndarray | None = None,
    affine: np.ndarray = AXIAL,
    *,
    uid: str | None = None,
    number: int | None = 3,
    change: Change | None = None,
    name: str = "{index:03d}.dcm",
    shuffled: bool = True,
    **fields: object,
) -> list[Path]:
    """Write one file per slice along the last axis; return the files in the order of the slices.

    Args:
        folder: Made if it is not there.
        voxels_IJK: Along column, row and slice.
        affine: Of (column, row, slice) to millimetres in RAS+.
        uid: SeriesInstanceUID; a new one by default.
        number: SeriesNumber.
        change: Called with each dataset and its slice before it is written.
        name: Of each file, from its index.
        shuffled: Whether files and instance numbers are in another order than the slices.
        fields: Set in every dataset.
    """
    voxels = some_voxels() if voxels_IJK is None else voxels_IJK
    folder.mkdir(parents=True, exist_ok=True)
    count, uid, paths = voxels.shape[2], uid or generate_uid(), []
    order = np.random.default_rng(1).permutation(count) if shuffled else np.arange(count)
    for k in range(count):
        dataset = slice_dataset(voxels[:, :, k], affine, k, uid, number)
        dataset.InstanceNumber = int(order[k]) + 1
        for keyword, value in fields.items():
            setattr(dataset, keyword, value)
        if change is not None:
            change(dataset, k)
        paths.append(folder / name.format(index=int(order[k])))
        save(dataset, paths[-1])
    return paths


def slice_dataset(pixels_IJ: np.ndarray, affine: np.ndarray, k: int, uid: str, number: int | None) -> Dataset:
    dataset = with_person(new_dataset(MRImageStorage))
    dataset.SeriesInstanceUID, dataset.Modality = uid, "MR"
    if number is not None:
        dataset.SeriesNumber = number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.update(plane(affine, k))
    with_pixels(dataset, pixels_IJ)
    return dataset


def plane(affine: np.ndarray, k: int) -> Dataset:
    """Position, orientation and spacing of slice k."""
    to_lps = LPS @ affine
    spacing = np.linalg.norm(to_lps[:3, :2], axis=0)
    dataset = Dataset()
    dataset.ImagePositionPatient = texts(to_lps @ [0, 0, k, 1])[:3]
    dataset.ImageOrientationPatient = texts((to_lps[:3, :2] / spacing).T.ravel())
    dataset.PixelSpacing = texts(spacing[::-1])
    return dataset


def texts(numbers: np.ndarray) -> list[str]:
    """As DICOM's decimal strings: 16 characters at most."""
    return [np.format_float_positional(number, precision=12, trim="0")[:16] for number in numbers]


def with_pixels(dataset: Dataset, pixels_IJ: np.ndarray, *, signed: bool = False, bits: int = 16) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels_IJ.shape[1], pixels_IJ.shape[0]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = np.ascontiguousarray(pixels_IJ.T).astype("<i2" if signed else "<u2").tobytes()


def new_dataset(sop_class: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    return dataset


def with_person(dataset: Dataset) -> Dataset:
    """Put the canary wherever a person could be named."""
    for keyword in ("PatientName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName"):
        setattr(dataset, keyword, f"{CANARY}^NAME")
    for keyword in ("PatientID", "AccessionNumber", "StudyID", "InstitutionName", "StationName"):
        setattr(dataset, keyword, CANARY)
    for keyword in ("SeriesDescription", "StudyDescription", "ProtocolName", "PatientComments", "ImageComments"):
        setattr(dataset, keyword, CANARY)
    dataset.OtherPatientIDs, dataset.PatientAddress = CANARY, CANARY
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    return dataset


def save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_object(path: Path, sop_class: str, modality: str) -> None:
    """Write something that is no image."""
    dataset = with_person(new_dataset(sop_class))
    dataset.Modality, dataset.SeriesInstanceUID = modality, generate_uid()
    save(dataset, path)


def write_multiframe(
    path: Path,
    voxels_IJK: np.ndarray,
    affine: np.ndarray = AXIAL,
    *,
    order: np.ndarray | None = None,
    slopes: np.ndarray | None = None,
    change: Callable[[Dataset], None] | None = None,
) -> None:
    """Write an enhanced MR image: orientation and spacing shared, positions and scaling of each frame its own."""
    count = voxels_IJK.shape[2]
    order = np.arange(count) if order is None else order
    dataset = with_person(new_dataset(EnhancedMRImageStorage))
    dataset.SeriesInstanceUID, dataset.Modality, dataset.SeriesNumber = generate_uid(), "MR", 7
    with_pixels(dataset, voxels_IJK[:, :, 0])
    dataset.NumberOfFrames = count
    dataset.PixelData = np.ascontiguousarray(voxels_IJK[:, :, order].T).astype("<u2").tobytes()
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([only(plane(affine, 0), "ImageOrientationPatient")])
    shared.PixelMeasuresSequence = Sequence([only(plane(affine, 0), "PixelSpacing")])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([frame_groups(affine, int(k), slopes) for k in order])
    if change is not None:
        change(dataset)
    save(dataset, path)


def frame_groups(affine: np.ndarray, k: int, slopes: np.ndarray | None) -> Dataset:
    groups = Dataset()
    groups.PlanePositionSequence = Sequence([only(plane(affine, k), "ImagePositionPatient")])
    if slopes is not None:
        scaling = Dataset()
        scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = str(slopes[k]), "-5", "US"
        groups.PixelValueTransformationSequence = Sequence([scaling])
    return groups


def only(dataset: Dataset, keyword: str) -> Dataset:
    item = Dataset()
    setattr(item, keyword, getattr(dataset, keyword))
    return item


def edited(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change a file that is there already."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
