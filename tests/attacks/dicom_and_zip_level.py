"""Rows 61 to 68: DICOM series and zip archives; how each is made, the tests of either know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from attacks.attack import Attack
from cohort.test_mood import BYTE_ATTACKS, TABLE_ATTACKS
from mendscan.cohort.mood import import_mood
from volumes.dicom_files import AXIAL, edited, some_voxels, write_multiframe, write_series
from volumes.test_dicom_broken import BROKEN


def series(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        make(folder / "series")
        return folder / "series"

    return made


def dicom(row: int, *names: str) -> list[Attack]:
    return [Attack(row, f"DICOM: {name}", BROKEN[name][2], series(BROKEN[name][0])) for name in names]


def archive(attacks: dict[str, tuple[Callable[[Path], Path], str]], keeps: frozenset[str]) -> list[Attack]:
    def made(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        return lambda folder: make(folder / "a.zip")

    return [
        Attack(68, f"zip: {name.replace('-', ' ')}", code, made(make), "", imported, keeps)
        for name, (make, code) in attacks.items()
    ]


def imported(path: Path) -> object:
    return import_mood(path, path.parent / "out")


def twice(folder: Path) -> None:
    paths = write_series(folder, shuffled=False)
    (folder / "copy.dcm").write_bytes(paths[2].read_bytes())


def other_orientation(folder: Path) -> None:
    uid = generate_uid()
    write_series(folder, uid=uid)
    write_series(folder, some_voxels()[:, :, :2], AXIAL[:, [0, 2, 1, 3]], uid=uid, name="other{index}.dcm")


def tilted(folder: Path) -> None:
    affine = AXIAL.copy()
    affine[1, 2] = 1.0
    write_series(folder, affine=affine)


def inverted(folder: Path) -> None:
    write_series(folder, PhotometricInterpretation="MONOCHROME1")


def slopes(folder: Path) -> None:
    def change(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = str(1 + k), "0"

    write_series(folder, change=change)


def frames(folder: Path) -> None:
    folder.mkdir()
    write_multiframe(folder / "a.dcm", some_voxels())


def signed(folder: Path) -> None:
    def change(dataset: Dataset, _: int) -> None:
        dataset.PixelRepresentation = 1

    write_series(folder, some_voxels(high=2000), change=change)


def dicomdir(folder: Path) -> None:
    """A DICOMDIR whose only reference leads out of the folder."""
    write_series(folder)

    def change(dataset: Dataset) -> None:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["AA", "AA", "ETC", "PASSWD"]
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(dataset, keyword)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
        dataset.DirectoryRecordSequence = [record]

    source = write_series(folder.parent / "other")[0]
    edited(source, change)
    (folder / "DICOMDIR").write_bytes(source.read_bytes().replace(b"AA\\AA\\ETC", b"..\\..\\ETC"))
    for path in source.parent.iterdir():
        path.unlink()
    source.parent.rmdir()


DICOM_LEVEL = (
    *dicom(61, "two series", "no position", "no orientation", "no spacing", "spacing zero", "spacing not a number"),
    *dicom(61, "position infinite", "no right angle", "no direction", "a slice missing", "slices missing", "unequal"),
    *dicom(61, "beside the line", "two echoes", "three slices", "constant", "too large", "promises much"),
    Attack(61, "DICOM: a slice twice", "W_SLICES_TWICE", series(twice)),
    Attack(61, "DICOM: slices of another orientation", "W_SLICES_LEFT_OUT", series(other_orientation)),
    Attack(61, "DICOM: gantry tilt", "W_SHEAR", series(tilted)),
    Attack(61, "DICOM: instance numbers not in order", "", series(write_series), "slices are sorted by position"),
    *dicom(62, "slope NaN", "slope infinite", "slope 1e400", "slope 1e-400", "slope 1e38", "slope in words"),
    *dicom(62, "lookup table"),
    Attack(62, "DICOM: another slope in each slice", "", series(slopes), "each slice is scaled by its own"),
    *dicom(63, "no decoder", "no transfer syntax", "deflated", "cut fragment", "scrambled fragment"),
    *dicom(64, "colours", "one bit", "frames that nobody describes", "more frames than descriptions", "endless frames"),
    Attack(64, "DICOM: MONOCHROME1", "W_MIRRORED", series(inverted)),
    Attack(64, "DICOM: many frames in a file", "", series(frames), "a series in one file"),
    Attack(64, "DICOM: signed", "", series(signed), "stored values are read as the header says"),
    *dicom(65, "no images", "an empty folder"),
    Attack(65, "DICOM: DICOMDIR that refers to ../../", "", series(dicomdir), "its references are not followed"),
    *dicom(66, "nested"),
    *dicom(67, "cut header", "cut in the first fields", "cut before all", "cut pixels", "no pixels", "empty file"),
)
GOOD_MEMBERS = frozenset({"out", "out/import.json", "out/train", *(f"out/train/0000{k}.nii.gz" for k in range(3))})
"""Taken out and verified before the bad one, which is the last; an import goes on where it was."""
ZIP_LEVEL = (*archive(TABLE_ATTACKS, frozenset()), *archive(BYTE_ATTACKS, GOOD_MEMBERS))
